"""One pair read, cleaned and measured: everything any later question about it needs, without opening it again."""

import math
import shlex
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from cellseg.data.decoded import Pixels
from cellseg.data.images import MOST_SHOWN, ImageReading, as_rgb, content_hash, is_grey, read_image
from cellseg.data.kinship import Likeness, measure_likeness
from cellseg.data.masks import GREY, MaskReading, count_survivors, read_mask
from cellseg.data.pairs import Pair
from cellseg.storage.errors import InputError

MEASURED = 2**22  # pixels of a large image that its brightness is taken from


@dataclass(frozen=True)
class Reading:
    """How files become pixels; the same for all images of a run.

    Attributes:
        mask_threshold: As for ``read_mask``.
        channels: As for ``read_image``.
        image_size: Side in pixels to which a run resizes; None where nothing is resized.
    """

    mask_threshold: int = 20
    channels: tuple[int, ...] | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image.

    Attributes:
        width, height: Size in pixels, upright.
        image_kind: How its file holds pixels, in words.
        turned: Whether an orientation tag was obeyed.
        stretched: Whether an image of more than 8 bits was brought to 8.
        truncated_depth: Whether only the upper 8 bits of a colour image of 16 are used.
        channels: How many channels the file has, where they are not grey or RGB; otherwise 0.
        coloured: Whether the first three of them are RGB.
        chosen: Which channels the user chose, as text; empty where the usual ones are used.
        white_is_zero: As ``Decoded.white_is_zero``.
        brightness: Mean of the image, 0 to 255.
        colourfulness: Mean difference between a pixel's largest and smallest channel, 0 to 255.
    """

    width: int
    height: int
    image_kind: str
    turned: bool
    stretched: bool
    truncated_depth: bool
    channels: int
    coloured: bool
    chosen: str
    white_is_zero: str
    brightness: float
    colourfulness: float


@dataclass(frozen=True)
class PairFacts(ImageFacts):
    """What is known of a pair; shares are fractions of pixels.

    Attributes:
        sha256: Content hash of all cleaned channels of the image at full size.
        mask_sha256: Content hash of the mask at full size.
        mask_file_kind: How the mask files hold pixels, in words.
        mask_turned: Whether an orientation tag was obeyed in them.
        mask_white_is_zero: As ``Decoded.white_is_zero``.
        mask_kind: As ``MaskReading.kind``.
        mask_values: How many values above 0 the mask files hold, at most in one.
        mask_smallest, mask_second, mask_brightest: The smallest value above 0, the second largest, and the largest.
        not_judged, by_index, inverted: As ``MaskReading``.
        grey: Share of the cell pixels that are grey in the file.
        faint: Share of all pixels that were above 0 and became background.
        faint_areas: Share of all pixels that did so far from any cell.
        cells: Share of all pixels that are cell.
        border: Share of the pixels along the four sides that are cell.
        resized_to: Side in pixels to which a run resizes; 0 where nothing is resized.
        objects, kept: How many objects the mask has at full size, and how many have a pixel left when it is resized.
        specks: How many objects have at most three pixels.
        keeps_all_at: Side in pixels at which all of them have one.
    """

    sha256: str
    mask_sha256: str
    mask_file_kind: str
    mask_turned: bool
    mask_white_is_zero: str
    mask_kind: str
    mask_values: int
    mask_smallest: float
    mask_second: float
    mask_brightest: float
    not_judged: int
    by_index: bool
    inverted: bool
    grey: float
    faint: float
    faint_areas: float
    cells: float
    border: float
    resized_to: int
    objects: int
    kept: int
    specks: int
    keeps_all_at: int

    @property
    def vanishes(self) -> bool:
        """Whether resizing takes away all its cells."""
        return self.objects > 0 and self.kept == 0


@dataclass(frozen=True)
class CleanPair:
    """A pair as training sees it before resizing: pixels (H, W, C), mask (H, W), what is known, what it looks like."""

    pixels: Pixels
    mask: NDArray[np.bool_]
    facts: PairFacts
    likeness: Likeness


def inspect_pair(pair: Pair, how: Reading) -> CleanPair:
    """Read, clean and measure one pair.

    Raises:
        InputError: If a file cannot be used, or a mask and its image differ in size; the message names the file.
    """
    image, reading = read_image(pair.image, how.channels), read_mask(pair.masks, how.mask_threshold)
    mask = reading.cell
    if mask.shape != image.pixels.shape[:2]:
        raise InputError(_unequal(pair, image, reading))
    sides = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    survival = count_survivors(mask, how.image_size, noisy=reading.kind == GREY)
    facts = PairFacts(
        **vars(inspect_image(image, how)),
        sha256=content_hash(image.whole),
        mask_sha256=content_hash(mask),
        mask_file_kind=reading.decoded.kind,
        mask_turned=reading.turned,
        mask_white_is_zero=reading.white_is_zero,
        mask_kind=reading.kind,
        mask_values=reading.values,
        mask_smallest=reading.smallest,
        mask_second=reading.second,
        mask_brightest=reading.brightest,
        not_judged=reading.not_judged,
        by_index=reading.by_index,
        inverted=reading.inverted,
        grey=reading.grey_pixels / max(int(mask.sum()), 1),
        faint=reading.faint_pixels / mask.size,
        faint_areas=reading.faint_areas / mask.size,
        cells=float(mask.mean()),
        border=float(sides.mean()),
        resized_to=how.image_size or 0,
        objects=survival.objects,
        kept=survival.kept,
        specks=survival.specks,
        keeps_all_at=survival.side,
    )
    return CleanPair(image.pixels, mask, facts, measure_likeness(as_rgb(image.whole)))


def inspect_image(image: ImageReading, how: Reading) -> ImageFacts:
    """Measure an image that was read."""
    height, width, _ = image.whole.shape
    step = max(1, math.isqrt(width * height // MEASURED))
    some = image.whole[::step, ::step]
    separate = image.decoded.channels and not image.decoded.coloured
    shown = 1 if is_grey(image.whole) else image.whole.shape[2] if separate else MOST_SHOWN
    channels = [some[..., channel] for channel in range(shown)]
    colours = channels[:1] if separate else channels
    return ImageFacts(
        width=width,
        height=height,
        image_kind=image.decoded.kind,
        turned=image.decoded.turned,
        stretched=image.stretched,
        truncated_depth=image.truncated,
        channels=image.decoded.channels,
        coloured=image.decoded.coloured,
        chosen=", ".join(map(str, how.channels or ())),
        white_is_zero=image.decoded.white_is_zero,
        brightness=float(np.mean([channel.mean() for channel in channels])),
        # channel by channel: numpy takes twenty times as long along an axis of three
        colourfulness=float((reduce(np.maximum, colours) - reduce(np.minimum, colours)).mean()),
    )


def _unequal(pair: Pair, image: ImageReading, mask: MaskReading) -> str:
    """Say that an image and its mask differ in size, and how the orientation tag of a camera came to it."""
    sizes = mask.decoded.size, image.decoded.size
    said = f"{pair.masks[0]}: the mask is {sizes[0]} pixels, but its image {pair.image.name} is {sizes[1]}"
    swapped = mask.cell.shape == image.pixels.shape[1::-1]
    if not swapped or image.decoded.turned == mask.decoded.turned:
        return f"{said}; export both at the same size"
    turned = pair.image if image.decoded.turned else pair.masks[0]
    return (
        f"{said} once the camera's orientation tag (EXIF Orientation) in {turned.name} is obeyed, which the other file "
        f"lacks; take the tag away, as exiftool -Orientation= {shlex.quote(str(turned))} does"
    )
