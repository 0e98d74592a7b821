"""Convert image files to clean pixels: upright, 8 bits for each channel, RGB unless channels are chosen."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cellseg.data.decoded import Decoded, Pixels, Values
from cellseg.data.tiff import MAGIC, OtherColoursError, decode_tiff
from cellseg.storage.errors import InputError
from cellseg.storage.files import require_bounded

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I", "F"})
LOSSY_FORMATS = frozenset({"JPEG", "MPO"})
ORIENTATION = 0x0112  # EXIF tag of cameras
STRETCH = (0.1, 99.9)  # percentiles that become black and white in images of more than 8 bits
SMALLEST_RANGE = 256  # levels: a smaller range is not stretched to black and white, so that blank images stay blank
WEBP_CHUNKS = 2**12  # bytes at the start of a WebP file that contain the name of its pixel chunk
MOST_PLANES = 16  # more channels than this are rather the width of an array (C, H, W)
MOST_SHOWN = 3  # channels that red, green and blue can show

Source = Path | Image.Image | NDArray[np.generic]


@dataclass(frozen=True)
class ImageReading:
    """An image as a network sees it, and how its file stored it.

    Attributes:
        pixels: Shape (H, W, C): RGB, or the chosen channels.
        whole: Shape (H, W, N), all channels of the file; grey as RGB.
        decoded: The content of the file.
        stretched: Whether values of more than 8 bits were scaled to 8 bits between their percentiles.
        truncated: Whether only the upper 8 bits of deeper RGB values are used.
    """

    pixels: Pixels
    whole: Pixels
    decoded: Decoded
    stretched: bool
    truncated: bool

    @property
    def picture(self) -> Image.Image:
        """The image as RGB, for display."""
        return as_rgb(self.pixels)


def read_image(source: Source, channels: Sequence[int] | None = None) -> ImageReading:
    """Read an image from a file, an open PIL image, or an array (H, W) or (H, W, C).

    Grey images of more than 8 bits are scaled so that the 0.1 and 99.9 percentiles of each image become black and
    white: cameras of 10, 12 or 14 bits leave most of the range of a 16-bit file unused. In a multichannel image, each
    channel is scaled in the same way.

    Args:
        source: The image.
        channels: Channels of the file to use, counted from 0, in this order; by default RGB, grey as RGB, and two or
            three channels of a microscope as red, green and blue.

    Raises:
        InputError: If the file cannot be decoded, contains several images, lacks a channel, or has more than three
            channels and none were chosen.
    """
    decoded = decode(source, stacked=channels is not None)
    values = decoded.values
    if decoded.alpha:
        values = values[..., :-1]
    deep = values.dtype not in (np.uint8, np.bool_)
    if decoded.palette is not None:
        values, deep = decoded.palette[:, :3][_within(values[..., 0], len(decoded.palette), source)], False
    elif values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    elif decoded.bits < 8:
        values = (values * (255 / (2**decoded.bits - 1))).round().astype(np.uint8)
    coloured = values.shape[2] == 3 and not decoded.channels
    if deep:
        values = _upper_bits(values, decoded.bits, source) if coloured else _stretched(values, source)
    grey = values.shape[2] == 1
    whole = np.broadcast_to(values, (*values.shape[:2], 3)) if grey else values
    chosen = _chosen(values, channels, decoded, source)
    return ImageReading(chosen, whole, decoded, deep and not coloured, decoded.truncated or (deep and coloured))


def as_rgb(pixels: Pixels) -> Image.Image:
    """Return pixels (H, W, C) as an RGB image: one channel as grey, two or three as red, green and blue."""
    if is_grey(pixels) or pixels.shape[2] == 1:
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0])).convert("RGB")
    if pixels.shape[2] == 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=2)
    return Image.fromarray(np.ascontiguousarray(pixels[..., :MOST_SHOWN]))


def resize_image(pixels: Pixels, size: int) -> Pixels:
    """Resize pixels (H, W, C) to (C, size, size), bilinear with antialiasing."""
    return np.ascontiguousarray(resize_to(pixels, (size, size)).transpose(2, 0, 1))


def resize_to(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize pixels (H, W, C) to a width and height, bilinear with antialiasing."""
    grey = is_grey(pixels)
    if pixels.shape[2] == 3 and not grey:
        return _resized(pixels, size)
    channels = [_resized(pixels[..., channel], size) for channel in range(1 if grey else pixels.shape[2])]
    return np.stack(channels * 3 if grey else channels, axis=-1)


