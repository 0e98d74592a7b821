"""Groups of siblings, as ``groups.csv`` beside the pairs says them."""

import csv
import io
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from cellseg.storage.csv_files import as_text, from_text
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_file, read_bounded

log = logging.getLogger(__name__)


def read_groups(path: Path, names: Collection[str]) -> dict[str, str]:
    """Return the group of every named pair, from a CSV file with the columns ``pair`` and ``group``.

    Raises:
        InputError: If the file cannot be read, leaves a pair out, or puts one into two groups.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; name a CSV file with the columns pair and group")
    try:
        with io.StringIO(read_bounded(path, "a table").decode("utf-8-sig"), newline="") as file:
            table = csv.DictReader(file)
            if not {"pair", "group"} <= set(table.fieldnames or ()):
                found = ", ".join(table.fieldnames or ["nothing"])
                raise InputError(f"{path}: must have the columns pair and group, parted by commas, but has: {found}")
            rows = [(from_text(row["pair"]), from_text(row["group"].strip())) for row in table]
            rows = [(pair if pair in names else pair.strip(), group) for pair, group in rows]
    except (AttributeError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: must be a UTF-8 CSV file with pair and group in every row ({error})") from error
    groups = dict(rows)
    if torn := [name for name, group in rows if groups[name] != group]:
        raise InputError(f"{path}: puts {torn[0]} into more than one group; keep one row for every pair")
    unknown = sorted(groups.keys() - set(names), key=natural)
    if missing := sorted((name for name in names if not groups.get(name)), key=natural):
        stray = f" ({unknown[0]}, which it names, is no pair)" if unknown else ""
        raise InputError(
            f"{path}: has no group for {', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}{stray}; "
            "name a group for every pair, so that siblings can be kept on one side of the split"
        )
    if unknown:
        log.warning("%s names %d pairs that are not in the folder, %s first", path, len(unknown), unknown[0])
    return {name: groups[name] for name in names}


def write_groups(path: Path, groups: Mapping[str, str]) -> None:
    """Write the group of every pair as ``read_groups`` reads it.

    Raises:
        InputError: If the file exists already, or cannot be written.
    """
    with new_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("pair", "group"))
        writer.writerows((as_text(pair), as_text(group)) for pair, group in groups.items())


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key by the numbers in a name (cell_2 before cell_10); the name itself settles cell_1 against cell_01."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)], name
