"""Read, clean and measure one pair, so that later steps need not open its files again."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellseg.data.decoded import Pixels
from cellseg.data.fit import mask_thumbnail, measure_fit
from cellseg.data.images import MOST_SHOWN, ImageReading, as_rgb, content_hash, is_grey, read_image
from cellseg.data.kinship import Likeness, measure_likeness
from cellseg.data.masks import GREY, IgnoreValue, MaskReading, count_survivors, read_mask
from cellseg.data.pairs import Pair
from cellseg.storage.errors import InputError

COLOURED_JPEG = ", colour JPEG"
COLOURED = 64  # difference of channels of a pixel that is not a grey with noise
MEASURED = 2**22  # a larger image is subsampled to about this many pixels to measure brightness


USUAL_SIZE = 224  # side in pixels to which training resizes by default


@dataclass(frozen=True)
class Reading:
    """How to read files; the same for all images of a run.

    Attributes:
        mask_threshold: As for ``read_mask``.
        channels: As for ``read_image``.
        image_size: Side in pixels to which a run resizes; None for no resizing.
        ignore_value: As for ``read_mask``.
    """

    mask_threshold: int = 20
    channels: tuple[int, ...] | None = None
    image_size: int | None = None
    ignore_value: IgnoreValue = None


def _is_coloured_jpeg(reading: MaskReading) -> bool:
    """Return whether most cells of a JPEG mask have colours, which JPEG stores at half the resolution."""
    pixels = reading.decoded.values
    if reading.decoded.lossy != "yes" or pixels.shape[2] - reading.decoded.alpha != 3 or not reading.cell.any():
        return False
    colour = np.ptp(pixels[..., :3], axis=2)[reading.cell] > COLOURED
    return bool(colour.mean() > 0.5)


def check_options(how: Reading) -> list[str]:
    """Return the options of ``cellseg check`` that read files in this way."""
    options = list[str]()
    if how.channels:
        options += ["--channels", ",".join(map(str, how.channels))]
    if how.mask_threshold != Reading.mask_threshold:
        options += ["--mask-threshold", str(how.mask_threshold)]
    if how.image_size not in (None, USUAL_SIZE):
        options += ["--image-size", str(how.image_size)]
    if how.ignore_value is not None:
        values = [how.ignore_value] if isinstance(how.ignore_value, int) else how.ignore_value
        options += ["--ignore-value", ",".join(map(str, values))]
    return options


def check_numbers(image_size: Any, batch_size: Any, mask_threshold: Any) -> None:
    """Check the numbers among the settings of a data set.

    Raises:
        InputError: If one is not a whole number or out of range.
    """
    for name, value, least, most in (
        ("image_size", image_size, 1, 2**16),
        ("batch_size", batch_size, 1, 2**16),
        ("mask_threshold", mask_threshold, 0, 254),
    ):
        if not isinstance(value, int) or not least <= value <= most:
            raise InputError(f"data.{name} must be a whole number from {least} to {most}, but is {value!r}")


def checked_ignore_value(value: Any, name: str) -> IgnoreValue:
    """Return a value of mask pixels that nobody judged: a whole number, or red, green and blue; None for none.

    Raises:
        InputError: If it is neither; the message begins with ``name``.
    """
    if value is None or (type(value) is int and 1 <= value < 2**16):
        return value
    listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3
    if listed and all(type(part) is int and 0 <= part <= 255 for part in value) and any(value):
        return value[0], value[1], value[2]
    raise InputError(
        f"{name} must be a value from 1 to 65535, or red, green and blue from 0 to 255 such as [255,0,0], but is "
        f"{value!r}"
    )


@dataclass(frozen=True, slots=True)  # a data set has one of each image: slots take a third of the memory
class ImageFacts:
    """Measurements of an image.

    Attributes:
        width, height: Size in pixels after upright rotation.
        image_kind: Pixel type of the file, in words.
        turned: Whether the image was rotated by its orientation tag.
        stretched: Whether an image of more than 8 bits was scaled to 8 bits.
        truncated_depth: Whether only the upper 8 bits of a 16-bit colour image are used.
        channels: Number of channels in the file; 0 for grey and RGB.
        coloured: Whether the first three channels are RGB.
        chosen: Channels that the user chose, as text; empty for the default.
        white_is_zero: As ``Decoded.white_is_zero``.
        brightness: Mean of the image, 0 to 255.
        colourfulness: Mean difference between the largest and the smallest channel of a pixel, 0 to 255.
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


