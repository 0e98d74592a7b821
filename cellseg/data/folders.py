"""New folders and files that appear whole or not at all, and never over an existing one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellseg.errors import InputError


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
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        if path.exists():
            raise FileExistsError
        unfinished.unlink(missing_ok=True)  # in a folder from a stranger it may be a link to anywhere
        yield unfinished
        try:
            os.link(unfinished, path)  # unlike a rename, never over a file
        except OSError:
            if path.exists():
                raise
            os.replace(unfinished, path)  # where the file system knows no links
    except FileExistsError as error:
        raise InputError(f"{path} exists already, and nothing is written over it; move it away first") from error
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); name another file") from error
    finally:
        unfinished.unlink(missing_ok=True)
