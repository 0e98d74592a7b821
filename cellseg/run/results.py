"""The results of a run for the terminal."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellseg.run.folder import Summary
from cellseg.storage.errors import count


def print_results(summary: Summary, folder: Path) -> None:
    """Print the final scores, how each was averaged, and the run folder."""
    counts = summary.counts
    table = Table(
        title=Text(f"{summary.model}, seed {summary.seed}: scores on {count(counts.test, 'test image')}"),
        caption=Text(
            f"weights scored: {summary.scored_weights}\n"
            f"trained on {count(counts.train, 'image')} for {count(counts.epochs, 'epoch')}"
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("how")
    spread = {
        name: "" if value is None else f"; SD over images {value:.4f}"
        for name, value in summary.spread_over_test_images.items()
    }
    for score in summary.scores:
        value = summary.metrics.get(f"test/{score.name}")
        how = summary.averaging.get(f"test/{score.name}", score.how) + spread.get(score.name, "")
        table.add_row(Text(score.label), "no value" if value is None else f"{value:.4f}", how)
    table.add_row("loss", f"{summary.metrics['test/loss']:.4f}", "mean over images")
    console = Console()
    console.print(table)
    for part in ("objects", "not judged", "not judged objects"):
        if said := summary.averaging.get(part):
            console.print(f"{part}: {said}", soft_wrap=True, highlight=False, markup=False)
    if leaks := summary.data.leaks:
        console.print(
            f"These scores are too high: {len(leaks)} leaks between training and test part were allowed.", style="red"
        )
    lines = [f"run folder: {folder}", f"pictures:   {folder / 'predictions'}"]
    if any(folder.glob("events.out.tfevents*")):
        lines.append(f"curves:     tensorboard --logdir {shlex.quote(str(folder.parent))}")
    lines.append(f"next:       cellseg predict {shlex.quote(str(folder))} IMAGES --output found")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
