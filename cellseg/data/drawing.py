"""Masks drawn beside and over their images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
RIGHT, FALSE, MISSED = (255, 255, 255), (230, 159, 0), (0, 114, 178)  # orange and blue: for colour-blind eyes too
GAP = 4  # pixels between the parts
OUTLINE = (255, 120, 0)
TINT = 50  # of 255, over all of a cell


def draw_panel(image: Pixels, truth: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Pixels:
    """Return image | truth | prediction side by side, shape (H, 3 W + gaps, 3).

    Args:
        image: Shape (H, W, 3).
        truth: What the label says, shape (H, W).
        mask: What the network says, shape (H, W).
    """
    gap = np.full((len(image), GAP, 3), 128, np.uint8)
    return np.concatenate([image, gap, draw_truth(truth), gap, draw_prediction(truth, mask)], axis=1)


def draw_truth(truth: NDArray[np.bool_]) -> Pixels:
    """Return a label (H, W) as a picture (H, W, 3), cell in white."""
    return np.where(truth[..., None], np.array(RIGHT, np.uint8), np.uint8(0))


def draw_prediction(truth: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Pixels:
    """Return a prediction beside its label, both (H, W), as a picture (H, W, 3).

    It is white where it is right, orange where it sees cell and the label does not, blue where it misses a labelled
    cell.
    """
    picture = draw_truth(truth & mask)
    picture[truth & ~mask], picture[mask & ~truth] = MISSED, FALSE
    return picture


def draw_outlines(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Return an RGB picture with the cells of a mask of 0 and 255, of the same size, tinted and outlined in orange."""
    cells = np.asarray(mask)
    inner = np.pad(cells, 1)  # nothing beyond the border, so that cells cut by it have an outline there too
    inner = np.minimum(np.minimum(inner[:-2], inner[1:-1]), inner[2:])
    inner = np.minimum(np.minimum(inner[:, :-2], inner[:, 1:-1]), inner[:, 2:])
    marked = np.where(cells > inner, np.uint8(255), cells // 255 * np.uint8(TINT))
    drawn = picture.copy()
    drawn.paste(OUTLINE, (0, 0, *picture.size), Image.fromarray(marked))
    return drawn
