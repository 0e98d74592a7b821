"""Which images are relatives: the same picture, nearly the same, or neighbouring tiles of one larger picture.

Relatives on two sides of a split are a leak: the network is tested on what it has seen. Names do not tell, pixels do.
Tiles that overlap, or that were cut with a gap between them, are not recognised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float32]

THUMBNAIL = 24  # pixels a side: enough to tell smears apart, too few to be fooled by compression
SIDE = 256  # points along a side
LEFT, RIGHT, TOP, BOTTOM = range(4)
BLOCK = 1024  # images compared at once, so that memory stays flat

# Set on BBBC038 tissue tiles (51 true neighbours) and 2000 drawn smears (no relatives): in brackets the worst true, and
# the best false value seen.
NEAR = 0.9  # correlation of thumbnails (0.96 after JPEG at quality 30, 0.45)
DISTINCT = 0.55  # distance of two sides over that of the second best match (0.46, 0.60)
STEP = 2.5  # distance over the step from one row of pixels to the next inside the tiles (2.3, no use alone)
ALIKE = 0.5  # correlation of the two sides' detail (0.60, no use alone)
FAINTEST = 1.0  # grey levels: less detail than this in a side or a thumbnail tells nothing


@dataclass(frozen=True)
class Likeness:
    """What of a picture is compared: a thumbnail (24, 24), its four sides two pixels deep (4, 2, 256, 3), its size."""

    thumbnail: NDArray[np.uint8]
    sides: NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True)
class Kin:
    """Two related images, by position, and how: ``same picture``, ``near duplicate`` or ``siblings``."""

    first: int
    second: int
    relation: str


def measure_likeness(picture: Image.Image) -> Likeness:
    """Reduce an RGB picture to what is compared."""
    width, height = picture.size
    thumbnail = np.asarray(_shrink(picture.convert("L"), (THUMBNAIL, THUMBNAIL)))
    depth = min(2, width, height)
    strips = {
        LEFT: picture.crop((0, 0, depth, height)).transpose(Image.Transpose.TRANSPOSE),
        RIGHT: picture.crop((width - depth, 0, width, height)).transpose(Image.Transpose.TRANSVERSE),
        TOP: picture.crop((0, 0, width, depth)),
        BOTTOM: picture.crop((0, height - depth, width, height)).transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    }
    sides = np.stack([np.asarray(_shrink(strips[side], (SIDE, 2))) for side in range(4)])
    sides[RIGHT] = sides[RIGHT][:, ::-1]  # TRANSVERSE also turned it end for end
    return Likeness(thumbnail, sides, (width, height))


def find_kin(hashes: Sequence[str], likenesses: Sequence[Likeness]) -> list[Kin]:
    """List the related pairs among images; not all pairs of a family, but enough to connect it.

    Args:
        hashes: Content hash of each image.
        likenesses: Of each image, in the same order.
    """
    first_of: dict[str, int] = {}
    kin = []
    for index, digest in enumerate(hashes):
        first = first_of.setdefault(digest, index)
        if first != index:
            kin.append(Kin(first, index, "same picture"))
    unique = list(first_of.values())
    near = [(unique[a], unique[b]) for a, b in _near_duplicates([likenesses[index] for index in unique])]
    kin += [Kin(a, b, "near duplicate") for a, b in near]
    followers = {max(pair) for pair in near}  # one of each is enough to find its neighbours
    tiles = [index for index in unique if index not in followers]
    kin += [Kin(tiles[a], tiles[b], "siblings") for a, b in _neighbours([likenesses[i] for i in tiles])]
    return kin


def families(count: int, kin: Sequence[Kin]) -> list[list[int]]:
    """Return who is related to whom by any chain of relatives: families of two or more among ``count`` images."""
    links = coo_array((np.ones(len(kin)), ([k.first for k in kin], [k.second for k in kin])), shape=(count, count))
    _, family = connected_components(links, directed=False)
    members: dict[int, list[int]] = {}
    for index, number in enumerate(family):
        members.setdefault(int(number), []).append(index)
    return [family for family in members.values() if len(family) > 1]


def _near_duplicates(likenesses: Sequence[Likeness]) -> Iterator[tuple[int, int]]:
    """Compare thumbnails in all eight flips and turns, blind to brightness, contrast and slow shading."""
    if len(likenesses) < 2:
        return
    thumbnails = np.stack([likeness.thumbnail for likeness in likenesses]).astype(np.float32)
    padded = np.pad(thumbnails, ((0, 0), (2, 2), (2, 2)), "edge")
    around = sum(padded[:, i : i + THUMBNAIL, j : j + THUMBNAIL] for i in range(5) for j in range(5)) / 25
    detail = thumbnails - around
    turned = [_unit(np.rot90(view, turns, (1, 2))) for view in (detail, detail[:, :, ::-1]) for turns in range(4)]
    for start in range(0, len(detail), BLOCK):
        block = turned[0][start : start + BLOCK]
        alike = np.maximum.reduce([block @ view[start:].T for view in turned])
        for a, b in np.argwhere(np.triu(alike, 1) >= NEAR):
            yield start + int(a), start + int(b)


def _neighbours(likenesses: Sequence[Likeness]) -> Iterator[tuple[int, int]]:
    """Yield pairs where one's right side continues in the other's left, or its bottom in the other's top.

    Two sides belong together if each is the other's best match by far, the step between them is not much larger than
    the steps inside the tiles, and their detail agrees.
    """
    if len(likenesses) < 2:
        return
    for near, far, along in ((RIGHT, LEFT, 1), (BOTTOM, TOP, 0)):
        lengths = [likeness.size[along] for likeness in likenesses]
        for length in set(lengths):
            members = [index for index, other in enumerate(lengths) if other == length]
            if length < THUMBNAIL or len(members) < 2:
                continue
            ends, starts = (np.stack([likenesses[i].sides[side] for i in members]) for side in (near, far))
            for a, b in _matching_sides(ends.astype(np.float32), starts.astype(np.float32)):
                yield members[a], members[b]


def _matching_sides(ends: Floats, starts: Floats) -> Iterator[tuple[int, int]]:
    """Match sides (N, 2, 256, 3), of which ``[:, 0]`` is the outermost row."""
    count = len(ends)
    a, b = (sides[:, 0].reshape(count, -1) for sides in (ends, starts))
    best, nearest, second = np.zeros(count, int), np.empty(count), np.empty(count)
    best_back, nearest_back, second_back = np.zeros(count, int), np.full(count, np.inf), np.full(count, np.inf)
    for first in range(0, count, BLOCK):
        rows = np.arange(first, min(first + BLOCK, count))
        distance = (a[rows] ** 2).sum(1)[:, None] + (b**2).sum(1) - 2 * a[rows] @ b.T
        distance = np.sqrt(np.maximum(distance, 0) / a.shape[1])
        distance[np.arange(len(rows)), rows] = np.inf  # no tile is its own neighbour
        best[rows] = distance.argmin(1)
        nearest[rows], second[rows] = _two_smallest(distance.T)
        candidates = np.vstack([nearest_back, second_back, distance])
        closer = distance.min(0) < nearest_back
        best_back[closer] = rows[distance.argmin(0)][closer]
        nearest_back, second_back = _two_smallest(candidates)
    mutual = np.flatnonzero(best_back[best] == np.arange(count))
    detail = [_unit(_detail(sides[:, 0])) for sides in (ends, starts)]
    for i in mutual:
        j = best[i]
        inner = np.sqrt(0.5 * sum(((sides[0] - sides[1]) ** 2).mean() for sides in (ends[i], starts[j])))
        runner_up = min(second[i], second_back[j])
        if (
            nearest[i] <= DISTINCT * runner_up
            and nearest[i] <= STEP * max(float(inner), FAINTEST)
            and float(detail[0][i] @ detail[1][j]) >= ALIKE
        ):
            yield int(i), int(j)


def _two_smallest(values: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return the smallest and second smallest of each column; infinity where there is no second."""
    if len(values) == 1:
        return values[0], np.full_like(values[0], np.inf)
    smallest = np.partition(values, 1, axis=0)
    return smallest[0], smallest[1]


def _detail(sides: Floats) -> Floats:
    """Take away the running mean over an eighth of the side, shape (N, 256, 3)."""
    width = SIDE // 8 + 1
    padded = np.pad(sides, ((0, 0), (width // 2, width // 2), (0, 0)), "edge")
    total = np.cumsum(np.pad(padded, ((0, 0), (1, 0), (0, 0))), axis=1, dtype=np.float64)
    return sides - ((total[:, width:] - total[:, :-width]) / width).astype(np.float32)


def _unit(detail: Floats) -> Floats:
    """Return each as a vector of length 1; of length 0 where there is too little in it to compare."""
    flat = detail.reshape(len(detail), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    faint = length < FAINTEST * np.sqrt(flat.shape[1])
    return np.where(faint, 0, flat / np.maximum(length, 1e-6)).astype(np.float32)


def _shrink(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize by averaging, where that is smaller."""
    smaller = picture.width >= size[0] and picture.height >= size[1]
    return picture.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR)
