"""Convert label files of any kind to a mask of cell and background."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage import measure

from cellseg.data.decoded import Decoded, Values
from cellseg.data.images import decode
from cellseg.storage.errors import InputError

EMPTY, LABELS, GREY, RESIZED = "empty", "labels", "grey", "resized labels"

PIECES = 2.0  # pieces of a label, on average; touching cells cut at corners have more than one
SPECK_SHARE = 0.1  # of an object's pixels, above which so small a piece is part of it
PIECES_OF_OBJECT = 1.2  # pieces of a numbered object, on average; a class of cells has more
WHITE = 200  # a mask of 0 and 255 has at least this somewhere
FEW = 8  # a file with at most 8 values, all flat, holds labels, whatever their numbers
GAP = 3  # between values; in noise some lie closer
SOLID_SHARE = 0.5  # share of a label file's values that must fill separate areas; in JPEG noise it is at most 0.3
SMALLEST_STEP = 1 / 64  # of the brightest value: a shade differs from the next by less, most labels by more
SOFT_SHARE = 0.3  # in resized labels, share of outline pixels that have neither their label's value nor 0
THIN_SHARE = 0.9  # share of a rim's pixels that touch the label inside; a class of its own has fewer
SMALL_AREA = 0.05  # of the mean area in which a pixel lies: half of all areas of colours are larger, except in noise
REACH = 3  # pixels, in which a label's edge fades where it was resized
SPECK = 3  # pixels, of noise
NOISE_REACH = 16  # pixels, from an edge to the farthest noise that JPEG makes of it
NOISE = 3  # a value up to which a blank area of a JPEG file may be off
MOST = 1 / 3  # share of an image; cells of one value rarely cover more
SMALLEST_HOLE, MOST_HOLES = 12, 200  # pixels; the largest that are looked at
SOLID_HOLES = 0.85  # share of its convex hull that a hole fills if it is a cell; gaps between cells fill less
SIDE_STEP, SIDE_GROWTH = 32, 1.2  # sides to try: multiples of 32, for pooling, each 1.2 times the last
NOT_JUDGED = {255, 65535}  # may mark pixels without annotation if all other values are below NOT_JUDGED_SHARE of it
NOT_JUDGED_SHARE = 0.45
UNNUMBERED = 65535  # a value of NOT_JUDGED, for the pixels that had one

IgnoreValue = int | tuple[int, int, int] | None


@dataclass(frozen=True)
class MaskReading:
    """The content of the label files of an image, and its interpretation.

    Attributes:
        cell: Shape (H, W), true for cell.
        decoded: The content of the first file.
        kind: ``empty``; ``labels``, where every value above 0 is cell; ``resized labels``, where labels fade at their
            edges and half of a label's value is cell; ``grey``, where values above the threshold are.
        turned: Whether any file was rotated by its orientation tag.
        white_is_zero: As ``Decoded.white_is_zero``, of any of them.
        values: Number of different values above 0.
        smallest: The smallest of them.
        second, brightest: The second largest, and the largest one.
        grey_pixels: Cell pixels that are neither background nor of the brightest value, in a mask of kind grey.
        faint_pixels: Pixels above 0 that became background.
        faint_areas: Faint pixels that are too far from any cell to be noise around it.
        not_judged: A value that may mark pixels without annotation; 0 if there is none.
        by_index: Whether a palette's indices are the labels, and its colours mean nothing.
        inverted: Whether a value above 0 covers much of the image and surrounds the rest.
        ids: The number of the object at each pixel, shape (H, W), int32, 0 for background; None if values or files do
            not number objects.
        pieces: Number of regions of one value.
        ignored: Pixels that nobody judged, shape (H, W); they are neither cell nor background. None if there are none.
    """

    cell: NDArray[np.bool_]
    decoded: Decoded
    kind: str
    turned: bool = False
    white_is_zero: str = ""
    values: int = 0
    smallest: float = 0
    second: float = 0
    brightest: float = 0
    grey_pixels: int = 0
    faint_pixels: int = 0
    faint_areas: int = 0
    not_judged: int = 0
    by_index: bool = False
    inverted: bool = False
    ids: NDArray[np.int32] | None = None
    pieces: int = 0
    ignored: NDArray[np.bool_] | None = None


def read_mask(
    paths: Sequence[Path], threshold: int, ignored: Sequence[Path] = (), ignore_value: IgnoreValue = None
) -> MaskReading:
    """Read a mask, interpreted by its values; several files give their union.

    If each value fills separate areas (0 and 1, 0 and 255, classes, instance ids, palette colours), every value above 0
    is cell. If such areas have soft edges, as after resizing with interpolation, pixels of at least half a label's
    value are cell. If values change gradually (smooth edges, JPEG noise), every pixel above ``threshold`` is cell.

    The value of a colour pixel is its brightest channel, so that dark label colours count too; transparent pixels are
    background. The value in a file with a palette is the index, or the brightness if all its colours are grey.

    Args:
        paths: The label files, 0 for background.
        threshold: In 0..254, on the scale of 8-bit files.
        ignored: Files that mark, as a mask marks cells, the pixels that nobody judged.
        ignore_value: The value, or red, green and blue, of pixels in the label files that nobody judged.

    Raises:
        InputError: As for ``read_image``; also if a grey mask has values but none above the threshold, nothing tells
            which value is background, or the files differ in size.
    """
    marked = _marked(ignored, threshold)
    reading = _united(paths, [_read_mask(path, threshold, ignore_value, marked) for path in paths])
    unjudged = reading.ignored
    if unjudged is None or not unjudged.any():
        return replace(reading, ignored=None)
    ids = None if reading.ids is None else np.where(unjudged, 0, reading.ids)
    return replace(reading, cell=reading.cell & ~unjudged, ids=ids, ignored=unjudged)


def _marked(paths: Sequence[Path], threshold: int) -> NDArray[np.bool_] | None:
    """Read the files that mark pixels which nobody judged; return their union, None without files."""
    union: NDArray[np.bool_] | None = None
    for path in paths:
        marks = _read_mask(path, threshold, None, None)
        if marks.kind == GREY and marks.decoded.lossy != "yes":
            raise InputError(
                f"{path}: marks not-judged pixels, but its values change gradually, as in a photograph or after "
                "resizing; save it as 0 and 255, at the size of the mask"
            )
        if union is not None and union.shape != marks.cell.shape:
            raise InputError(f"{path}: has another size than {paths[0].name}; export both at the size of the mask")
        union = marks.cell if union is None else union | marks.cell
    return union


def _united(paths: Sequence[Path], readings: Sequence[MaskReading]) -> MaskReading:
    """Return the union of what the files of one mask hold."""
    first = readings[0]
    if len(readings) == 1:
        objects = 0 if first.ids is None else int(first.ids.max(initial=0))
        return first if objects > 1 and first.pieces <= PIECES_OF_OBJECT * objects else replace(first, ids=None)
    for path, reading in zip(paths, readings, strict=True):
        if reading.cell.shape != first.cell.shape:
            raise InputError(
                f"{path}: the mask is {reading.decoded.size} pixels, but {paths[0].name} is {first.decoded.size}; "
                "export all masks of an image at the same size"
            )
    kinds = [reading.kind for reading in readings]
    unjudged = [reading.ignored for reading in readings if reading.ignored is not None]
    return MaskReading(
        cell=np.logical_or.reduce([reading.cell for reading in readings]),
        decoded=first.decoded,
        kind=next(kind for kind in (RESIZED, GREY, LABELS, EMPTY) if kind in kinds),
        turned=any(reading.turned for reading in readings),
        white_is_zero=next((reading.white_is_zero for reading in readings if reading.white_is_zero), ""),
        values=max(reading.values for reading in readings),
        smallest=min((reading.smallest for reading in readings if reading.smallest), default=0),
        second=max(reading.second for reading in readings),
        brightest=max(reading.brightest for reading in readings),
        grey_pixels=sum(reading.grey_pixels for reading in readings),
        faint_pixels=sum(reading.faint_pixels for reading in readings),
        faint_areas=sum(reading.faint_areas for reading in readings),
        not_judged=max(reading.not_judged for reading in readings),
        by_index=any(reading.by_index for reading in readings),
        inverted=any(reading.inverted for reading in readings),
        ids=_ids_of_files(readings),
        ignored=reduce(np.logical_or, unjudged) if unjudged else None,
    )


def resize_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """Resize a mask to (1, size, size) of 0 and 1, by nearest neighbour."""
    picture = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(picture)[None].copy()


def resize_ids(ids: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Resize numbers of objects to (size, size), by nearest neighbour, as ``resize_mask`` resizes their mask."""
    return np.asarray(Image.fromarray(ids).resize((size, size), Image.Resampling.NEAREST)).copy()


