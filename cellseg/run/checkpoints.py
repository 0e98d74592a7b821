"""Checkpoints: writing them so that a kill or a full disk loses at most an epoch, and continuing from them."""

import contextlib
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from cellseg.run.folder import RunFolder
from cellseg.storage.errors import InputError
from cellseg.storage.files import write_json
from cellseg.storage.tensors import find_damage, read_tensors, write_tensors

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
ENDED = "ended.json"  # after which epoch and step the training of an unfinished run has ended

log = logging.getLogger("train")


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a new file and then renames it over the old one.

    Lightning writes to the system's temporary folder and may copy the file from there; a kill would leave half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint completely or not at all; keep the previous one in case this one gets damaged."""
        path = Path(path)
        write_tensors(checkpoint, path, path.with_name(PREVIOUS) if path.name == LAST else None)


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, from which an interrupted run continues.

    It is written after an epoch if the previous one is old enough, and after the last epoch. Writing it after each
    short epoch would take longer than the epochs.

    Args:
        seconds: Minimum time between two checkpoints; 0 writes one after each epoch.
        keep: Whether a finished run keeps ``last.ckpt`` and ``best.ckpt``.
    """

    def __init__(self, seconds: float = 60, *, keep: bool = False) -> None:
        # on_train_epoch_end: also in an epoch without validation; no counter: never a last-v1.ckpt
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        self.seconds, self.keep, self.written = seconds, keep, time.monotonic()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct the paths of a moved run; Lightning would forget its best epoch."""
        for state in checkpoint["callbacks"].values():
            if "best_k_models" in state and self.dirpath is not None:
                here = Path(self.dirpath)
                for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[name] = state[name] and str(here / Path(state[name]).name)
                state["best_k_models"] = {
                    str(here / Path(path).name): score for path, score in state["best_k_models"].items()
                }
                state["dirpath"] = self.dirpath

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the checkpoint if it is due, on all devices together."""
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() - self.written >= self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            super().on_train_epoch_end(trainer, pl_module)
            self.written = time.monotonic()


def free(folder: Path) -> int:
    """Delete the checkpoints of a finished run, except those of a user's own callbacks; return the freed bytes.

    Args:
        folder: The run folder; it must have its weights and its summary.
    """
    freed = 0
    for name in (LAST, PREVIOUS, BEST, ENDED):
        path = folder / "checkpoints" / name
        if path.exists():
            freed += path.stat().st_size
            path.unlink()
    with contextlib.suppress(OSError):  # absent, or it holds other files
        (folder / "checkpoints").rmdir()
    return freed


@dataclass
class Pruned:
    """What was freed.

    Attributes:
        runs: Number of finished runs whose checkpoints were deleted.
        freed: Bytes.
        unfinished: Number of runs that need their checkpoints to continue.
        kept: Reasons why finished runs keep theirs.
    """

    runs: int = 0
    freed: int = 0
    unfinished: int = 0
    kept: list[str] = field(default_factory=list)


def prune(folder: Path) -> Pruned:
    """Delete the checkpoints of all finished runs below a folder, if their weights are intact.

    Args:
        folder: A run, a study, or a folder of studies.

    Raises:
        InputError: If it holds no run.
    """
    runs = [RunFolder(path.parent) for path in sorted(folder.rglob("config.yaml"))]
    if not runs:
        raise InputError(f"{folder} holds no runs; name a study, such as logs/first, or all of logs")
    done = Pruned()
    for run in runs:
        weights = run.path / "weights.pth"
        if not run.finished:
            done.unfinished += 1
        elif not any((run.path / "checkpoints").glob("*")):
            continue
        elif (run.config.get("callbacks") or {}).get("last", {}).get("keep"):
            done.kept.append(f"{run.path} has callbacks.last.keep=true")
        elif not weights.exists() or find_damage(weights):
            done.kept.append(f"{weights} is {'damaged' if weights.exists() else 'absent'}")
        else:
            freed = free(run.path)
            done.freed += freed
            done.runs += freed > 0
    return done


def last_intact(folder: Path) -> Path | None:
    """Return the latest undamaged checkpoint of a run; None if there is none."""
    damaged = None
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        if (damage := find_damage(path)) is None:
            if damaged:
                log.warning("%s; training continues from the previous checkpoint, %s", damaged, path.name)
                (folder / LAST).unlink()  # or it would replace the previous one
            return path
        damaged = f"{path} is damaged ({damage})"
    if damaged:
        log.warning("%s, and there is no previous one; training starts anew", damaged)
    return None


def steps_done(module: nn.Module, checkpoint: Path) -> int:
    """Return the number of steps before a checkpoint.

    Raises:
        InputError: If it belongs to another network, because the code has changed.
    """
    content = _read(checkpoint)
    try:
        there = {name: value.shape for name, value in content["state_dict"].items()}
        if there == {name: value.shape for name, value in module.state_dict().items()}:
            return int(content["global_step"])
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise InputError(
        f"{checkpoint} is intact, but belongs to another network; move {checkpoint.parent} away and "
        "run the same command again to start anew"
    )


def note_end(folder: Path, epochs: int, steps: int) -> None:
    """Record that training has ended, for a run that is interrupted in its test.

    Early stopping and limits of steps or time would not stop it again at the same epoch.
    """
    if (folder / LAST).exists():
        write_json(folder / ENDED, {"epochs": epochs, "steps": steps})


def epochs_at_end(checkpoint: Path) -> int | None:
    """Return the number of epochs if training had ended at this checkpoint; else None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        ended = json.loads((checkpoint.parent / ENDED).read_text("utf-8"))
        if ended["steps"] == _read(checkpoint)["global_step"]:
            return int(ended["epochs"])
    return None


def load_weights(module: nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint into the module; the averaged ones if there are any."""
    module.load_state_dict(_read(checkpoint)["state_dict"])


def load_best(module: nn.Module, folder: Path) -> None:
    """Load the weights with the best score on the validation images into the module."""
    checkpoint = folder / BEST
    if not checkpoint.exists():
        raise InputError(
            f"{checkpoint} was never written, so there are no best weights to score; "
            "keep callbacks.best and validate at least once, or set data.split.val_fraction=0"
        )
    load_weights(module, checkpoint)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_tensors(path, f"delete {path.parent} and run the same command again to start anew")
    return content
