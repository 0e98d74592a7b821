"""Find related images by their pixels: the same image, near duplicates, and neighbouring tiles of a larger image.

Related images on two sides of a split are a leak: the network is tested on images that it has seen in training. Tiles
that overlap, or that were cut with a gap between them, are not recognised.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float32]

THUMBNAIL = 72  # side in pixels: enough to distinguish single round cells
COARSE = 24  # side in pixels of the thumbnails that are compared for all pairs of images
SIDE = 256  # points along a side
LIKENESS_BYTES = THUMBNAIL**2 + 4 * 2 * SIDE * 3
LEFT, RIGHT, TOP, BOTTOM = range(4)
TILES = "neighbouring tiles"
MOST_TURNS = 8  # members of one set of duplicates that are compared with other tiles
FEW = 8  # images: with fewer, the usual similarity in the data set is unknown
BLOCK, WIDE = 64, 1024  # images that are compared at once with as many others, to limit memory

# Thresholds chosen on BBBC038 tissue tiles (51 true neighbours) and 2000 drawn smears (no related images). In brackets:
# the worst value of a true match, and the best value of a false match.
NEAR = 0.9  # correlation of coarse thumbnails (0.97 after JPEG at quality 30, 0.45)
FINE = 0.85  # correlation of the full thumbnails, if the coarse ones match (0.95, 0.2)
APART = 0.3  # 1 - correlation, divided by 1 - usual correlation in the data set (0.06, 0.45 in one black frame)
DISTINCT = 0.55  # distance of two sides, divided by the distance of the second best match (0.46, 0.60)
STEP = 2.5  # distance, divided by the step between rows of pixels inside the tiles (2.3, no use alone)
ALIKE = 0.5  # correlation of the two sides' detail (0.60, no use alone)
SHORTEST = 24  # pixels; a shorter side has too little detail
FRAME_INSIDE = 0.1  # largest share of a frame that may lie between visible parts of an image
FIELD_LEFT = 0.2  # smallest share of what is visible that a frame with its margin leaves; single cells leave less
FAINTEST = 1.0  # grey levels: sides with less detail than this are not compared
ROUNDING = 0.3  # grey levels: the detail of a thumbnail that rounding alone can give; one with less is not compared
COARSE_ROUNDING = ROUNDING * COARSE / THUMBNAIL  # the same of a coarse one, whose pixels are means of several


@dataclass(frozen=True)
class Likeness:
    """The data used to compare images: thumbnail (72, 72), four sides, two pixels deep (4, 2, 256, 3), and size."""

    thumbnail: NDArray[np.uint8]
    sides: NDArray[np.uint8]
    size: tuple[int, int]

    def packed(self) -> bytes:
        """Return thumbnail and sides as ``LIKENESS_BYTES`` bytes."""
        return self.thumbnail.tobytes() + self.sides.tobytes()

    @classmethod
    def unpacked(cls, pixels: NDArray[np.uint8], size: tuple[int, int]) -> "Likeness":
        """Return the likeness from an array of ``LIKENESS_BYTES`` uint8."""
        thumbnail, sides = np.split(pixels, [THUMBNAIL**2])
        return cls(thumbnail.reshape(THUMBNAIL, THUMBNAIL), sides.reshape(4, 2, SIDE, 3), size)


class Chosen(Sequence[Likeness]):
    """Some likenesses of a sequence, each taken from it when it is needed: thousands may lie on a disk."""

    def __init__(self, likenesses: Sequence[Likeness], indices: Sequence[int]) -> None:
        self._likenesses, self._indices = likenesses, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Likeness:  # type: ignore[override]  # slices are not needed
        return self._likenesses[self._indices[index]]


@dataclass(frozen=True)
class Kin:
    """Two related images, by position, and their relation: same image, near duplicate, or neighbouring tiles."""

    first: int
    second: int
    relation: str


def measure_likeness(picture: Image.Image) -> Likeness:
    """Reduce an RGB image to the data used to compare it."""
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
    sides[RIGHT] = sides[RIGHT][:, ::-1]  # TRANSVERSE also reverses the direction
    return Likeness(thumbnail, sides, (width, height))


def find_kin(hashes: Sequence[str], likenesses: Sequence[Likeness]) -> list[Kin]:
    """List pairs of related images; not all of them, but enough to connect all related images.

    Args:
        hashes: Content hash of each image.
        likenesses: Likeness of each image, in the same order; each is taken several times, and none is kept.
    """
    first_of: dict[str, int] = {}
    kin = []
    for index, digest in enumerate(hashes):
        first = first_of.setdefault(digest, index)
        if first != index:
            kin.append(Kin(first, index, "same image"))
    unique = list(first_of.values())
    near = [(unique[a], unique[b]) for a, b in _near_duplicates(Chosen(likenesses, unique))]
    kin += [Kin(a, b, "near duplicate") for a, b in near]
    # a duplicate gives a tile two equally good matches: compare only one image of each set of duplicates, in turn
    twins = families(len(likenesses), [Kin(a, b, "") for a, b in near])
    turns = max((len(family) for family in twins), default=1)
    for turn in range(min(turns, MOST_TURNS)):
        absent = {index for family in twins for index in family if index != family[min(turn, len(family) - 1)]}
        tiles = [index for index in unique if index not in absent]
        found = {(tiles[a], tiles[b]) for a, b in _neighbours(Chosen(likenesses, tiles))}
        kin += [Kin(a, b, TILES) for a, b in sorted(found) if Kin(a, b, TILES) not in kin]
    return kin


def find_alike(first: Sequence[Likeness], second: Sequence[Likeness]) -> Iterator[tuple[int, int]]:
    """Yield pairs (first, second) of nearly the same image in two lists.

    Unlike ``find_kin`` it ignores how similar other images of the data set are, so in doubt it reports a pair.
    """
    if not first or not second:
        return
    frame = _shared_frame(likeness.thumbnail for likeness in (*first, *second))
    ours, theirs = (_detail_of(likenesses, frame) for likenesses in (first, second))
    limits = COARSE_ROUNDING, ROUNDING
    flat = [_unit(detail, limit) for detail, limit in zip(theirs, limits, strict=True)]
    for start in range(0, len(first), BLOCK):
        views = zip(*(_eight_ways(detail[start : start + BLOCK]) for detail in ours), strict=True)
        found = [
            (_unit(coarse, COARSE_ROUNDING) @ flat[0].T >= NEAR) & (_unit(fine, ROUNDING) @ flat[1].T >= FINE)
            for coarse, fine in views
        ]
        for a, b in np.argwhere(np.logical_or.reduce(found)):
            yield start + int(a), int(b)


def _detail_of(likenesses: Sequence[Likeness], frame: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the detail of coarse and of full thumbnails, 0 in the frame."""
    thumbnails = np.stack([likeness.thumbnail for likeness in likenesses])
    factor = THUMBNAIL // COARSE
    coarse = _surroundings_removed(_coarse(thumbnails)) * ~frame[::factor, ::factor]
    return coarse, _surroundings_removed(thumbnails.astype(np.float32)) * ~frame


