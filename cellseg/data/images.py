"""From image files as people keep them to clean pixels: RGB, upright, 8 bits."""

import hashlib
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cellseg.storage.errors import InputError
from cellseg.storage.files import require_bounded

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I", "F"})
LOSSY_FORMATS = frozenset({"JPEG", "MPO"})
ORIENTATION = 0x0112  # of the camera, in EXIF
PHOTOMETRIC = 262  # in TIFF; 0 where white is
STRETCH = (0.1, 99.9)  # percentiles that become black and white in images of more than 8 bits
SMALLEST_RANGE = 256  # levels of an image of more than 8 bits that become black to white at least: a blank stays blank


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
    decoded = decode(source)
    picture, mode = decoded.picture, decoded.picture.mode
    if mode in DEEP_MODES:
        picture = _stretch(picture, source)
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    return ImageReading(rgb, mode, decoded.turned, decoded.deep and mode not in DEEP_MODES)


def resize_image(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return an RGB image as (3, size, size), bilinear with antialiasing."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy()


def content_hash(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """Return the SHA-256 of decoded pixels and their shape: the same under any name, folder or lossless format."""
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Decoded:
    """A picture as its file holds it, upright: whether it was turned, is lossy, has more than 8 bits a channel."""

    picture: Image.Image
    turned: bool
    lossy: bool
    deep: bool  # more than 8 bits a channel in the file


def decode(source: Path | Image.Image) -> Decoded:
    """Decode a file, or a picture that is open already.

    Raises:
        InputError: As ``read_image``.
    """
    try:
        if isinstance(source, Path):
            require_bounded(source, "a picture")
        with Image.open(source) if isinstance(source, Path) else nullcontext(source) as picture:
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
                return Decoded(upright, turned, lossy, deep)
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist") from error
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders let almost any through on a damaged file
        raise InputError(f"{source}: cannot be read as an image ({error}); export it again or leave it out") from error
    if not single:
        raise InputError(f"{source}: holds several pictures; save the one to use as a file of its own")
    raise InputError(f"{source}: has pixels of kind {mode}; save it as an RGB or grey file")


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
