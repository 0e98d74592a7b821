"""From which checkpoint an interrupted run goes on, and whether it can: files are damaged, or come from strangers."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from cellseg.run.callbacks import LAST, PREVIOUS
from cellseg.run.hardware import out_of_memory
from cellseg.storage.errors import InputError
from cellseg.storage.tensors import find_damage, read_tensors

MOST = 2**53  # of anything that is counted

log = logging.getLogger("train")


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values."""
    content: dict[str, Any] = read_tensors(path, f"delete {path.parent}, and the same command starts the run anew")
    return content


def load_weights(module: nn.Module, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the module: the averaged ones, where they are averaged."""
    module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])


@contextmanager
def fitting(checkpoint: Path | None, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Say of what goes wrong before training goes on that a checkpoint, or the configuration, does not fit.

    Args:
        checkpoint: What is read; None if there is nothing to read, and Lightning looks at the configuration only.
        begun: Whether training goes on already, so that what goes wrong has other causes.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        if begun() or out_of_memory(error):
            raise
        if checkpoint is None:
            if not isinstance(error, (MisconfigurationException, ValueError, TypeError, ArithmeticError)):
                raise
            raise InputError(f"training cannot begin as it is configured: {' '.join(str(error).split())}") from error
        raise InputError(
            f"{checkpoint} is intact, but no checkpoint of this run ({' '.join(repr(error).split())[:200]}); move "
            f"{checkpoint.parent} away, and the same command starts the run anew"
        ) from error


class ResumeCheck(L.Callback):
    """Sees before the first step that what was restored is of the kind that this run would have written.

    torch and Lightning take whatever stands in a checkpoint, and some of it would crash the process.

    Attributes:
        begun: Whether that is so, and training goes on.
    """

    def __init__(self) -> None:
        self.begun = False

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Require what every callback and the loops have kept; Lightning would go on without it.

        Raises:
            ValueError: If something is not there, or of another kind.
        """
        _require_alike("loops", trainer.fit_loop.state_dict(), checkpoint["loops"]["fit_loop"])
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
        keep = {callback.state_key for callback in callbacks if callback.state_dict()}
        if missing := sorted(keep - checkpoint["callbacks"].keys()):
            raise ValueError(f"nothing is kept of {missing[0]}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare optimizer and schedule with some made anew.

        Raises:
            ValueError: If something is of another kind.
        """
        made: Any = pl_module.configure_optimizers()
        fresh = made["optimizer"] if isinstance(made, dict) else made
        [optimizer] = trainer.optimizers
        _require_alike("optimizer", fresh.state_dict()["param_groups"], optimizer.state_dict()["param_groups"])
        if isinstance(optimizer, torch.optim.Adam):  # what others remember is theirs to check
            _require_moments(optimizer)
        for config in trainer.lr_scheduler_configs:
            _require_alike("schedule", made["lr_scheduler"]["scheduler"].state_dict(), config.scheduler.state_dict())
        self.begun = True


def _require_alike(where: str, expected: Any, given: Any) -> None:
    """Require the same keys and kinds of values, and numbers that can be counted with; None may become anything."""
    if isinstance(expected, dict):
        if not isinstance(given, dict) or expected.keys() - given.keys():
            raise ValueError(f"{where} has not all it should have")
        for key, value in expected.items():
            _require_alike(f"{where}.{key}", value, given[key])
    elif isinstance(expected, list | tuple):
        if not isinstance(given, list | tuple) or len(given) != len(expected):
            raise ValueError(f"{where} is no list of {len(expected)}")
        for number, value in enumerate(expected):
            _require_alike(f"{where}.{number}", value, given[number])
    elif isinstance(expected, str):
        if given != expected:
            raise ValueError(f"{where} is {given!r}, not {expected}")
    elif isinstance(expected, bool | int):
        if type(given) is not type(expected) or not (0 <= given < MOST or given == expected):
            raise ValueError(
                f"{where} is {given!r}, where {'a count' if type(expected) is int else 'yes or no'} belongs"
            )
    elif isinstance(expected, float) and (type(given) not in (int, float) or given != given):
        raise ValueError(f"{where} is {given!r}, where a number belongs")


def _require_moments(optimizer: torch.optim.Adam) -> None:
    """Require the moments of each weight that has any; torch crashes where they are something else."""
    for weight, state in optimizer.state.items():
        shapes = {"step": torch.Size([]), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
        if optimizer.defaults["amsgrad"]:
            shapes["max_exp_avg_sq"] = weight.shape
        for name, shape in shapes.items() if state else ():
            value = state.get(name)
            dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_floating_point()
            if not dense or value.shape != shape or 0 in value.stride():
                raise ValueError(f"{name} of the optimizer does not fit its weight of shape {tuple(weight.shape)}")
