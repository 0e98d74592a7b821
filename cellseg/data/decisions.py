"""Read what people decided about places in images, and unite the decisions of several people."""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage import draw, measure

from cellseg.storage.csv_files import from_text
from cellseg.storage.errors import InputError
from cellseg.storage.files import read_bounded

CELL, NO_CELL, UNSURE = "cell", "no cell", "unsure"
COLUMNS = ("image", "id", "decision", "person", "outline")
SAME = 0.5  # outlines with a larger IoU are of one place
MOST_POINTS = 10_000  # of an outline

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Decision:
    """What one person decided about one place.

    Attributes:
        image: Name of the image.
        place: The place's own name in the file; may be empty.
        decision: ``cell``, ``no cell`` or ``unsure``.
        person: Who decided.
        outline: Corners x, y in pixels of the original image, shape (N, 2); pixel (0, 0) is the square from 0, 0 to
            1, 1.
        source: File and row, for messages.
    """

    image: str
    place: str
    decision: str
    person: str
    outline: NDArray[np.float64]
    source: str


@dataclass(frozen=True)
class Place:
    """A place and all decisions about it.

    Attributes:
        where: Its pixels, shape (H, W): the outline of the first decision.
        decisions: One for each person.
    """

    where: Mask
    decisions: list[Decision]

    @property
    def agreed(self) -> bool:
        """Whether all decided the same."""
        return len({decision.decision for decision in self.decisions}) == 1

    @property
    def step(self) -> float:
        """The largest distance in pixels by which the outline steps, if it was traced in a resized image; else 0."""
        return step_of(self.decisions[0].outline)

    @property
    def verdict(self) -> str:
        """What all decided; ``unsure`` if they disagree."""
        return self.decisions[0].decision if self.agreed else UNSURE


def read_decisions(paths: Sequence[Path]) -> list[Decision]:
    """Read tables with the columns image, id, decision, person and outline; rows without a decision are left out.

    The person of a row without one is the name of its file. Columns may be separated by commas, semicolons or tabs.

    Raises:
        InputError: If a file cannot be read, lacks a column, or has a row that cannot be understood.
    """
    stems = Counter(path.stem for path in paths)
    return [one for path in paths for one in _read(path, path.stem if stems[path.stem] == 1 else str(path))]


def _read(path: Path, unnamed: str) -> Iterator[Decision]:
    if not path.exists():
        raise InputError(f"{path} does not exist; name a table of decisions")
    try:
        text = read_bounded(path, "a table").decode("utf-8-sig")
        named = re.match(r"sep=(.)\r?\n", text)  # a line that Excel understands, and some programs write
        text = text[named.end() :] if named else text
        separator = named[1] if named else max((",", ";", "\t"), key=text.partition("\n")[0].count)
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: must be a CSV file in UTF-8 with the columns {','.join(COLUMNS)} ({error}); save it again as such"
        ) from error
    header = [cell.strip().lower() for cell in table[0]] if table else []
    if missing := [column for column in ("image", "decision", "outline") if column not in header]:
        raise InputError(
            f"{path}: has no column {' and no column '.join(missing)}; its first line must be {','.join(COLUMNS)}"
        )
    for line, cells in enumerate(table[1:], start=3 if named else 2):
        row = {name: from_text(cell.strip()) for name, cell in zip(header, cells, strict=False)}
        decision = " ".join(row.get("decision", "").lower().split())
        if not decision:
            continue
        source = f"{path}: row {line}"
        if decision not in (CELL, NO_CELL, UNSURE):
            raise InputError(f"{source}: the decision is {decision[:40]!r}, but must be cell, no cell or unsure")
        outline = _corners(row.get("outline", ""), source)
        if not row.get("image"):
            raise InputError(f"{source}: names no image; fill the column image")
        yield Decision(row["image"], row.get("id", ""), decision, row.get("person") or unnamed, outline, source)


def _corners(text: str, source: str) -> NDArray[np.float64]:
    """Return the corners of an outline written as ``x,y x,y ...``."""
    try:
        corners = [tuple(map(float, corner.split(","))) for corner in text.split()]
    except ValueError:
        corners = []
    whole = all(len(corner) == 2 and all(map(math.isfinite, corner)) for corner in corners)
    if not 3 <= len(corners) <= MOST_POINTS or not whole:
        raise InputError(
            f"{source}: the outline is {text[:40]!r}, but must be at least three corners in pixels, such as 1,1 9,1 9,9"
        )
    return np.array(corners)


def write_outline(corners: NDArray[np.float64]) -> str:
    """Return corners (N, 2) as ``x,y x,y ...``."""
    return " ".join(f"{x:g},{y:g}" for x, y in corners.round(2))


def trace(where: Mask, width: int, height: int) -> NDArray[np.float64]:
    """Return the outer outline of a region, or of its largest part, in pixels of an image resized to the mask.

    Args:
        where: Shape (H, W).
        width: Of the image in pixels.
        height: The same.

    Returns:
        Corners x, y, shape (N, 2).
    """
    parts = measure.label(where, connectivity=2)
    largest = np.pad(parts == np.bincount(parts.ravel())[1:].argmax() + 1, 1).astype(float)
    contours = measure.find_contours(largest, 0.5, fully_connected="high")
    corners = max(contours, key=lambda contour: np.ptp(contour[:, 0]))[:-1, ::-1] - 0.5  # the last is the first again
    return corners * (width / where.shape[1], height / where.shape[0])


def step_of(corners: NDArray[np.float64]) -> float:
    """Return the side in pixels of the pixels along which an outline (N, 2) was traced; 0 if it was drawn otherwise."""
    steps = np.abs(np.diff(corners, axis=0, append=corners[:1]))
    side = steps.max(axis=0)
    if not side.all():
        return 0.0
    parts = 2 * steps / side  # ``trace`` goes straight by a whole pixel, or around a corner by two halves
    whole = np.abs(parts - parts.round()) < 0.05  # written with two decimals
    corner = (parts.round() == 1).all(axis=1)
    return float(side.max()) if whole.all() and corner.any() else 0.0


def fill(decision: Decision, shape: tuple[int, int]) -> Mask:
    """Return the pixels (H, W) whose centres lie within an outline.

    Raises:
        InputError: If there are none.
    """
    where = np.zeros(shape, bool)
    where[draw.polygon(decision.outline[:, 1] - 0.5, decision.outline[:, 0] - 0.5, shape)] = True
    if not where.any():
        raise InputError(
            f"{decision.source}: the outline contains no pixel of {decision.image}, which has {shape[1]}x{shape[0]}; "
            "outlines are in pixels of the original image"
        )
    return where


def unite(decisions: Sequence[Decision], shape: tuple[int, int]) -> list[Place]:
    """Unite the decisions of several people about the same places of one image, of shape (H, W).

    Raises:
        InputError: If one person decided twice about a place, and differently.
    """
    places: list[Place] = []
    in_order = sorted(decisions, key=lambda one: (*one.outline.mean(axis=0), one.person))  # whatever that of the files
    for decision in in_order:
        where = fill(decision, shape)
        same = next((place for place in places if _overlap(place.where, where) > SAME), None)
        if same is None:
            places.append(Place(where, [decision]))
            continue
        before = next((other for other in same.decisions if other.person == decision.person), None)
        if before is None:
            same.decisions.append(decision)
        elif before.decision != decision.decision:
            raise InputError(
                f"{decision.source}: {decision.person} decided {decision.decision} here, and {before.decision} about "
                f"the same place ({before.source}); keep one"
            )
    return places


def _overlap(a: Mask, b: Mask) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)
