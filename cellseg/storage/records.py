"""Read and write JSON files with a fixed schema; an error names the wrong key.

This uses pydantic and not msgspec: only pydantic can require finite numbers, and Lightning depends on it anyway.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellseg.storage.files import read_bounded, write_text

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # float64 represents these integers exactly
Positive = Annotated[int, Field(gt=0, lt=2**53)]


class Record(BaseModel):
    """Base class of records: unknown keys are ignored, and no value is converted to another type."""

    model_config = ConfigDict(strict=True, frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON file.

        Raises:
            OSError: If the file cannot be read.
            ValidationError: If its content does not match the schema.
        """
        return cls.model_validate_json(read_bounded(path, "a record"))

    def write(self, path: Path) -> None:
        """Write a JSON file, completely or not at all."""
        write_text(path, self.model_dump_json(indent=2) + "\n")


def fault(error: Exception) -> str:
    """Describe in one line why a file could not be read; for a record, name the first wrong key."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the caller's message names the file
    return " ".join(str(error).split()) or type(error).__name__