@dataclass(frozen=True, slots=True)
class PairFacts(ImageFacts):
    """Measurements of a pair; shares are fractions of pixels.

    Attributes:
        sha256: Content hash of all cleaned channels of the image at full size.
        mask_sha256: Content hash of the mask at full size.
        mask_file_kind: Pixel type of the mask files, in words.
        mask_turned: Whether a mask file was rotated by its orientation tag.
        mask_white_is_zero: As ``Decoded.white_is_zero``.
        mask_kind: As ``MaskReading.kind``.
        mask_values: Number of different values above 0; of several mask files, the largest number.
        mask_smallest, mask_second, mask_brightest: The smallest value above 0, the second largest, and the largest.
        not_judged, by_index, inverted: As ``MaskReading``.
        numbered: Whether values or files number the objects.
        grey: Share of the cell pixels that are grey in the file.
        faint: Share of all pixels that were above 0 and became background.
        faint_areas: Share of all pixels that are faint and far from any cell.
        ignored: Share of all pixels that nobody judged.
        ignored_regions: Number of regions that they form.
        cells: Share of all pixels that are cell.
        border: Share of the pixels along the four sides that are cell.
        resized_to: Side in pixels to which a run resizes; 0 for no resizing.
        objects, kept: Number of objects at full size, and of those that keep a pixel after resizing.
        specks: Number of objects of at most three pixels.
        keeps_all_at: Side in pixels at which every object keeps a pixel.
        fit, turn, filled: As ``Fit``, whose ``own`` is the first.
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
    numbered: bool
    grey: float
    faint: float
    faint_areas: float
    ignored: float
    ignored_regions: int
    cells: float
    border: float
    resized_to: int
    objects: int
    kept: int
    specks: int
    keeps_all_at: int
    fit: float
    turn: str
    filled: float

    @property
    def vanishes(self) -> bool:
        """Whether the mask loses all its cells when it is resized."""
        return self.objects > 0 and self.kept == 0


@dataclass(frozen=True)
class CleanPair:
    """A pair before resizing.

    Attributes:
        pixels: Shape (H, W, C).
        mask: Shape (H, W).
        ids: Numbers of the objects, shape (H, W); None if the label files do not number them.
        ignored: Pixels that nobody judged, shape (H, W); None if there are none.
        facts: Measurements.
        likeness: Data for finding related images.
        small_mask: As ``mask_thumbnail``.
    """

    pixels: Pixels
    mask: NDArray[np.bool_]
    ids: NDArray[np.int32] | None
    ignored: NDArray[np.bool_] | None
    facts: PairFacts
    likeness: Likeness
    small_mask: Pixels


def inspect_pair(pair: Pair, how: Reading) -> CleanPair:
    """Read, clean and measure one pair.

    Raises:
        InputError: If a file cannot be used, or a mask and its image differ in size; the message names the file.
    """
    image = read_image(pair.image, how.channels)
    reading = read_mask(pair.masks, how.mask_threshold, pair.ignored, how.ignore_value)
    mask, ignored = reading.cell, reading.ignored
    if mask.shape != image.pixels.shape[:2]:
        raise InputError(_unequal(pair, image, reading))
    if ignored is not None and ignored.all():
        raise InputError(
            f"{(*pair.ignored, *pair.masks)[0]}: marks every pixel as not judged, so the image can neither teach nor "
            "be scored; remove the pair, or judge a part of it"
        )
    sides = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    survival = count_survivors(mask, how.image_size, noisy=reading.kind == GREY)
    fit = measure_fit(image.pixels[..., :1] if is_grey(image.pixels) else image.pixels, mask)
    facts = PairFacts(
        **asdict(inspect_image(image, how)),
        sha256=content_hash(image.whole),
        mask_sha256=content_hash(mask if ignored is None else mask + np.uint8(2) * ignored),
        mask_file_kind=reading.decoded.kind + (COLOURED_JPEG if _is_coloured_jpeg(reading) else ""),
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
        numbered=reading.ids is not None,
        grey=reading.grey_pixels / max(int(mask.sum()), 1),
        faint=reading.faint_pixels / mask.size,
        faint_areas=reading.faint_areas / mask.size,
        ignored=0.0 if ignored is None else float(ignored.mean()),
        ignored_regions=0 if ignored is None else int(ndimage.label(ignored, np.ones((3, 3)))[1]),
        cells=float(mask.mean()),
        border=float(sides.mean()),
        resized_to=how.image_size or 0,
        objects=survival.objects,
        kept=survival.kept,
        specks=survival.specks,
        keeps_all_at=survival.side,
        fit=fit.own,
        turn=fit.turn if ignored is None else "",  # what nobody judged may be like a cell
        filled=fit.filled,
    )
    likeness = measure_likeness(as_rgb(image.whole))
    return CleanPair(image.pixels, mask, reading.ids, ignored, facts, likeness, mask_thumbnail(mask))


def inspect_image(image: ImageReading, how: Reading) -> ImageFacts:
    """Measure size, brightness and colourfulness of an image, and list how it was converted."""
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
        # channel by channel: along an axis of length three numpy is twenty times slower
        colourfulness=float((reduce(np.maximum, colours) - reduce(np.minimum, colours)).mean()),
    )


def _unequal(pair: Pair, image: ImageReading, mask: MaskReading) -> str:
    """Explain that image and mask differ in size, and whether an orientation tag is the cause."""
    sizes = mask.decoded.size, image.decoded.size
    sizes_differ = f"{pair.masks[0]}: the mask is {sizes[0]} pixels, but its image {pair.image.name} is {sizes[1]}"
    swapped = mask.cell.shape == image.pixels.shape[1::-1]
    if not swapped or image.decoded.turned == mask.decoded.turned:
        return f"{sizes_differ}; export both at the same size"
    turned = pair.image if image.decoded.turned else pair.masks[0]
    return (
        f"{sizes_differ}, because only {turned.name} has an orientation tag (EXIF Orientation) and was rotated; "
        f"remove the tag: exiftool -Orientation= {shlex.quote(str(turned))}"
    )
