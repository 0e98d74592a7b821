"""Find the objects of a mask, measure them, and compare those of a prediction and of a label.

Pixels that touch at a side or corner form one object, so these functions count touching cells as one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALLEST_OBJECT = 20  # pixels at data.image_size; a smaller region is noise and not a cell
BY_SIDE_OR_CORNER = np.ones((3, 3))


@dataclass(frozen=True)
class Object:
    """One connected region.

    Attributes:
        id: Number from 1, in the order of the first pixels, row by row.
        area: Number of pixels.
        centre_x, centre_y: Mean position of the pixels from the left and from the top; the first pixel has 0.
        left, top, width, height: Bounding box in pixels.
        mean_probability: Mean probability of the pixels.
        touches_border: Whether the object touches the image border, so that part of it may be missing.
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
    """Yield the objects of a mask that have at least ``smallest`` pixels.

    Args:
        mask: Shape (H, W), 0 for background.
        probability: Same shape; float in [0, 1], or uint16 in which 65535 means 1.
        smallest: Minimum area in pixels.
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
        across, down = inside.sum(axis=0), inside.sum(axis=1)  # sums save memory: an object may have 10^8 pixels
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
    """Count predicted objects of at least 20 pixels that overlap no labelled pixel.

    They are unlabelled cells that the network found, or false positives.

    Args:
        prediction: Predicted mask, shape (H, W).
        truth: Label, same shape.
    """
    objects, count = ndimage.label(prediction, structure=BY_SIDE_OR_CORNER)
    sizes = np.bincount(objects.ravel(), minlength=count + 1)[1:]
    touched = np.bincount(objects[truth], minlength=count + 1)[1:]
    return int(((sizes >= SMALLEST_OBJECT) & (touched == 0)).sum())


UNLABELLED, MISSED, MERGED, SPLIT = "unlabelled", "missed", "merged", "split"
RIM = 2  # pixels around a label that still belong to its object, because outlines are not drawn exactly


@dataclass(frozen=True)
class Disagreement:
    """A region in which prediction and label have different objects.

    Attributes:
        kind: ``unlabelled``, a predicted object without a label; ``missed``, a label of which less than half is
            predicted; ``merged``, one predicted object that covers more than half of several labels; ``split``, one
            label that covers more than half of several predicted objects.
        where: The pixels of the region, shape (H, W).
    """

    kind: str
    where: NDArray[np.bool_]


def find_disagreements(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], seen: NDArray[np.bool_]
) -> Iterator[Disagreement]:
    """Yield the regions in which prediction and label have different objects of at least 20 pixels.

    Args:
        prediction: Predicted mask as scored, shape (H, W).
        truth: Label, same shape.
        seen: Mask in which to search for unlabelled cells; the prediction, or one at a lower threshold.
    """
    near_label = ndimage.binary_dilation(truth, iterations=RIM)
    for where in _objects(seen & ~near_label):
        if ndimage.binary_erosion(np.pad(where, 1, mode="edge"), BY_SIDE_OR_CORNER).any():  # thinner: a rim of a label
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
