"""Draw all images of a data set on one sheet, with their masks outlined."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cellseg.data.drawing import draw_outlines
from cellseg.storage.files import new_file

TILE = 200  # side in pixels, with the name
CAPTION = 18
PAPER, INK = (255, 255, 255), (40, 40, 40)


def draw_tile(picture: Image.Image, mask: NDArray[np.bool_], name: str) -> Image.Image:
    """Draw a small image with the cells of its mask (H, W) in orange and its name below."""
    room = TILE - 4, TILE - CAPTION - 4
    scale = min(room[0] / picture.width, room[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = picture.resize(size, Image.Resampling.BILINEAR)
    cells = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    small = draw_outlines(small, np.asarray(cells))
    tile = Image.new("RGB", (TILE, TILE), PAPER)
    tile.paste(small, ((TILE - size[0]) // 2, 2))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    while draw.textlength(name, font) > room[0]:
        name = f"{name[: len(name) // 2 - 1]}…{name[len(name) // 2 + 2 :]}"
    draw.text((TILE / 2, size[1] + CAPTION / 2 + 2), name, INK, font, anchor="mm")
    return tile


def save_montage(path: Path, tiles: Sequence[Image.Image]) -> None:
    """Arrange tiles in a nearly square sheet and write it to a new PNG file.

    Raises:
        InputError: If the file already exists or cannot be written.
    """
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * TILE, rows * TILE), PAPER)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * TILE, number // columns * TILE))
    with new_file(path) as unfinished:
        sheet.save(unfinished, format="PNG")
