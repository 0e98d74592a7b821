"""Read TIFF files of microscopes and their programs with tifffile; follow their tags or refuse the file.

TIFF files differ: a tag says whether 0 is black or white, another how channels are stored, and OME, ImageJ and tifffile
each describe the axes of a stack in their own text. A file with unknown content is refused by an error that names it.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TiffFile, TiffPage, TiffPageSeries

from cellseg.data.decoded import Decoded, Values
from cellseg.storage.errors import InputError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
FAX = {COMPRESSION.CCITTRLE, COMPRESSION.CCITT_T4, COMPRESSION.CCITT_T6}
LOSSY = {COMPRESSION.OJPEG, COMPRESSION.JPEG}
MAYBE_LOSSY = {
    COMPRESSION.WEBP,
    COMPRESSION.JPEGXL,
    COMPRESSION.JPEGXL_DNG,
    COMPRESSION.JPEG2000,
    COMPRESSION.APERIO_JP2000_RGB,
    COMPRESSION.APERIO_JP2000_YCBC,
    COMPRESSION.JPEG_2000_LOSSY,
    COMPRESSION.LERC,
}
END_OF_JPEG, PADDING = b"\xff\xd9", 16  # bytes that may follow it
READ = {
    PHOTOMETRIC.MINISWHITE,
    PHOTOMETRIC.MINISBLACK,
    PHOTOMETRIC.RGB,
    PHOTOMETRIC.PALETTE,
    PHOTOMETRIC.YCBCR,
    PHOTOMETRIC.SEPARATED,
}
ONE_PICTURE = {"Y", "X", "S", "C"}  # axes: rows, columns, samples of a pixel, channels
UNNAMED = {"Q", "I"}  # axes without a meaning in the file
AXES = {"Z": "depth", "T": "time", "Q": "unnamed", "I": "unnamed", "C": "channel", "S": "sample", "R": "tile"}
TRUNCATED = "{}: cannot be read as an image (its pixels are truncated); export it again or remove it"
MOST_VALUES = 8  # maximum number of values, as a multiple of most_pixels

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its important warnings are errors here


class OtherColoursError(Exception):
    """Raised for a TIFF file whose colours Pillow decodes correctly and tifffile does not."""


def decode_tiff(path: Path, most_pixels: int, *, stacked: bool = False) -> Decoded:
    """Read a TIFF file that contains one image.

    Args:
        path: The file.
        most_pixels: Maximum number of pixels; a file with more is refused as damaged or hostile.
        stacked: Whether to read an axis without a name as channels, because the user chose channels.

    Raises:
        InputError: If the file does not contain exactly one image, or a tag has an unknown value.
        OtherColoursError: If its colours are not grey, RGB or a palette.
    """
    with path.open("rb") as file, TiffFile(file, _multifile=False) as tiff:
        series = _only(path, tiff)
        page = series.keyframe
        if page.photometric not in READ or (page.samplesperpixel > 1 and page.bitspersample == 1):
            raise InputError(
                f"{path}: has pixels of kind {_named(page.photometric)} (its tag PhotometricInterpretation), "
                f"{page.samplesperpixel} values of {page.bitspersample} bits each; save it as an RGB or grey file"
            )
        if page.photometric == PHOTOMETRIC.SEPARATED or (
            page.photometric == PHOTOMETRIC.YCBCR and page.compression not in LOSSY
        ):
            raise OtherColoursError
        if series.dtype.kind not in "buif":
            raise InputError(f"{path}: has pixels of kind {series.dtype}; save it as an RGB or grey file")
        kept = _kept(path, series, stacked=stacked)
        if page.imagewidth * page.imagelength > most_pixels or series.size > MOST_VALUES * most_pixels:
            pixels = page.imagewidth * page.imagelength
            raise InputError(
                f"{path}: cannot be read as an image ({pixels} pixels, which exceeds limit of {most_pixels}); "
                "cut it into smaller pictures"
            )
        _require_whole(path, series)
        values = _as_picture(series.asarray(level=0, maxworkers=1), series.get_axes(squeeze=False), series, kept)
        samples = page.samplesperpixel
        extras = [extra.value for extra in map(EXTRASAMPLE, page.extrasamples)]
        coloured = page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR)
        alpha = bool(extras) and extras[-1] in (1, 2) and samples == (4 if coloured else 2)
        plain = values.shape[2] == 1 or alpha or (coloured and values.shape[2] == 3)
        orientation = page.tags.valueof("Orientation", default=1)
        if page.photometric == PHOTOMETRIC.PALETTE:
            values = values.astype(np.uint16 if page.bitspersample > 8 else np.uint8)  # indices, also of 1 bit
        zero = _white_is_zero(tiff, page)
        if zero in ("shown", "unknown"):
            values = _inverted(path, values, page.bitspersample)
        return Decoded(
            values=_upright(values, orientation),
            palette=_palette(page) if page.photometric == PHOTOMETRIC.PALETTE else None,
            alpha=alpha,
            bits=page.bitspersample,
            channels=0 if plain else values.shape[2],
            coloured=coloured,
            turned=orientation in range(2, 9),
            lossy="yes" if page.compression in LOSSY else "maybe" if page.compression in MAYBE_LOSSY else "",
            white_is_zero=zero,
        )


def _only(path: Path, tiff: TiffFile) -> TiffPageSeries:
    """Return the only image of a file, ignoring its reduced copies and TIFF masks."""
    if len(tiff.pages) == 0:
        raise InputError(f"{path}: cannot be read as an image (it contains no page); export it again or remove it")
    ome = tiff.is_ome
    series = [one for one in tiff.series if not (one.keyframe.is_reduced or one.keyframe.is_mask)] or tiff.series
    if ome and series[0].kind != "ome":
        raise InputError(
            f"{path}: its OME-XML is damaged or refers to other files; save the image as one OME-TIFF file"
        )
    if len(series) > 1:
        shown = ", ".join(f"{one.name or one.kind} {_size_of(one)}" for one in series[:3])
        raise InputError(
            f"{path}: contains several images ({len(series)} series: {shown}{', ...' if len(series) > 3 else ''}); "
            "save the one to use in a separate file"
        )
    described = sum(len(one.pages) for one in tiff.series)
    if described < len(tiff.pages):
        raise InputError(
            f"{path}: contains several images ({len(tiff.pages)} pages, but its description lists {described}); "
            "save the one to use in a separate file"
        )
    if any(page is None for page in series[0].pages):
        raise InputError(f"{path}: some of its planes are missing; export it again as one complete file")
    return series[0]


def _size_of(series: TiffPageSeries) -> str:
    return "x".join(str(length) for length in series.shape)


def _kept(path: Path, series: TiffPageSeries, *, stacked: bool) -> str:
    """Return the axis of channels or samples, if one is longer than 1.

    Raises:
        InputError: If another axis is also longer than 1.
    """
    if not {"Y", "X"} <= set(series.get_axes(squeeze=False)) or not series.size:
        raise InputError(f"{path}: contains no image (axes {series.axes}, shape {series.shape}); export it again")
    long = {axis: length for axis, length in zip(series.axes, series.shape, strict=True) if length > 1}
    others = [axis for axis in long if axis not in ("Y", "X")]
    stack = [axis for axis in others if axis not in ONE_PICTURE and not (stacked and axis in UNNAMED)]
    if not stack and len(others) <= 1:
        return others[0] if others else ""
    seen = ", ".join(
        f"{length} along {axis} ({AXES.get(axis, 'other')})" for axis, length in long.items() if axis not in "YX"
    )
    if others and set(others) <= UNNAMED and len(others) == 1:
        some = ",".join(str(number) for number in range(min(3, long[others[0]])))
        remedy = f"if they are channels, set data.channels=[{some}]; otherwise save the one to use in a separate file"
    else:
        remedy = "save one image, a projection, or the channels of one image in a separate file"
    raise InputError(f"{path}: contains several images ({seen}, axes {series.axes}); {remedy}")


def _require_whole(path: Path, series: TiffPageSeries) -> None:
    """Refuse a truncated file: tifffile would fill the missing pixels with zeros."""
    size = path.stat().st_size
    if series.dataoffset is not None and series.dataoffset + series.nbytes > size:
        raise InputError(TRUNCATED.format(path))
    for page in series.pages:
        assert page is not None  # _only checked this
        keyframe = page.keyframe
        assert keyframe is not None
        missing = len(page.dataoffsets) < int(np.prod(keyframe.chunked)) or len(page.dataoffsets) != len(
            page.databytecounts
        )
        ends = (start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False))
        if missing or 0 in page.databytecounts or max(ends, default=0) > size:
            raise InputError(TRUNCATED.format(path))
        if keyframe.compression in LOSSY and not all(
            _ends_as_jpeg(series, start, length)
            for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
        ):
            raise InputError(TRUNCATED.format(path))


def _ends_as_jpeg(series: TiffPageSeries, start: int, length: int) -> bool:
    """Tell whether a JPEG strip or tile is complete: the decoder would fill in missing pixels."""
    assert series.parent is not None
    file = series.parent.filehandle
    count = min(length, PADDING)
    file.seek(start + length - count)
    return END_OF_JPEG in file.read(count)


def _as_picture(values: Values, axes: str, series: TiffPageSeries, kept: str) -> Values:
    """Return values as (H, W, C)."""
    shape = series.get_shape(squeeze=False)
    values = values.reshape(shape)
    order = [axes.index("Y"), axes.index("X"), *([axes.index(kept)] if kept else [])]
    rest = [number for number in range(len(axes)) if number not in order]
    picture = values.transpose(*order, *rest).reshape([shape[number] for number in order])
    return picture if kept else picture[..., None]


def _white_is_zero(tiff: TiffFile, page: TiffPage) -> str:
    """Return how to interpret a file whose tag says that 0 is white; see ``Decoded.white_is_zero``.

    ImageJ and tifffile use the tag only for display: both store the cells of a mask as 255 or true. In fax files
    the displayed image is meant, as in the standard.
    """
    if page.photometric != PHOTOMETRIC.MINISWHITE:
        return ""
    if tiff.is_imagej or tiff.is_shaped or tiff.is_ome or str(page.software).startswith(("tifffile", "ImageJ")):
        return "stored"
    return "shown" if page.compression in FAX else "unknown"


def _inverted(path: Path, values: Values, bits: int) -> Values:
    if values.dtype == bool:
        return ~values
    if values.dtype.kind != "u":
        raise InputError(
            f"{path}: its tag PhotometricInterpretation is 0 (white is zero), which has no meaning for "
            f"{values.dtype}; save it with 1 (black is zero)"
        )
    return (np.array(2**bits - 1, values.dtype) - values).astype(values.dtype)


def _palette(page: TiffPage) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    colours = np.asarray(page.colormap)
    colours = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    return np.dstack([*colours, np.full(colours.shape[1], 255, np.uint8)])[0]


def _upright(values: Values, orientation: int) -> Values:
    """Rotate or mirror an image by its tag Orientation."""
    turns = {3: 2, 6: 3, 8: 1}  # quarter turns to the left
    if orientation in turns:
        return np.rot90(values, turns[orientation])
    mirrored = {
        2: values[:, ::-1],
        4: values[::-1],
        5: values.transpose(1, 0, 2),
        7: values[::-1, ::-1].transpose(1, 0, 2),
    }
    return mirrored.get(orientation, values)


def _named(photometric: int) -> str:
    return f"{getattr(photometric, 'name', 'unknown')} {int(photometric)}"
