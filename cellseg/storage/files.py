"""Files read within bounds, and written whole or not at all: folders come from strangers, and disks fill up."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellseg.storage.errors import InputError

LARGEST = {"a picture": 2**32, "a table": 2**28, "a record": 2**26, "a configuration": 2**17, "weights": 2**35}  # bytes


def require_bounded(path: Path, kind: str) -> None:
    """Check that a file can be read to its end and is no larger than files of its kind are.

    Raises:
        OSError: If it is missing, empty, too large, or not a file: a device or a pipe has no end.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise OSError("it is not a file")
    if not size:  # some of the system's files without end report this size
        raise OSError("it is empty")
    if size > LARGEST[kind]:
        raise OSError(f"it has {size} bytes, more than the {LARGEST[kind]} that {kind} can have")


def read_bounded(path: Path, kind: str) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: As ``require_bounded``, or if it cannot be read.
    """
    require_bounded(path, kind)
    return path.read_bytes()


@contextmanager
def whole_file(path: Path, before: Path | None = None) -> Iterator[Any]:
    """Give a file to write bytes to, which becomes ``path`` when the block ends; if it fails, nothing has changed.

    Args:
        path: What it is to become; its folder is made where there is none.
        before: What to call the file that was there before; without it, it is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_beside(path)
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # after a power cut a name must not stand for less than the whole
        if before and path.exists():
            os.replace(path, before)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def unfinished_beside(path: Path) -> Path:
    """Return the name under which this process writes a file until it is whole; no file has this name now."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.unlink(missing_ok=True)  # left by a process that was killed
    return unfinished


def write_text(path: Path, text: str) -> None:
    """Write a whole file or, if interrupted, none of it."""
    content = text.encode()
    with whole_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path, remedy: str = "free space there, or name another folder") -> Iterator[Path]:
    """Give a folder to write into, which becomes ``path`` when the block ends, and vanishes if it fails.

    Args:
        path: What it is to become.
        remedy: What to do if it cannot be written.

    Raises:
        InputError: If ``path`` exists, or it cannot be written.
    """
    if path.exists():
        raise InputError(f"{path} exists already, and nothing is written over it; name a new folder")
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp makes it private
        unfinished.rename(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); {remedy}") from error
    finally:
        if unfinished:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a file to write, which becomes ``path`` when the block ends, and vanishes if it fails.

    Raises:
        InputError: If ``path`` exists, or it cannot be written.
    """
    if path.exists():
        raise InputError(f"{path} exists already, and nothing is written over it; move it away first")
    unfinished = unfinished_beside(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); name another file") from error
    finally:
        unfinished.unlink(missing_ok=True)
