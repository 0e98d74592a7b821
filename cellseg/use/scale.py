"""Find the scale at which cells in images of another microscope look as large as those a network was trained on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg.data.decoded import Pixels
from cellseg.data.facts import Reading
from cellseg.data.images import read_image, resize_to
from cellseg.data.progress import with_progress
from cellseg.metrics import THRESHOLD
from cellseg.objects import SMALLEST_OBJECT, label_objects
from cellseg.storage.errors import InputError, count
from cellseg.use.inference import Predictor
from cellseg.use.trained import Trained

LOOKED_AT = 5  # images, evenly chosen
STEP = math.sqrt(2)
LADDER = tuple(STEP**step for step in range(-8, 7))  # factors that are tried, 1/16 to 8
WINDOW = 384  # maximum side of the middle of an image that is looked at, in pixels that the network sees
NARROWEST = 32  # minimum side of an image that the network sees
FEWEST = 3  # objects that tell a size
LIKE = 2.5  # objects are like those of training if their area differs by at most this factor
APART = 1.5  # factors of single images that differ more from the common one are reported, or refused if they are many


@dataclass(frozen=True)
class Scale:
    """A scale that was found.

    Attributes:
        factor: As ``predict --scale`` takes it.
        said: How it was found.
        warning: What makes it doubtful; None if nothing does.
    """

    factor: float
    said: str
    warning: str | None


def find_scale(trained: Trained, files: Sequence[Path], how: Reading) -> Scale:
    """Find the factor at which the cells of some images look as large as those of the run's test images.

    The middle of each image is predicted at several scales. The best one has the largest share of its cell area in
    objects of about the median area of those that the network found in its own test images, weighted by how sure the
    network is.

    Args:
        trained: A network from run folders, with stored predictions.
        files: The images; up to five of them are used.
        how: How they are read.

    Raises:
        InputError: If the size of cells in training is unknown, or none of the images shows cells at any scale, or
            more than a third of them ask for another factor.
    """
    usual, predictor = _usual_area(trained), trained.predictor(tiles=True)
    chosen = [files[index] for index in np.unique(np.linspace(0, len(files) - 1, LOOKED_AT).round().astype(int))]
    found, asked = [], []
    for file in with_progress(chosen, "finding the scale", len(chosen)):
        try:
            picture = read_image(file, how.channels).pixels
        except InputError:
            continue  # prediction reports it
        if factor := _best_factor(trained, predictor, picture, usual):
            found.append(factor)
            asked.append(f"{file.name} {factor:.2g}")
    if not found:
        raise InputError(
            "--scale auto found no cells of about the size in training in these images; give a factor, such as --scale "
            "0.5 if cells are twice as large, in pixels of the files, as in the training images"
        )
    factor = float(f"{median(found):.2g}")
    apart = [one for one in found if max(one / factor, factor / one) > APART]
    if 3 * len(apart) > len(found):
        raise InputError(
            f"--scale auto: single images ask for factors from {min(found):.2g} to {max(found):.2g} "
            f"({', '.join(asked)}), so no factor fits all; predict images of each kind by themselves, or give a "
            "factor, such as --scale 1"
        )
    span = "" if len(found) == 1 else f" (single images: {min(found):.2g} to {max(found):.2g})"
    said = f"found from the sizes of cells in {count(len(found), 'image')}: --scale {factor:g}{span}"
    warning = "cells of these images differ in size; predict images of each kind by themselves" if apart else None
    return Scale(factor, said, warning)


def _usual_area(trained: Trained) -> float:
    """Return the median area of objects that the first run found in its test images, in pixels that it saw."""
    if not trained.runs:
        raise InputError("--scale auto needs a run folder; a file of weights does not say how large its cells were")
    run = trained.runs[0].files
    masks = [run.prediction(entry.name).mask for entry in run.split.test]
    areas = np.concatenate([_areas(mask) for mask in masks])
    if len(areas) < FEWEST:
        raise InputError(f"{run.path} found no cells in its test images, so their size is unknown; give a factor")
    return float(np.median(areas))


def size_warning(trained: Trained, predictor: Predictor, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a warning if cells that were found are larger or smaller than in training, as the network saw them.

    Args:
        trained: The networks.
        predictor: How they saw the images.
        rows: For each image its width, height, number of objects and their median area, in pixels.

    Returns:
        None if they have the size of training; empty if too few cells show a size, or that of training is unknown.
    """
    try:
        usual = _usual_area(trained)
    except InputError:
        return ""
    widths, factors = [], []
    for row in rows:
        if row["objects"] < FEWEST:
            continue
        whole = trained.image_size / row["width"], trained.image_size / row["height"]
        zoom = math.prod(predictor.zoom or ((1.0, 1.0) if predictor.tiles else whole))
        widths.append(math.sqrt(zoom * row["median_area"] / usual))
        factors.append(math.sqrt(zoom / math.prod(trained.zoom(1))) / widths[-1])
    if not widths:
        return ""
    width = median(widths)
    if 1 / APART < width < APART:
        return None
    return (
        f"as the network sees them, the cells that it found are {width:.2g} times as wide as in the test images of its "
        f"run (median over {count(len(widths), 'image')}), so their number may be wrong; compare with --scale "
        f"{median(factors):.2g}, and look at overlays/"
    )


def _areas(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    labels = label_objects(mask * np.uint8(255), smallest=SMALLEST_OBJECT, split=True)
    areas = np.bincount(labels.ravel())[1:]
    return areas[areas > 0]


def _best_factor(trained: Trained, predictor: Predictor, picture: Pixels, usual: float) -> float | None:
    """Return the factor for one image; None if it shows too few cells at every scale."""
    best: tuple[float, float] | None = None
    for factor in LADDER:
        part = _middle(picture, trained.zoom(factor))
        if min(part.shape[:2]) < NARROWEST:
            continue
        probability = predictor.probability(part)
        areas = _areas(probability > THRESHOLD)
        if len(areas) < FEWEST:
            continue
        alike = areas[(areas > usual / LIKE) & (areas < usual * LIKE)].sum() / areas.sum()
        quality = float(alike * np.abs(2 * probability - 1).mean())
        to_usual = math.sqrt(usual / float(np.median(areas)))
        if quality and (best is None or quality > best[0]):
            best = quality, factor * min(STEP, max(1 / STEP, to_usual))
    return best[1] if best else None


def _middle(picture: Pixels, zoom: tuple[float, float]) -> Pixels:
    """Return the middle of a picture as the network sees it at a zoom, at most ``WINDOW`` pixels a side."""
    sides = [
        slice(start := max(0, (length - round(WINDOW / factor)) // 2), length - start)
        for length, factor in zip(picture.shape[:2], reversed(zoom), strict=True)
    ]
    part = picture[sides[0], sides[1]]
    height, width = part.shape[:2]
    return resize_to(part, (max(1, round(width * zoom[0])), max(1, round(height * zoom[1]))))
