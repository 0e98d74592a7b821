"""Measure how well masks fit their images, to notice masks that are mirrored, exchanged or only outlines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cellseg.data.kinship import Likeness

SIDE = 96  # pixels of the longer side at which a mask is compared with its image, as it lies and turned
THUMBNAIL = 36  # pixels a side at which masks are compared with all images
LOOKED_AT = 2048  # pixels a side; of a larger mask the middle is looked at for outlines
THIN, STURDY = 4, 0.05  # width of lines in pixels; share of a mask that may be thicker
CLEARLY = 2.0  # a fit is clearly better from this many times the other on
LEAST = 0.1  # a worse fit can be chance
BLOCK = 512  # images and masks that are compared at once, to limit memory

Floats = NDArray[np.float32]

_TURNS: dict[str, Callable[[Floats], Floats]] = {
    "mirroring left to right": lambda mask: mask[:, ::-1],
    "mirroring top to bottom": lambda mask: mask[::-1],
    "turning by 180 degrees": lambda mask: mask[::-1, ::-1],
    "exchanging rows and columns": lambda mask: mask.T,
    "turning by 90 degrees to the left": np.rot90,
    "turning by 90 degrees to the right": lambda mask: np.rot90(mask, -1),
    "mirroring along the rising diagonal": lambda mask: mask[::-1, ::-1].T,
}


@dataclass(frozen=True)
class Fit:
    """How well a mask fits its image: the largest squared correlation with a channel, from 0 to 1.

    Attributes:
        own: Of the mask as it is.
        turned: Of the mask after the turn that fits best.
        turn: That turn, in words; empty if the mask fits best as it is, or not much worse.
        filled: Area of a mask of thin lines with what they enclose, as a multiple of its area; 1 if it is not thin.
    """

    own: float
    turned: float
    turn: str
    filled: float


def measure_fit(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Fit:
    """Compare a mask, shape (H, W), with its image, shape (H, W, C), as it is and after each turn that keeps its shape.

    A turn is named only if it fits clearly better than the mask as it is and than all other turns.
    """
    height, width = mask.shape
    scale = min(1.0, SIDE / max(mask.shape))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    channels = [_unit(_shrunk(pixels[..., channel], size)) for channel in range(pixels.shape[2])]
    small = _shrunk(mask.astype(np.uint8) * np.uint8(255), size)

    def fit(view: Floats) -> float:
        return max(float(channel @ _unit(view)) ** 2 for channel in channels)

    own = fit(small)
    fits = {name: fit(turn(small)) for name, turn in _TURNS.items() if turn(small).shape == small.shape}
    best = max(fits, key=lambda name: fits[name])
    others = [own, *(value for name, value in fits.items() if name != best)]
    clear = fits[best] >= max(LEAST, CLEARLY * max(others))
    return Fit(own, fits[best], best if clear else "", _filled(mask))


def mask_thumbnail(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Reduce a mask to (36, 36), the share of cell from 0 to 255, to compare it with other images."""
    return _shrunk(mask.astype(np.uint8) * np.uint8(255), (THUMBNAIL, THUMBNAIL)).round().astype(np.uint8)


def find_exchanged(
    images: Sequence[Likeness],
    masks: Sequence[NDArray[np.uint8]],
    sizes: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:
    """List images, by position, that fit the mask of another image of their size, and that mask.

    Each of the two must fit the other clearly better than the own one and than all others do: alike images are never
    listed, so some exchanged masks are not found.

    Args:
        images: The likeness of each image; each is taken once, and none is kept.
        masks: From ``mask_thumbnail``, in the order of ``sizes``; each is taken several times, and none is kept.
        sizes: Width and height of each image.
    """
    found = []
    for size in set(sizes):
        members = [index for index, other in enumerate(sizes) if other == size]
        if len(members) < 2:
            continue
        rows, columns, own = _Best(len(members)), _Best(len(members)), np.zeros(len(members), np.float32)
        blocks = [np.arange(start, min(start + BLOCK, len(members))) for start in range(0, len(members), BLOCK)]
        for these in blocks:  # numbers within the size; as floats only a block at once
            small = [_shrunk(images[members[number]].thumbnail, (THUMBNAIL, THUMBNAIL)).ravel() for number in these]
            some = _units(np.stack(small))
            for those in blocks:
                fits = (some @ _units(np.stack([masks[members[number]].ravel() for number in those])).T) ** 2
                rows.take(fits, these, those)
                columns.take(fits.T, those, these)
                if these is those:
                    own[these] = fits.diagonal()
        for image, mask in enumerate(rows.place):
            fit = rows.first[image]
            if columns.place[mask] != image or image == mask:
                continue
            others = max(rows.second[image], columns.second[mask], own[image], own[mask])
            if fit >= max(LEAST, CLEARLY * others):
                found.append((members[image], members[int(mask)]))
    return sorted(found)


class _Best:
    """The largest value of each of several rows, its place, and the second largest."""

    def __init__(self, count: int) -> None:
        self.first, self.second = np.full(count, -1, np.float32), np.full(count, -1, np.float32)
        self.place = np.zeros(count, int)

    def take(self, values: Floats, rows: NDArray[np.int_], places: NDArray[np.int_]) -> None:
        """Take more values of some rows, shape (rows, places)."""
        best = values.argmax(1)
        first = values[np.arange(len(rows)), best]
        second = np.partition(values, -2, axis=1)[:, -2] if values.shape[1] > 1 else np.full(len(rows), -1, np.float32)
        before = self.first[rows]
        self.second[rows] = np.maximum(np.maximum(self.second[rows], second), np.minimum(before, first))
        self.place[rows] = np.where(first > before, places[best], self.place[rows])
        self.first[rows] = np.maximum(before, first)


def _filled(mask: NDArray[np.bool_]) -> float:
    top, left = (max(0, (side - LOOKED_AT) // 2) for side in mask.shape)
    middle = mask[top : top + LOOKED_AT, left : left + LOOKED_AT]
    area = np.count_nonzero(middle)
    inside = ndimage.binary_erosion(middle, iterations=THIN // 2, border_value=1)
    if not area or np.count_nonzero(inside) > STURDY * area:
        return 1.0
    background, count = ndimage.label(~ndimage.binary_dilation(middle, np.ones((3, 3))))  # without small gaps
    areas = np.bincount(background.ravel(), minlength=count + 1)
    sides = np.concatenate([background[0], background[-1], background[:, 0], background[:, -1]])
    areas[0] = areas[sides] = 0
    return 1 + float(areas.sum()) / area


def _shrunk(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Floats:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize(size, Image.Resampling.BOX), np.float32)


def _unit(pixels: Floats) -> Floats:
    """Return the pixels as a vector of mean 0 and length 1, or of zeros if all are equal."""
    return _units(pixels.reshape(1, -1))[0]


def _units(rows: NDArray[Any]) -> Floats:
    vectors: Floats = rows.astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
