"""Write files of tensors completely or not at all; read them only if undamaged, and execute nothing in them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cellseg.storage.errors import InputError
from cellseg.storage.files import require_bounded, whole_file

DIRECTORY = 0x10  # zip's attribute of a folder, which torch would read as an empty tensor


def write_tensors(content: Mapping[str, Any], path: Path, before: Path | None = None) -> None:
    """Write tensors and plain values in torch's format, completely or not at all.

    Args:
        content: Tensors and plain values by name.
        path: The final path.
        before: New path for an older file at ``path``; without it, the older file is replaced.

    Raises:
        OSError: If the file cannot be written; an older file then stays as it was.
    """
    try:
        with whole_file(path, before) as file:  # given a path, torch would hide the reason of a failed write
            torch.save(content, file)
    except BaseException as error:
        if isinstance(error.__context__, OSError):  # torch reports an archive error instead of the disk error
            raise error.__context__ from None
        raise


def read_tensors(path: Path, remedy: str) -> Any:
    """Read a file of ``write_tensors`` into CPU memory.

    Args:
        path: The file.
        remedy: Advice for the error message if the file cannot be read.

    Raises:
        InputError: If the file is damaged, or holds anything but tensors and plain values.
    """
    if damage := find_damage(path):
        raise InputError(f"{path}: is damaged ({damage}); {remedy}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and torch raise many types of exception
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: cannot be read ({reason}); {remedy}") from error


def find_damage(path: Path) -> str | None:
    """Describe the damage of a file that was truncated or changed; return None if the file is intact.

    torch writes a zip archive with a checksum for every member, but does not verify the checksums when it reads.
    """
    try:
        require_bounded(path, "weights")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > path.stat().st_size:  # reading it would take hours
                return "its parts together are larger than the file, as in a decompression bomb"
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.is_dir() or member.external_attr & DIRECTORY:
                    return f"{member.filename} is compressed or a folder, which torch does not write"
            changed = archive.testzip()
    except Exception as error:  # a damaged file makes zipfile raise almost any exception
        return str(error) or type(error).__name__
    return f"the checksum of {changed} is wrong" if changed else None
