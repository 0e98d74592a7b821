"""Cause faults in real runs and count how many they survive: ``python tests/faults/faults.py``, or name some faults.

A run survives a try if it prints a clear message, loses nothing and, where possible, continues with the same command.
It is identical if its weights, curves and scores then equal those of an undisturbed run bit for bit. Some faults need
the right to mount a small disk, which root has, and one needs a GPU; elsewhere they are skipped.
"""

import argparse
import csv
import io
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cellseg import load_run  # noqa: E402 (not where pytest's path is)
from cellseg.data.synthetic import SmearStyle, write_synthetic  # noqa: E402

TRAIN = ROOT / "train.py"
RECIPE = ("experiment=smoke", "trainer.max_epochs=30", "callbacks.last.seconds=0", "data.split.val_fraction=0.25")
LATER = "import sys, time; now = time.time; time.time = lambda: now() + {seconds}; sys.argv = sys.argv[1:]; "
LATER += "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
NAMES = (
    "with space",
    "ünïcödé 像",
    'quote"d',
    "it's",
    "-dash",
    "=HYPERLINK(1)",
    "<script>alert(1)<",
    "new\nline",
    "a,b;c",
    "%s",
)


@dataclass
class Tally:
    """Counts of one fault: tries, survived, comparable, identical; and the output of failed tries."""

    tries: int = 0
    survived: int = 0
    comparable: int = 0
    identical: int = 0
    said: list[str] = field(default_factory=list)

    def add(self, survived: bool, identical: bool | None, said: str) -> None:
        self.tries += 1
        self.survived += survived
        self.comparable += identical is not None
        self.identical += bool(identical)
        if not survived or identical is False:
            self.said.append(said)


class Bench:
    """A data set, an undisturbed run, and a new folder for each disturbed run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        write_synthetic(self.data, 10, style=SmearStyle(width=96, height=72, radius=9, cells=(6, 10)))
        began = time.monotonic()
        code, said = self.train(folder / "undisturbed")
        assert code == 0, said
        self.seconds = time.monotonic() - began
        [self.undisturbed] = self.runs(folder / "undisturbed")
        self.number = 0

    def place(self) -> Path:
        self.number += 1
        (place := self.folder / f"try-{self.number}").mkdir()
        return place

    def start(
        self, place: Path, *more: str, prefix: tuple[str, ...] = (), script: tuple[str, ...] = (str(TRAIN),), **options
    ):
        place.mkdir(exist_ok=True)
        command = (*prefix, sys.executable, *script, f"data.root={self.data}", "study=s", *RECIPE, *more)
        environment = os.environ | {"COLUMNS": "200", "XDG_CACHE_HOME": str(self.folder / "cache")}
        return subprocess.Popen(
            command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
        )

    def train(self, place: Path, *more: str, **options) -> tuple[int, str]:
        process = self.start(place, *more, **options)
        said, _ = process.communicate(timeout=600)
        return process.returncode, said

    def runs(self, place: Path) -> list[Path]:
        return sorted(path for path in (place / "logs" / "s").glob("unet*") if path.is_dir())

    def finish(self, place: Path, **options) -> tuple[bool, str]:
        """Run the same command again; return whether the run then equals the undisturbed one, and the output."""
        code, said = self.train(place, **options)
        return code == 0 and same(self.runs(place)[0], self.undisturbed), said


def same(run: Path, other: Path, *, events: bool = True) -> bool:
    """Compare weights, curves and scores, and with ``events`` also the values in TensorBoard's files."""
    first, second = (load_run(path).network.state_dict() for path in (run, other))
    tables = all(
        (run / name).read_bytes() == (other / name).read_bytes()
        for name in ("metrics.csv", "per_image.csv", "split.json")
    )
    equal = tables and all(first[name].equal(second[name]) for name in second)
    return equal and (not events or shown(run) == shown(other))


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def epochs(run: Path) -> int:
    try:
        with (run / "metrics.csv").open(newline="") as file:
            return len(list(csv.DictReader(file)))
    except OSError:
        return 0