def save_labels(path: Path, cell: NDArray[np.bool_], ids: NDArray[np.int32] | None) -> None:
    """Write a mask as PNG such that ``read_mask`` returns the same: 0 and 255, or numbers of objects in 16 bits.

    Cell pixels without a number get ``UNNUMBERED``.

    Raises:
        InputError: If there are more objects than 16 bits can number.
    """
    if ids is None:
        Image.fromarray(cell.astype(np.uint8) * 255).save(path)
        return
    numbers = np.unique(ids, return_inverse=True)[1].reshape(ids.shape) + int(ids.min() > 0)
    if numbers.max() >= UNNUMBERED:
        raise InputError(f"{path.name}: has more than 65,534 numbered cells, which a PNG file cannot hold")
    numbers[cell & (numbers == 0)] = UNNUMBERED
    Image.fromarray(numbers.astype(np.uint16)).save(path)


@dataclass(frozen=True)
class Survival:
    """Objects of a mask before and after resizing.

    Attributes:
        objects: Number at full size.
        kept: Number of objects that keep a pixel.
        side: Side in pixels at which all objects keep a pixel.
        specks: Number of objects of at most three pixels.
    """

    objects: int
    kept: int
    side: int
    specks: int


def count_survivors(mask: NDArray[np.bool_], size: int | None, *, noisy: bool = False) -> Survival:
    """Count the objects of a mask, and those that keep a pixel in ``resize_mask``.

    Args:
        mask: Shape (H, W); pixels of an object are connected by side or corner.
        size: Side in pixels after resizing; None for no resizing.
        noisy: Whether specks are noise, not objects.
    """
    labels, objects = ndimage.label(mask, np.ones((3, 3)))
    small = np.bincount(labels.ravel())[1:] <= SPECK
    specks = int(small.sum())
    if noisy and specks:
        labels, objects = np.concatenate([[0], np.where(small, 0, np.cumsum(~small))])[labels], objects - specks
    picture = Image.fromarray(labels.astype(np.int32))

    def kept(side: int) -> int:
        left = np.asarray(picture.resize((side, side), Image.Resampling.NEAREST))
        return int(np.count_nonzero(np.bincount(left.ravel(), minlength=1)[1:]))

    if size is None or not objects or (left := kept(size)) == objects:
        return Survival(objects, objects, size or 0, specks)
    whole, side = SIDE_STEP * -(-max(mask.shape) // SIDE_STEP), size
    while side < whole and kept(side) < objects:
        side = SIDE_STEP * -(-int(side * SIDE_GROWTH) // SIDE_STEP)
    return Survival(objects, left, min(side, whole), specks)


def _read_mask(path: Path, threshold: int, ignore_value: IgnoreValue, marked: NDArray[np.bool_] | None) -> MaskReading:
    """Read one file; what lies at pixels that nobody judged has no part in what its values mean."""
    decoded = decode(path)
    shape = decoded.values.shape[:2]
    if marked is not None and marked.shape != shape:
        raise InputError(
            f"{path}: the mask is {decoded.size} pixels, but its not-judged pixels are marked in "
            f"{marked.shape[1]}x{marked.shape[0]}; export both at the same size"
        )
    ignored = np.zeros(shape, bool) if marked is None else marked
    if ignore_value is not None:
        ignored = ignored | _of_value(path, decoded, ignore_value)
    if not ignored.any():
        return _interpreted(path, threshold, decoded)
    judged = np.where(ignored[..., None], decoded.values.dtype.type(0), decoded.values)
    return replace(_interpreted(path, threshold, replace(decoded, values=judged)), ignored=ignored)


def _of_value(path: Path, decoded: Decoded, value: int | tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return which pixels have a value, or a colour."""
    if decoded.lossy == "yes":
        raise InputError(
            f"{path}: is a JPEG image, whose values are not exact, so data.ignore_value cannot be found in it; save "
            "the mask as PNG, or mark not-judged pixels in a file of their own"
        )
    values, palette = decoded.values, decoded.palette
    colours = values.shape[2] - decoded.alpha
    if isinstance(value, int) and palette is not None:
        return np.asarray(_by_palette(values[..., 0], palette, path)[0] == value)
    if isinstance(value, int):
        return (values[..., :colours] == value).all(axis=2)
    if palette is not None:
        return np.isin(values[..., 0], np.flatnonzero((palette[:, :3] == value).all(axis=1)))
    if colours == 3:
        return (values[..., :3] == np.array(value)).all(axis=2)
    return values[..., 0] == value[0] if len(set(value)) == 1 else np.zeros(values.shape[:2], bool)


def _interpreted(path: Path, threshold: int, decoded: Decoded) -> MaskReading:
    """Return what the values of a label file mean."""
    if decoded.white_is_zero == "unknown":
        raise InputError(
            f"{path}: its tag PhotometricInterpretation is 0 (white is zero), so cell may be 0 or the largest value; "
            "open it in Fiji and save it as PNG with white cells"
        )
    values, by_index = _one_value_a_pixel(decoded, path)
    present = _values_present(values)
    if present.size == 0:
        empty = MaskReading(values > 0, decoded, EMPTY, decoded.turned, decoded.white_is_zero)
        return replace(empty, by_index=by_index)
    kind = GREY if decoded.lossy == "yes" else _meaning(values, present)
    if kind in (GREY, RESIZED) and not decoded.lossy and (joined := _with_rims_joined(values)) is not None:
        values, present = joined, _values_present(joined)
        kind = _meaning(values, present)
    coloured = _has_flat_colours(decoded, values)
    if coloured:
        kind = LABELS
    found = MaskReading(
        cell=values > 0,
        decoded=decoded,
        kind=kind,
        turned=decoded.turned,
        white_is_zero=decoded.white_is_zero,
        values=present.size,
        smallest=present[0].item(),
        second=present[-2].item() if present.size > 1 else 0,
        brightest=present[-1].item(),
        by_index=by_index,
        inverted=_looks_inverted(np.where(values > threshold, values, 0) if kind == GREY else values),
    )
    if by_index and found.kind != LABELS:
        raise InputError(
            f"{path}: its palette colours change gradually, so the indices are not labels; "
            "save the mask as a grey file, background 0"
        )
    if decoded.lossy and found.kind == RESIZED:
        found = replace(found, kind=GREY)
    if found.kind == LABELS:
        return _with_ids(_labelled(found, values, path, coloured=coloured), values)
    if found.kind == RESIZED:
        cell = _half_of_each_label(values)
        return replace(found, cell=cell, faint_pixels=int((found.cell & ~cell).sum()))
    brightest = found.brightest
    limit = threshold * (1 if values.dtype == np.uint8 else brightest / 255)
    if brightest <= (2 if decoded.lossy else 1) * limit:
        what = "not" if brightest <= limit else "only slightly"
        raise InputError(
            f"{path}: the brightest value is {brightest:g}, {what} above data.mask_threshold={threshold}; "
            "if these are labels such as 0 and 1, save them as 0 and 255 in PNG, or set data.mask_threshold=0"
        )
    cell = values > limit
    faint = (values > 0) & ~cell
    return replace(
        found,
        cell=cell,
        grey_pixels=int((cell & (values < 0.8 * brightest)).sum()),  # JPEG noise around the brightest value is not grey
        faint_pixels=int(faint.sum()),
        faint_areas=_far_from_cells(values, cell, faint, limit),
    )


def _one_value_a_pixel(decoded: Decoded, path: Path) -> tuple[Values, bool]:
    """Return values (H, W), 0 for background, and whether they are indices of a palette."""
    half = decoded.values.dtype == np.float16  # too coarse for the steps that _meaning rounds to
    values = decoded.values.astype(np.float32) if half else decoded.values
    if decoded.palette is not None:
        return _by_palette(values[..., 0], decoded.palette, path)
    colours = values.shape[2] - decoded.alpha
    if decoded.channels and not (decoded.coloured and colours == 3):
        raise InputError(
            f"{path}: the mask has {decoded.channels} channels; save the channel with the cells as a grey file"
        )
    if colours == 3 and (decoded.truncated or values.dtype != np.uint8):
        raise InputError(
            f"{path}: has {max(decoded.bits, 16)} bits for each colour channel; save the mask as a grey file"
        )
    if values.dtype == np.bool_:
        return values[..., 0].astype(np.uint8) * np.uint8(255), False
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{path}: contains NaN or infinite pixels; export it again or remove it")
    if values.dtype.kind != "u" and values.min(initial=0) < 0:
        raise InputError(
            f"{path}: contains values below 0 ({values.min():g} is the smallest), which may mean background or "
            "'not annotated'; save background as 0 and cells as 1 or more"
        )
    if values.shape[2] == 1:
        return values[..., 0], False
    if values.dtype != np.uint8:
        raise InputError(f"{path}: has {decoded.kind}; save the mask as a grey file")
    brightest = values[..., :colours].max(axis=2)
    if decoded.alpha:
        brightest = (brightest * (values[..., -1] / 255)).round().astype(np.uint8)
    if colours == 3 and brightest.min(initial=255) > 0 and (values != values[:1, :1]).any():
        raise InputError(f"{path}: no pixel is black, so nothing is background; save background as 0, or black")
    return brightest, False


def _by_palette(index: Values, palette: NDArray[np.uint8], path: Path) -> tuple[Values, bool]:
    """Return brightness where all colours in use are grey, and otherwise the index; transparent ones are background."""
    used = np.flatnonzero(np.bincount(index.ravel()))
    if used[-1] >= len(palette):
        raise InputError(f"{path}: a pixel has an index without a colour in the palette; export it again or remove it")
    seen, opaque = palette[used, :3].astype(int), palette[:, 3] > 0
    # with index 0 alone, or a colour that stands for two indices, the colours used tell nothing
    told = palette[:, :3].astype(int) if used.tolist() == [0] else seen
    grey = not np.ptp(told, axis=1).any() and len(np.unique(seen, axis=0)) == len(seen)
    border = np.bincount(np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]]), minlength=len(palette))
    usual = int(border.argmax())
    numbers = np.arange(len(palette)) * opaque
    ambiguous = bool(
        palette[0, :3].any() and opaque[0] and opaque[usual] and used.size > 1
    )  # or 0 is background anyway
    inverted = 2 * border[0] > border.sum() if grey else usual != 0
    if not grey and usual and 0 not in index[0] and palette[0, :3].any() and not palette[usual, :3].any():
        numbers = (np.arange(len(palette)) + 1) * opaque  # made by a program that counts colours: background is black
        numbers[usual] = 0
    elif ambiguous and inverted:
        colour = "#{:02x}{:02x}{:02x}".format(*palette[usual, :3])
        raise InputError(
            f"{path}: palette index {usual} ({colour}) is most frequent along the border, like background, but would "
            "be cell; save the mask as a grey file, background 0"
        )
    value = palette[:, :3].max(axis=1) * (palette[:, 3] / 255) if grey else numbers
    return value.round().astype(np.uint16 if len(palette) >= 256 else np.uint8)[index], not grey


def _looks_inverted(values: Values) -> bool:
    """Tell whether background is not 0: one value covers much of the image, and its holes have the shape of cells.

    Gaps between dense cells are holes too, but pointed where cells touch, so that they fill less of their convex hull.
    """
    if np.count_nonzero(values) <= MOST * values.size:
        return False
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel())
        counts[0] = 0
        region = values == counts.argmax()
    else:
        found, counts = np.unique(values[values > 0], return_counts=True)
        region = values == found[counts.argmax()]
    if region.mean() <= MOST:
        return False
    holes, count = ndimage.label(~region)
    at_border = np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))
    sizes = np.bincount(holes.ravel(), minlength=count + 1)
    sizes[[0, *at_border]] = 0
    largest = [number for number in np.argsort(sizes)[::-1][:MOST_HOLES] if sizes[number] >= SMALLEST_HOLE]
    boxes = ndimage.find_objects(holes)
    hulls = [_hull_area(holes[boxes[number - 1]] == number) for number in largest]
    return bool(hulls) and float(np.median(sizes[largest] / np.array(hulls))) > SOLID_HOLES


def _hull_area(region: NDArray[np.bool_]) -> float:
    """Return the area of the convex hull of a region's pixels, in pixels."""
    y, x = np.nonzero(region)
    corners = np.concatenate([np.stack([y + down, x + right], axis=1) for down in (0, 1) for right in (0, 1)])
    return float(ConvexHull(corners).volume)  # of two dimensions, the area


def _labelled(found: MaskReading, values: Values, path: Path, *, coloured: bool) -> MaskReading:
    """Check labels: is there background, and does a value mark pixels without annotation?"""
    if found.values > 1 and found.cell.all():
        raise InputError(f"{path}: no pixel is 0, so nothing is background; save background as 0, or black")
    numbered = 0 < found.second <= 2 * found.values  # and not shades such as 60 and 255
    if found.brightest in NOT_JUDGED and numbered and found.second <= NOT_JUDGED_SHARE * found.brightest:
        return replace(found, not_judged=int(found.brightest))
    cells, full = int(found.cell.sum()), int((values == found.brightest).sum())
    if not coloured and found.brightest == 255 and full < cells < 2 * full:  # flat grey on a white mask, not ids
        return replace(found, kind=GREY, grey_pixels=cells - full)
    return found


def _has_flat_colours(decoded: Decoded, values: Values) -> bool:
    """Tell whether a file draws labels in several colours: each fills areas of its own, as large as cells.

    The brightest channels of many palettes are alike, so they do not tell labels from noise. Colours between two
    others, as in noise and at smooth edges, fill areas that are far smaller than those of the cells.
    """
    if decoded.lossy or decoded.palette is not None or decoded.values.shape[2] - decoded.alpha != 3:
        return False
    if decoded.alpha and not np.isin(decoded.values[..., 3], (0, 255)).all():
        return False
    pixels, cells = decoded.values[..., :3].astype(np.int16), values > 0
    if not np.ptp(pixels[cells], axis=1).any():  # grey
        return False
    codes = np.where(cells, pixels @ np.array([2**16, 2**8, 1], np.int32), 0)
    colours, ranks = np.unique(codes, return_inverse=True)
    ranks = ranks.reshape(codes.shape) + int(colours[0] > 0)
    present = np.unique(ranks[cells])
    if present.size < 2 or _values_present(ranks[1:-1, 1:-1][_squares(ranks)]).size < SOLID_SHARE * present.size:
        return False
    steps = [np.abs(np.diff(pixels, axis=axis)).max(axis=2).ravel() for axis in (0, 1)]
    changes = np.concatenate(steps)
    if (changes[changes > 0] <= max(1, 255 * SMALLEST_STEP)).mean() > 0.5:
        return False
    areas = np.bincount(measure.label(ranks, connectivity=2).ravel())[1:]
    return bool(np.median(areas) > SMALL_AREA * (areas**2).sum() / areas.sum())


def _with_ids(found: MaskReading, values: Values) -> MaskReading:
    """Number objects by their values or colours, without the value of pixels that were not judged."""
    if found.decoded.palette is None and found.decoded.values.shape[2] - found.decoded.alpha == 3:
        colours = found.decoded.values[..., :3].astype(np.int32) @ np.array([2**16, 2**8, 1], np.int32)
        values = np.where(values > 0, colours, 0)  # several colours may be equally bright
    elif found.values == 1:
        return found
    present, rank = np.unique(values, return_inverse=True)
    ids: NDArray[np.int32] = np.asarray(rank.reshape(values.shape) + int(present[0] > 0), np.int32)
    if found.not_judged:
        ids[values == found.not_judged] = 0
    return replace(found, ids=ids, pieces=_pieces_of_objects(ids))


def _pieces_of_objects(ids: NDArray[np.int32]) -> int:
    """Count the pieces of numbered objects, without specks: a few pixels, and a small part of the object."""
    pieces = measure.label(ids, connectivity=2)
    areas, of_object = np.bincount(pieces.ravel())[1:], np.bincount(ids.ravel())
    first = ndimage.maximum(ids, pieces, np.arange(1, len(areas) + 1)).astype(int) if len(areas) else np.empty(0, int)
    return int(((areas > SPECK) | (areas >= SPECK_SHARE * of_object[first])).sum())


def _ids_of_files(readings: Sequence[MaskReading]) -> NDArray[np.int32] | None:
    """Number objects over several files, each of which has one or numbers its own; None if a file has many."""
    ids = np.zeros(readings[0].cell.shape, np.int32)
    objects = pieces = 0
    for reading in readings:
        own = reading.cell.astype(np.int32) if reading.ids is None else reading.ids
        pieces += reading.pieces or _pieces_of_objects(reading.cell.astype(np.int32))
        ids = np.where(own > 0, own + objects, ids)
        objects = int(max(ids.max(), objects))
    return ids if pieces <= PIECES_OF_OBJECT * objects else None


def _values_present(values: Values) -> Values:
    """Return the values above 0, ascending."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=1)[1:]) + 1
    return np.unique(values[values > 0])


def _meaning(values: Values, present: Values) -> str:
    """Return whether values are labels, labels with soft edges, or grey.

    A label lies in one piece or two, or fills squares of its own; shades of noise and of smooth edges are scattered,
    and each differs little from the next.
    """
    if present.size == 1:
        return LABELS
    if _are_apart(values) and not _has_specks(values > 0):  # nothing changes gradually, however thin the cells are
        return LABELS
    if values.dtype.kind == "f":  # exact steps: arithmetic leaves values apart that were one
        values = np.round(values / (present[-1] / 65535)).astype(np.int32)
        present = _values_present(values)
    cells, brightest = values > 0, present[-1]
    white = brightest >= WHITE and (values >= 0.9 * brightest).sum() > 0.5 * cells.sum()
    solid = _values_present(values[1:-1, 1:-1][_squares(values)])
    if _fades(values):
        noisy = (values >= 0.9 * brightest).sum() > 0.2 * cells.sum() and _is_specked(_half_of_each_label(values))
        return RESIZED if not white and not noisy and _of_several_levels(values, solid) else GREY
    flat = solid.size / present.size >= SOLID_SHARE
    if flat and (present.size <= FEW or not (white or _is_shaded(values, present))):
        return LABELS
    if flat and white and np.diff(present).min() >= GAP:
        return LABELS
    number = np.searchsorted(present, values) + 1
    if np.maximum(_pieces(np.where(cells, number, 0))[1:], 1).mean() > PIECES:
        return GREY
    across, down = values[:, 1:] != values[:, :-1], values[1:] != values[:-1]
    mixed = (across & cells[:, 1:] & cells[:, :-1]).sum() + (down & cells[1:] & cells[:-1]).sum()
    return LABELS if flat or (not white and mixed <= 0.5 * cells.sum()) else GREY


def _are_apart(values: Values) -> bool:
    """Tell whether no two pixels above 0 that touch, by side or corner, have different values."""
    pairs = (
        (values[:, 1:], values[:, :-1]),
        (values[1:], values[:-1]),
        (values[1:, 1:], values[:-1, :-1]),
        (values[1:, :-1], values[:-1, 1:]),
    )
    return not any(((one != other) & (one > 0) & (other > 0)).any() for one, other in pairs)


def _squares(values: Values) -> NDArray[np.bool_]:
    """Return where the 3x3 pixels around hold one value, shape (H - 2, W - 2)."""
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    triples = across[:, 1:] & across[:, :-1]
    return triples[1:-1] & triples[:-2] & triples[2:] & down[:-1, 1:-1] & down[1:, 1:-1]


def _fades(values: Values) -> bool:
    """Tell whether the outlines of what is above 0 are soft: their pixels have no square of their own value."""
    soft, sharp = _soft_outlines(values)
    return bool(soft.sum() > SOFT_SHARE * (soft | sharp).sum())


def _soft_outlines(values: Values) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the outline pixels without a square of their own value but with a larger value beside, and those with."""
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    squares = across[1:] & across[:-1] & down[:, 1:]
    own = np.zeros(values.shape, bool)
    for part in (own[:-1, :-1], own[1:, :-1], own[:-1, 1:], own[1:, 1:]):
        part |= squares
    cells = values > 0
    outline = cells & ~ndimage.binary_erosion(cells, border_value=1)
    soft = outline & ~own & (values < ndimage.maximum_filter(values, 3))  # what is thin has nothing larger beside it
    return soft, outline & own


def _with_rims_joined(values: Values) -> Values | None:
    """Give rims one pixel wide the value of the label that they surround; None if outlines are no such rims.

    All pixels of a rim have one value. Where a label was resized, those of its outline have several.
    """
    soft, sharp = _soft_outlines(values)
    if soft.sum() <= SOFT_SHARE * (soft | sharp).sum():
        return None
    around = ndimage.maximum_filter(values, 3)
    inside = np.unique(around[soft])
    if len(np.unique(np.stack([values[soft], around[soft]]), axis=1).T) != len(inside) or not inside.size:
        return None
    rims = np.unique(values[soft])
    number = np.searchsorted(rims, values).clip(0, len(rims) - 1)
    own = rims[number] == values
    below = np.bincount(number[own], weights=(values < around)[own], minlength=len(rims))
    rim = own & (below > THIN_SHARE * np.bincount(number[own], minlength=len(rims)))[number]  # also between cells
    inner = (values > 0) & ~rim
    if not inner.any():
        return None
    # corners of a rim touch nothing inside by their side
    rows, columns = ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True)
    return np.where(rim, values[rows, columns], np.where(soft, around, values))


def _of_several_levels(values: Values, solid: Values) -> bool:
    """Tell several labels from one whose edges are soft: there are flat areas, or whole regions, of half its value."""
    brightest = values.max()
    if ((solid > 0.1 * brightest) & (solid < 0.9 * brightest)).any():
        return True
    regions, count = ndimage.label(values > 0, np.ones((3, 3)))
    flat = np.zeros(values.shape, bool)
    flat[1:-1, 1:-1] = _squares(values)
    numbers = np.arange(1, count + 1)
    largest, flats = ndimage.maximum(values, regions, numbers), ndimage.maximum(values * flat, regions, numbers)
    return bool(((largest < 0.5 * brightest) & (flats == largest)).any())


def _has_specks(cell: NDArray[np.bool_]) -> bool:
    """Tell whether a region is so small that it may be noise."""
    regions, _ = ndimage.label(cell, np.ones((3, 3)))
    return bool((np.bincount(regions.ravel())[1:] <= SPECK).any())


def _is_specked(cell: NDArray[np.bool_]) -> bool:
    """Tell whether a mask is noise: it has more specks than cells."""
    regions, count = ndimage.label(cell, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    return bool((sizes <= SPECK).sum() > (sizes > SPECK).sum())


def _is_shaded(values: Values, present: Values) -> bool:
    """Tell whether most steps from one value to the next are small, as in a smooth picture."""
    least = max(1.0, float(present[-1]) * SMALLEST_STEP)
    wide = values.astype(np.int64)
    steps = np.concatenate([np.abs(np.diff(wide, axis=axis)).ravel() for axis in (0, 1)])
    steps = steps[steps > 0]
    return bool((steps <= least).mean() > 0.5)


def _half_of_each_label(values: Values) -> NDArray[np.bool_]:
    """Return cell where a pixel has at least half the value of its label.

    Its label is the flat label next to it or, if none is near, the largest value around.
    """
    flat = np.zeros(values.shape, bool)
    flat[1:-1, 1:-1] = _squares(values)
    flat &= values > 0
    distance, (rows, columns) = ndimage.distance_transform_edt(~flat, return_indices=True)
    around = ndimage.maximum_filter(values, 2 * REACH - 1)
    label = np.where(distance <= REACH, values[rows, columns], around)
    return (values > 0) & (2.0 * values >= label)


def _far_from_cells(values: Values, cell: NDArray[np.bool_], faint: NDArray[np.bool_], limit: float) -> int:
    """Return how many faint pixels cannot be noise around a cell."""
    lowest = NOISE * (1 if values.dtype == np.uint8 else limit / 20)
    if not (clear := faint & (values > lowest)).any():
        return 0
    near = ndimage.binary_dilation(cell, np.ones((3, 3), bool), iterations=NOISE_REACH)
    return int((clear & ~near).sum())


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
