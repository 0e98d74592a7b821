"""Cells as objects: connected regions of a mask, measured, and held against those of a label.

Pixels that touch by side or corner form one object, so cells that touch each other are one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALLEST_OBJECT = 20  # pixels at the scored size; anything smaller is a speck, not a cell
BY_SIDE_OR_CORNER = np.ones((3, 3))


@dataclass(frozen=True)
class Object:
    """One connected region.

    Attributes:
        id: From 1, row by row of where it begins.
        area: Pixels.
        centre_x, centre_y: Mean position of its pixels, from the left and from the top; the first pixel's is 0.
        left, top, width, height: Bounding box, pixels.
        mean_probability: Over its pixels.
        touches_border: Whether it reaches a side of the image, so that part of it may be missing.
    """

    id: int
    area: int
    centre_x: float
    centre_y: float
    left: int
    top: int
    width: int
    height: int
    mean_probability: float
    touches_border: bool


def measure_objects(
    mask: NDArray[np.generic], probability: NDArray[np.generic], smallest: float = SMALLEST_OBJECT
) -> Iterator[Object]:
    """Yield the objects of a mask of ``smallest`` pixels or more.

    Args:
        mask: Shape (H, W), 0 for background.
        probability: Same shape, float in [0, 1] or uint16 where 65535 is 1.
        smallest: Pixels; anything smaller is left out.
    """
    labels, _ = ndimage.label(mask, structure=BY_SIDE_OR_CORNER)
    full = 65535 if probability.dtype == np.uint16 else 1
    kept = 0
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if height * width < smallest:
            continue
        inside = labels[rows, columns] == number
        area = int(np.count_nonzero(inside))
        if area < smallest:
            continue
        kept += 1
        across, down = inside.sum(axis=0), inside.sum(axis=1)  # not every pixel's place: there may be 10^8
        yield Object(
            id=kept,
            area=area,
            centre_x=float(across @ np.arange(width)) / area + columns.start,
            centre_y=float(down @ np.arange(height)) / area + rows.start,
            left=columns.start,
            top=rows.start,
            width=width,
            height=height,
            mean_probability=float(np.mean(probability[rows, columns], where=inside, dtype=np.float64)) / full,
            touches_border=rows.start == 0
            or columns.start == 0
            or rows.stop == mask.shape[0]
            or columns.stop == mask.shape[1],
        )


def count_unlabelled(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> int:
    """Count predicted objects that touch no labelled pixel, specks under 20 pixels left out.

    In data with cells left unlabelled on purpose these are cells the network found all the same, or false alarms.

    Args:
        prediction: Shape (H, W).
        truth: Same shape.
    """
    objects, count = ndimage.label(prediction, structure=BY_SIDE_OR_CORNER)
    sizes = np.bincount(objects.ravel(), minlength=count + 1)[1:]
    touched = np.bincount(objects[truth], minlength=count + 1)[1:]
    return int(((sizes >= SMALLEST_OBJECT) & (touched == 0)).sum())


UNLABELLED, MISSED, MERGED, SPLIT = "unlabelled", "missed", "merged", "split"
RIM = 2  # pixels around labels in which a prediction is no object of its own: outlines are never drawn exactly


@dataclass(frozen=True)
class Disagreement:
    """A place where prediction and label see other cells.

    Attributes:
        kind: ``unlabelled``, seen where there is no label; ``missed``, a label most of which is not predicted;
            ``merged``, one predicted object that covers most of several labels; ``split``, one label that holds
            several predicted objects.
        where: Its pixels, shape (H, W).
    """

    kind: str
    where: NDArray[np.bool_]


def find_disagreements(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], seen: NDArray[np.bool_]
) -> Iterator[Disagreement]:
    """Yield where prediction and label see other cells; specks under 20 pixels left out.

    Args:
        prediction: As scored, shape (H, W).
        truth: The label, same shape.
        seen: Where there may be cells that the label misses; the prediction, or a more generous one.
    """
    near_label = ndimage.binary_dilation(truth, iterations=RIM)
    for where in _objects(seen & ~near_label):
        if ndimage.binary_erosion(np.pad(where, 1, mode="edge"), BY_SIDE_OR_CORNER).any():  # else a rim of a label
            yield Disagreement(UNLABELLED, where)
    found, labelled = list(_objects(prediction)), list(_objects(truth))
    for label in labelled:
        if 2 * np.count_nonzero(label & prediction) < np.count_nonzero(label):
            yield Disagreement(MISSED, label)
    for one, others, kind in ((found, labelled, MERGED), (labelled, found, SPLIT)):
        for whole in one:
            parts = [part for part in others if 2 * np.count_nonzero(part & whole) > np.count_nonzero(part)]
            if len(parts) > 1:
                yield Disagreement(kind, whole)


def _objects(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    labels, count = ndimage.label(mask, structure=BY_SIDE_OR_CORNER)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    for number in np.flatnonzero(sizes[1:] >= SMALLEST_OBJECT) + 1:
        yield labels == number
