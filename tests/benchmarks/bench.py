"""Compare time and memory of cellseg with references: ``make bench``, or ``python tests/benchmarks/bench.py 1 2 8``.

Every comparison alternates, A B A B, and each turn of training has its own process. The table has the ratio of the
medians, with the smallest and the largest ratio of a turn. Rows that are not measured again keep their last result.
This script writes results.json and, from it, RESULTS.md next to this file.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cellseg.run.home import wait_briefly

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
TRAIN = (sys.executable, str(ROOT / "train.py"))
CELLSEG = str(Path(sys.executable).with_name("cellseg"))
SIZES = (50, 500, 2500, 10_000)  # pairs
PACKAGES = ("torch", "lightning", "monai")
DIRTY = "uncommitted"

console = Console(stderr=True)
Row = dict[str, Any]


def told(*command: str | Path, **options: Any) -> str:
    """Run a command and return its output; if it fails, exit with its output."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def child(script: str, *arguments: str) -> Any:
    """Run a script in this folder and return the JSON of its last line."""
    return json.loads(told(sys.executable, HERE / script, *arguments).splitlines()[-1])


def compare(a: Sequence[float], b: Sequence[float]) -> Row:
    """Return the ratio of the medians, b over a, and its spread over the turns."""
    turns = [second / first for first, second in zip(a, b, strict=True)]
    return {"ratio": median(b) / median(a), "from": min(turns), "to": max(turns), "turns": len(turns)}


def loops(data: str) -> dict[str, Row]:
    """Rows 1, 2, 7 and 8: our training compared with four other loops, epoch by epoch."""
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    for name in ("bare", "ours", "original", "bare", "ours", "monai", "bare", "ours", "aligned") * 2:
        console.print(f"  {name} …")
        seen = child("loops.py", name, "--root", data, "--epochs", "5" if name in ("bare", "ours") else "3")
        seconds.setdefault(name, []).append(median(seen["seconds"][1:]))  # the first warms up
        whole.setdefault(name, []).append(mean(seen["seconds"][1:]))
        memory.setdefault(name, []).append(seen["peak_mb"])
    for some in (seconds, memory):
        console.print({name: [round(value, 2) for value in values] for name, values in some.items()})
    before = {name: seconds["ours"][turn::3] for turn, name in enumerate(("original", "monai", "aligned"))}

    def epoch(name: str) -> str:
        return f"{median(seconds[name]):.2f} s"

    def ours(name: str) -> str:
        return f"{median(before[name]):.2f} s"

    return {
        "1": compare(seconds["original"], before["original"])
        | {"us": ours("original"), "against": f"{epoch('original')}, the original's loop written plainly"},
        "2": compare(seconds["bare"], seconds["ours"])
        | {
            "us": epoch("ours"),
            "against": f"{epoch('bare')}, a bare loop with our settings",
            "notes": "medians of epochs 2 to 5; with the checkpoint and the pictures that ours writes at the end, the "
            f"ratio of their means is {compare(whole['bare'], whole['ours'])['ratio']:.3f}",
        },
        "7": compare(seconds["aligned"], before["aligned"])
        | {
            "us": ours("aligned"),
            "against": f"{epoch('aligned')}, BasicUNet with our precision, layout, optimizer and no checkpoints",
            "notes": f"as its users would write it (float32, a default Trainer) an epoch takes {epoch('monai')}, ours "
            f"{ours('monai')} beside it",
        },
        "8": compare(memory["bare"], memory["ours"])
        | {"us": f"{median(memory['ours']):.0f} MB", "against": f"{median(memory['bare']):.0f} MB, the bare loop"},
    }


def arithmetic(data: str) -> dict[str, Row]:
    """Row 3: a training step, compared with the time that its arithmetic and its tensors need on this machine."""
    return {"3": child("arithmetic.py")}


