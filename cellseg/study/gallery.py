"""Show test images next to their masks and the predictions of each configuration."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellseg.data.drawing import FALSE, RIGHT, Pixels, draw_prediction, draw_truth
from cellseg.run.folder import Prediction, RunFolder
from cellseg.storage.errors import InputError
from cellseg.study.collect import HOLDOUT, KEY, Study
from cellseg.study.pages import picture_address
from cellseg.study.tables import Row

SHOWN = 4  # images in each part of the gallery
MOST_CONFIGURATIONS = 8


@dataclass(frozen=True)
class Tile:
    """One image of the gallery, as a data: address, with its caption."""

    source: str
    caption: str


@dataclass(frozen=True)
class Strip:
    """One test image across configurations."""

    title: str
    tiles: list[Tile]


def make_gallery(study: Study, images: Sequence[Row]) -> dict[str, list[Strip]]:
    """Return strips of typical images, of the worst images, and of images on which seeds disagree most.

    Args:
        study: The study.
        images: One row for each test image, lowest Dice first.
    """
    ordinary = [images[round(place)] for place in np.linspace(0, len(images) - 1, SHOWN + 2)[1:-1]]
    shared = sorted(images, key=lambda row: -_or_zero(row["sd_over_seeds"]))
    parts = {
        "ordinary": [_strip(study, row) for row in _once(ordinary)],
        "worst": [_strip(study, row) for row in images[:SHOWN]],
        "disagreement": [_strip(study, row, votes=True) for row in shared[:SHOWN] if _or_zero(row["sd_over_seeds"])],
    }
    return {part: [strip for strip in strips if strip.tiles] for part, strips in parts.items()}


def _strip(study: Study, row: Row, *, votes: bool = False) -> Strip:
    """Show an image with the prediction of each configuration's lowest seed or, with votes, of all its runs."""
    on_it = study.images[(study.images["image"] == row["image"]) & (study.images["fold"] == row["fold"])]
    on_it = on_it.merge(study.runs[[*KEY, "run"]], on=KEY)
    tiles: list[Tile] = []
    for configuration in study.configurations[:MOST_CONFIGURATIONS]:
        runs = on_it[on_it["configuration"] == configuration].sort_values("seed")[: None if votes else 1]
        found = {run: _prediction(study.folder / run, row["image"]) for run in runs["run"]}
        seen = [prediction for prediction in found.values() if prediction]
        runs = runs[[found[run] is not None for run in runs["run"]]]
        if not seen:
            continue
        if not tiles:
            tiles += [
                Tile(_jpeg(seen[0].picture), "image"),
                Tile(_png(draw_truth(seen[0].truth, seen[0].ignored)), "label"),
            ]
        if votes:
            scores = ", ".join(f"{100 * score:.1f}" for score in runs["dice"])
            share = np.mean([prediction.mask for prediction in seen], axis=0)
            tiles.append(Tile(_png(_votes(share)), f"{configuration}: Dice {scores}"))
        else:
            [first] = runs.to_dict("records")
            drawn = draw_prediction(seen[0].truth, seen[0].mask, seen[0].ignored)
            seed = "" if configuration in study.masks else f", seed {first['seed']}"
            caption = f"{configuration}{seed}: Dice {100 * first['dice']:.1f}"
            tiles.append(Tile(_png(drawn), caption))
    fold = "" if row["fold"] == HOLDOUT else f", fold {row['fold']}"
    mean = f"mean Dice {100 * row['mean']:.1f}"
    spread = f", ± {100 * row['sd_over_seeds']:.1f} over seeds" if _or_zero(row["sd_over_seeds"]) else ""
    return Strip(f"{row['image']}{fold}: {mean}{spread}", tiles)


def _prediction(run: Path, image: str) -> Prediction | None:
    """Return the stored prediction of a test image; None if its file is missing (no number depends on it)."""
    with contextlib.suppress(InputError):
        return RunFolder(run).prediction(image)
    return None


def _votes(share: NDArray[np.floating]) -> Pixels:
    """Colour pixels white if all runs predict cell, black if none does, and orange if they disagree."""
    picture = np.zeros((*share.shape, 3), np.uint8)
    picture[share == 1], picture[(share > 0) & (share < 1)] = RIGHT, FALSE
    return picture


def _jpeg(pixels: Pixels) -> str:
    return picture_address(pixels, "JPEG", quality=85)


def _png(pixels: Pixels) -> str:
    return picture_address(pixels, "PNG")


def _once(rows: Iterable[Row]) -> list[Row]:
    return list({(row["fold"], row["image"]): row for row in rows}.values())


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None or pd.isna(value) else value
