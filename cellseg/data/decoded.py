"""The values of an image file of any format, before they are interpreted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Values = NDArray[Any]  # uint8, uint16, int32, float32, ...: the type in the file

COLOURS = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGB and alpha"}


@dataclass(frozen=True)
class Decoded:
    """The values in a file, rotated upright.

    Attributes:
        values: Shape (H, W, C), as stored; with a palette, its indices, and C is 1.
        palette: Colours (N, 4) of the indices: red, green, blue, alpha; None without a palette.
        alpha: Whether the last channel is opacity.
        bits: Bits of one value in the file.
        channels: Number of channels; 0 for grey and RGB, with or without alpha.
        coloured: Whether the first three of these channels are RGB.
        turned: Whether the image was rotated by the file's orientation tag.
        lossy: Whether the compression changes values: ``yes``, ``maybe``, or empty for no.
        truncated: Whether the lower 8 bits of a 16-bit colour image are lost.
        white_is_zero: Set if the TIFF tag PhotometricInterpretation says that 0 is white. ``stored``: the values are
            those in the file. ``shown``: they were inverted to the image that a viewer shows. ``unknown``: either may
            be meant, and they were inverted. Empty for other files.
    """

    values: Values
    palette: Pixels | None = None
    alpha: bool = False
    bits: int = 8
    channels: int = 0
    coloured: bool = False
    turned: bool = False
    lossy: str = ""
    truncated: bool = False
    white_is_zero: str = ""

    @property
    def kind(self) -> str:
        """Pixel type in words, such as RGB, 8 bits."""
        if self.palette is not None:
            return "palette colours"
        what = f"{self.channels} channels" if self.channels else COLOURS[self.values.shape[2]]
        number = "floating-point numbers of " if self.values.dtype.kind == "f" else ""
        return f"{what}, {number}{self.bits} bit{'s' if self.bits > 1 else ''}"

    @property
    def size(self) -> str:
        """Width and height, as in 640x480."""
        return f"{self.values.shape[1]}x{self.values.shape[0]}"
