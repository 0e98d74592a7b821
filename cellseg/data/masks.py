"""From label files as people keep them to a mask that is cell or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellseg.data.images import DEEP_MODES, decode
from cellseg.storage.errors import InputError

Values = NDArray[Any]  # uint8, uint16, int32 or float32, as the file has it

PIECES = 2.0  # of a label, on average; touching cells cut at corners make more than one
WHITE = 200  # a mask of 0 and 255 has at least this somewhere
CLASSES = 8  # flat values that may be in any number of pieces
SOLID_SHARE = 0.5  # of a label file's values, how many must fill areas of their own; in JPEG noise 0.3 at most do


@dataclass(frozen=True)
class MaskReading:
    """What the label files of an image hold, and what was made of them.

    Attributes:
        cell: Shape (H, W), where they say cell.
        mode: The first file's pixels as Pillow calls them: L, RGB, P, I;16, ...
        turned: Whether a camera's orientation tag was obeyed in it.
        kind: ``empty``; ``labels``, where every value above 0 is cell; ``grey``, where values above the threshold are.
        values: How many values above 0.
        brightest: The largest one.
        grey_pixels: Cell pixels that are neither background nor of the brightest value, in a mask of kind grey.
        faint_pixels: Pixels above 0 that the threshold made background.
    """

    cell: NDArray[np.bool_]
    mode: str
    turned: bool
    kind: str
    values: int
    brightest: int
    grey_pixels: int
    faint_pixels: int


def read_mask(paths: Sequence[Path], threshold: int) -> MaskReading:
    """Decide by its values what a label file means; of several files, their union is the mask.

    Where most values fill areas of their own (0 and 1, 0 and 255, instance ids, palette colours), each value above 0
    is cell. Where values run into each other (grey overlaps, smooth edges, JPEG noise), every pixel brighter than
    ``threshold`` is. A coloured mask counts by its brightest channel, so that no label colour is too dark to be seen;
    transparent pixels are background.

    Args:
        paths: The label files, 0 for background.
        threshold: In 0..254, on the scale of 8-bit files.

    Raises:
        InputError: As for ``read_image``; also if a grey mask has values but none above the threshold, or the files
            differ in size.
    """
    readings = [_read_mask(path, threshold) for path in paths]
    first = readings[0]
    if len(readings) == 1:
        return first
    for path, reading in zip(paths, readings, strict=True):
        if reading.cell.shape != first.cell.shape:
            (height, width), (rows, columns) = reading.cell.shape, first.cell.shape
            raise InputError(
                f"{path}: the mask is {width}x{height} pixels, but {paths[0].name} is {columns}x{rows}; "
                "export all masks of an image at the same size"
            )
    return MaskReading(
        cell=np.logical_or.reduce([reading.cell for reading in readings]),
        mode=first.mode,
        turned=first.turned,
        kind=next((reading.kind for reading in readings if reading.kind != "empty"), "empty"),
        values=max(reading.values for reading in readings),
        brightest=max(reading.brightest for reading in readings),
        grey_pixels=sum(reading.grey_pixels for reading in readings),
        faint_pixels=sum(reading.faint_pixels for reading in readings),
    )


def resize_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """Return a mask as (1, size, size) of 0 and 1, each the nearest pixel."""
    picture = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(picture)[None].copy()


def _read_mask(path: Path, threshold: int) -> MaskReading:
    decoded = decode(path)
    mode, values = decoded.picture.mode, _mask_values(decoded.picture, path)
    if decoded.deep and mode not in DEEP_MODES:
        raise InputError(f"{path}: has 16 bits a colour channel; save the mask as a grey file")
    present = _values_present(values)
    if present.size == 0:
        return MaskReading(values > 0, mode, decoded.turned, "empty", 0, 0, 0, 0)
    brightest = present[-1].item()
    if not decoded.lossy and _are_labels(values, present):
        if present.size > 1 and values.min() > 0:
            raise InputError(f"{path}: no pixel is 0, so nothing is background; save background as 0, or black")
        cells, full = int((values > 0).sum()), int((values == brightest).sum())
        if brightest == 255 and full < cells < 2 * full:  # flat grey on an otherwise white mask, not instance ids
            return MaskReading(values > 0, mode, decoded.turned, "grey", present.size, 255, cells - full, 0)
        return MaskReading(values > 0, mode, decoded.turned, "labels", present.size, int(brightest), 0, 0)
    limit = threshold * (1 if values.dtype == np.uint8 else brightest / 255)
    if brightest <= limit:
        raise InputError(
            f"{path}: the brightest value is {brightest:g}, so no pixel is above data.mask_threshold={threshold}; "
            "if these are labels such as 0 and 1, save them as 0 and 255 in a PNG file or set data.mask_threshold=0"
        )
    cell = values > limit
    grey = cell & (values < 0.8 * brightest)  # JPEG noise around the brightest value is not grey
    faint = (values > 0) & ~cell
    counts = int(brightest), int(grey.sum()), int(faint.sum())
    return MaskReading(cell, mode, decoded.turned, "grey", present.size, *counts)


def _mask_values(picture: Image.Image, path: Path) -> Values:
    """Return one value a pixel, 0 for background."""
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L"))
    if picture.mode in DEEP_MODES:
        values = np.asarray(picture)
        if not np.isfinite(values).all():
            raise InputError(f"{path}: holds pixels that are not numbers; export it again or leave it out")
        return values
    colours = np.asarray(picture.convert("RGBA"))
    return (colours[..., :3].max(axis=2) * (colours[..., 3] / 255)).round().astype(np.uint8)


def _values_present(values: Values) -> Values:
    """Return the values above 0, ascending."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=1)[1:]) + 1
    return np.unique(values[values > 0])


def _are_labels(values: Values, present: Values) -> bool:
    """Tell labels from shades: a label lies in one piece or two; shades of noise and of smooth edges are scattered.

    What is in few pieces may still be a smooth edge around one white cell, so labels must also fill squares of their
    own, or lie apart from each other in a mask that is not mostly white. A few flat classes may be in many pieces.
    """
    if present.size == 1:
        return True
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    triples = across[:, 1:] & across[:, :-1]
    squares = triples[1:-1] & triples[:-2] & triples[2:] & down[:-1, 1:-1] & down[1:, 1:-1]
    solid = _values_present(values[1:-1, 1:-1][squares]).size / present.size >= SOLID_SHARE
    if solid and present.size <= CLASSES:
        return True
    number = np.searchsorted(present, values) + 1
    if np.maximum(_pieces(np.where(values > 0, number, 0))[1:], 1).mean() > PIECES:
        return False
    cells = values > 0
    white = present[-1] >= WHITE and (values >= 0.9 * present[-1]).sum() > 0.5 * cells.sum()
    mixed = (~across & cells[:, 1:] & cells[:, :-1]).sum() + (~down & cells[1:] & cells[:-1]).sum()
    return solid or (not white and mixed <= 0.5 * cells.sum())


def _pieces(values: Values) -> NDArray[np.int64]:
    """Return, for every value from 0, its pieces that touch by side, less the holes in them: Euler's number."""
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    squares = across[1:] & across[:-1] & down[:, 1:] & down[:, :-1]
    length = int(values.max()) + 1
    pixels, rows, columns, full = (
        np.bincount(part.ravel(), minlength=length)
        for part in (values, values[:, 1:][across], values[1:][down], values[1:, 1:][squares])
    )
    return pixels - rows - columns + full
