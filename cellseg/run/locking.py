"""The lock of a run folder, so that only one process uses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cellseg.storage.errors import InputError

LOCK = ".lock"


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Lock a run folder against other processes.

    Raises:
        InputError: If another process uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise InputError(f"another process uses {folder}; wait until it ends, or choose another study=NAME") from error


def is_occupied(folder: Path) -> bool:
    """Return whether another process uses a run folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with occupied(folder):
            return False
    except InputError:
        return True
