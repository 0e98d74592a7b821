"""Draw masks beside and over their images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
RIGHT, FALSE, MISSED = (255, 255, 255), (230, 159, 0), (0, 114, 178)  # orange and blue: also for colour-blind eyes
GAP = 4  # pixels between the parts
OUTLINE = (255, 120, 0)
TINT = 50  # opacity of the colour inside a cell, of 255


def draw_panel(image: Pixels, truth: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Pixels:
    """Return image | truth | prediction side by side, shape (H, 3 W + gaps, 3).

    Args:
        image: Shape (H, W, 3).
        truth: The labelled mask, shape (H, W).
        mask: The network's mask, shape (H, W).
    """
    gap = np.full((len(image), GAP, 3), 128, np.uint8)
    return np.concatenate([image, gap, draw_truth(truth), gap, draw_prediction(truth, mask)], axis=1)


def draw_truth(truth: NDArray[np.bool_]) -> Pixels:
    """Return a mask (H, W) as an image (H, W, 3), cells in white."""
    return np.where(truth[..., None], np.array(RIGHT, np.uint8), np.uint8(0))


def draw_prediction(truth: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Pixels:
    """Compare a predicted mask with the labelled mask, both (H, W), in an image (H, W, 3).

    White: cell in both. Orange: cell in the prediction only. Blue: cell in the label only.
    """
    picture = draw_truth(truth & mask)
    picture[truth & ~mask], picture[mask & ~truth] = MISSED, FALSE
    return picture


def draw_outlines(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Tint and outline the cells of a mask (0 and 255) in orange on an RGB image of the same size."""
    cells = np.asarray(mask)
    inner = np.pad(cells, 1)  # background beyond the border, so that cut cells have an outline there
    inner = np.minimum(np.minimum(inner[:-2], inner[1:-1]), inner[2:])
    inner = np.minimum(np.minimum(inner[:, :-2], inner[:, 1:-1]), inner[:, 2:])
    marked = np.where(cells > inner, np.uint8(255), cells // 255 * np.uint8(TINT))
    drawn = picture.copy()
    drawn.paste(OUTLINE, (0, 0, *picture.size), Image.fromarray(marked))
    return drawn
