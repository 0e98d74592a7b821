"""Beginning a run in its folder: is it there already, is it this very run, and is nobody else at work in it?"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from cellseg.data.splits import SplitRecord
from cellseg.run.folder import RunFolder, Summary, leaves
from cellseg.storage.errors import InputError
from cellseg.storage.files import whole_file, write_text

NOT_OF_THE_RUN = frozenset({"study", "n_jobs", "margin", "logger"})  # keys that change nothing in a run

log = logging.getLogger("train")


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder.

    Raises:
        InputError: If another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"another process is at work in {folder}; wait for it, or choose another study=NAME"
        ) from error


def finished(folder: Path, config: DictConfig) -> Summary | None:
    """Return the summary of a run that was finished in this folder before; None if there is none.

    Raises:
        InputError: If the folder holds another run, or its files are damaged.
    """
    run = RunFolder(folder)
    summary = run.summary if run.finished else None
    if (folder / "config.yaml").exists():
        _refuse_another_run(run, config)
    return summary


def start_run(folder: Path, config: DictConfig, split: SplitRecord, patch: bytes) -> None:
    """Write down configuration, split and code, or find that the folder holds the beginning of this very run.

    Args:
        folder: The run folder.
        config: The configuration.
        split: The split.
        patch: What the commit does not hold of the code; empty for none.

    Raises:
        InputError: If the folder holds another run, or this one with other images; everything in it stays as it is.
    """
    run = RunFolder(folder)
    for left in folder.rglob(".*.unfinished"):  # by a run that was killed: nobody else is at work here
        left.unlink()
    goes_on = any(folder.glob("checkpoints/*.ckpt"))
    if (folder / "config.yaml").exists():
        _refuse_another_run(run, config)
        if (folder / "split.json").exists() and run.split != split:
            raise InputError(
                f"{folder}: the images or their groups have changed since this run began; choose another study=NAME"
            )
    else:
        write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    split.write(folder / "split.json")
    _keep_code(folder, patch, goes_on=goes_on)


def _keep_code(folder: Path, patch: bytes, *, goes_on: bool) -> None:
    """Write ``code.patch``; a run that goes on keeps that of its beginning, and the new one beside it."""
    path = folder / "code.patch"
    if patch == (path.read_bytes() if path.exists() else b""):
        return
    if goes_on:
        path = folder / "code-resumed.patch"
        log.warning("the code has changed since this run began; %s holds what the commit does not hold now", path)
    if patch or goes_on:
        with whole_file(path) as file:
            file.write(patch)
    else:
        path.unlink()


def _refuse_another_run(run: RunFolder, config: DictConfig) -> None:
    """Refuse a folder whose configuration is not this one, and name the keys that differ."""
    there, here = leaves(run.config), leaves(OmegaConf.to_container(config, resolve=True))
    keys = {key for key in there.keys() | here.keys() if key.partition(".")[0] not in NOT_OF_THE_RUN}
    # a key that is null or empty now may be one that an earlier version did not have
    different = sorted(key for key in keys if _known(there.get(key)) != _known(here.get(key)))
    if different:
        shown = "; ".join(f"{key} was {_shown(there, key)}, is {_shown(here, key)}" for key in different[:5])
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        moved = [key for key in different if _class_name(there.get(key)) == _class_name(here.get(key)) != ""]
        version = "; it may be of another version of cellseg, which goes on with it" if moved else ""
        raise InputError(
            f"{run.path} holds a run with another configuration ({shown}{more}){version}; "
            "choose another study=NAME, or move the folder away"
        )


def _known(value: Any) -> Any:
    return None if value == {} else value


def _shown(config: Mapping[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "absent"


def _class_name(value: Any) -> str:
    """Return the last part of a dotted path; a class that has moved keeps it."""
    return value.rpartition(".")[2] if isinstance(value, str) and value.startswith("cellseg.") else ""
