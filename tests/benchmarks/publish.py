"""Publish a finished study: ``python tests/benchmarks/publish.py logs/tissue50 docs/results``.

Writes ``docs/results/tissue50/``: the report, its figures and tables; ``runs.tar.xz``, the run folders without weights,
pictures and curves for TensorBoard; and ``README.md``, of which the part above the mark is written by hand and kept.
Below it are verdicts, commands, commits, machine, dates and hours. ``docs/results/README.md`` lists the verdicts of all
studies in the same way, and the table in the project's README is made anew. To get the runs back:

    tar -xf docs/results/tissue50/runs.tar.xz -C logs
"""

import io
import re
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

import pandas as pd
from PIL import Image

from cellseg.run.folder import RunFolder
from cellseg.run.plan import read_plans
from cellseg.storage.errors import count
from cellseg.study.collect import read_study
from cellseg.study.report import write_report

MARK = "<!-- below: python tests/benchmarks/publish.py -->"
KEPT = ("config.yaml", "split.json", "code.patch", "metrics.csv", "per_image.csv", "baselines.csv", "summary.json")
COMPARED = {"tissue50": "tissue", "fluo50": "fluorescence", "smears": "drawn smears"}  # study: heading
NETWORKS = ("UNet", "PotiNet", "XopiNet", "Otsu")
HEADING = f"| network | {' | '.join(COMPARED.values())} |"
RECIPES = {  # label: the kind of study, and how the name of its configuration begins
    "default": ("recipe", "UNet experiment=none"),
    "`experiment=thorough`": ("recipe", "UNet experiment=thorough"),
    "`experiment=original`": ("recipe", "UNet experiment=original"),
    "MONAI's BasicUNet": ("basic", "BasicUNet"),
}
TABLES = ("report.md", "comparisons.csv", "configurations.csv", "images.csv")


def main(study: Path, results: Path) -> None:
    """Publish one study, and list all."""
    found = read_study(study)
    sentences = write_report(found)
    runs = [RunFolder(path.parent) for path in sorted(study.glob("*/summary.json"))]
    out = results / study.name
    if (out / "figures").exists():
        shutil.rmtree(out / "figures")
    (out / "figures").mkdir(parents=True)
    for picture in sorted((study / "figures").glob("*.png")):
        few = Image.open(picture).convert("RGB").quantize(64)  # a third of the size
        few.save(out / "figures" / picture.name, optimize=True)
    for name in TABLES:
        (out / name).write_text(_anywhere((study / name).read_text(), runs))
    _archive(study, runs, out / "runs.tar.xz")
    verdicts = "\n".join(f"- {sentence}" for sentence in sentences)
    below = f"## Verdicts\n\n{verdicts}\n\nAll tables and figures: [report.md](report.md)\n\n## Runs\n\n"
    below += _facts(study, runs, found.runs)
    _replace_below(out / "README.md", study.name, _anywhere(below, runs))
    pages = [path for path in sorted(results.glob("*/README.md")) if MARK in path.read_text()]
    parts = [f"## [{path.parent.name}]({path.parent.name}/README.md)\n\n{_verdicts(path)}" for path in pages]
    _replace_below(results / "README.md", "Results", "\n\n".join(["\n".join(recipes(results)), *parts]))
    page = results.parents[1] / "README.md"
    lines = page.read_text().splitlines()
    first = lines.index(HEADING)
    last = next(number for number in range(first, len(lines)) if not lines[number].startswith("|"))
    page.write_text("\n".join([*lines[:first], *table(results), *lines[last:], ""]))


def table(results: Path) -> list[str]:
    """Return the lines of the table in the README of the project: Dice in points with its interval, of each network."""
    files = [results / study / "configurations.csv" for study in COMPARED]
    found = [pd.read_csv(file, index_col="configuration") if file.exists() else pd.DataFrame() for file in files]
    rows = [HEADING, "|---" * (1 + len(COMPARED)) + "|"]
    for network in NETWORKS:
        cells = []
        for table in found:
            if network not in table.index:
                cells.append("-")
                continue
            one = 100 * table.loc[network, ["dice", "dice_low", "dice_high"]].astype(float)
            cells.append(f"{one['dice']:.1f} [{one['dice_low']:.1f}, {one['dice_high']:.1f}]")
        rows.append(f"| {network} | {' | '.join(cells)} |")
    return rows