def recipe(data: str) -> dict[str, Row]:
    """Row 4: seconds until the final test Dice of the original recipe; finished runs are not repeated."""
    study = ROOT / "logs" / f"bench-{code()}-{hashlib.sha256(data.encode()).hexdigest()[:6]}"
    if study.name.startswith(f"bench-{DIRTY}"):
        shutil.rmtree(study, ignore_errors=True)  # its code is unknown
    ours, original, crossed, ends, dice = [], [], [], [], []
    for seed in range(3):
        curves, last = {}, {}
        for experiment in ("original", "default"):
            console.print(f"  {experiment} recipe, seed={seed} …")
            folder = study / f"{experiment}-{seed}"
            if not (folder / "summary.json").exists():
                shutil.rmtree(folder, ignore_errors=True)  # the time of a resumed run means nothing
                settings = [f"seed={seed}", f"data.root={data}", f"study={study.name}", f"hydra.run.dir={folder}"]
                told(*TRAIN, *settings, *(["experiment=original"] if experiment == "original" else []), cwd=ROOT)
            curves[experiment] = curve(folder)
            last[experiment] = json.loads((folder / "summary.json").read_text())["metrics"]["test/dice"]
        goal = last["original"]
        first = {
            name: next((second for second, score in points if score >= goal), float("inf"))
            for name, points in curves.items()
        }
        original.append(curves["original"][-1][0])
        crossed.append(f"{first['original']:.0f} s")
        ours.append(first["default"])
        ends.append(curves["default"][-1][0])
        dice.append(f"{100 * goal:.2f} and {100 * last['default']:.2f}")
    reached = ", ".join("never" if second == float("inf") else f"{second:.0f} s" for second in ours)
    return {
        "4": compare(original, ours)
        | {
            "us": f"{reached}; all epochs {median(ends):.0f} s",
            "against": f"{median(original):.0f} s, all of experiment=original",
            "notes": f"test Dice at the end, original and ours, for each seed: {'; '.join(dice)}. The original first "
            f"passes the Dice it ends with after {', '.join(crossed)}",
        }
    }


def curve(folder: Path) -> list[tuple[float, float]]:
    """Return, for every epoch of a run, the seconds since training began and the mean Dice of its test images."""
    began = (folder / "split.json").stat().st_mtime  # the last file written before training
    events = EventAccumulator(str(folder)).Reload().Scalars("val/dice")  # without validation images: the test images
    return [(event.wall_time - began, event.value) for event in events]


def sweeps(data: str) -> dict[str, Row]:
    """Row 5: runs per hour, two at the same time and one after the other."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for jobs in (1, 2, 1, 2):
        console.print(f"  two runs, n_jobs={jobs} …")
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            settings = ["seed=0,1", "trainer.max_epochs=12", f"data.root={data}", "study=s", f"n_jobs={jobs}"]
            told(*TRAIN, "-m", *settings, "trainer.accelerator=cpu", cwd=folder)
            rates[jobs].append(2 * 3600 / (time.perf_counter() - began))
    return {
        "5": compare(rates[1], rates[2])
        | {
            "us": f"{median(rates[2]):.0f} an hour",
            "against": f"{median(rates[1]):.0f} an hour, n_jobs=1",
            "notes": "two runs of 12 epochs, half the recipe's; start-up and report, which gain most, included",
        }
    }


def starts(data: str) -> dict[str, Row]:
    """Row 6: start-up time of commands that need no torch."""
    commands: dict[str, tuple[str, ...]] = {
        "import": (sys.executable, "-c", "import torch"),
        "train": (*TRAIN, "--cfg", "job"),
        "cellseg": (CELLSEG, "--help"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(7):
        for name, command in commands.items():
            began = time.perf_counter()
            told(*command, cwd=ROOT)
            seconds[name].append(time.perf_counter() - began)
    slower = max(("train", "cellseg"), key=lambda name: median(seconds[name]))
    shown = f"{median(seconds['train']):.2f} and {median(seconds['cellseg']):.2f} s"
    against = f"{median(seconds['import']):.2f} s, import torch"
    return {"6": compare(seconds["import"], seconds[slower]) | {"us": shown, "against": against}}


def scaling(data: str) -> dict[str, Row]:
    """Row 9: time and memory that each further pair adds to the training of a small network, up to 10,000 pairs."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        console.print(f"  drawing {SIZES[-1]:,} pairs …")
        everything = Path(folder) / "all"
        told(CELLSEG, "synthesize", everything, "--pairs", str(SIZES[-1]), "--size", "96")
        for size in SIZES:
            console.print(f"  {size:,} pairs …")
            some = Path(folder) / str(size)
            some.mkdir()
            for number in range(1, size + 1):
                (some / f"cell_{number}").symlink_to(everything / f"cell_{number}")
            begin = time.perf_counter()
            seen = child("loops.py", "scaled", "--root", str(some), "--epochs", "3")
            before = time.perf_counter() - begin - sum(seen["seconds"])
            rows.append((size, mean(seen["seconds"][1:]), before, seen["peak_mb"]))
    (small, *few, _), (_, _, _, least), (middle, *some_seconds, _), (large, *most_seconds, most) = rows
    # an epoch, and what is done once: reading the folder and the images, and testing
    first, first_once = ((b - a) / (middle - small) * 1000 for a, b in zip(few, some_seconds, strict=True))
    last, last_once = ((b - a) / (large - middle) * 1000 for a, b in zip(some_seconds, most_seconds, strict=True))
    shown = "; ".join(f"{size:,}: {seconds:.2f} s, {once:.0f} s once, {mb:.0f} MB" for size, seconds, once, mb in rows)
    return {
        "9": {
            "ratio": max(last / first, last_once / first_once, most / least),
            "us": f"{last:.2f} ms for each from {middle:,} on, {most:.0f} MB at {large:,}",
            "against": f"{first:.2f} ms for each up to {middle:,}, {least:.0f} MB at {SIZES[1]:,}",
            "notes": f"pairs, an epoch of experiment=smoke in batches of 8, reading and testing, peak memory: {shown}; "
            "the largest of the three ratios",
        }
    }


