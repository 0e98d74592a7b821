"""Print a table of what changes of the recipe did: the paired difference of each arm from its base, with its cost.

    python tests/benchmarks/tried.py "loss=dice_bce" "loss=dice_bce model.norm=instance" logs/screen-tissue50 ...

The first argument is the base, the second the arm, each by the overrides that make it; studies follow. Differences are
in points of Dice, with the 95 % interval of the report, for this pair alone.
"""

import json
import shlex
import sys
from pathlib import Path
from statistics import median

import pandas as pd

from cellseg.study.statistics import Differences, compare

FIXED = (
    "seed",
    "data.split",
    "data.root",
    "study",
    "n_jobs",
    "logger",
    "data.image_size",
    "model.init_features",
    "threads",
)
MARGIN = 0.005


def overrides(run: Path) -> str:
    """Return what was typed for a run, without what all runs of the studies share."""
    words = shlex.split(json.loads((run / "summary.json").read_text())["command"])
    typed = [word for word in words if "=" in word and not word.startswith(("--", *FIXED))]
    return " ".join(typed)


def images_of(study: Path, arm: str) -> tuple[pd.DataFrame, list[float]]:
    """Return the rows of the test images of an arm, and the training time of its runs in seconds."""
    tables, seconds = [], []
    for summary in study.glob("*/summary.json"):
        run = summary.parent
        if overrides(run) != arm:
            continue
        facts, split = json.loads(summary.read_text()), json.loads((run / "split.json").read_text())
        table = pd.read_csv(run / "per_image.csv", dtype={"image": str, "group": str})
        table = table[table["subset"] == "test"]
        tables.append(table.assign(seed=seed_of(run), fold=str(split["fold"])))
        seconds.append(facts["seconds"]["train"])
    if not tables:
        raise SystemExit(f"{study} has no run of: {arm}")
    return pd.concat(tables), seconds


def seed_of(run: Path) -> int:
    line = next(line for line in (run / "config.yaml").read_text().splitlines() if line.startswith("seed:"))
    return int(line.split(":")[1])


def main(base: str, arm: str, studies: list[Path]) -> None:
    """Print one row for each study."""
    for study in studies:
        (before, slow), (after, fast) = images_of(study, base), images_of(study, arm)
        found = compare(Differences.between(after, before, "dice", 0.2, alike=False), MARGIN, level=0.05, networks=2)
        low, high = (f"{100 * end:+.1f}" if end is not None else "?" for end in (found.low, found.high))
        print(  # noqa: T201
            f"| `{arm}` | `{base or 'default of 0.1.0'}` | {study.name} | {found.pairs} "
            f"| {100 * found.difference:+.1f} | "
            f"[{low}, {high}] | {median(fast) / median(slow):.1f} |"
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [Path(name) for name in sys.argv[3:]])
