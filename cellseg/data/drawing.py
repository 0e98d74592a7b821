"""Panels: image | truth | prediction side by side, in TensorBoard and in ``predictions/``."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellseg.storage.files import require_plain

Pixels = NDArray[np.uint8]
RIGHT, FALSE, MISSED = (255, 255, 255), (230, 159, 0), (0, 114, 178)  # orange and blue: for colour-blind eyes too
GAP = 4  # pixels between the parts
OUTLINE = (255, 120, 0)
TINT = 50  # of 255, over all of a cell


def draw_panel(picture: Pixels, cell: NDArray[np.bool_], found: NDArray[np.bool_]) -> Pixels:
    """Return image | truth | prediction side by side, shape (H, 3 W + gaps, 3).

    The prediction is white where it is right, orange where it sees cell and the label does not, blue where it misses
    a labelled cell.

    Args:
        picture: Shape (H, W, 3).
        cell: What the label says, shape (H, W).
        found: What the network says, shape (H, W).
    """
    labels, prediction = np.zeros((2, *cell.shape, 3), np.uint8)
    labels[cell], prediction[cell & found] = RIGHT, RIGHT
    prediction[cell & ~found], prediction[found & ~cell] = MISSED, FALSE
    gap = np.full((len(picture), GAP, 3), 128, np.uint8)
    return np.concatenate([picture, gap, labels, gap, prediction], axis=1)


def read_panel(path: Path) -> tuple[Pixels, Pixels, Pixels]:
    """Return image, truth and prediction of a panel that was saved, each of shape (H, W, 3).

    Raises:
        OSError: If there is no such picture, or it is damaged.
    """
    require_plain(path, "a picture")
    try:
        with Image.open(path) as opened:
            panel = np.asarray(opened.convert("RGB"))
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders let almost any through on a damaged file
        raise OSError(str(error)) from error
    width, rest = divmod(panel.shape[1] - 2 * GAP, 3)
    if width < 1 or rest:
        raise OSError(f"a picture of {panel.shape[1]} pixels in width is no panel of three")
    picture, truth, prediction = (panel[:, place * (width + GAP) :][:, :width] for place in range(3))
    return picture, truth, prediction


def seen_as_cell(prediction: Pixels) -> NDArray[np.bool_]:
    """Return where the network of a panel's third part saw cell, shape (H, W)."""
    return np.logical_or(*((prediction == np.array(colour, np.uint8)).all(axis=-1) for colour in (RIGHT, FALSE)))


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