def is_grey(pixels: Pixels) -> bool:
    """Tell whether the three channels are one grey channel, repeated without a copy."""
    return pixels.shape[2] == MOST_SHOWN and pixels.strides[2] == 0


def _resized(part: Pixels, size: tuple[int, int]) -> Pixels:
    picture = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def content_hash(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """Return the SHA-256 of decoded pixels and shape; it does not depend on file name, folder or lossless format."""
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def decode(source: Source, *, stacked: bool = False) -> Decoded:
    """Decode a file, an open PIL image, or an array, without scaling its values.

    Args:
        source: The image.
        stacked: As for ``decode_tiff``.

    Raises:
        InputError: As ``read_image``.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if not isinstance(source, Path | Image.Image):
        raise InputError(
            "an image must be a file, an image of PIL, or an array (H, W) or (H, W, C), not a "
            f"{type(source).__name__}; for a tensor (C, H, W) in [0, 1]: (255 * tensor).byte().permute(1, 2, 0).numpy()"
        )
    try:
        if isinstance(source, Path):
            require_bounded(source, "a picture")
            with source.open("rb") as file:
                is_tiff = file.read(4).startswith(MAGIC)
            if is_tiff:
                try:
                    return decode_tiff(source, 2 * (Image.MAX_IMAGE_PIXELS or 2**62), stacked=stacked)
                except OtherColoursError:
                    pass  # Pillow's libtiff decodes them
        return _decode_by_pillow(source)
    except FileNotFoundError as error:
        setting = re.match(r"\w[\w.]*=", str(source))
        advice = "this command takes no settings such as KEY=VALUE" if setting else "check the path"
        if isinstance(source, Path) and source.is_symlink():
            advice = f"it is a link to {source.readlink()}: bring the file there, or delete the link"
        raise InputError(f"{source} does not exist; {advice}") from error
    except InputError:
        raise
    except Exception as error:  # on a damaged file decoders may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{source}: cannot be read as an image ({reason}); export it again or remove it") from error


def _decode_by_pillow(source: Path | Image.Image) -> Decoded:
    with Image.open(source) if isinstance(source, Path) else nullcontext(source) as picture:
        mode = picture.mode
        if picture.format != "MPO" and _has_second(picture):  # a camera's JPEG also contains previews
            raise InputError(f"{source}: contains several images; save the one to use in a separate file")
        if mode not in EIGHT_BIT_MODES | DEEP_MODES:
            raise InputError(f"{source}: has pixels of kind {mode}; save it as an RGB or grey file")
        lossy = "yes" if picture.format in LOSSY_FORMATS or _is_lossy_webp(picture, source) else ""
        truncated = re.search(";16[BLN]", str(getattr(picture, "tile", ""))) is not None and mode not in DEEP_MODES
        turned = picture.getexif().get(ORIENTATION, 1) != 1
        picture.load()
        # only if it must be rotated: a copy of a large image doubles the memory
        upright = ImageOps.exif_transpose(picture) if turned else picture
        palette = None
        if mode == "P":
            upright.apply_transparency()
            palette = np.array(upright.getpalette("RGBA"), np.uint8).reshape(-1, 4)
        elif mode in ("PA", "La", "RGBa"):
            upright = upright.convert("LA" if mode == "La" else "RGBA")
        elif mode in ("RGBX", "CMYK", "YCbCr"):
            upright = upright.convert("RGB")
        values = np.asarray(upright)
    if not values.size:
        raise InputError(f"{source}: has no pixels; export it again or remove it")
    values = values if values.ndim == 3 else values[..., None]
    bits = 1 if mode == "1" else values.dtype.itemsize * 8
    return Decoded(values, palette, values.shape[2] in (2, 4), bits, turned=turned, lossy=lossy, truncated=truncated)


def _of_array(values: Values) -> Decoded:
    if values.ndim not in (2, 3) or not values.size or values.dtype.kind not in "buif":
        raise InputError(f"an image must be an array (H, W) or (H, W, C) of numbers, not {values.shape} {values.dtype}")
    if values.ndim == 3 and values.shape[0] in (1, 3, 4) and values.shape[2] > MOST_PLANES:
        raise InputError(
            f"an image must be an array (H, W, C), but its shape is {values.shape}; if channels come first, pass "
            "array.transpose(1, 2, 0)"
        )
    values = values if values.ndim == 3 else values[..., None]
    count, bits = values.shape[2], 1 if values.dtype == bool else values.dtype.itemsize * 8
    return Decoded(values, alpha=count == 4, bits=bits, channels=count if count == 2 or count > 4 else 0)


def _is_lossy_webp(picture: Image.Image, source: Path | Image.Image) -> bool:
    if picture.format != "WEBP" or not isinstance(source, Path):
        return False
    with source.open("rb") as file:
        return b"VP8 " in file.read(WEBP_CHUNKS)  # a lossless file has VP8L


def _has_second(picture: Image.Image) -> bool:
    """Tell whether a file contains more than one image, without counting all."""
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _chosen(whole: Pixels, channels: Sequence[int] | None, decoded: Decoded, source: Source) -> Pixels:
    """Return the channels that the network sees."""
    count = whole.shape[2]
    if channels is not None:
        if absent := [channel for channel in channels if channel >= count]:
            raise InputError(
                f"{_named(source)}: has no channel {absent[0]}: it has {count}, counted from 0; "
                "set data.channels to channels that all images have"
            )
        return whole if list(channels) == list(range(count)) else np.ascontiguousarray(whole[..., list(channels)])
    if count == 1:
        return np.broadcast_to(whole, (*whole.shape[:2], 3))
    if count == 2:
        return np.concatenate([whole, np.zeros_like(whole[..., :1])], axis=2)
    if count > 3 and not decoded.coloured:
        raise InputError(
            f"{_named(source)}: has {count} channels; choose which to use, counted from 0: "
            "data.channels=[0,1] (in cellseg check: --channels 0,1)"
        )
    return whole[..., :3]


def _upper_bits(values: Values, bits: int, source: Source) -> Pixels:
    if values.dtype.kind != "u" or not 8 <= bits <= 16:
        remedy = "save it as RGB with 8 or 16 bits"
        if isinstance(source, np.ndarray):
            remedy = "pass uint8; for values in [0, 1]: (255 * array).astype(np.uint8)"
        raise InputError(f"{_named(source)}: has colour values of type {values.dtype}; {remedy}")
    return (values >> (bits - 8)).astype(np.uint8)


def _within(indices: Values, colours: int, source: Source) -> Values:
    if indices.max(initial=0) >= colours:
        raise InputError(
            f"{_named(source)}: a pixel has an index without a colour in the palette; export it again or remove it"
        )
    return indices


def _stretched(values: Values, source: Source) -> Pixels:
    return np.stack([_stretch(values[..., channel], source) for channel in range(values.shape[2])], axis=2)


def _stretch(values: Values, source: Source) -> Pixels:
    least = 1e-12 if values.dtype.kind == "f" else SMALLEST_RANGE
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{_named(source)}: contains NaN or infinite pixels; export it again or remove it")
    black, white = np.percentile(values, STRETCH)
    scaled = (values - black) / max(float(white - black), least)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _named(source: Source) -> str:
    return "the array" if isinstance(source, np.ndarray) else str(source)
