"""See an image of any size in overlapping tiles at its own scale."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellseg.data.decoded import Pixels
from cellseg.run.folder import NetworkFacts

Floats = NDArray[np.float32]
Item = TypeVar("Item")

TILE = 512  # pixels a side, where the image is as large; what a network sees reaches less far
OVERLAP = 4  # neighbouring tiles share at least a side divided by this
BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**23}  # that a network sees at once


@dataclass(frozen=True)
class Tiles:
    """How a network sees images in tiles.

    Attributes:
        facts: What it asks of image sides.
        image_size: Side of its training images in pixels; of the tiles too, if it accepts no others.
    """

    facts: NetworkFacts
    image_size: int

    def bands(self, pixels: Pixels, ask: Callable[[Tensor], Tensor], device: torch.device) -> Iterator[Floats]:
        """Yield the probabilities of an image in bands of rows from the top, which limits memory.

        Tiles are blended, with the largest weight in their middle.

        Args:
            pixels: The image, shape (H, W, C).
            ask: Returns probabilities (N, 1, S, S) on the CPU for tiles (N, C, S, S) in [0, 1].
            device: Where the network is, which limits the number of tiles at once.

        Yields:
            Shape (rows, W), in [0, 1].
        """
        height, width, _ = pixels.shape
        side, step = self.side(width, height), 1 if self.facts.side_fixed else self.facts.side_multiple
        lefts, tops = starts(width, side, step), starts(height, side, step)
        hill = np.sin(np.pi * (np.arange(side, dtype=np.float32) + 0.5) / side) ** 2
        window = hill[:, None] * hill
        total, weight = np.zeros((2, side, lefts[-1] + side), np.float32)
        for top, following in pairwise([*tops, tops[-1] + side]):
            for some in batches(lefts, at_once(side, device)):
                tiles = torch.from_numpy(np.stack([_tile(pixels, left, top, side) for left in some]))
                for left, seen in zip(some, ask(tiles / 255), strict=True):
                    total[:, left : left + side] += seen[0].numpy() * window
                    weight[:, left : left + side] += window
            ready = following - top
            yield (total[:ready] / weight[:ready])[: height - top, :width]
            for kept in (total, weight):
                kept[: side - ready], kept[side - ready :] = kept[ready:].copy(), 0

    def side(self, width: int, height: int) -> int:
        """Return the side of the tiles of an image."""
        if self.facts.side_fixed:
            return self.image_size
        step = self.facts.side_multiple
        side = max(min(TILE, max(width, height)), self.facts.side_least) + step - 1
        return side - side % step


def at_once(side: int, device: torch.device) -> int:
    """Return how many squares of a side a network sees at once."""
    return max(1, BATCH_PIXELS.get(device.type, BATCH_PIXELS["cuda"]) // side**2)


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items, ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def starts(length: int, side: int, step: int) -> list[int]:
    """Return where tiles begin, about evenly spaced, so that they cover the length and overlap enough.

    All begin at multiples of ``step``: a network that pools answers otherwise when what it sees is shifted by less.
    """
    last = max(0, -(-length // step) * step - side)
    count = -(-last // (side - side // OVERLAP)) + 1 if last else 1
    return [round(start / step) * step for start in np.linspace(0, last, count)]


def _tile(pixels: Pixels, left: int, top: int, side: int) -> Pixels:
    """Cut a square (C, S, S) out of an image (H, W, C), mirrored where the image ends before it."""
    part = pixels[top : top + side, left : left + side]
    missing: Sequence[tuple[int, int]] = [(0, side - length) for length in part.shape[:2]]
    return np.pad(part, [*missing, (0, 0)], mode="symmetric").transpose(2, 0, 1)
