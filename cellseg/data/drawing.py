"""Draw masks beside and over their images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import maximum_filter, minimum_filter

Pixels = NDArray[np.uint8]
RIGHT, FALSE, MISSED = (255, 255, 255), (230, 159, 0), (0, 114, 178)  # orange and blue: also for colour-blind eyes
GREY, SKY = (190, 190, 190), (86, 180, 233)  # of words: the blue of missed cells is too dark to read on black
LEGEND_HEIGHT = 16  # pixels
HATCH, HATCHED = 6, 120  # pixels from line to line, and their grey
GAP = 4  # pixels between the parts
OUTLINE = (255, 120, 0)
TINT = 50  # opacity of the colour inside a cell, of 255
OVERLAY_SIDE = 4096  # maximum side of an overlay in pixels, enough to look at
COUNT_HEIGHT = 20  # pixels
LEAST_FOR_COUNT = 100  # pixels a side; in a smaller image the count would cover cells
BRIGHT, DARK, SHOWN = 99.5, 100, 220  # percentile of an image, the grey level below which it is dark, and as shown
MOST_GAIN = 10.0  # more would show noise
MOST_NUMBERS = 5000  # more would cover the image


def brightened(image: Pixels) -> Pixels:
    """Return an image as it is shown to people: a dark one, such as fluorescence, brighter; others as they are.

    Args:
        image: Shape (H, W, 3).
    """
    # by tables: computing with floating-point numbers would take 50 bytes a pixel
    levels = np.bincount(image.max(axis=2).ravel(), minlength=256).cumsum()
    bright = float(np.searchsorted(levels, BRIGHT / 100 * levels[-1]))
    if not 0 < bright < DARK:
        return image
    return (np.arange(256) * min(SHOWN / bright, MOST_GAIN)).clip(0, 255).astype(np.uint8)[image]


def draw_panel(
    image: Pixels, truth: NDArray[np.bool_], mask: NDArray[np.bool_], ignored: NDArray[np.bool_] | None = None
) -> Pixels:
    """Return image | truth | prediction side by side, shape (H, 3 W + gaps, 3).

    Args:
        image: Shape (H, W, 3).
        truth: The labelled mask, shape (H, W).
        mask: The network's mask, shape (H, W).
        ignored: Pixels that nobody judged, shape (H, W); they are hatched.
    """
    gap = np.full((len(image), GAP, 3), 128, np.uint8)
    return np.concatenate([image, gap, draw_truth(truth, ignored), gap, draw_prediction(truth, mask, ignored)], axis=1)


def with_legend(panel: Pixels) -> Pixels:
    """Add a line below a panel that says what its colours mean, shape (H + 16, W, 3); a narrow one is left as it is."""
    width = panel.shape[1]
    pen = ImageDraw.Draw(line := Image.new("RGB", (width, LEGEND_HEIGHT)))
    font = ImageFont.load_default(LEGEND_HEIGHT - 6)
    words = [("image, label, prediction:", GREY), ("correct", RIGHT), ("predicted only", FALSE), ("missed", SKY)]
    if sum(pen.textlength(f"{word}  ", font) for word, _ in words) > width:
        return panel
    left = 2.0
    for word, colour in words:
        pen.text((left, LEGEND_HEIGHT / 2), word, colour, font, "lm")
        left += pen.textlength(f"{word}  ", font)
    return np.concatenate([panel, np.asarray(line)])


def draw_truth(truth: NDArray[np.bool_], ignored: NDArray[np.bool_] | None = None) -> Pixels:
    """Return a mask (H, W) as an image (H, W, 3), cells in white, pixels that nobody judged hatched."""
    picture = np.where(truth[..., None], np.array(RIGHT, np.uint8), np.uint8(0))
    if ignored is not None:
        height, width = truth.shape
        lines = np.add.outer(np.arange(height), np.arange(width)) % HATCH < HATCH // 2
        picture[ignored & lines], picture[ignored & ~lines] = HATCHED, 0
    return picture


def draw_prediction(
    truth: NDArray[np.bool_], mask: NDArray[np.bool_], ignored: NDArray[np.bool_] | None = None
) -> Pixels:
    """Compare a predicted mask with the labelled mask, both (H, W), in an image (H, W, 3).

    White: cell in both. Orange: cell in the prediction only. Blue: cell in the label only. Hatched: nobody judged.
    """
    picture = draw_truth(truth & mask, ignored)
    judged = True if ignored is None else ~ignored
    picture[truth & ~mask & judged], picture[mask & ~truth & judged] = MISSED, FALSE
    return picture


def draw_outlines(picture: Image.Image, labels: NDArray[np.integer[Any]]) -> Image.Image:
    """Tint and outline objects in orange on an RGB image, which is shown brighter if it is dark.

    Args:
        picture: The image.
        labels: The number of the object at each pixel, shape (H, W) of the image, 0 for background; or a mask.
    """
    around = np.pad(labels, 1)  # background beyond the border, so that cut objects have an outline there
    edge = (minimum_filter(around, 3) != around) | (maximum_filter(around, 3) != around)
    cell = labels > 0
    marked = np.where(edge[1:-1, 1:-1] & cell, np.uint8(255), cell * np.uint8(TINT))
    drawn = Image.fromarray(brightened(np.asarray(picture)))
    drawn.paste(OUTLINE, (0, 0, *picture.size), Image.fromarray(marked))
    return drawn


def draw_objects(
    picture: Image.Image, labels: NDArray[np.integer[Any]], centres: Sequence[tuple[int, float, float]]
) -> Image.Image:
    """Outline objects as ``draw_outlines`` does, with their numbers and their count; a large image is made smaller.

    Args:
        picture: The image, RGB.
        labels: As for ``draw_outlines``.
        centres: The number of each object, and its centre in pixels from the left and from the top.
    """
    scale = min(1.0, OVERLAY_SIDE / max(picture.size))
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        rows, columns = (
            np.arange(side) * length // side for side, length in zip((height, width), labels.shape, strict=True)
        )
        labels = labels[np.ix_(rows, columns)]
    drawn = draw_outlines(picture, labels)
    if min(picture.size) >= LEAST_FOR_COUNT:
        font, text = ImageFont.load_default(14), f"{len(centres)} cell{'' if len(centres) == 1 else 's'}"
        pen = ImageDraw.Draw(drawn)
        left, top = _emptiest_corner(labels, (int(pen.textlength(text, font)) + 8, COUNT_HEIGHT))
        pen.rectangle((left, top, left + pen.textlength(text, font) + 8, top + COUNT_HEIGHT), "black")
        pen.text((left + 4, top + COUNT_HEIGHT / 2), text, "white", font, "lm")
    if len(centres) <= MOST_NUMBERS:
        pen = ImageDraw.Draw(drawn)
        side = math.sqrt(np.count_nonzero(labels) / max(1, len(centres)))  # of an average object
        font = ImageFont.load_default(min(max(side / 2.5, 8), 24))
        for number, x, y in centres:
            place, text = (x * scale, y * scale), str(number)
            pen.text(place, text, "white", font, "mm", stroke_width=1, stroke_fill="black")
    return drawn


def _emptiest_corner(labels: NDArray[np.integer[Any]], size: tuple[int, int]) -> tuple[int, int]:
    """Return the left and the top of a box of this width and height in the corner where it covers fewest cell pixels.

    Of equal corners the first of top left, top right, bottom left and bottom right.
    """
    (width, height), (rows, columns) = size, labels.shape
    corners = [(left, top) for top in (0, max(0, rows - height - 1)) for left in (0, max(0, columns - width - 1))]
    return min(corners, key=lambda at: np.count_nonzero(labels[at[1] : at[1] + height, at[0] : at[0] + width]))