def cellseg(*words: object, cwd: Path, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run a ``cellseg`` command; return its exit code and output."""
    command = (*prefix, str(Path(sys.executable).with_name("cellseg")), *map(str, words))
    told = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600)
    return told.returncode, told.stdout + told.stderr


def plain(said: str) -> bool:
    return "Traceback" not in said


def last_line(said: str) -> str:
    return next((line for line in reversed(said.splitlines()) if line.strip()), "")


def wait(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 600) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.001)
    return False


def killed(bench: Bench, tries: int) -> Tally:
    """kill -9 at random moments, and as files appear"""
    tally, dice = Tally(), random.Random(0)
    moments = [
        ".last.ckpt.*.unfinished",
        "weights.pth",
        "per_image.csv",
        "summary.json",
        "split.json",
        "best.ckpt",
        ".weights.pth.*.unfinished",
    ]
    for number in range(tries):
        place = bench.place()
        process = bench.start(place)
        if number % 3 == 2:
            moment = moments[number // 3 % len(moments)]
            wait(lambda: any(place.rglob(moment)), process)  # noqa: B023
        else:
            moment = f"{dice.uniform(0.1, 1) * bench.seconds:.2f} s"
            time.sleep(float(moment[:-2]))
        process.kill()
        process.communicate()
        again, said = bench.finish(place)
        tally.add(plain(said), again, f"killed at {moment}: {last_line(said)}")
        shutil.rmtree(place)
    return tally


def asked(bench: Bench, tries: int) -> Tally:
    """SIGTERM and Ctrl-C while it trains, on one device and on two"""
    tally = Tally()
    for number in range(tries):
        place, ask, two = bench.place(), (signal.SIGTERM, signal.SIGINT)[number % 2], number % 4 > 1
        more = ("trainer.devices=2", "trainer.accelerator=cpu", "+trainer.min_epochs=30") if two else ()
        process = bench.start(place, *more, start_new_session=True)
        wait(lambda: bench.runs(place) and epochs(bench.runs(place)[0]) > 1 + number, process)  # noqa: B023
        if ask == signal.SIGINT:
            os.killpg(process.pid, ask)  # a terminal also signals the whole group
        else:
            process.send_signal(ask)
        said, _ = process.communicate(timeout=600)
        [run] = bench.runs(place)
        survived = (
            process.returncode == 128 + ask
            and plain(said)
            and "run the same command with study=s to continue" in last_line(said)
            and (run / "checkpoints" / "last.ckpt").exists()
            and not (run / "summary.json").exists()
        )
        code, again = bench.train(place, *more)
        told = f"{ask.name}{', two devices' * two}: {process.returncode}, {last_line(said)}; then {last_line(again)}"
        identical = None if two else code == 0 and same(run, bench.undisturbed)
        tally.add(survived and code == 0 and "continuing" in again, identical, told)
    return tally


def damaged(bench: Bench, tries: int) -> Tally:
    """last.ckpt cut short, or one bit of it changed"""
    tally, dice = Tally(), random.Random(1)
    place = bench.place()
    process = bench.start(place)
    wait(lambda: bench.runs(place) and epochs(bench.runs(place)[0]) > 8, process)
    process.kill()
    process.communicate()
    for number in range(tries):
        copy = bench.place()
        shutil.copytree(place / "logs", copy / "logs")
        file = bench.runs(copy)[0] / "checkpoints" / "last.ckpt"
        content = bytearray(file.read_bytes())
        where = dice.randrange(len(content))
        if number % 2:
            content[where] ^= 1 << dice.randrange(8)
        else:
            content = content[:where]
        file.write_bytes(content)
        again, said = bench.finish(copy)
        told = "last.ckpt is damaged" in said and "continues from the previous checkpoint" in " ".join(said.split())
        # a changed bit between the tensors may have no effect
        tally.add(plain(said) and (told or (number % 2 == 1 and again)), again, f"byte {where}: {last_line(said)}")
        shutil.rmtree(copy)
    return tally


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a disk in memory; yield a function that remounts it with other options."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def may_mount(bench: Bench) -> bool:
    """Return whether this process may mount a disk; root in a container often may not."""
    try:
        with small_disk(bench.folder / "disk", "100k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def full(bench: Bench, tries: int) -> Tally:
    """disk full at every kind of write, then freed"""
    tally = Tally()
    whole = sum(path.stat().st_size for path in bench.undisturbed.rglob("*") if path.is_file()) // 1024
    for number in range(tries):
        place, size = bench.place(), 4 + whole * number // tries
        with small_disk(place / "logs", f"{size}k") as remount:
            code, said = bench.train(place)
            ended = bool(list(place.rglob("summary.json")))
            survived = plain(said) and ((code != 0) != ended) and (code == 0 or "No space left" in said)
            remount("size=100m")
            again, more = bench.finish(place)
            tally.add(survived and plain(more), again, f"{size} kB: {code}, {last_line(said)}; then {last_line(more)}")
    return tally


def full_sweep(bench: Bench, tries: int) -> Tally:
    """disk full under a sweep, then freed"""
    tally = Tally()
    whole = sum(path.stat().st_size for path in bench.undisturbed.rglob("*") if path.is_file()) // 1024
    for size in (whole * 3 // 2, whole // 2, 8)[:tries]:
        place = bench.place()
        with small_disk(place / "logs", f"{size}k") as remount:
            code, said = bench.train(place, "seed=0,1", "-m")
            survived = code == 1 and plain(said) and "No space left" in said
            remount("size=100m")
            code, more = bench.train(place, "seed=0,1", "-m")
            done = code == 0 and all((run / "summary.json").exists() for run in bench.runs(place))
            again = done and same(next(run for run in bench.runs(place) if "seed-0" in run.name), bench.undisturbed)
            tally.add(survived and plain(more), again, f"{size} kB: {said[-900:]}; then {last_line(more)}")
    return tally


def readonly(bench: Bench, tries: int) -> Tally:
    """read-only data; read-only logs"""
    tally = Tally()
    place = bench.place()
    with small_disk(place / "data", "10m") as remount:
        shutil.copytree(bench.data, place / "data", dirs_exist_ok=True)
        remount("ro")
        code, said = bench.train(place, f"data.root={place / 'data'}")
        tally.add(code == 0, code == 0 and same(bench.runs(place)[0], bench.undisturbed), last_line(said))
    place = bench.place()
    with small_disk(place / "logs", "10m") as remount:
        remount("ro")
        began = time.monotonic()
        code, said = bench.train(place)
        early = time.monotonic() - began < bench.seconds / 2
        tally.add(code == 1 and plain(said) and "cannot be written" in said and early, None, last_line(said))
    return tally


def shared(bench: Bench, tries: int) -> Tally:
    """two processes in one run folder"""
    tally = Tally()
    for _ in range(tries):
        place = bench.place()
        first, second = bench.start(place), bench.start(place)
        said = [process.communicate(timeout=600)[0] for process in (first, second)]
        codes = sorted((first.returncode, second.returncode))
        told = any("another process uses" in text for text in said)
        one = same(bench.runs(place)[0], bench.undisturbed)
        tally.add(codes == [0, 1] and told and all(map(plain, said)), one, f"{codes}: {last_line(said[1])}")
    return tally


def diverged(bench: Bench, tries: int) -> Tally:
    """a loss that is NaN or infinite"""
    tally = Tally()
    for rate in ("1e30", "1e38", "1e25")[:tries]:
        place = bench.place()
        code, said = bench.train(place, f"optimizer.lr={rate}", "scheduler=none")
        named = any(f"cell_{n}" in said for n in range(1, 11))
        tally.add(code == 1 and plain(said) and named and "training diverged" in said, None, last_line(said))
    return tally


def starved(bench: Bench, tries: int) -> Tally:
    """memory that runs out"""
    tally = Tally()
    for number in range(tries):
        place, size = bench.place(), 2**22 + 2**21 * number  # kB of address space: torch alone takes 3 GB of it
        wide = ("model.init_features=512", "data.image_size=1024", "trainer.precision=32-true")
        wide += ("trainer.accelerator=cpu",)  # a GPU's driver alone needs more address space than the limit
        code, said = bench.train(place, *wide, prefix=("sh", "-c", f'ulimit -v {size}; exec "$@"', "sh"))
        tally.add(code == 1 and plain(said) and "memory ran out" in said, None, f"{code}: {said[-300:]}")
    return tally


def crowded(bench: Bench, tries: int) -> Tally:
    """a GPU's memory that runs out"""
    tally = Tally()
    wide = ("model.init_features=64", "data.image_size=8192", "data.batch_size=6", "trainer.precision=32-true")
    place = bench.place()
    code, said = bench.train(place, *wide)
    tally.add(code == 1 and plain(said) and "memory ran out" in said, None, f"{code}: {said[-300:]}")
    return tally


def clock(bench: Bench, tries: int) -> Tally:
    """a clock that jumps while the run is interrupted"""
    tally = Tally()
    for seconds in (-86400, 86400, -(10**8))[:tries]:
        place = bench.place()
        process = bench.start(place)
        wait(lambda: bench.runs(place) and epochs(bench.runs(place)[0]) > 5, process)  # noqa: B023
        process.kill()
        process.communicate()
        code, said = bench.train(place, script=("-c", LATER.format(seconds=seconds), str(TRAIN)))
        # TensorBoard sorts files by the time in their names, so it shows them in the wrong order after a clock set back
        again = code == 0 and same(bench.runs(place)[0], bench.undisturbed, events=seconds > 0)
        tally.add(plain(said), again, f"{seconds} s: {last_line(said)}")
    return tally


def names(bench: Bench, tries: int) -> Tally:
    """unusual file names, and a run folder that moves"""
    tally = Tally()
    place = bench.place()
    shutil.copytree(bench.data, place / "odd")
    for number, name in enumerate(NAMES, start=1):
        (place / "odd" / f"cell_{number}").rename(place / "odd" / name)
    code, said = bench.train(place, f"data.root={place / 'odd'}", "trainer.max_epochs=2")
    tally.add(code == 0, None, said[-300:])
    if code == 0:
        moved = place / "elsewhere with space"
        (place / "logs" / "s").rename(moved)
        [run] = [path for path in moved.glob("unet*") if path.is_dir()]
        for words in (("report", moved), ("predict", run, place / "odd", "--output", place / "out"), ("review", run)):
            code, said = cellseg(*words, cwd=place)
            tally.add(code == 0, None, said[-300:])
        page = (moved / "report.html").read_text()
        tally.add("<script>alert(1)" not in page, None, "a script in the report")
        tables = [table for table in place.rglob("*.csv") if "odd" not in table.parts]
        cells = [cell for table in tables for row in csv.reader(io.StringIO(table.read_text("utf-8"))) for cell in row]
        tally.add(not any(cell.startswith("=") for cell in cells), None, "a formula in a table")
    return tally


def sweeps(bench: Bench, tries: int) -> Tally:
    """the same run in a sweep: any order, two at once"""
    tally = Tally()
    reference = bench.place()
    code, said = bench.train(reference, "threads=1")
    for orders in (("seed=1,0",), ("seed=0,1", "n_jobs=2"))[:tries]:
        place = bench.place()
        code, said = bench.train(place, "threads=1", *orders, "-m")
        run = next((path for path in bench.runs(place) if "seed-0" in path.name), None)
        tally.add(code == 0, run is not None and same(run, bench.runs(reference)[0]), last_line(said))
    return tally


def stopped_sweep(bench: Bench, tries: int) -> Tally:
    """SIGTERM and Ctrl-C to a sweep, in training and in its first seconds"""
    tally, dice = Tally(), random.Random(2)
    for number in range(tries):
        place, ask, jobs = bench.place(), (signal.SIGTERM, signal.SIGINT)[number % 2], (1, 2, 4)[number // 2 % 3]
        more = ("seed=0,1,2", f"n_jobs={jobs}", "threads=1", "-m")
        process = bench.start(place, *more, start_new_session=True)
        moment = 0.0
        if number % 4 < 2:
            wait(lambda: bench.runs(place) and epochs(bench.runs(place)[0]) > 3, process)  # noqa: B023
        else:
            wait((place / "logs" / "s").exists, process)
            time.sleep(moment := dice.uniform(0, 5))
        if ask == signal.SIGINT:
            os.killpg(process.pid, ask)  # as a terminal does
        else:
            process.send_signal(ask)
        said, _ = process.communicate(timeout=600)
        survived = process.returncode in (1, 130) and plain(said) and "he same command" in last_line(said)
        code, _ = bench.train(place, *more)
        done = code == 0 and all((run / "summary.json").exists() for run in bench.runs(place))
        what = f"{ask.name} after {moment:.1f} s, n_jobs={jobs}: {process.returncode}, then {code}: {said[-600:]}"
        tally.add(survived and done, None, what)
    return tally


def devices(bench: Bench, tries: int) -> Tally:
    """two processes (gloo) instead of one, on the same batches"""
    tally = Tally()
    network = ("model._target_=torch.nn.Conv2d", "~model.depth", "~model.init_features", "~model.skip", "~model.norm")
    network += ("+model.kernel_size=3", "+model.padding=1")  # no batch norm: it uses the images of one device only
    for seed in range(tries):
        place = bench.place()
        alike = (*network, "trainer.accelerator=cpu", "trainer.precision=32-true", f"seed={seed}")
        ended = [
            bench.train(place / str(number), *alike, f"trainer.devices={number}", f"data.batch_size={2 // number}")
            for number in (1, 2)
        ]
        tables = [
            [list(csv.DictReader(path.open(newline=""))) for path in sorted(place.glob(f"{number}/logs/s/*/*.csv"))]
            for number in (1, 2)
        ]
        tally.add(ended[0][0] == ended[1][0] == 0, close(*tables), "; ".join(last_line(said) for _, said in ended))
    return tally


def close(first: object, second: object) -> bool:
    """Compare tables: text exactly, numbers within 1e-5, because the order of a sum changes rounding."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(close, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(close(first[key], second[key]) for key in first)
    try:
        return abs(float(str(first)) - float(str(second))) < 1e-5
    except ValueError:
        return first == second


class Pickled:
    """A pickle that runs a command when it is loaded without weights_only."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


CONFIGS = (
    "model: {{_target_: os.system, command: 'touch {0}'}}",
    "model: {{_target_: cellseg.UNet, init_features: {{_target_: os.system, command: 'touch {0}'}}}}",
    "model: {{_target_: subprocess.getoutput, cmd: 'touch {0}'}}",
    "model: {{_target_: cellseg.networks.torch.hub.os.system, command: 'touch {0}'}}",
    "model: !!python/object/apply:os.system ['touch {0}']",
    'model: ${{eval:\'__import__("os").system("touch {0}")\'}}',
)


def strangers(bench: Bench, tries: int) -> Tally:
    """code in checkpoints, weights and configurations of strangers"""
    tally = Tally()
    place = bench.place()
    owned = place / "owned"
    config = (bench.undisturbed / "config.yaml").read_text()
    before, after = config.index("\nmodel:") + 1, config.index("\noptimizer:") + 1
    for name in ("last.ckpt", "weights.pth", *CONFIGS)[:tries]:
        run = place / "logs" / "s" / bench.undisturbed.name
        shutil.copytree(bench.undisturbed, run)
        if name == "weights.pth":
            torch.save({"a": Pickled(f"touch {owned}")}, run / name)
        elif name == "last.ckpt":
            (run / "checkpoints").mkdir(exist_ok=True)  # a finished run has none
            torch.save({"a": Pickled(f"touch {owned}")}, run / "checkpoints" / name)
            (run / "summary.json").unlink()
            code, said = bench.train(place)
            tally.add(code == 1 and plain(said) and not owned.exists(), None, f"{name}: {code}, {said[-300:]}")
        else:
            (run / "config.yaml").write_text(config[:before] + name.format(owned) + "\n" + config[after:])
        for words in (("review", run), ("report", run.parent), ("predict", run, bench.data, "--output", place / "out")):
            code, said = cellseg(*words, cwd=place)
            refused = code == 1 or words[0] == "report"  # report reads only numbers
            tally.add(
                refused and plain(said) and not owned.exists(), None, f"{words[0]}, {name}: {code}, {said[-300:]}"
            )
        shutil.rmtree(place / "logs")
        shutil.rmtree(place / "out", ignore_errors=True)
    return tally


def chunk(kind: bytes, content: bytes) -> bytes:
    """Write a part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def hostile_pictures(image: bytes) -> dict[str, bytes]:
    """Make images that would take much memory or time to read."""
    pages, blank, bomb = io.BytesIO(), Image.new("L", (8, 8)), io.BytesIO()
    blank.save(pages, "TIFF", save_all=True, append_images=[blank] * 9_999)
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    huge = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    text = zlib.compress(bytes(2**28), 9)
    return {
        "10000-pages.tif": pages.getvalue(),
        "bomb.png": bomb.getvalue(),
        "huge.png": image[:8] + chunk(b"IHDR", huge) + image[33:],
        "text.png": image[:33] + chunk(b"zTXt", b"a\0\0" + text) + image[33:],
        "cut.png": image[: len(image) // 2],
        "empty.png": b"",
    }


def pictures(bench: Bench, tries: int) -> Tally:
    """images that would take gigabytes, under a limit of 4 GB"""
    tally = Tally()
    place = bench.place()
    image = next(bench.data.glob("*/source.*"))
    for name, content in list(hostile_pictures(image.read_bytes()).items())[:tries]:
        data = place / Path(name).stem
        shutil.copytree(bench.data, data)
        inside = data / image.relative_to(bench.data)
        inside.unlink()
        inside.with_suffix(Path(name).suffix).write_bytes(content)
        began = time.monotonic()
        code, said = cellseg("check", data, cwd=place, prefix=("sh", "-c", 'ulimit -v 4194304; exec "$@"', "sh"))
        quick = time.monotonic() - began < 60
        told = plain(said) and (inside.stem in said) and "memory ran out" not in said
        tally.add(code == 1 and told and quick, None, f"{name}: {code}, {said[-300:]}")
    return tally


FAULTS = (
    killed,
    asked,
    stopped_sweep,
    damaged,
    full,
    full_sweep,
    readonly,
    shared,
    diverged,
    starved,
    crowded,
    clock,
    names,
    sweeps,
    devices,
    strangers,
    pictures,
)
TRIES = {"killed": 30, "asked": 6, "stopped_sweep": 12, "damaged": 20, "full": 16, "strangers": 8, "pictures": 6}
TRIES_ELSE = 3
MOUNTING = (full, full_sweep, readonly)


def run(faults: list[str], tries: dict[str, int]) -> dict[str, Tally]:
    """Try faults one after the other and print the table of results."""
    tallies = {}
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for fault in FAULTS:
            if fault.__name__ not in faults or (fault in MOUNTING and not may_mount(bench)):
                continue
            if fault is crowded and not torch.cuda.is_available():
                continue
            console.print(f"{fault.__name__} …")
            tally = tallies[str(fault.__doc__)] = fault(bench, tries.get(fault.__name__, TRIES_ELSE))
            console.print(
                f"  survived {tally.survived} of {tally.tries}, identical {tally.identical} of {tally.comparable}"
            )
            for said in tally.said:
                console.print(f"  {said}", markup=False, highlight=False)
    table = Table("fault", "tries", "survived", "identical")
    for name, tally in tallies.items():
        compared = f"{tally.identical} of {tally.comparable}" if tally.comparable else "-"
        table.add_row(name, str(tally.tries), f"{tally.survived} of {tally.tries}", compared)
    Console().print(table)
    return tallies


def main() -> None:
    """Try the faults named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", help=", ".join(fault.__name__ for fault in FAULTS))
    parser.add_argument("--tries", type=int, help="tries per fault; the default depends on the fault, from 3 to 30")
    arguments = parser.parse_args()
    known = [fault.__name__ for fault in FAULTS]
    if unknown := set(arguments.faults) - set(known):
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    tries = dict.fromkeys(known, arguments.tries) if arguments.tries else TRIES
    tallies = run(arguments.faults or known, tries)
    fine = all(tally.survived == tally.tries and tally.identical == tally.comparable for tally in tallies.values())
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
