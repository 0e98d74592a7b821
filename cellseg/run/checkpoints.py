"""Checkpoints: written so that a kill or a full disk loses at most an epoch, and how a run goes on from them."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from cellseg.storage.errors import InputError
from cellseg.storage.tensors import find_damage, read_tensors, write_tensors

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"  # the second is there until the run is finished

log = logging.getLogger("train")


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one before and then in its place.

    Lightning writes to the system's folder for temporary files first, from where a file may have to be copied: a run
    that is killed then leaves half of one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it whole or not at all; keep the one before, from which a run goes on should this one be damaged."""
        path = Path(path)
        write_tensors(checkpoint, path, path.with_name(PREVIOUS) if path.name == LAST else None)


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, from which a run that was interrupted goes on.

    It is written after an epoch when the one before is some time old, and after the last epoch: writing it after each
    would take longer than the epochs themselves where they are short.

    Args:
        seconds: Least time between two of them; 0 writes one after every epoch.
    """

    def __init__(self, seconds: float = 60) -> None:
        # on_train_epoch_end comes also in an epoch without validation; there is never a last-v1.ckpt
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        self.seconds, self.written = seconds, time.monotonic()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell every ModelCheckpoint where a run that was moved is now: Lightning would forget its best epoch."""
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
        """Write it if it is time; all devices agree on that."""
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() - self.written >= self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            super().on_train_epoch_end(trainer, pl_module)
            self.written = time.monotonic()


def last_intact(folder: Path) -> Path | None:
    """Return the last of a run's checkpoints that is as it was written; None where there is none."""
    damaged = None
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        if (damage := find_damage(path)) is None:
            if damaged:
                log.warning("%s, so training goes on from the one before, %s", damaged, path.name)
                (folder / LAST).unlink()  # or it would take the place of the one before
            return path
        damaged = f"{path} is damaged ({damage})"
    if damaged:
        log.warning("%s, and there is none before it: training starts anew", damaged)
    return None


def steps_done(module: nn.Module, checkpoint: Path) -> int:
    """Return after how many steps a checkpoint was written.

    Raises:
        InputError: If it is not one of this network: the code has changed since.
    """
    content = _read(checkpoint)
    try:
        there = {name: value.shape for name, value in content["state_dict"].items()}
        if there == {name: value.shape for name, value in module.state_dict().items()}:
            return int(content["global_step"])
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise InputError(
        f"{checkpoint} is intact, but was not written by the network of this run; move {checkpoint.parent} away and "
        "run the same command again, which starts the run anew"
    )


def load_weights(module: nn.Module, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the module: the averaged ones, where they are averaged."""
    module.load_state_dict(_read(checkpoint)["state_dict"])


def load_best(module: nn.Module, folder: Path) -> None:
    """Put the weights that were best on the validation images into the module."""
    checkpoint = folder / BEST
    if not checkpoint.exists():
        raise InputError(
            f"{checkpoint} was never written, so there are no best weights on the validation images to score; "
            "keep callbacks.best and validate at least once, or set data.split.val_fraction=0"
        )
    load_weights(module, checkpoint)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_tensors(
        path, f"delete {path.parent} and run the same command again, which starts the run anew"
    )
    return content
