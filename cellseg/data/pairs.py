"""Which images belong to which masks, and which pairs are siblings, read from the names in a folder."""

import csv
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from cellseg.errors import InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
ROLES = ("source", "mask")
LAYOUT = "one folder a pair, holding source.* and mask.* (for example cell_1/source.jpg and cell_1/mask.jpg)"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """An image file, the mask file that labels it, and the group of siblings it belongs to."""

    name: str
    group: str
    image: Path
    mask: Path


def find_pairs(root: Path) -> list[Pair]:
    """List the pairs of a data set in natural order (cell_2 before cell_10), each with its group.

    Groups come from ``groups.csv`` in the folder (columns ``pair`` and ``group``) where it exists; without it every
    pair is a group of its own. Hidden files and folders without images are ignored.

    Raises:
        InputError: If the folder is missing or holds no pairs, a pair is incomplete or ambiguous, or ``groups.csv``
            leaves a pair out or names it twice.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"data.root must be a folder, but {root} {what}; expected {LAYOUT}")
    images = {folder: files for folder in root.iterdir() if (files := _images(folder))}
    if not any(file.stem.lower() in ROLES for files in images.values() for file in files):
        seen = (
            f"found images in {', '.join(sorted(folder.name for folder in images)[:5])}"
            if images
            else "found no images"
        )
        raise InputError(f"{root} holds no pairs; expected {LAYOUT}; {seen}")
    found = [(_only(folder, "source", files), _only(folder, "mask", files)) for folder, files in images.items()]
    groups = _read_groups(root, {image.parent.name for image, _ in found})
    pairs = [Pair(image.parent.name, groups[image.parent.name], image, mask) for image, mask in found]
    return sorted(pairs, key=lambda pair: _natural(pair.name))


def _images(folder: Path) -> list[Path]:
    if folder.name.startswith(".") or not folder.is_dir():
        return []
    return [
        file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]


def _only(folder: Path, role: str, images: list[Path]) -> Path:
    matching = [file for file in images if file.stem.lower() == role]
    if len(matching) == 1:
        return matching[0]
    seen = ", ".join(sorted(file.name for file in images))
    problem = f"more than one {role}.* image" if matching else f"no {role}.* image"
    raise InputError(
        f"{folder}: a pair needs exactly one source.* and one mask.*, but there is {problem} (found: {seen}); "
        "complete the pair or move the folder away"
    )


def _read_groups(root: Path, names: set[str]) -> dict[str, str]:
    path = next((file for file in root.iterdir() if file.name.lower() == "groups.csv"), None)
    if path is None:
        return {name: name for name in names}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if not {"pair", "group"} <= set(table.fieldnames or ()):
                found = ", ".join(table.fieldnames or ["nothing"])
                raise InputError(f"{path}: must have the columns pair and group, parted by commas, but has: {found}")
            rows = [(row["pair"].strip(), row["group"].strip()) for row in table]
    except (AttributeError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: must be a UTF-8 CSV file with pair and group in every row ({error})") from error
    groups = dict(rows)
    if torn := [name for name, group in rows if groups[name] != group]:
        raise InputError(f"{path}: puts {torn[0]} into more than one group; keep one row for every pair")
    if missing := sorted((name for name in names if not groups.get(name)), key=_natural):
        raise InputError(
            f"{path}: has no group for {', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}; "
            "name a group for every pair, so that siblings can be kept on one side of the split"
        )
    if unknown := sorted(groups.keys() - names, key=_natural):
        log.warning("%s names %d pairs that are not in the folder, %s first", path, len(unknown), unknown[0])
    return {name: groups[name] for name in names}


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key by the numbers in a name; the name itself settles cell_1 against cell_01."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)], name
