"""Draw the embedded data set: blood smears that look like Mabimi's and have the same labelling flaws.

The drawing imitates light through stained cells: every cell adds absorbance, so overlaps become darker, and the
absorbance dims the uneven background. The labels then get the errors of a hurried annotator and of JPEG compression;
the exact masks are known.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cellseg.data.progress import with_progress
from cellseg.storage.files import new_folder

Plane = NDArray[np.float32]
Mask = NDArray[np.uint8]

RGB_MASK = "cell_14"  # the one mask of Mabimi that was saved in colour
WORTH_PROCESSES = 200  # pairs; with fewer, starting processes costs more time than it saves
SMALLEST_CELL = 20  # visible pixels; fewer cannot be counted by eye
STAIN = np.array([0.62, 1.0, 0.55], np.float32)  # absorbance of eosin-stained cells in R, G, B


@dataclass(frozen=True)
class SmearStyle:
    """Appearance and labelling errors of smears; every share is a fraction of the cells, in [0, 1].

    Attributes:
        width, height: Size of an image in pixels.
        radius: Mean radius of a round cell in pixels.
        cells: Least and most cells in an image.
        sickled: Share of cells that are crescents or pointed.
        overlapping: Share of cells laid against or over an earlier one.
        unlabelled: Share of sickled cells left out of the mask; a sixth of it for the other cells.
        unlabelled_border: Share of cells cut by the image border left out of the mask.
        label_error: Standard deviation, in pixels, of where the labeller drew a cell's outline.
    """

    width: int = 640
    height: int = 480
    radius: float = 16.0
    cells: tuple[int, int] = (45, 85)
    sickled: float = 0.22
    overlapping: float = 0.2
    unlabelled: float = 0.15
    unlabelled_border: float = 0.93
    label_error: float = 0.55

    @classmethod
    def sized(cls, width: int, height: int, **changes: float) -> "SmearStyle":
        """Return a style of another image size, with as many cells as keep their density."""
        usual = cls()
        share = width * height / (usual.width * usual.height)
        fewest, most = (max(1, round(count * share)) for count in usual.cells)
        return replace(usual, width=width, height=height, cells=(fewest, most), **changes)


@dataclass(frozen=True)
class Smear:
    """One drawn smear.

    Attributes:
        image: RGB, shape (height, width, 3).
        mask: The flawed label: 255 cell, about 115 where labelled cells overlap, 0 background and unlabelled cells.
        exact: Every visible cell, 0 or 255.
        ids: The number from 1 of the topmost cell at each pixel, 0 for background; cells of fewer than 20 visible
            pixels have none.
    """

    image: Mask
    mask: Mask
    exact: Mask
    ids: NDArray[np.uint16]


def draw_smear(seed: int, index: int, style: SmearStyle = SmearStyle()) -> Smear:
    """Draw smear number ``index`` of the set ``seed``; the same arguments give the same pixels."""
    rng = np.random.default_rng([seed, index])
    labeller = np.random.default_rng([seed, index, 1])  # separate, so that labels do not change the image
    shape = (style.height, style.width)
    absorbance = np.zeros(shape, np.float32)
    halo = np.zeros(shape, np.float32)
    topmost = np.zeros(shape, np.uint16)
    labelled = np.zeros(shape, np.uint8)  # how many labelled cells cover a pixel
    hand = labeller.normal(0, 0.6 * style.label_error)  # this annotator draws slightly inside or outside
    depth = rng.uniform(0.55, 1.05)  # how strongly this smear was stained
    for number, (x, y) in enumerate(_positions(rng, style), start=1):
        cell = _Cell.random(rng, x, y, style)
        rows, columns, distance, fill = cell.draw(rng, shape)
        if distance.size == 0:
            continue
        coverage = np.clip(0.5 - distance / 2.4, 0, 1)
        rim = np.exp(-(((distance + 2.5) / 2.2) ** 2))
        absorbance[rows, columns] += depth * cell.density * coverage * (fill + 0.22 * rim)
        halo[rows, columns] += np.exp(-(((distance - 3.0) / 2.0) ** 2))
        topmost[rows, columns][distance < 0] = number
        if cell.is_labelled(labeller, style):
            outline = distance + hand + _wobble(labeller, distance.shape, style.label_error)
            labelled[rows, columns] += outline < 0
    image = _photograph(rng, absorbance, halo)
    mask = np.select([labelled > 1, labelled == 1], [np.uint8(labeller.integers(100, 131)), np.uint8(255)], np.uint8(0))
    visible_pixels = np.bincount(topmost.ravel())
    counted = visible_pixels >= SMALLEST_CELL
    counted[0] = False
    new_number = np.where(counted, np.cumsum(counted), 0).astype(np.uint16)
    return Smear(image, mask, (topmost > 0) * np.uint8(255), new_number[topmost])


def write_synthetic(
    root: Path, pairs: int = 50, seed: int = 0, style: SmearStyle = SmearStyle(), *, exact: bool = False
) -> None:
    """Write ``pairs`` smears to a new folder, as ``cell_N/source.jpg`` and ``cell_N/mask.jpg``.

    The folder appears complete or not at all, also if two runs start together or one is killed.

    Args:
        root: Folder to create.
        pairs: Number of pairs.
        seed: Seed of the data set.
        style: Appearance and labelling errors.
        exact: Whether to write ``cell_N/exact.png`` too, every visible cell without any labelling error, and
            ``cell_N/ids.png``, the number of each cell in 16 bits.

    Raises:
        InputError: If ``root`` exists already or cannot be written.
    """
    draw = partial(_write_smear, seed=seed, style=style, exact=exact)
    bar = partial(with_progress, doing="drawing smears", total=pairs)
    with new_folder(root) as folder:
        folders = [folder / f"cell_{number}" for number in range(1, pairs + 1)]
        if pairs < WORTH_PROCESSES:
            for _ in bar(map(draw, folders)):
                pass
        else:
            # spawn: a process that has computed with torch must not be forked
            with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
                for _ in bar(pool.map(draw, folders, chunksize=16)):
                    pass


def _write_smear(folder: Path, seed: int, style: SmearStyle, exact: bool) -> None:
    smear = draw_smear(seed, int(folder.name.removeprefix("cell_")), style)
    folder.mkdir()
    mask = Image.fromarray(smear.mask)
    if folder.name == RGB_MASK:
        mask = mask.convert("RGB")
    Image.fromarray(smear.image).save(folder / "source.jpg", quality=90)
    mask.save(folder / "mask.jpg", quality=88)
    if exact:
        Image.fromarray(smear.exact).save(folder / "exact.png")
        Image.fromarray(smear.ids).save(folder / "ids.png")


@dataclass(frozen=True)
class _Cell:
    """Shape and stain of one cell; lengths in pixels, angle in radians."""

    x: float
    y: float
    radius: float
    angle: float
    aspect: float
    bend: float  # 0 for a round cell; sickles curve by this much of their length
    sickled: bool
    pallor: float  # how much thinner the centre is, in [0, 1]
    density: float

    @classmethod
    def random(cls, rng: np.random.Generator, x: float, y: float, style: SmearStyle) -> "_Cell":
        sickled = bool(rng.random() < style.sickled)
        radius = style.radius * float(np.clip(rng.normal(1, 0.13), 0.6, 1.4))
        return cls(
            x=x,
            y=y,
            radius=radius * (rng.uniform(1.05, 1.5) if sickled else 1.0),
            angle=rng.uniform(0, 2 * np.pi),
            aspect=rng.uniform(0.24, 0.55) if sickled else 1 - abs(rng.normal(0, 0.1)),
            bend=rng.choice([-1, 1]) * rng.uniform(0.05, 0.6) if sickled else 0.0,
            sickled=sickled,
            pallor=0.0 if sickled else rng.uniform(0.5, 1.0) if rng.random() < 0.6 else rng.uniform(0, 0.3),
            density=rng.uniform(0.4, 0.62) if sickled else rng.uniform(0.24, 0.5),
        )

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[slice, slice, Plane, Plane]:
        """Return where the cell lies, the signed distance to its outline (negative inside), and its thickness."""
        reach = int(1.35 * self.radius) + 8
        top, left = max(0, int(self.y) - reach), max(0, int(self.x) - reach)
        rows = slice(top, max(top, min(shape[0], int(self.y) + reach)))
        columns = slice(left, max(left, min(shape[1], int(self.x) + reach)))
        y, x = np.mgrid[rows, columns].astype(np.float32)
        dx, dy = x - self.x, y - self.y
        u = (dx * np.cos(self.angle) + dy * np.sin(self.angle)) / self.radius
        v = (dy * np.cos(self.angle) - dx * np.sin(self.angle)) / self.radius
        if self.sickled:
            v = v - self.bend * (u**2 - 0.4)
            half_width = self.aspect * np.clip(1 - u**2, 0, None) ** 0.75
            distance = np.where(abs(u) < 1, abs(v) - half_width, np.hypot(abs(u) - 1, v)) * self.radius
            fill = np.full_like(distance, 1.0)
        else:
            theta = np.arctan2(v, u)
            edge = 1 + sum(rng.normal(0, 0.05 / k) * np.cos(k * theta + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5))
            q = np.hypot(u, v / self.aspect) / edge
            distance = (q - 1) * self.radius * np.sqrt(self.aspect)
            fill = 1 - self.pallor * np.exp(-((q / 0.55) ** 3))
        return rows, columns, distance.astype(np.float32), fill.astype(np.float32)

    def is_labelled(self, rng: np.random.Generator, style: SmearStyle) -> bool:
        reach = 0.8 * self.radius
        cut = not (reach < self.x < style.width - reach and reach < self.y < style.height - reach)
        missed = style.unlabelled if self.sickled else style.unlabelled / 6
        return bool(rng.random() >= (style.unlabelled_border if cut else missed))


def _positions(rng: np.random.Generator, style: SmearStyle) -> list[tuple[float, float]]:
    """Scatter cell centres, some beyond the border; apart from each other unless meant to touch or overlap."""
    placed: list[tuple[float, float]] = []
    for _ in range(int(rng.integers(style.cells[0], style.cells[1] + 1))):
        if placed and rng.random() < style.overlapping:
            x, y = placed[int(rng.integers(len(placed)))]
            turn, step = rng.uniform(0, 2 * np.pi), style.radius * rng.uniform(1.35, 2.05)
            placed.append((x + step * np.cos(turn), y + step * np.sin(turn)))
            continue
        for _ in range(30):  # a crowded image gets fewer cells
            x, y = rng.uniform(-12, style.width + 12), rng.uniform(-12, style.height + 12)
            if all((x - a) ** 2 + (y - b) ** 2 > (2.3 * style.radius) ** 2 for a, b in placed):
                placed.append((x, y))
                break
    return placed


def _photograph(rng: np.random.Generator, absorbance: Plane, halo: Plane) -> Mask:
    """Put cells and specks on an uneven, blotchy background and take a slightly soft, noisy picture."""
    height, width = absorbance.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    lamp_x, lamp_y = rng.uniform(-0.6, 0.6, 2)
    light = 1 - rng.uniform(0.05, 0.16) * ((x - lamp_x) ** 2 + (y - lamp_y) ** 2)
    tint = np.array([205, 188, 196], np.float32) + rng.normal(0, 7) + rng.normal(0, 3, 3)
    blotches = _clouds(rng, (height, width), 90) * rng.uniform(3, 8) + _clouds(rng, (height, width), 22) * rng.uniform(
        1, 3.5
    )
    background = tint * light[..., None] + blotches[..., None] * np.array([1.0, 1.15, 0.9], np.float32)
    for _ in range(int(rng.poisson(5))):  # specks of stain
        a, b, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(1.2, 4.0)
        px, py = (x + 1) * width / 2 - a, (y + 1) * height / 2 - b
        absorbance = absorbance + rng.uniform(0.35, 0.9) * np.exp(
            -((np.hypot(px, py * rng.uniform(0.7, 1.4)) / size) ** 4)
        )
    texture = 1 + 0.1 * _clouds(rng, (height, width), 5)
    pixels = background * np.exp(-(absorbance * texture)[..., None] * STAIN) + 7 * np.clip(halo, 0, 1.5)[..., None]
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.7))), np.float32)
    noise = rng.normal(0, rng.uniform(1.5, 4.0), (height, width, 1)) + rng.normal(0, 1.2, (height, width, 3))
    return np.clip(soft + noise, 0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, shape: tuple[int, int], grain: int) -> Plane:
    """Return smooth noise of mean 0 and deviation 1 whose blotches are about ``grain`` pixels wide."""
    coarse = rng.normal(0, 1, (shape[0] // grain + 3, shape[1] // grain + 3)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    return (smooth - smooth.mean()) / max(float(smooth.std()), 1e-6)


def _wobble(rng: np.random.Generator, shape: tuple[int, int], deviation: float) -> Plane:
    """Return the distance, in pixels, between the drawn and the true outline of one cell."""
    return deviation * _clouds(rng, shape, 24)
