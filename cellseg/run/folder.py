"""The files of a run folder that people read too: written so that none is ever half there, and read back."""

import csv
import hashlib
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from cellseg.storage.errors import InputError
from cellseg.storage.files import read_whole, whole_file
from cellseg.storage.spreadsheet import as_text, from_text

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("cellseg", "torch", "lightning", "torchmetrics", "hydra-core", "numpy", "pillow", "scipy")
RECORDED = ("python", *PACKAGES)  # whose versions a run remembers
SCORES = ("dice", "iou", "soft_dice")
LONGEST_NAME = 120
LONGEST_HEADING = 2**16  # bytes; columns take memory each


def run_name(model: str, seed: int, overrides: Sequence[str]) -> str:
    """Name a run by what sets it apart: model, seed, then every other override, in plain ASCII without ``=`` and ``/``.

    Where characters had to go, a short hash of the value stays, so that different values give different names.
    """
    parts = [model, f"seed-{seed}"]
    for override in sorted(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        if key in ("model", "seed", "study", "n_jobs", "margin"):
            continue
        if value in ("True", "False"):  # Hydra's sweeper writes false as False
            value = value.lower()
        clean = re.sub(r"[^\w.,+-]+", "-", Path(value).name or value, flags=re.ASCII)
        prefix = "no-" if override.startswith("~") else ""
        parts.append(f"{prefix}{key.replace('/', '-')}-{clean}" + ("" if clean == value else f"-{_short_hash(value)}"))
    name = "_".join(parts)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 7]}-{_short_hash(name)}"


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


def in_place(folder: Path) -> Iterator[Path]:
    """Yield what a run does not write anew and whole, so that a link there would be written through."""
    names = (".lock", "train.log", "console.log", "hparams.yaml", "checkpoints", "predictions")
    yield from (folder / name for name in names)
    yield from folder.glob("events.out.tfevents.*")
    yield from folder.glob("predictions/*")


def start_run(folder: Path, config: DictConfig, split: Mapping[str, Any]) -> None:
    """Write down configuration and split, or find that the folder holds the beginning of this very run.

    Raises:
        InputError: If the folder holds another run, or this one with other images; everything in it stays as it is.
    """
    content = OmegaConf.to_yaml(config, resolve=True)
    for left in folder.rglob(".*.unfinished"):  # by a run that was killed: nobody else is at work here
        left.unlink()
    if (folder / "config.yaml").exists():
        refuse_another_run(folder, config)
        if (folder / "split.json").exists() and read_json(folder / "split.json") != split:
            raise InputError(
                f"{folder}: the images or their groups have changed since this run began; choose another study=NAME"
            )
    else:
        write_text(folder / "config.yaml", content)
    write_json(folder / "split.json", split)


def finished(folder: Path, config: DictConfig) -> dict[str, Any] | None:
    """Return the summary of a run that was finished in this folder before; None if there is none.

    Raises:
        InputError: If the folder holds another run.
    """
    if (folder / "config.yaml").exists():
        refuse_another_run(folder, config)
    if not (folder / "summary.json").exists():
        return None
    try:
        summary = _load_json(folder / "summary.json")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{folder / 'summary.json'} is damaged ({error}); delete it, and the same command scores the run again"
        ) from error
    return summary


def refuse_another_run(folder: Path, config: DictConfig) -> None:
    """Refuse a folder whose configuration is not this one, and name the keys that differ."""
    try:
        there = leaves(_load_yaml(folder / "config.yaml"))
    except Exception as error:  # OmegaConf and YAML raise many kinds
        raise InputError(
            f"{folder / 'config.yaml'} cannot be read ({' '.join(str(error).split())}); choose another study=NAME"
        ) from error
    here = leaves(OmegaConf.to_container(config, resolve=True))
    keys = (there.keys() | here.keys()) - {"study", "n_jobs", "margin"}  # they change nothing in a run
    different = sorted(key for key in keys if there.get(key, here) != here.get(key, there))
    if different:
        shown = "; ".join(f"{key} was {there.get(key)!r}, is {here.get(key)!r}" for key in different[:5])
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        raise InputError(
            f"{folder} holds a run with another configuration ({shown}{more}); "
            "choose another study=NAME, or move the folder away"
        )


def leaves(node: Any, key: str = "") -> dict[str, Any]:
    """Return a nested configuration as one level of dotted keys."""
    if isinstance(node, dict) and node:
        return {leaf: value for name, child in node.items() for leaf, value in leaves(child, f"{key}.{name}").items()}
    return {key.removeprefix("."): node}


def write_text(path: Path, text: str) -> None:
    """Write a whole file or, if interrupted, none of it."""
    content = text.encode()
    with whole_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; columns in order of first appearance, empty where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: as_text(value) for column, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def provenance() -> dict[str, Any]:
    """Return what produced a run: package versions, platform, and the git commit of the code, if it has one."""
    return {
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES},
        "platform": sys.platform,
        "git_commit": _git("rev-parse", "HEAD") or None,
        "git_dirty": bool(_git("status", "--porcelain")),
    }


def read_config(path: Path) -> dict[str, Any]:
    """Read a resolved configuration.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        config = _load_yaml(path)
    except Exception as error:  # OmegaConf and YAML raise many kinds
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}); move the run away") from error
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        content = _load_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); move the run away") from error
    return content


def read_table(path: Path) -> "pd.DataFrame":
    """Read a CSV file of a run; an image called NA stays one.

    Raises:
        InputError: If it cannot be read.
    """
    import pandas as pd  # not needed to train

    names = {"image": str, "group": str, "subset": str}
    try:
        content = read_whole(path, "a table")
        if len(content.partition(b"\n")[0]) > LONGEST_HEADING:
            raise ValueError("its first line is no heading")
        table = pd.read_csv(io.BytesIO(content), dtype=names, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); move the run away") from error
    for column in table.columns.intersection(list(names)):
        table[column] = table[column].map(from_text, na_action="ignore")
    if "image" in table and table["image"].astype(str).str.contains(r"[/\0]").any():
        raise InputError(f"{path}: has an image whose name is a path, as none is in train.py's; move the run away")
    return table


def read_test_rows(path: Path) -> "pd.DataFrame":
    """Read the rows of the test images in a ``per_image.csv``, each with its scores.

    Raises:
        InputError: If it cannot be read, or a score is not there.
    """
    table = read_table(path)
    try:
        rows = table[table["subset"] == "test"].astype(dict.fromkeys(SCORES, float))
        fine = len(rows) and rows[list(SCORES)].map(math.isfinite).all(axis=None)
        if not fine or rows[["image", "group"]].isna().any(axis=None) or rows["image"].duplicated().any():
            raise ValueError("a score for every test image is not there")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not as train.py wrote it ({error}); move the run away") from error
    return rows


def _load_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration as ``start_run`` wrote it; nothing in it is resolved, and nothing in it can multiply."""
    text = read_whole(path, "a configuration").decode()
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("it repeats parts of itself by reference, which train.py does not write")
    config = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(config, dict):
        raise ValueError("not a mapping")
    _require_writable(config)
    return {str(key): value for key, value in config.items()}


def _load_json(path: Path) -> dict[str, Any]:
    content = json.loads(read_whole(path, "a record"))
    if not isinstance(content, dict):
        raise ValueError("not an object")
    _require_writable(content)
    return content


def _require_writable(content: Any) -> None:
    """Refuse halves of characters and endless numbers, which JSON and YAML can name and nothing can write."""
    json.dumps(content, ensure_ascii=False).encode()


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
