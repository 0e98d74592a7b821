"""What is said on the terminal: the results of a run, the findings in a data set."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellseg.data.findings import ERROR, NOTE, WARNING, Finding, count

if TYPE_CHECKING:
    import pandas as pd

    from cellseg.use.evaluate import Score

COLOURS = {ERROR: "bold red", WARNING: "yellow", NOTE: "dim"}
SCORES = (  # key, name, and how it is averaged
    ("dice", "Dice", "cut at 0.5, mean over images"),
    ("iou", "IoU", "cut at 0.5, mean over images"),
    ("soft_dice", "soft Dice", "of probabilities, mean over images"),
    ("dice_pooled", "Dice, pooled", "cut at 0.5, all pixels of all images together"),
    ("iou_pooled", "IoU, pooled", "cut at 0.5, all pixels of all images together"),
)


def print_results(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the final scores, each with what it was averaged over, and where everything lies."""
    counts, metrics = summary["counts"], summary["metrics"]
    table = Table(
        title=Text(f"{summary['model']}, seed {summary['seed']}: scores on {counts['test']} test images"),
        caption=Text(
            f"weights scored: {summary['scored_weights']}\n"
            f"trained on {counts['train']} images for {counts['epochs']} epochs"
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("how")
    spread = {
        name: "" if value is None else f"; SD over images {value:.4f}"
        for name, value in summary["spread_over_test_images"].items()
    }
    for name, label, how in (*SCORES, ("loss", "loss", "mean over images")):
        table.add_row(label, f"{metrics[f'test/{name}']:.4f}", how + spread.get(name, ""))
    console = Console()
    console.print(table)
    if leaks := summary["data"]["leaks"]:
        console.print(f"These scores are too good: {len(leaks)} leaks between the subsets were allowed.", style="red")
    for line in (f"run folder: {folder}", f"curves:     tensorboard --logdir {shlex.quote(str(folder.parent))}"):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def print_evaluation(name: str, unseen: Mapping[str, "Score"], images: "pd.DataFrame", caveats: Sequence[str]) -> None:
    """Print the scores on images the weights have not seen and, apart, what was left out of them."""
    console = Console()
    console.print(name, highlight=False, markup=False, soft_wrap=True)
    seen = images[images["seen"] != ""]
    if unseen:
        number, groups = len(images) - len(seen), images.loc[images["seen"] == "", "group"].nunique()
        table = Table(
            title=f"scores on {count(number, 'image')} that the weights have not seen",
            caption=f"95 % interval: {count(groups, 'group')} of images drawn again; other seeds are not in it",
            title_justify="left",
            caption_justify="left",
        )
        for heading in ("score", "value", "95 % interval", "how"):
            table.add_column(heading, justify="right" if heading == "value" else "left")
        for key, label, how in SCORES:
            if score := unseen.get(key):
                ends = "-" if score.interval is None else f"[{score.interval[0]:.4f}, {score.interval[1]:.4f}]"
                table.add_row(label, f"{score.value:.4f}", Text(ends), how)
        console.print(table)
    if len(seen):
        mean = f"mean Dice on them {seen['dice'].mean():.4f}, which is no result"
        said = f"{count(len(seen), 'image')} left out, known to the weights; {mean}:"
        console.print(said, style="yellow", highlight=False, markup=False, soft_wrap=True)
        for how in seen["seen"].unique():
            names = ", ".join(seen.loc[seen["seen"] == how, "image"])
            console.print(f"  {how}: {names}", highlight=False, markup=False, soft_wrap=True)
    for caveat in caveats:
        console.print(f"note: {caveat}", highlight=False, markup=False, soft_wrap=True)


def print_check(headline: str, findings: Sequence[Finding]) -> None:
    """Print what was found in a data set, and whether it can be trained on."""
    console = Console()
    console.print(headline, highlight=False, markup=False, soft_wrap=True)
    if findings:
        table = Table("severity", "where", "what was seen", "what training does", show_lines=True)
        for finding in findings:
            cells = (finding.where, finding.seen, finding.effect)
            table.add_row(
                Text(finding.severity, COLOURS[finding.severity]), *(Text(cell, overflow="fold") for cell in cells)
            )
        console.print(table)
    counts = Counter(finding.severity for finding in findings)
    said = ", ".join(f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}" for severity in COLOURS)
    verdict = "training would stop" if counts[ERROR] else "training would run"
    console.print(f"{said}: {verdict}", style="bold", highlight=False)
