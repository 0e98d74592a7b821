"""What a finished run says on the terminal."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the final scores, each with what it was averaged over, and where everything lies."""
    counts, metrics = summary["counts"], summary["metrics"]
    table = Table(
        title=f"{summary['model']}, seed {summary['seed']}: scores on {counts['test']} test images",
        caption=f"weights scored: {summary['scored_weights']}\n"
        f"trained on {counts['train']} images for {counts['epochs']} epochs",
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
    for name, label, how in (
        ("dice", "Dice", f"cut at 0.5, mean over images{spread['dice']}"),
        ("iou", "IoU", f"cut at 0.5, mean over images{spread['iou']}"),
        ("soft_dice", "soft Dice", f"of probabilities, mean over images{spread['soft_dice']}"),
        ("dice_pooled", "Dice, pooled", "cut at 0.5, all pixels of all images together"),
        ("iou_pooled", "IoU, pooled", "cut at 0.5, all pixels of all images together"),
        ("loss", "loss", "mean over images"),
    ):
        table.add_row(label, f"{metrics[f'test/{name}']:.4f}", how)
    console = Console()
    console.print(table)
    for line in (f"run folder: {folder}", f"curves:     tensorboard --logdir {shlex.quote(str(folder.parent))}"):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
