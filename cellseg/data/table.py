"""Read and write ``pairs.csv``, which lists pairs in any folders and with any names."""

import csv
import io
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from cellseg.data.formats import FOREIGN, IMAGE_SUFFIXES, foreign_suffix
from cellseg.data.matching import Found, Problem, refuse_name, told_apart
from cellseg.data.words import IGNORES
from cellseg.storage.csv_files import from_text, write_csv
from cellseg.storage.errors import InputError
from cellseg.storage.files import read_bounded

log = logging.getLogger(__name__)

COLUMNS = ("image", "mask", "group", "ignore")
HEADER = "image,mask"
SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class _Row:
    line: int
    image: Path
    mask: Path
    group: str
    ignored: Path | None


def find_table(folder: Path) -> Path | None:
    """Return the ``pairs.csv`` in a folder, in any capitalisation, if there is one.

    Raises:
        InputError: If there are several, or the folder cannot be listed.
    """
    try:
        tables = sorted(file for file in folder.iterdir() if file.name.lower() == "pairs.csv")
    except OSError as error:
        raise InputError(f"{folder}: cannot be opened ({error.strerror}); check its permissions") from error
    if len(tables) > 1:
        raise InputError(f"{folder} contains {', '.join(table.name for table in tables)}; keep one of them")
    return tables[0] if tables else None


def read_pairs_table(path: Path) -> tuple[Found, dict[str, str]]:
    """Read a table of pairs, and the group of each pair by name; no groups if the table has none.

    Columns are ``image``, ``mask`` and optionally ``group`` and ``ignore``, a file that marks pixels that nobody
    judged; paths are absolute or relative to the folder of the table. An image with several mask files has a row for
    each. Rows that cannot be used become problems.

    Raises:
        InputError: If the table cannot be read, lacks a column, or holds no pair.
    """
    found = Found(f"listed in {path.name}")
    lines = _read(path)
    grouped = any(cells[2] for _, cells in lines)
    rows: list[_Row] = []
    for line, (image, mask, group, ignored) in lines:
        named = {"image": image, "mask": mask} | ({"ignore": ignored} if ignored else {})
        files = {column: _file(path.parent, text) for column, text in named.items()}
        faults = [_fault(column, text, files[column]) for column, text in named.items()]
        if grouped and not group:
            faults.append("has no group")
        if any(faults):
            fault = next(fault for fault in faults if fault)
            found.complain(path, f"row {line} {fault}", "correct the row or remove it")
        else:
            rows.append(_Row(line, files["image"], files["mask"], group, files.get("ignore")))
    found.problems += _clashes(path, rows)
    images = list(dict.fromkeys(row.image for row in rows))
    masks: dict[Path, tuple[Path, ...]] = dict.fromkeys(images, ())
    ignored_of: dict[Path, tuple[Path, ...]] = dict.fromkeys(images, ())
    for row in rows:
        masks[row.image] += (row.mask,)
        if row.ignored and row.ignored not in ignored_of[row.image]:
            ignored_of[row.image] += (row.ignored,)
    called = told_apart(images)
    for name in called:
        refuse_name(path, name)
    found.pairs = [(name, image, masks[image]) for name, image in zip(called, images, strict=True)]
    found.ignored = {name: ignored_of[image] for name, image, _ in found.pairs if ignored_of[image]}
    if not found.pairs:
        first = f"; {found.problems[0].seen}" if found.problems else ""
        raise InputError(f"{path} lists no usable pair{first}; give each pair a row under the header {HEADER}")
    group_of = {row.image: row.group for row in rows}
    return found, {name: group_of[image] for name, image, _ in found.pairs} if grouped else {}


def write_pairs_table(
    path: Path, files: Mapping[str, tuple[Path, Path]], groups: Mapping[str, str], ignored: Mapping[str, Path]
) -> None:
    """Write a row for each pair: paths relative to the table, and its group and file of not-judged pixels, if any."""
    rows = []
    for name, (image, mask) in files.items():
        row = {"image": image.as_posix(), "mask": mask.as_posix()} | ({"group": groups[name]} if groups else {})
        rows.append(row | ({"ignore": ignored[name].as_posix() if name in ignored else ""} if ignored else {}))
    write_csv(path, rows)


