"""CSV tables, in which no name is a formula to a spreadsheet, such as an image called ``=HYPERLINK(...)``."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellseg.storage.files import write_text

# what spreadsheets compute; a name such as -1 or +cell is left as it is
FORMULA = re.compile(r"'*([=@＝＠\t\r]|[-+－＋].*[(|!&])", re.DOTALL)  # noqa: RUF001 (wide ones count too)


def as_text(value: Any) -> Any:
    """Return a cell with an apostrophe before it if it would be taken for a formula; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def from_text(value: str) -> str:
    """Return what ``as_text`` was given."""
    return value[1:] if value.startswith("'") and FORMULA.match(value) else value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; columns in order of first appearance, empty where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: as_text(value) for column, value in row.items()} for row in rows)
    write_text(path, text.getvalue())
