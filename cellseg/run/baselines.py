"""Scores of predictions that know nothing of the image, with which a network must be compared."""

from pathlib import Path
from typing import Any

import torch

from cellseg.data import CellDataModule
from cellseg.metrics import PER_IMAGE, image_scores
from cellseg.run.folder import BASELINES
from cellseg.storage.csv_files import write_csv

ALL, NOTHING, MEAN = "all cell", "nothing", "mean training mask"


def baseline_rows(datamodule: CellDataModule) -> list[dict[str, Any]]:
    """Score three predictions on each test image: every pixel is cell, no pixel is, and the mean of the training masks.

    The mean mask is used like the probabilities of a network.

    Returns:
        One row for each baseline and test image: baseline, image, group, and the scores of single images.
    """
    masks = [torch.from_numpy(mask).float() for mask in datamodule.masks("train")]
    mean = torch.stack(masks).mean(0)
    baselines = {ALL: torch.ones_like(mean), NOTHING: torch.zeros_like(mean), MEAN: mean}
    rows = []
    for batch in datamodule.test_dataloader()[0]:
        for baseline, guess in baselines.items():
            scores = image_scores(guess[None], batch["mask"], batch["vanished"])
            row = {"baseline": baseline, "image": batch["name"][0], "group": batch["group"][0]}
            rows.append(row | {name: scores[name].item() for name in PER_IMAGE})
    return rows


def write_baselines(folder: Path, datamodule: CellDataModule) -> None:
    """Write ``baselines.csv`` into a run folder."""
    write_csv(folder / BASELINES, baseline_rows(datamodule))