def _read(path: Path) -> list[tuple[int, tuple[str, str, str, str]]]:
    """Return the line of every row that is not empty, and its image, mask, group and file of not-judged pixels."""
    try:
        text = read_bounded(path, "a table").decode("utf-8-sig")
        header = text.partition("\n")[0]
        separator = max(SEPARATORS, key=header.count)
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: must be a CSV file in UTF-8 with the header {HEADER} ({error}); save it again as CSV UTF-8"
        ) from error
    columns = [cell.strip().lower() for cell in table[0]] if table else []
    columns = ["ignore" if column in IGNORES else column for column in columns]
    missing = [column for column in COLUMNS[:2] if column not in columns]
    if missing:
        raise InputError(
            f"{path}: has no column {' and no column '.join(missing)}, only: {header.strip() or 'nothing'}; "
            f"its first line must be {HEADER} or {HEADER},group"
        )
    unknown = [cell for cell in columns if cell and cell not in COLUMNS]
    if unknown and "group" not in columns:
        log.warning("%s: column %s is ignored; to give groups, name the column group", path, ", ".join(unknown))
    if twice := [column for column in COLUMNS if columns.count(column) > 1]:
        raise InputError(f"{path}: has the column {twice[0]} more than once; keep one")
    places = [columns.index(column) if column in columns else -1 for column in COLUMNS]
    rows = []
    for line, cells in enumerate(table[1:], start=2):
        if any(cell.strip() for cell in cells):
            named = [from_text(cells[at].strip()) if 0 <= at < len(cells) else "" for at in places]
            rows.append((line, (named[0], named[1], named[2], named[3])))
    return rows


def _file(folder: Path, text: str) -> Path:
    """Return the file that a cell names, with slashes or backslashes."""
    plain = folder / text
    if PureWindowsPath(text).drive and not plain.exists():
        return Path(text)  # a path from a Windows machine
    if "\\" in text and "\0" not in text and not plain.exists():
        plain = folder / PureWindowsPath(text).as_posix()
    return Path(os.path.normpath(plain))


def _fault(column: str, text: str, file: Path) -> str:
    """Return what is wrong with a cell; empty if it names an image."""
    if not text:
        return f"names no {column}"
    if suffix := foreign_suffix(file.name):
        what, converter = FOREIGN[suffix]
        return f"names the {column} {text}, a {what}, which must be converted ({converter.format(suffix=suffix)})"
    try:
        if not file.exists():
            return f"names the {column} {text}, but {file} does not exist"
        if not file.is_file():
            return f"names the {column} {text}, but that is not a file"
    except (OSError, ValueError) as error:
        return f"names the {column} {text[:80]!a}, which cannot be a file ({error})"
    if not file.name.lower().endswith(IMAGE_SUFFIXES):
        return f"names the {column} {text}, which does not end in {', '.join(IMAGE_SUFFIXES)}"
    return ""


def _clashes(path: Path, rows: list[_Row]) -> list[Problem]:
    """Return rows that repeat or contradict earlier ones: one mask for two images, two groups for one image, ..."""
    problems = []
    image_lines: dict[str, _Row] = {}
    mask_lines: dict[str, _Row] = {}
    taken = {os.path.realpath(path) for row in rows for path in (row.image, row.mask)}
    for row in rows:
        image_lines.setdefault(os.path.realpath(row.image), row)
    for row in rows:
        image, mask = os.path.realpath(row.image), os.path.realpath(row.mask)
        first, before = image_lines[image], mask_lines.setdefault(mask, row)
        if mask in image_lines:
            seen = f"row {row.line} names {row.mask.name} as a mask, row {image_lines[mask].line} as an image"
        elif before is not row and os.path.realpath(before.image) == image:
            seen = f"row {row.line} repeats row {before.line} ({row.image.name} and {row.mask.name})"
        elif before is not row:
            seen = f"rows {before.line} and {row.line} give one mask, {row.mask.name}, to two images"
        elif row.ignored and os.path.realpath(row.ignored) in taken:
            seen = f"row {row.line} names {row.ignored.name} in the column ignore, but it is an image or a mask"
        elif row.group != first.group:
            seen = f"rows {first.line} and {row.line} put {row.image.name} into two groups ({first.group}, {row.group})"
        elif row.image != first.image:
            seen = f"rows {first.line} and {row.line} name one image in two ways ({first.image}, {row.image})"
        else:
            continue
        problems.append(Problem(path, seen, "correct the row or remove it"))
    return problems
