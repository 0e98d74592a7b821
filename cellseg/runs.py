"""A run folder: its files, writing them so that none is ever half there, and reading them back."""

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from cellseg.data.cleaning import read_image
from cellseg.data.splits import SUBSETS
from cellseg.errors import InputError
from cellseg.networks import UNet
from cellseg.predict import Predictor

if TYPE_CHECKING:
    import pandas as pd

RECORDED_PACKAGES = ("cellseg", "torch", "lightning", "torchmetrics", "hydra-core", "numpy", "pillow", "scipy")
LONGEST_NAME = 120


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


def start_run(folder: Path, config: DictConfig, split: Mapping[str, Any]) -> Path | None:
    """Write down configuration and split, or find that the folder holds the beginning of this very run.

    Returns:
        The checkpoint to go on from, where there is one.

    Raises:
        InputError: If the folder holds another run, or this one with other images; everything in it stays as it is.
    """
    content = OmegaConf.to_yaml(config, resolve=True)
    if (folder / "config.yaml").exists():
        refuse_another_run(folder, config)
        if (folder / "split.json").exists() and json.loads((folder / "split.json").read_text("utf-8")) != split:
            raise InputError(
                f"{folder}: the images or their groups have changed since this run began; choose another study=NAME"
            )
    else:
        write_text(folder / "config.yaml", content)
    write_json(folder / "split.json", split)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    return checkpoint if checkpoint.exists() else None


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
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text("utf-8"))
    except ValueError as error:
        raise InputError(
            f"{folder / 'summary.json'} is damaged ({error}); delete it, and the same command scores the run again"
        ) from error
    return summary


def refuse_another_run(folder: Path, config: DictConfig) -> None:
    """Refuse a folder whose configuration is not this one, and name the keys that differ."""
    try:
        there = leaves(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
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
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; columns in order of first appearance, empty where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_weights(path: Path, network: nn.Module) -> None:
    """Write the network as a plain ``state_dict`` that loads with ``weights_only=True`` on any machine."""
    save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors as torch does, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    torch.save(content, unfinished)
    os.replace(unfinished, path)


def provenance() -> dict[str, Any]:
    """Return what produced a run: package versions, platform, and the git commit of the code, if it has one."""
    return {
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in RECORDED_PACKAGES},
        "platform": sys.platform,
        "git_commit": _git("rev-parse", "HEAD") or None,
        "git_dirty": bool(_git("status", "--porcelain")),
    }


@dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder.

    Attributes:
        folder: Where it lies.
        config: The resolved configuration.
        summary: What ``summary.json`` says.
        split: What ``split.json`` says.
        network: The network with the weights that were scored, in evaluation mode, on the CPU.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    split: dict[str, Any]
    network: UNet

    @cached_property
    def per_image(self) -> "pd.DataFrame":
        """A row for every scored image, as ``per_image.csv`` has it."""
        return read_table(self.folder / "per_image.csv")

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """A row for every epoch, as ``metrics.csv`` has it."""
        return read_table(self.folder / "metrics.csv")

    @property
    def image_size(self) -> int:
        """Side in pixels of the square its images were resized to."""
        return int(self.config["data"]["image_size"])

    def predict(self, image: Image.Image | NDArray[np.uint8] | Path | str) -> NDArray[np.float32]:
        """Return the probability of cell for every pixel of an image, shape (H, W) of its own size, in [0, 1].

        The image is seen whole, resized as in training.

        Args:
            image: A file, an opened image, or an array (H, W) or (H, W, 3), read as training reads it.
        """
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        picture = read_image(image if isinstance(image, Image.Image) else Path(image)).picture
        return self._predictor.probability(picture)

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(
            [self.network], self.image_size, step=2**self.network.depth, precision=self.summary["precision"]
        )


def load_run(path: Path | str) -> Run:
    """Read a finished run; nothing stored in its files is executed.

    Raises:
        InputError: If the folder holds no finished run, one of a network that is not from this package, or files of it
            are damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name the run folder printed at the end of training")
    if not (folder / "summary.json").exists():
        raise InputError(f"{folder} is no finished run: {_why_no_run(folder)}")
    config = read_config(folder / "config.yaml")
    model = config.get("model")
    settings = dict(model) if isinstance(model, dict) else {}
    if (target := settings.pop("_target_", "nothing")) != "cellseg.UNet":
        raise InputError(f"{folder}: was trained with {target}; build it yourself and load weights.pth into it")
    summary, split = read_json(folder / "summary.json"), read_json(folder / "split.json")
    _check_records(folder, config, summary, split)
    network = with_weights(partial(UNet, **settings), folder / "weights.pth")
    return Run(folder, config, summary, split, network)


def _check_records(folder: Path, config: dict[str, Any], summary: dict[str, Any], split: dict[str, Any]) -> None:
    """See that what is asked of the records of a run is there."""
    try:
        [int(config["data"][name]) for name in ("image_size", "mask_threshold")]
        [str(summary[name]) for name in ("model", "precision", "git_commit")]
        [str(summary["data"][name]) for name in ("root", "fingerprint")]
        [float(side) for side in summary["data"].get("typical_size") or ()]
        [(entry["sha256"], entry["name"], entry["group"]) for subset in SUBSETS for entry in split[subset]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder}: its records are not as train.py wrote them ({error!r})") from error


def _why_no_run(folder: Path) -> str:
    """Say what a folder holds that is named where a run is expected."""
    if (folder / "config.yaml").exists():
        return "it holds no summary.json; the command that began it trains it to the end"
    for depth, what in ((1, "runs"), (2, "studies")):
        names = sorted({path.parents[depth - 1].name for path in folder.glob(f"{'*/' * depth}config.yaml")})
        if names:
            return f"it is a folder of {what}; name one of them, such as {folder / names[0]}"
    return "it holds no summary.json"


def with_weights(make: Callable[[], UNet], path: Path) -> UNet:
    """Return a network in evaluation mode with the weights of a plain ``state_dict``; nothing in it is executed.

    The network is made without memory of its own, so that settings from a file cannot ask for more than the file holds.

    Raises:
        InputError: If the settings are none of a UNet, or the file cannot be read or is of another network.
    """
    weights = read_weights(path)
    try:
        with torch.device("meta"):
            network = make()
    except (TypeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: the settings beside it are not those of a UNet ({error})") from error
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        seen = " ".join(str(error).split(":", 1)[-1].split())[:200]
        raise InputError(f"{path}: holds the weights of another network ({seen})") from error
    return network.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a plain ``state_dict``; nothing in the file is executed.

    Raises:
        InputError: If the file holds anything else, or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; name a file of weights, such as the weights.pth of a run")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise many kinds
        raise InputError(f"{path}: cannot be read as weights ({str(error).splitlines()[0]})") from error
    plain = isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    )
    if not plain or any(value.numel() > value.untyped_storage().size() for value in weights.values()):
        raise InputError(f"{path}: holds something else than a plain state_dict of tensors")
    return weights


def read_config(path: Path) -> dict[str, Any]:
    """Read a resolved configuration.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(config, dict):
            raise TypeError("not a mapping")
    except Exception as error:  # OmegaConf and YAML raise many kinds
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}); move the run away") from error
    return {str(key): value for key, value in config.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise TypeError("not an object")
    except (OSError, ValueError, TypeError) as error:
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
        table = pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); move the run away") from error
    return table


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
