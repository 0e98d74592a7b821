"""From files as people keep them to clean pixels: an RGB image and a mask that is cell or not."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cellseg.errors import InputError
from cellseg.files import require_plain

Values = NDArray[Any]  # uint8, uint16, int32 or float32, as the file has it

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I", "F"})
LOSSY_FORMATS = frozenset({"JPEG", "MPO"})
ORIENTATION = 0x0112  # of the camera, in EXIF
PHOTOMETRIC = 262  # in TIFF; 0 where white is
LARGE = 2**25  # pixels; those of 16 bits take 30 bytes of memory each while they are stretched
EMPTIEST = 10_000  # pixels a byte; the blankest PNG of 1 bit a pixel has 8,256
STRETCH = (0.1, 99.9)  # percentiles that become black and white in images of more than 8 bits
SMALLEST_RANGE = 256  # levels of an image of more than 8 bits that become black to white at least: a blank stays blank
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


@dataclass(frozen=True)
class ImageReading:
    """A picture as RGB and upright, and how its file held it: Pillow's mode, whether it was turned, lower bits lost."""

    picture: Image.Image
    mode: str
    turned: bool
    truncated_depth: bool


def read_image(source: Path | Image.Image) -> ImageReading:
    """Read a picture in a file, or one already opened.

    Grey images of more than 8 bits are stretched, each by itself, so that the 0.1 and 99.9 percentiles of its pixels
    become black and white: cameras of 10, 12 or 14 bits leave most of a 16-bit file's range unused.

    Raises:
        InputError: If the file cannot be decoded or holds several pictures.
    """
    decoded = _decode(source)
    picture, mode = decoded.picture, decoded.picture.mode
    if mode in DEEP_MODES:
        picture = _stretch(picture, source)
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    return ImageReading(rgb, mode, decoded.turned, decoded.deep and mode not in DEEP_MODES)


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


def resize_image(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return an RGB image as (3, size, size), bilinear with antialiasing."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy()


def resize_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """Return a mask as (1, size, size) of 0 and 1, each the nearest pixel."""
    picture = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(picture)[None].copy()


def content_hash(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """Return the SHA-256 of decoded pixels and their shape: the same under any name, folder or lossless format."""
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def _read_mask(path: Path, threshold: int) -> MaskReading:
    decoded = _decode(path)
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


@dataclass(frozen=True)
class _Decoded:
    picture: Image.Image
    turned: bool
    lossy: bool
    deep: bool  # more than 8 bits a channel in the file


def _decode(source: Path | Image.Image) -> _Decoded:
    try:
        if isinstance(source, Path):
            require_plain(source, "a picture")
        with Image.open(source) if isinstance(source, Path) else nullcontext(source) as picture:
            if isinstance(source, Path):
                _refuse_bomb(source, picture)
            mode = picture.mode
            single = picture.format == "MPO" or not _has_second(picture)  # a camera's JPEG holds previews too
            if mode in DEEP_MODES and getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == 0:
                raise InputError(f"{source}: stores white as 0, which is read for 8 bits only; save it as usual")
            if single and mode in EIGHT_BIT_MODES | DEEP_MODES:
                lossy = picture.format in LOSSY_FORMATS
                deep = re.search(";16[BLN]", str(getattr(picture, "tile", ""))) is not None  # how the file packs pixels
                turned = picture.getexif().get(ORIENTATION, 1) != 1
                picture.load()
                # only where it must be turned: a copy of a large picture takes as much memory again
                upright = ImageOps.exif_transpose(picture) if turned else picture
                return _Decoded(upright, turned, lossy, deep)
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist") from error
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders let almost any through on a damaged file
        raise InputError(f"{source}: cannot be read as an image ({error}); export it again or leave it out") from error
    if not single:
        raise InputError(f"{source}: holds several pictures; save the one to use as a file of its own")
    raise InputError(f"{source}: has pixels of kind {mode}; save it as an RGB or grey file")


def _refuse_bomb(path: Path, picture: Image.Image) -> None:
    """Refuse a picture that would take gigabytes and has next to nothing in its file; Pillow's limit is far higher."""
    pixels, size = picture.width * picture.height, path.stat().st_size
    if pixels > LARGE and pixels > EMPTIEST * size:
        raise InputError(
            f"{path}: is {picture.width}x{picture.height} pixels in {size} bytes, as no picture is; leave it out"
        )


def _has_second(picture: Image.Image) -> bool:
    """Tell whether a file holds more than one picture, without counting thousands."""
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _stretch(picture: Image.Image, source: Path | Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{source}: holds pixels that are not numbers; export it again or leave it out")
    black, white = np.percentile(values, STRETCH)
    least = 1e-12 if picture.mode == "F" else SMALLEST_RANGE
    scaled = (values - black) / max(float(white - black), least)
    return Image.fromarray(np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8))


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
