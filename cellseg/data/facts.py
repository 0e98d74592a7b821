"""One pair read, cleaned and measured: everything any later question about it needs, without opening it again."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellseg.data.images import DEEP_MODES, content_hash, read_image
from cellseg.data.kinship import Likeness, measure_likeness
from cellseg.data.masks import read_mask
from cellseg.data.pairs import Pair
from cellseg.storage.errors import InputError


@dataclass(frozen=True)
class PairFacts:
    """What is known of a pair; shares are fractions of pixels.

    Attributes:
        sha256, mask_sha256: Content hashes of the cleaned pixels at full size.
        width, height: Size in pixels, upright.
        image_mode, mask_mode: How the files hold pixels, in Pillow's names.
        turned, mask_turned: Whether a camera's orientation tag was obeyed.
        stretched: Whether an image of more than 8 bits was brought to 8.
        truncated_depth: Whether only the upper 8 bits of a colour image of 16 are used.
        brightness: Mean of the image, 0 to 255.
        colourfulness: Mean difference between a pixel's largest and smallest channel, 0 to 255.
        mask_kind: As ``MaskReading.kind``.
        mask_values: How many values above 0 the mask files hold, at most in one.
        mask_brightest: The largest value in the mask files.
        grey: Share of the cell pixels that are grey in the file.
        faint: Share of all pixels that were above 0 and became background.
        cells: Share of all pixels that are cell.
        border: Share of the pixels along the four sides that are cell.
    """

    sha256: str
    mask_sha256: str
    width: int
    height: int
    image_mode: str
    mask_mode: str
    turned: bool
    mask_turned: bool
    stretched: bool
    truncated_depth: bool
    brightness: float
    colourfulness: float
    mask_kind: str
    mask_values: int
    mask_brightest: int
    grey: float
    faint: float
    cells: float
    border: float


@dataclass(frozen=True)
class CleanPair:
    """A pair as training sees it before resizing: RGB picture, mask (H, W), what is known, and whom it looks like."""

    picture: Image.Image
    mask: NDArray[np.bool_]
    facts: PairFacts
    likeness: Likeness


def inspect_pair(pair: Pair, threshold: int) -> CleanPair:
    """Read, clean and measure one pair.

    Raises:
        InputError: If a file cannot be used, or a mask and its image differ in size; the message names the file.
    """
    image, reading = read_image(pair.image), read_mask(pair.masks, threshold)
    picture, mask = image.picture, reading.cell
    if mask.shape != (picture.height, picture.width):
        raise InputError(
            f"{pair.masks[0]}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, but its image {pair.image.name} is "
            f"{picture.width}x{picture.height}; export both at the same size"
        )
    pixels = np.asarray(picture)
    sides = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    facts = PairFacts(
        sha256=content_hash(pixels),
        mask_sha256=content_hash(mask),
        width=picture.width,
        height=picture.height,
        image_mode=image.mode,
        mask_mode=reading.mode,
        turned=image.turned,
        mask_turned=reading.turned,
        stretched=image.mode in DEEP_MODES,
        truncated_depth=image.truncated_depth,
        brightness=float(pixels.mean()),
        colourfulness=float((pixels.max(axis=2) - pixels.min(axis=2)).mean()),
        mask_kind=reading.kind,
        mask_values=reading.values,
        mask_brightest=reading.brightest,
        grey=reading.grey_pixels / max(int(mask.sum()), 1),
        faint=reading.faint_pixels / mask.size,
        cells=float(mask.mean()),
        border=float(sides.mean()),
    )
    return CleanPair(picture, mask, facts, measure_likeness(picture))