def _coarse(thumbnails: NDArray[np.uint8]) -> Floats:
    factor = THUMBNAIL // COARSE
    return thumbnails.reshape(-1, COARSE, factor, COARSE, factor).mean((2, 4), dtype=np.float32)


def families(count: int, kin: Sequence[Kin]) -> list[list[int]]:
    """Join related images into sets of two or more: all images connected by a chain of relations, among ``count``."""
    links = coo_array((np.ones(len(kin)), ([k.first for k in kin], [k.second for k in kin])), shape=(count, count))
    _, family = connected_components(links, directed=False)
    members: dict[int, list[int]] = {}
    for index, number in enumerate(family):
        members.setdefault(int(number), []).append(index)
    return [family for family in members.values() if len(family) > 1]


def _near_duplicates(likenesses: Sequence[Likeness]) -> Iterator[tuple[int, int]]:
    """Compare thumbnails in all eight flips and turns, independent of brightness, contrast and slow shading.

    Images with the same frame, vignette or a cell in the middle are all similar; a duplicate is much more similar.
    """
    count = len(likenesses)
    if count < 2:
        return
    factor = THUMBNAIL // COARSE
    frame = _shared_frame(likeness.thumbnail for likeness in likenesses)
    upright = np.empty((count, COARSE**2), np.float16)  # all of them are in memory at once
    for row, likeness in enumerate(likenesses):
        detail = _surroundings_removed(_coarse(likeness.thumbnail[None])) * ~frame[::factor, ::factor]
        upright[row] = _unit(detail, COARSE_ROUNDING)[0]
    usual = np.zeros(count, np.float32)
    if count >= FEW:
        for start in range(0, count, BLOCK):
            usual[start : start + BLOCK] = np.median(_products(upright[start : start + BLOCK], upright), axis=1)
    for start in range(0, count, BLOCK):
        block = upright[start : start + BLOCK].astype(np.float32).reshape(-1, COARSE, COARSE)
        alike = reduce(
            np.maximum, (_products(view.reshape(len(view), -1), upright[start:]) for view in _eight_ways(block))
        )
        needed = 1 - APART * (1 - np.maximum(usual[start : start + BLOCK, None], usual[start:]))
        for a, b in np.argwhere(np.triu(alike >= np.maximum(NEAR, needed), 1)) + start:
            first, second = (
                _surroundings_removed(likenesses[int(i)].thumbnail[None].astype(np.float32)) * ~frame for i in (a, b)
            )
            other = _unit(second, ROUNDING)[0]
            if max(float(_unit(view, ROUNDING)[0] @ other) for view in _eight_ways(first)) >= FINE:
                yield int(a), int(b)


