"""Cells as objects: connected regions of a mask."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALLEST_OBJECT = 20  # pixels at the scored size; anything smaller is a speck, not a cell


def count_unlabelled(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> int:
    """Count predicted objects that touch no labelled pixel, specks under 20 pixels left out.

    In data with cells left unlabelled on purpose these are cells the network found all the same, or false alarms.

    Args:
        prediction: Shape (H, W); pixels that touch by side or corner form one object.
        truth: Same shape.
    """
    objects, count = ndimage.label(prediction, structure=np.ones((3, 3)))
    sizes = np.bincount(objects.ravel(), minlength=count + 1)[1:]
    touched = np.bincount(objects[truth], minlength=count + 1)[1:]
    return int(((sizes >= SMALLEST_OBJECT) & (touched == 0)).sum())
