"""Write a new data set from decisions about places in its images: cells added, removed, or not judged."""

import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cellseg.data.cache import in_parallel
from cellseg.data.decisions import CELL, NO_CELL, UNSURE, Decision, Place, read_decisions, unite
from cellseg.data.facts import CleanPair, PairFacts, Reading, inspect_pair
from cellseg.data.findings import WARNING, Finding, look_at_masks
from cellseg.data.groups import write_groups
from cellseg.data.ignored import place_of_ignored
from cellseg.data.masks import save_labels
from cellseg.data.pairs import Pair, Scan, find_pairs
from cellseg.data.table import write_pairs_table
from cellseg.storage.csv_files import write_csv
from cellseg.storage.errors import InputError, count
from cellseg.storage.files import new_folder

CORNERS = np.ones((3, 3))
RIM = 0.15  # of the square root of the area of a place, in which label and outline may differ
NOTHING = "nothing"

Row = dict[str, str | int]


@dataclass(frozen=True)
class Corrected:
    """What was done.

    Attributes:
        changes: The rows of ``changes.csv``.
        shared: Number of places about which several people decided.
        agreed: About how many of them all decided the same.
        warnings: Findings about masks that probably mean something else.
    """

    changes: list[Row]
    shared: int
    agreed: int
    warnings: list[Finding]

    @property
    def counts(self) -> Counter[str]:
        """How many places led to each kind of change."""
        return Counter(str(row["change"]).split(":")[0] for row in self.changes)


