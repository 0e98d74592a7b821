"""Files of tensors: written whole or not at all, read only where every byte is as it was written, never executed."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cellseg.storage.errors import InputError
from cellseg.storage.files import require_bounded, whole_file

DIRECTORY = 0x10  # what zip says of folders, which torch would take for empty tensors


def write_tensors(content: Mapping[str, Any], path: Path, before: Path | None = None) -> None:
    """Write tensors and plain values as torch does, whole or not at all.

    Args:
        content: What to write.
        path: The file.
        before: What to call the file that was there before; without it, it is replaced.

    Raises:
        OSError: If it cannot be written; what was there is then still there.
    """
    try:
        with whole_file(path, before) as file:  # not by its name: torch would hide why a write failed
            torch.save(content, file)
    except BaseException as error:
        if isinstance(error.__context__, OSError):  # torch complains of the archive, and not of the disk
            raise error.__context__ from None
        raise


def read_tensors(path: Path, remedy: str) -> Any:
    """Read what ``write_tensors`` wrote, on the CPU.

    Args:
        path: The file.
        remedy: What to do where it cannot be read.

    Raises:
        InputError: If it is damaged, or holds more than tensors and plain values.
    """
    if damage := find_damage(path):
        raise InputError(f"{path}: is damaged ({damage}); {remedy}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and torch raise many kinds
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: cannot be read ({said}); {remedy}") from error


def find_damage(path: Path) -> str | None:
    """Say what is wrong with a file that was cut short or changed; None where it is intact.

    torch writes zip archives with a checksum of every member, and never looks at them again.
    """
    try:
        require_bounded(path, "weights")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > path.stat().st_size:  # it would be read for hours
                return "it holds one part several times"
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.is_dir() or member.external_attr & DIRECTORY:
                    return f"{member.filename} is compressed or a folder, which torch does not write"
            changed = archive.testzip()
    except Exception as error:  # zipfile lets almost any through on a damaged file
        return str(error) or type(error).__name__
    return f"the checksum of {changed} is wrong" if changed else None
