"""Test images side by side: what they show, what the label says, what every network saw."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellseg.data.drawing import FALSE, RIGHT, Pixels, read_panel, seen_as_cell
from cellseg.study.collect import Study
from cellseg.study.pages import picture_address
from cellseg.study.tables import Row

SHOWN = 4  # images in each part of the gallery
MOST_NETWORKS = 8


@dataclass(frozen=True)
class Tile:
    """One picture of the gallery, as a data: address, with what is said under it."""

    source: str
    caption: str


@dataclass(frozen=True)
class Strip:
    """One test image across networks."""

    title: str
    tiles: list[Tile]


def make_gallery(study: Study, images: Sequence[Row]) -> dict[str, list[Strip]]:
    """Return strips of ordinary images, of the worst, and of those on which runs disagree most.

    Args:
        study: The runs.
        images: A row for every test image, worst first.
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
    """Show an image as each network's run of the lowest seed saw it or, with votes, as all its runs did."""
    on_it = study.images[(study.images["image"] == row["image"]) & (study.images["fold"] == row["fold"])]
    on_it = on_it.merge(study.runs[["network", "seed", "fold", "run"]], on=["network", "seed", "fold"])
    tiles: list[Tile] = []
    for network in study.networks[:MOST_NETWORKS]:
        runs = on_it[on_it["network"] == network].sort_values("seed")
        panels = {
            run: panel
            for run in runs["run"]
            if (panel := _panel(study.folder / run / "predictions" / f"{row['image']}.png"))
        }
        if not panels:
            continue
        picture, truth, prediction = next(iter(panels.values()))
        panels = {run: panel for run, panel in panels.items() if panel[0].shape == picture.shape}
        runs = runs[runs["run"].isin(list(panels))]
        if not tiles:
            tiles += [Tile(_jpeg(picture), "image"), Tile(_png(truth), "label")]
        if votes:
            share = np.mean([seen_as_cell(prediction) for _, _, prediction in panels.values()], axis=0)
            scores = ", ".join(f"{100 * score:.1f}" for score in runs["dice"])
            tiles.append(Tile(_png(_votes(share)), f"{network}: Dice {scores}"))
        else:
            first = runs.iloc[0]
            tiles.append(Tile(_png(prediction), f"{network}, seed {first['seed']}: Dice {100 * first['dice']:.1f}"))
    fold = "" if row["fold"] == -1 else f", fold {row['fold']}"
    mean = f"mean Dice {100 * row['mean']:.1f}"
    spread = f", ± {100 * row['sd_over_seeds']:.1f} over seeds" if _or_zero(row["sd_over_seeds"]) else ""
    return Strip(f"{row['image']}{fold}: {mean}{spread}", tiles)


def _panel(path: Path) -> tuple[Pixels, Pixels, Pixels] | None:
    """Return image, truth and prediction of a panel, if it is there and whole."""
    with contextlib.suppress(OSError):
        return read_panel(path)
    return None


def _votes(share: NDArray[np.floating]) -> Pixels:
    """Return white where all call it cell, black where none does, and orange where they disagree."""
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
