"""Write CSV tables in which a spreadsheet finds no formula, even if an image has the name ``=HYPERLINK(...)``."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellseg.storage.files import write_text

# text that spreadsheets compute; a name such as -1 or +cell does not match
FORMULA = re.compile(r"'*([=@＝＠\t\r]|[-+－＋].*[(|!&])", re.DOTALL)  # noqa: RUF001 (also full-width characters)


def as_text(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would compute as a formula; return other values unchanged."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def from_text(value: str) -> str:
    """Remove the apostrophe that ``as_text`` added."""
    return value[1:] if value.startswith("'") and FORMULA.match(value) else value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, completely or not at all.

    Columns appear in the order in which rows first have them; a cell is empty if its row lacks the column.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: as_text(value) for column, value in row.items()} for row in rows)
    write_text(path, text.getvalue())
