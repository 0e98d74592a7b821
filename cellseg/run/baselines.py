"""Scores of predictions that know nothing of the image, with which a network must be compared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cellseg.data import CellDataModule
from cellseg.metrics import PER_IMAGE, image_scores
from cellseg.run.folder import BASELINES
from cellseg.storage.csv_files import write_csv

ALL, NOTHING, MEAN = "all cell", "nothing", "mean training mask"


def baseline_rows(datamodule: CellDataModule) -> list[dict[str, Any]]:
    """Score three predictions on each test image: every pixel is cell, no pixel is, and the mean of the training masks.

    The mean mask is used like the probabilities of a network. Masks of different sizes are resized to the first one's
    before they are averaged, and their mean to the size of each test image.

    Returns:
        One row for each baseline and test image: baseline, image, group, and the scores of single images.
    """
    mean = _mean(torch.from_numpy(mask).float() for mask in datamodule.masks("train"))
    rows = []
    for batch in datamodule.test_dataloader()[0]:
        truth = batch["mask"][0]
        baselines = {ALL: torch.ones_like(truth), NOTHING: torch.zeros_like(truth), MEAN: _resized(mean, truth)}
        for baseline, guess in baselines.items():
            if "ignored" in batch:
                guess = guess.masked_fill(batch["ignored"][0], 0)
            scores = image_scores(guess[None], batch["mask"], batch["vanished"])
            row = {"baseline": baseline, "image": batch["name"][0], "group": batch["group"][0]}
            rows.append(row | {name: scores[name].item() for name in PER_IMAGE})
    return rows


def _mean(masks: Iterator[Tensor]) -> Tensor:
    """Return the mean of masks, each in memory only while it is added: those of 10,000 images can take gigabytes."""
    total, count = next(masks), 1
    for mask in masks:
        total, count = total + _resized(mask, total), count + 1
    return total / count


def _resized(mask: Tensor, other: Tensor) -> Tensor:
    """Resize a mask (1, H, W) to the size of another."""
    if mask.shape == other.shape:
        return mask
    return interpolate(mask[None], other.shape[1:], mode="bilinear", antialias=True)[0].clamp(0, 1)


def write_baselines(folder: Path, datamodule: CellDataModule) -> None:
    """Write ``baselines.csv`` into a run folder."""
    write_csv(folder / BASELINES, baseline_rows(datamodule))