@contextlib.contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Use a temporary folder as the cache of decoded images."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = folder
    yield
    del os.environ["XDG_CACHE_HOME"]
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


def prediction(data: str) -> dict[str, Row]:
    """Row 10: prediction from files to files, compared with a plain MONAI script that reads and saves the same."""
    turns = child("prediction.py", data)
    script, whole = ([turn[name] for turn in turns] for name in ("script", "predict"))
    shown, against = (f"{median(rates):.1f} images a second" for rates in (whole, script))
    return {"10": compare(script, whole) | {"us": shown, "against": f"{against}, a MONAI script with the same network"}}


def cells(data: str) -> dict[str, Row]:
    """Rows 11 and 12: separating touching cells, and scoring them, compared with the network's time for an image."""
    turns = child("cells.py")
    look, separate, score = ([turn[name] for turn in turns] for name in ("look", "separate", "score"))
    against = f"{1000 * median(look):.0f} ms, the network"
    return {
        "11": compare(look, separate) | {"us": f"{1000 * median(separate):.0f} ms", "against": against},
        "12": compare(look, score) | {"us": f"{1000 * median(score):.0f} ms", "against": against},
    }


def reports(data: str) -> dict[str, Row]:
    """Row 13: the report of 75 runs, compared with the import of the packages it needs."""
    console.print("  writing 75 runs …")
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "many"
        told(sys.executable, HERE / "report.py", study)
        packages = "import numpy, pandas, scipy.stats, matplotlib.pyplot, PIL.Image, jinja2"
        seconds: dict[str, list[float]] = {"import": [], "report": []}
        for _ in range(3):
            for name, command in (("import", (sys.executable, "-c", packages)), ("report", (CELLSEG, "report", study))):
                began = time.perf_counter()
                told(*command)
                seconds[name].append(time.perf_counter() - began)
    return {
        "13": compare(seconds["import"], seconds["report"])
        | {
            "us": f"{median(seconds['report']):.1f} s",
            "against": f"{median(seconds['import']):.1f} s, import of its packages",
            "notes": "3 configurations, 5 folds, 5 seeds, 50 test images each",
        }
    }


