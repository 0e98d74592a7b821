"""Read files up to a size limit, and write files completely or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellseg.storage.errors import InputError

LARGEST = {
    "a picture": 2**32,
    "a table": 2**28,
    "a record": 2**26,
    "a configuration": 2**17,
    "a plan": 2**22,
    "weights": 2**35,
}  # bytes


def require_bounded(path: Path, kind: str) -> None:
    """Check that a path is a regular file within the size limit of its kind.

    Raises:
        OSError: If it is missing, empty, too large, or no regular file; a device or a pipe may have no end.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise OSError("it is not a file")
    if not size:  # some endless system files report size 0
        raise OSError("it is empty")
    if size > LARGEST[kind]:
        raise OSError(f"it has {size} bytes, but the maximum for {kind} is {LARGEST[kind]}")


def read_bounded(path: Path, kind: str) -> bytes:
    """Read a whole file after checking its size.

    Raises:
        OSError: As ``require_bounded``, or if the file cannot be read.
    """
    require_bounded(path, kind)
    return path.read_bytes()


@contextmanager
def whole_file(path: Path, before: Path | None = None) -> Iterator[Any]:
    """Open a temporary file for bytes and rename it to ``path`` when the block ends; after an error, change nothing.

    Args:
        path: The final path; its folder is created if it does not exist.
        before: New path for an older file at ``path``; without it, the older file is replaced.

    Raises:
        OSError: If the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_beside(path)
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # after a power cut, ``path`` must not name an incomplete file
        if before and path.exists():
            os.replace(path, before)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def unfinished_beside(path: Path) -> Path:
    """Return the temporary path at which this process writes a file; delete an older file there."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.unlink(missing_ok=True)  # a killed process may have left it
    return unfinished


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, completely or not at all."""
    content = text.encode()
    with whole_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, completely or not at all; NaN and infinity raise a ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def require_empty(path: Path) -> None:
    """Check that a folder for results does not exist or is empty.

    Raises:
        InputError: If it is a file, or contains something.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, which is not overwritten; name a new folder")
    if path.exists() and any(path.iterdir()):
        raise InputError(f"{path} is not empty, and files are not overwritten; name a new folder")


@contextmanager
def new_folder(path: Path, remedy: str = "check the folder and its free space, or name another") -> Iterator[Path]:
    """Make a temporary folder and rename it to ``path`` when the block ends; after an error, delete it.

    Args:
        path: The final path.
        remedy: Advice for the error message if the folder cannot be written.

    Raises:
        InputError: If ``path`` exists or cannot be written.
    """
    if path.exists():
        raise InputError(f"{path} already exists and is not overwritten; name a new folder")
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp denies access to other users
        unfinished.rename(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); {remedy}") from error
    finally:
        if unfinished:
            shutil.rmtree(unfinished, ignore_errors=True)


def require_new(path: Path) -> None:
    """Check that a file does not exist, and that its folder does.

    Raises:
        InputError: If not.
    """
    if path.exists():
        raise InputError(f"{path} already exists and is not overwritten; name a new file, or move the old one away")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: {path.parent} is not a folder; make it, or name another file")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path and rename its file to ``path`` when the block ends; after an error, delete it.

    Raises:
        InputError: If ``path`` exists or cannot be written.
    """
    require_new(path)
    unfinished = unfinished_beside(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); name another file") from error
    finally:
        unfinished.unlink(missing_ok=True)