class _Labels:
    """The label of an image while it is corrected: cells, their numbers if it has them, and what nobody judged."""

    def __init__(self, clean: CleanPair) -> None:
        self.cell = clean.mask.copy()
        self.ids = None if clean.ids is None else clean.ids.copy()
        self.ignored = np.zeros_like(self.cell) if clean.ignored is None else clean.ignored.copy()

    def decide(self, place: Place) -> str:
        """Change the label as a place was decided; return the change in words."""
        where, verdict = place.where, place.verdict
        objects = self._objects(where)
        labelled = bool(objects.any())
        if verdict == NO_CELL and labelled:
            self._set(objects, cell=False)
            return f"cell removed: {count(int(objects.sum()), 'pixel')}"
        if verdict == NO_CELL and (self.ignored & where).any():
            number = int((self.ignored & where).sum())
            self.ignored &= ~where
            return f"background: {count(number, 'pixel')} that nobody had judged"
        if verdict == CELL and not labelled:
            new = where & ~self.cell
            if self.ids is not None:
                self.ids[new] = self.ids.max(initial=0) + 1
            self._set(new, cell=True)
            return f"cell added: {count(int(new.sum()), 'pixel')}"
        if verdict == CELL:  # labelled already: as decided, it has this outline
            changed = objects ^ where
            if _alike(objects, where, place.step):
                return f"{NOTHING}: it is a cell"
            if self.ids is not None:
                self.ids[where] = np.bincount(self.ids[objects & where]).argmax()
            self._set(objects & ~where, cell=False)
            self._set(where, cell=True)
            return f"outline changed: {count(int(changed.sum()), 'pixel')}"
        if verdict == UNSURE:
            doubtful = objects | (where & ~self.cell)
            self._set(doubtful, cell=False)
            self.ignored |= doubtful
            return f"not judged: {count(int(doubtful.sum()), 'pixel')}"
        return f"{NOTHING}: the label has no cell there"

    def _set(self, where: NDArray[np.bool_], *, cell: bool) -> None:
        self.cell[where], self.ignored[where] = cell, False
        if self.ids is not None and not cell:
            self.ids[where] = 0

    def _objects(self, where: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the labelled objects that a place is about: those that lie mostly inside, or else the one around it.

        Where labels do not number objects, an object is a region, of which the rest may be a neighbour that touches.
        It belongs to the place only if it is a rim; otherwise the part inside is the object, if it fills half of it.
        """
        objects = ndimage.label(self.cell, CORNERS)[0] if self.ids is None else self.ids
        number = int(objects.max()) + 1
        areas, inside = (np.bincount(part.ravel(), minlength=number) for part in (objects, objects[where]))
        mostly, half = 2 * inside > areas, np.count_nonzero(where) / 2
        mostly[0], inside[0] = False, 0
        if self.ids is None:
            reach = math.ceil(max(2, RIM * math.sqrt(2 * half)))
            mostly[np.unique(objects[~ndimage.binary_dilation(where, CORNERS, iterations=reach)])] = False
            part = self.cell & where
            return mostly[objects] | (part if np.count_nonzero(part) >= half else np.zeros_like(part))
        if not mostly.any() and inside.max() >= half:
            mostly[inside.argmax()] = True
        return mostly[objects]


def _alike(label: NDArray[np.bool_], where: NDArray[np.bool_], step: float) -> bool:
    """Return whether two regions are the same, or differ no more than an outline drawn in larger pixels must."""
    reach = math.ceil(step) if step > 1 else 0
    if not reach:
        return bool((label == where).all())
    wide = [ndimage.binary_dilation(region, CORNERS, iterations=reach) for region in (label, where)]
    return not ((where & ~wide[0]).any() or (label & ~wide[1]).any())


def write_corrected(
    root: Path, out: Path, decisions: Sequence[Path], how: Reading = Reading(), groups: Path | None = None
) -> Corrected:
    """Write the data set with corrected labels and ``changes.csv`` to a new folder, in the same layout.

    Images are copied. Masks become PNG: numbers of cells where the label had them, otherwise 0 and 255. A place that
    one person called unsure, or about which people disagree, is marked as not judged. Pairs that a table lists, or
    that differ only in the endings of their files, are listed in a ``pairs.csv``.

    Args:
        root: Folder or table of pairs; nothing in it is changed.
        out: Folder to create.
        decisions: Files that ``read_decisions`` reads.
        how: Threshold, channels, and value of pixels that nobody judged.
        groups: As for ``scan_pairs``.

    Raises:
        InputError: If ``out`` exists or lies in ``root``, a decision names an unknown image, or a file cannot be used.
    """
    if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{out} is inside the data set {root}, which must stay unchanged; choose a folder outside of it"
        )
    scan = find_pairs(root, groups)
    of_image: dict[str, list[Decision]] = defaultdict(list)
    for decision in read_decisions(decisions):
        of_image[decision.image].append(decision)
    if unknown := of_image.keys() - {pair.name for pair in scan.pairs}:
        first = of_image[min(unknown)][0]
        raise InputError(
            f"{first.source}: {root} has no image {first.image}; its names are such as {scan.pairs[0].name}"
        )
    if not of_image:
        raise InputError(f"{decisions[0]} has no decision; fill its column decision with cell, no cell or unsure")
    files = _places(scan)
    with new_folder(out) as unfinished:

        def write(pair: Pair) -> tuple[list[Row], list[Place], PairFacts]:
            clean = inspect_pair(pair, how)
            labels, changes = _Labels(clean), list[Row]()
            places = unite(of_image[pair.name], clean.mask.shape)
            order = (NO_CELL, CELL, UNSURE)
            for place in sorted(places, key=lambda place: order.index(place.verdict)):
                changes.append(_change(pair.name, place, labels.decide(place)))
            image_file, mask_file = files[pair.name]
            for file in (image_file, mask_file):
                (unfinished / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pair.image, unfinished / image_file)
            save_labels(unfinished / mask_file, labels.cell, labels.ids)
            if labels.ignored.any():
                marks = unfinished / place_of_ignored(image_file, mask_file)
                marks.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(labels.ignored.astype(np.uint8) * 255).save(marks)
            return changes, places, replace(clean.facts, ignored=float(labels.ignored.mean()))

        written = list(in_parallel(write, scan.pairs, "correcting"))
        changes = [row for rows, _, _ in written for row in rows]
        write_csv(unfinished / "changes.csv", changes)
        group_of = {pair.name: pair.group for pair in scan.pairs} if scan.grouped else {}
        if files != _places(scan, as_table=False):
            unjudged = {
                pair.name: place_of_ignored(*files[pair.name])
                for pair, (_, _, facts) in zip(scan.pairs, written, strict=True)
                if facts.ignored
            }
            write_pairs_table(unfinished / "pairs.csv", files, group_of, unjudged)
        elif group_of:
            write_groups(unfinished / "groups.csv", group_of)
    shared = [place for _, places, _ in written for place in places if len(place.decisions) > 1]
    found = look_at_masks(scan.pairs, [facts for _, _, facts in written], scan.root)
    warnings = [finding for finding in found if finding.severity == WARNING]
    return Corrected(changes, len(shared), sum(place.agreed for place in shared), warnings)


def _places(scan: Scan, *, as_table: bool | None = None) -> dict[str, tuple[Path, Path]]:
    """Return paths for image and mask of every pair, in the original layout or, if it cannot be kept, for a table."""
    kept = {}
    for pair in scan.pairs:
        mask = pair.masks[0].with_name(f"{pair.name}.png") if len(pair.masks) > 1 else pair.masks[0]
        if all(path.is_relative_to(scan.root) for path in (pair.image, mask)):
            kept[pair.name] = pair.image.relative_to(scan.root), mask.relative_to(scan.root).with_suffix(".png")
    different = {str(path).casefold() for both in kept.values() for path in both}
    if as_table is False or (not scan.listed and len(different) == 2 * len(scan.pairs)):
        return kept
    return {
        pair.name: (Path(f"images/{pair.name}{pair.image.suffix}"), Path(f"masks/{pair.name}.png"))
        for pair in scan.pairs
    }


def _change(name: str, place: Place, change: str) -> Row:
    """Return a row of ``changes.csv``."""
    by_decision: dict[str, list[str]] = defaultdict(list)
    for decision in place.decisions:
        by_decision[decision.decision].append(decision.person)
    why = "; ".join(f"{decision}: {', '.join(people)}" for decision, people in by_decision.items())
    return {
        "image": name,
        "id": place.decisions[0].place,
        "change": change,
        "decided": why if place.agreed else f"disagreement, {why}",
    }
