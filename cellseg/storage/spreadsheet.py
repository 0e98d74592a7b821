"""Names in CSV files that spreadsheets must not take for formulas, such as an image called ``=HYPERLINK(...)``."""

import re
from typing import Any

# what spreadsheets compute; a name such as -1 or +cell is left as it is
FORMULA = re.compile(r"'*([=@＝＠\t\r]|[-+－＋].*[(|!&])", re.DOTALL)  # noqa: RUF001 (wide ones count too)


def as_text(value: Any) -> Any:
    """Return a cell with an apostrophe before it if it would be taken for a formula; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def from_text(value: str) -> str:
    """Return what ``as_text`` was given."""
    return value[1:] if value.startswith("'") and FORMULA.match(value) else value
