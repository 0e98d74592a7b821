"""Read and write ``groups.csv``: the group of each pair. A split never separates pairs of one group."""

import csv
import io
import logging
import re
from collections.abc import Collection, Mapping
from itertools import chain, count
from pathlib import Path

from cellseg.storage.csv_files import as_text, from_text
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_file, read_bounded

log = logging.getLogger(__name__)


def read_groups(path: Path, names: Collection[str]) -> dict[str, str]:
    """Return the group of every named pair, from a CSV file with the columns ``pair`` and ``group``.

    Raises:
        InputError: If the file cannot be read, a pair has no group, or a pair is in two groups.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; name a CSV file with the columns pair and group")
    try:
        with io.StringIO(read_bounded(path, "a table").decode("utf-8-sig"), newline="") as file:
            table = csv.DictReader(file)
            if not {"pair", "group"} <= set(table.fieldnames or ()):
                found = ", ".join(table.fieldnames or ["nothing"])
                raise InputError(f"{path}: must have the columns pair and group, separated by commas, but has: {found}")
            rows = [(from_text(row["pair"]), from_text(row["group"].strip())) for row in table]
            rows = [(pair if pair in names else pair.strip(), group) for pair, group in rows]
    except (AttributeError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: must be a UTF-8 CSV file with pair and group in every row ({error})") from error
    groups = dict(rows)
    if twice := [name for name, group in rows if groups[name] != group]:
        raise InputError(f"{path}: puts {twice[0]} into more than one group; keep one row for each pair")
    unknown = sorted(groups.keys() - set(names), key=natural)
    if missing := sorted((name for name in names if not groups.get(name)), key=natural):
        stray = f" (it lists {unknown[0]}, which is not a pair)" if unknown else ""
        raise InputError(
            f"{path}: has no group for {', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}{stray}; "
            "add a row with a group for each pair; pairs of one group stay on one side of the split"
        )
    if unknown:
        log.warning("%s lists %d pairs that are not in the data set, such as %s", path, len(unknown), unknown[0])
    return {name: groups[name] for name in names}


def write_groups(path: Path, groups: Mapping[str, str]) -> None:
    """Write a ``groups.csv`` that ``read_groups`` reads.

    Raises:
        InputError: If the file already exists or cannot be written.
    """
    with new_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("pair", "group"))
        writer.writerows((as_text(pair), as_text(group)) for pair, group in groups.items())


def unused_table(folder: Path) -> Path:
    """Return the path of a new table of groups in a folder: groups.csv, or groups_2.csv if it has one, and so on."""
    taken = {path.name.lower() for path in folder.iterdir()}
    numbered = chain(["groups.csv"], (f"groups_{number}.csv" for number in count(2)))
    return folder / next(name for name in numbered if name not in taken)


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that compares numbers by value: cell_2 before cell_10; cell_01 before cell_1."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)], name
