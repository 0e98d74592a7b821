"""From files as people keep them to clean pixels: an RGB image and a mask that is cell or not."""

import hashlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cellseg.errors import InputError

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})


def read_image(source: Path | Image.Image) -> Image.Image:
    """Return the picture in a file, or one already opened, as RGB and turned upright.

    Raises:
        InputError: If the file cannot be decoded, holds several pictures, or has more than 8 bits a channel.
    """
    return _decode(source).convert("RGB")


def read_mask(path: Path, threshold: int) -> NDArray[np.bool_]:
    """Return where a label file says cell, shape (H, W).

    Every pixel brighter than ``threshold`` is cell: grey overlaps count, JPEG noise around outlines does not. A
    coloured mask counts by its brightest channel, so that no label colour is too dark to be seen.

    Args:
        path: The label file, 0 for background.
        threshold: In 0..254, on the scale of 8-bit files.

    Raises:
        InputError: As for ``read_image``; also if the file has labels but none above the threshold.
    """
    picture = _decode(path)
    values = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA", "La") else "RGB"))
    if values.ndim == 3:
        values = values.max(axis=2)
    brightest = int(values.max())
    if 0 < brightest <= threshold:
        raise InputError(
            f"{path}: the brightest value is {brightest}, so no pixel is above data.mask_threshold={threshold}; "
            "if these are labels such as 0 and 1, save them as 0 and 255 or set data.mask_threshold=0"
        )
    return values > threshold


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


def _decode(source: Path | Image.Image) -> Image.Image:
    try:
        with Image.open(source) if isinstance(source, Path) else nullcontext(source) as picture:
            frames, mode = getattr(picture, "n_frames", 1), picture.mode
            if frames == 1 and mode in EIGHT_BIT_MODES:
                return ImageOps.exif_transpose(picture)
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow raises
        raise InputError(
            f"{source}: cannot be read as an image ({error}); export it again or remove the pair"
        ) from error
    if frames > 1:
        raise InputError(f"{source}: holds {frames} pictures; save the one to use as a file of its own")
    raise InputError(f"{source}: has pixels of kind {mode}, which is not 8 bits a channel; save it as an 8-bit file")
