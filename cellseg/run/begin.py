"""Starting a run in its folder: check that the folder holds this run or none, and that no other process uses it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cellseg.data.splits import SplitRecord
from cellseg.run.folder import RunFolder, Summary, leaves
from cellseg.run.naming import FAILURE
from cellseg.run.provenance import provenance
from cellseg.storage.errors import InputError
from cellseg.storage.files import whole_file, write_text

NOT_OF_THE_RUN = frozenset(
    {"study", "n_jobs", "margin", "looks", "logger", "callbacks.last.keep"}
)  # keys that do not change the result of a run

log = logging.getLogger("train")


def finished(folder: Path, config: DictConfig) -> Summary | None:
    """Return the summary if this folder holds this run, finished; None if it is not finished.

    Raises:
        InputError: If the folder holds another run, or its files are damaged.
    """
    run = RunFolder(folder)
    summary = run.summary if run.finished else None
    if (folder / "config.yaml").exists():
        _refuse_another_run(run, config)
    return summary


def code_since(summary: Summary) -> str:
    """Say that the committed code has changed since a run finished; empty if it has not, or if that is unknown."""
    now = provenance()["git_commit"]
    if None in (now, summary.git_commit) or now == summary.git_commit:
        return ""
    return f"by commit {summary.commit}; the code is now at {now[:7]}"


def start_run(folder: Path, config: DictConfig, split: SplitRecord, patch: bytes) -> None:
    """Write configuration, split and code, or check that the folder holds the start of this run.

    Args:
        folder: The run folder.
        config: The configuration.
        split: The split.
        patch: Changes of the code that are not committed; empty for none.

    Raises:
        InputError: If the folder holds another run, or this one with other images; no file is changed.
    """
    run = RunFolder(folder)
    for left in folder.rglob(".*.unfinished"):  # by a killed run; the lock keeps others out
        left.unlink()
    goes_on = any(folder.glob("checkpoints/*.ckpt"))
    if (folder / "config.yaml").exists():
        _refuse_another_run(run, config)
        if (folder / "split.json").exists() and run.split != split:
            raise InputError(
                f"{folder}: images or groups have changed since this run started; choose another study=NAME"
            )
    else:
        write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    (folder / FAILURE).unlink(missing_ok=True)  # it is tried again, so it has not failed
    split.write(folder / "split.json")
    _keep_code(folder, patch, goes_on=goes_on)


def _keep_code(folder: Path, patch: bytes, *, goes_on: bool) -> None:
    """Write ``code.patch``; a continued run keeps its first one and writes ``code-resumed.patch``."""
    path = folder / "code.patch"
    if patch == (path.read_bytes() if path.exists() else b""):
        return
    if goes_on:
        path = folder / "code-resumed.patch"
        log.warning("the code has changed since this run started; %s has the changes that are not committed", path)
    if patch or goes_on:
        with whole_file(path) as file:
            file.write(patch)
    else:
        path.unlink()


def _refuse_another_run(run: RunFolder, config: DictConfig) -> None:
    """Refuse a folder with another configuration, and name the keys that differ."""
    there, here = leaves(run.config), leaves(OmegaConf.to_container(config, resolve=True))
    keys = {key for key in there.keys() | here.keys() if not {key, key.partition(".")[0]} & NOT_OF_THE_RUN}
    # an earlier version may lack a key that is null or empty now
    different = sorted(key for key in keys if _known(there.get(key)) != _known(here.get(key)))
    if different:
        shown = "; ".join(f"{key} was {_shown(there, key)}, is {_shown(here, key)}" for key in different[:5])
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        moved = [key for key in different if _class_name(there.get(key)) == _class_name(here.get(key)) != ""]
        version = "; another version of cellseg may have started it, and can continue it" if moved else ""
        raise InputError(
            f"{run.path} holds a run with another configuration ({shown}{more}){version}; "
            "choose another study=NAME, or move the folder away"
        )


def _known(value: Any) -> Any:
    return None if value == {} else value


def _shown(config: Mapping[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "absent"


def _class_name(value: Any) -> str:
    """Return the last part of a dotted path, which stays when a class moves."""
    return value.rpartition(".")[2] if isinstance(value, str) and value.startswith("cellseg.") else ""
