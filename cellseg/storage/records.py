"""Records whose schema is a class: JSON files that are read back exactly as they were written, or refused by key.

pydantic and not msgspec: only pydantic has numbers that must be finite, and Lightning's own dependencies bring it.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellseg.storage.files import read_bounded, write_text

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # what a float64 counts exactly
Positive = Annotated[int, Field(gt=0, lt=2**53)]


class Record(BaseModel):
    """A record; keys it does not know are left out, and nothing is converted to another type."""

    model_config = ConfigDict(strict=True, frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON file.

        Raises:
            OSError: If it cannot be read.
            ValidationError: If it does not follow the schema.
        """
        return cls.model_validate_json(read_bounded(path, "a record"))

    def write(self, path: Path) -> None:
        """Write a JSON file, whole or not at all."""
        write_text(path, self.model_dump_json(indent=2) + "\n")


def fault(error: Exception) -> str:
    """Return in one line why something could not be read; of a record, the first key that is wrong."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the message names the file itself
    return " ".join(str(error).split()) or type(error).__name__
