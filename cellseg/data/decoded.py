"""What an image file holds before anything is made of it, whatever its format."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Values = NDArray[Any]  # uint8, uint16, int32, float32, ...: as the file has them

COLOURS = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGB and alpha"}


@dataclass(frozen=True)
class Decoded:
    """The values in a file, upright.

    Attributes:
        values: Shape (H, W, C), as stored; where there is a palette its indices, and C is 1.
        palette: Colours (N, 4) of the indices, red, green, blue and alpha; None without one.
        alpha: Whether the last channel says how opaque a pixel is.
        bits: Of a value in the file.
        channels: How many channels there are, where they are not grey or RGB, with or without alpha; otherwise 0.
        coloured: Whether the first three of these are RGB.
        turned: Whether the file's orientation tag was obeyed.
        lossy: Whether the format changes values: ``yes``, ``maybe`` or empty for no.
        truncated: Whether the lower bits of a colour image of 16 bits are lost.
        white_is_zero: ``stored`` or ``shown`` where the TIFF tag PhotometricInterpretation says that 0 is white: the
            values are those in the file, or were inverted to what a viewer shows. ``unknown`` where nothing tells which
            of both is meant, and what a viewer shows was taken. Empty for other files.
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
        """How the file holds pixels, in words."""
        if self.palette is not None:
            return "palette colours"
        what = f"{self.channels} channels" if self.channels else COLOURS[self.values.shape[2]]
        number = "floating-point numbers of " if self.values.dtype.kind == "f" else ""
        return f"{what}, {number}{self.bits} bit{'s' if self.bits > 1 else ''}"

    @property
    def size(self) -> str:
        """Width and height."""
        return f"{self.values.shape[1]}x{self.values.shape[0]}"