def first_epoch(data: str) -> dict[str, Row]:
    """Row 14: from the command to the first step, images in the cache, compared with the import of Lightning."""
    seconds: dict[str, list[float]] = {"import": [], "train": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(4):  # the first fills the cache
            began = time.perf_counter()
            told(sys.executable, "-c", "import lightning, tensorboard, hydra")
            middle = time.perf_counter()
            started = time.time()
            settings = [f"data.root={data}", f"study=s{turn}", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
            told(*TRAIN, *settings, f"hydra.run.dir={folder}/{turn}", "experiment=smoke", cwd=folder)
            if turn:
                seconds["import"].append(middle - began)
                seconds["train"].append((Path(folder) / str(turn) / "split.json").stat().st_mtime - started)
    return {
        "14": compare(seconds["import"], seconds["train"])
        | {
            "us": f"{median(seconds['train']):.1f} s",
            "against": f"{median(seconds['import']):.1f} s, import of Lightning, TensorBoard and Hydra",
            "notes": "until split.json is written, after which training begins",
        }
    }


def busy(data: str) -> dict[str, Row]:
    """Row 15: an epoch beside a program that spins, compared with an epoch on the idle machine."""
    seconds: dict[str, list[float]] = {}
    for _ in range(2):
        for threads in ("2", "1"):
            for beside in (False, True):
                console.print(f"  {threads} threads, {'beside a spinning program' if beside else 'idle'} …")
                spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
                try:
                    seen = child("loops.py", "ours", "--root", data, "--epochs", "3", "--threads", threads)
                finally:
                    if spinning:
                        spinning.kill()
                seconds.setdefault(f"{threads} {beside}", []).append(median(seen["seconds"][1:]))
    shown = "; ".join(
        f"{threads} threads {median(seconds[f'{threads} False']):.1f} s idle and "
        f"{median(seconds[f'{threads} True']):.1f} s beside it"
        for threads in ("2", "1")
    )
    return {
        "15": compare(seconds["2 False"], seconds["2 True"])
        | {
            "us": f"{median(seconds['2 True']):.1f} s",
            "against": f"{median(seconds['2 False']):.1f} s, idle",
            "notes": shown,
        }
    }


ROWS: dict[str, tuple[str, str, float, Callable[[str], dict[str, Row]]]] = {
    "1": ("an epoch of UNet, 40 images, batches of 1", "<=", 0.45, loops),
    "2": ("the same: what Lightning, metrics and logs cost", "<=", 1.03, loops),
    "3": ("a training step, as a share of the fastest that this machine allows", ">=", 0.75, arithmetic),
    "4": ("time until the test Dice the original recipe ends with", "<=", 0.20, recipe),
    "5": ("runs an hour, n_jobs=2", ">=", 1.25, sweeps),
    "6": ("start of train.py --cfg job and cellseg --help", "<=", 0.50, starts),
    "7": ("an epoch, beside MONAI's BasicUNet of the same widths", "<", 1.00, loops),
    "8": ("peak memory of a training process", "<=", 1.10, loops),
    "9": ("time for each further pair, and memory, up to 10,000", "<=", 1.10, scaling),
    "10": ("cellseg predict", ">", 1.00, prediction),
    "11": ("separating touching cells, an image", "<=", 1.00, cells),
    "12": ("object scores, an image", "<=", 1.00, cells),
    "13": ("report of 75 runs", "<=", 10.0, reports),
    "14": ("from the command to the first step", "<=", 2.00, first_epoch),
    "15": ("an epoch beside a program that spins", "<=", 2.20, busy),
}


def code() -> str:
    """Return the commit of the code, or ``DIRTY`` if it has uncommitted changes."""
    if told("git", "status", "--porcelain", "cellseg", "conf", "train.py", cwd=ROOT).strip():
        return DIRTY
    return told("git", "rev-parse", "--short", "HEAD", cwd=ROOT).strip()


def machine() -> str:
    """Describe the machine, the packages and the commit."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{os.cpu_count()} cores of {cpu}, Python {platform.python_version()}, {packages}, commit {code()}"


def table(results: dict[str, Row]) -> str:
    """Return the results as Markdown."""
    lines = ["| # | what | ours | against | ratio | target | |", "|---|---|---|---|---|---|---|"]
    notes, origins = [], dict[str, list[str]]()
    for number, (what, sign, target, _) in ROWS.items():
        if (row := results.get(number)) is None:
            continue
        ratio = row["ratio"]
        reached = ratio <= target if sign.startswith("<") else ratio >= target
        spread = f" ({row['from']:.2f} to {row['to']:.2f}, {row['turns']} turns)" if "from" in row else ""
        cells = (number, what, row["us"], row["against"], f"{ratio:.2f}{spread}", f"{sign} {target:.2f}")
        lines.append(f"| {' | '.join(cells)} | {'reached' if reached else '**missed**'} |")
        if "notes" in row:
            notes.append(f"{number}: {row['notes']}.\n")
        origins.setdefault(f"{row['machine']}, data {row['data']}", []).append(number)
    measured = [f"Rows {', '.join(numbers)}: {origin}.\n" for origin, numbers in origins.items()]
    return "\n".join([*lines, "", *notes, *measured])


def main() -> None:
    """Measure the requested rows and write the whole table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="numbers of the table; without any, all are measured")
    parser.add_argument("--data", help="folder of pairs; without one, the embedded smears")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    wait_briefly()  # as train.py and cellseg do; for all processes that are measured
    data = Path(arguments.data or ROOT / "data" / "synthetic-v1").resolve()
    if arguments.data is None and not data.exists():
        told(CELLSEG, "synthesize", data)
    results: dict[str, Row] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for measure in dict.fromkeys(ROWS[number][3] for number in arguments.rows or ROWS):
        console.print(f"[bold]{(measure.__doc__ or '').splitlines()[0]}")
        origin = {"machine": machine(), "data": data.name}
        results |= {number: row | origin for number, row in measure(str(data)).items()}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    text = table(results)
    (HERE / "RESULTS.md").write_text(f"# Benchmarks\n\n`make bench` writes this table; [notes](NOTES.md).\n\n{text}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