def _products(few: NDArray[Any], many: NDArray[Any]) -> Floats:
    """Return ``few @ many.T`` in float32; only a part of the rows of ``many`` is converted at once."""
    rows = few.astype(np.float32)
    parts = [rows @ many[start : start + WIDE].T.astype(np.float32) for start in range(0, len(many), WIDE)]
    return np.concatenate(parts, axis=1)


def _shared_frame(thumbnails: Iterable[NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """Return where all images are black or white, and a small margin: the frame of an eyepiece or a scanner.

    A frame surrounds the visible area. Black or white areas between visible parts are background, not a frame.
    """
    saturated: NDArray[np.bool_] = reduce(np.logical_and, ((seen < 8) | (seen > 247) for seen in thumbnails))
    between = saturated & _between(~saturated, 0) & _between(~saturated, 1)
    if between.sum() > FRAME_INSIDE * saturated.sum():
        return np.zeros_like(saturated)
    frame: NDArray[np.bool_] = maximum_filter(saturated, size=4 * (THUMBNAIL // COARSE) + 1)
    visible = ~saturated
    if (visible & ~frame).sum() < FIELD_LEFT * visible.sum():  # few cells on a dark background, not one field
        return np.zeros_like(saturated)
    return frame


def _between(there: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Return the positions that have true values before and after them along an axis."""
    before = np.maximum.accumulate(there, axis)
    return before & np.flip(np.maximum.accumulate(np.flip(there, axis), axis), axis)


def _surroundings_removed(pictures: Floats) -> Floats:
    """Subtract from every pixel the mean of the 5x5 pixels around it, shape (N, S, S)."""
    return pictures - uniform_filter(pictures, size=(1, 5, 5), mode="nearest")


def _eight_ways(pictures: Floats) -> list[Floats]:
    return [np.rot90(view, turns, (1, 2)) for view in (pictures, pictures[:, :, ::-1]) for turns in range(4)]


def _neighbours(likenesses: Sequence[Likeness]) -> Iterator[tuple[int, int]]:
    """Yield pairs of tiles where the right side of one continues in the left side of the other, or bottom in top.

    Two sides match if each is by far the best match of the other, the step between them is not much larger than the
    steps inside the tiles, and their detail agrees.
    """
    if len(likenesses) < 2:
        return
    for near, far, along in ((RIGHT, LEFT, 1), (BOTTOM, TOP, 0)):
        lengths = [likeness.size[along] for likeness in likenesses]
        for length in set(lengths):
            members = [index for index, other in enumerate(lengths) if other == length]
            if length < SHORTEST or len(members) < 2:
                continue
            for a, b in _matching_sides(Chosen(likenesses, members), near, far):
                yield members[a], members[b]


def _matching_sides(likenesses: Sequence[Likeness], near: int, far: int) -> Iterator[tuple[int, int]]:
    """Match a side of each image with the opposite one of the others; the outermost row of a side is its first."""
    count = len(likenesses)
    ends, b = (np.empty((count, 3 * SIDE), np.uint8) for _ in range(2))
    for row, likeness in enumerate(likenesses):
        ends[row], b[row] = likeness.sides[near][0].ravel(), likeness.sides[far][0].ravel()
    squares_b = np.einsum("ij,ij->i", b, b, dtype=np.float32)
    best, best_back = np.zeros(count, int), np.zeros(count, int)
    nearest, second, nearest_back, second_back = np.full((4, count), np.inf, np.float32)
    for first in range(0, count, BLOCK):
        rows = np.arange(first, min(first + BLOCK, count))
        a = ends[first : first + BLOCK].astype(np.float32)
        distance = np.einsum("ij,ij->i", a, a)[:, None] + squares_b - 2 * _products(a, b)
        distance = np.sqrt(np.maximum(distance, 0) / a.shape[1])
        distance[np.arange(len(rows)), rows] = np.inf  # a tile is not its own neighbour
        best[rows] = distance.argmin(1)
        nearest[rows], second[rows] = _two_smallest(distance.T)
        candidates = np.vstack([nearest_back, second_back, distance])
        closer = distance.min(0) < nearest_back
        best_back[closer] = rows[distance.argmin(0)][closer]
        nearest_back, second_back = _two_smallest(candidates)
    mutual = np.flatnonzero(best_back[best] == np.arange(count))
    for i in mutual[nearest[mutual] <= DISTINCT * np.minimum(second[mutual], second_back[best[mutual]])]:
        pair = likenesses[int(i)].sides[near], likenesses[int(best[i])].sides[far]
        here, there = (side.astype(np.float32) for side in pair)
        inner = float(np.sqrt((((here[0] - here[1]) ** 2).mean() + ((there[0] - there[1]) ** 2).mean()) / 2))
        detail = _unit(_detail(np.stack([here[0], there[0]])), FAINTEST)
        if nearest[i] <= STEP * max(inner, FAINTEST) and detail[0] @ detail[1] >= ALIKE:
            yield int(i), int(best[i])


def _two_smallest(values: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return the smallest and second smallest of each column; infinity where there is no second."""
    if len(values) == 1:
        return values[0], np.full_like(values[0], np.inf)
    smallest = np.partition(values, 1, axis=0)
    return smallest[0], smallest[1]


def _detail(sides: Floats) -> Floats:
    """Subtract the running mean over an eighth of the side, shape (N, 256, 3)."""
    width = SIDE // 8 + 1
    padded = np.pad(sides, ((0, 0), (width // 2, width // 2), (0, 0)), "edge")
    total = np.cumsum(np.pad(padded, ((0, 0), (1, 0), (0, 0))), axis=1, dtype=np.float64)
    return sides - ((total[:, width:] - total[:, :-width]) / width).astype(np.float32)


def _unit(detail: Floats, faintest: float) -> Floats:
    """Return each as a vector of length 1, or of zeros if its detail has fewer grey levels than ``faintest``."""
    flat = detail.reshape(len(detail), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    faint = length < faintest * np.sqrt(flat.shape[1])
    return np.where(faint, 0, flat / np.maximum(length, 1e-6)).astype(np.float32)


def _shrink(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize by averaging if the result is smaller, otherwise bilinear."""
    smaller = picture.width >= size[0] and picture.height >= size[1]
    return picture.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR)