def recipes(results: Path) -> list[str]:
    """Return the lines of a table of the recipes: Dice in points with its interval, and minutes of training."""
    lines = [
        "## The recipes in one table",
        "",
        "Mean Dice in points on folds 2 to 4, with its 95 % interval; minutes of training, median over runs, rough, "
        "because other work ran at times. BasicUNet has one seed, the others two, and its runs shared the processor "
        "with other work.",
        "",
    ]
    lines += [HEADING.replace("network", "recipe"), "|---" * (1 + len(COMPARED)) + "|"]
    for label, (kind, begins) in RECIPES.items():
        cells = []
        for study in COMPARED:
            folder = results / f"{kind}-{study}"
            file = folder / "configurations.csv"
            table = pd.read_csv(file) if file.exists() else pd.DataFrame({"configuration": pd.Series(dtype=str)})
            rows = table[table["configuration"].str.startswith(begins)].to_dict("records")
            if not rows:
                cells.append("-")
                continue
            [row] = rows
            one, low, high = (100 * float(row[name]) for name in ("dice", "dice_low", "dice_high"))
            took = re.search(
                rf"{re.escape(begins)} ([\d.]+)", (folder / "README.md").read_text().partition("minutes of training")[2]
            )
            cells.append(
                f"{one:.1f} [{low:.1f}, {high:.1f}]" + (f"; {took[1]} min" if took and kind == "recipe" else "")
            )
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _replace_below(file: Path, title: str, text: str) -> None:
    """Write a text below the mark of a page; what is above it stays."""
    above = file.read_text().split(MARK)[0] if file.exists() else f"# {title}\n\n"
    file.write_text(f"{above}{MARK}\n\n{text}\n")


def _verdicts(page: Path) -> str:
    """Return the list of verdicts on Dice of a published study, and of its limits."""
    lines = page.read_text().split(MARK)[1].split("```")[0].strip().splitlines()
    return "\n".join(line for line in lines if line.startswith("- ") and not line.startswith("- objects and outlines"))


def _facts(study: Path, runs: list[RunFolder], table: pd.DataFrame) -> str:
    """Return the commands, and what the runs took."""
    trained = [run.summary for run in runs if run.summary.masks is None]
    hours = sum(sum(summary.seconds.values()) for summary in trained) / 3600
    dates = sorted(summary.date for summary in trained)
    minutes = (table.groupby("configuration")["seconds"].median().dropna() / 60).items()
    commands = []
    for plan in read_plans(study):
        swept = [f"{key}={','.join(map(str, values))}" for key, values in plan.grid.items()]
        commands.append(shlex.join(["python", "train.py", "-m", *swept, *map(str, plan.fixed)]))
    return "\n".join(
        [
            *(["```", *commands, "```", ""] if commands else []),
            f"- {count(len(trained), 'run')}, {hours:.1f} hours of training and testing summed over runs",
            f"- minutes of training, median over runs: {', '.join(f'{name} {time:.1f}' for name, time in minutes)}",
            f"- {dates[0]:%Y-%m-%d %H:%M} to {dates[-1]:%Y-%m-%d %H:%M} UTC",
            f"- commit {', '.join(sorted({summary.commit for summary in trained}))}",
            f"- {', '.join(sorted({summary.device for summary in trained}))}",
        ]
    )


def _archive(study: Path, runs: list[RunFolder], file: Path) -> None:
    """Write the plans and the runs, the same bytes for the same runs."""
    files = [*sorted(study.glob("plan*.yaml")), *study.glob("looks.yaml")]
    files += [run.path / name for run in runs for name in KEPT if (run.path / name).exists()]
    with tarfile.open(file, "w:xz", preset=9) as archive:
        for path in files:
            content = _anywhere(path.read_text(), runs).encode()
            entry = tarfile.TarInfo(str(path.relative_to(study.parent)))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _anywhere(text: str, runs: list[RunFolder]) -> str:
    """Make the paths of data sets in a clone relative to it."""
    for root in {match[1] for run in runs if (match := re.match(r"(/.+?/)data/", run.summary.data.root))}:
        text = text.replace(root, "")
    return text


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
