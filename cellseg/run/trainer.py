"""Lightning's Trainer and loggers from the configuration; each argument works or is refused by name."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_object
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    RichModelSummary,
    Timer,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig, OmegaConf

from cellseg.run.callbacks import RunProgress, StopAfter
from cellseg.run.checkpoints import WholeCheckpoints
from cellseg.run.overrides import nearest
from cellseg.run.parts import build, build_all
from cellseg.storage.errors import InputError

REFUSED = {  # arguments that would break a promise of a run, and what to do instead
    "logger": "loggers are a group: logger=csv, logger=[tensorboard,csv] or logger=null",
    "callbacks": "callbacks are a group: +callbacks.NAME._target_=CLASS",
    "default_root_dir": "the run folder is named by study=NAME and hydra.run.dir=FOLDER",
    "fast_dev_run": "it saves nothing; experiment=smoke does everything that a run does, in seconds",
    "limit_test_batches": "scores cover all test images; for fewer of them set data.split.test_fraction",
    "limit_predict_batches": "train.py predicts the test images only; use cellseg predict",
    "barebones": "it writes no checkpoint and no log",
    "model_registry": "weights are kept in the run folder",
    "use_distributed_sampler": "CellDataModule distributes training images itself, and each device scores all images",
}
HARMLESS: Mapping[str, tuple[Any, ...]] = {"limit_test_batches": (1.0,), "limit_predict_batches": (1.0,)}
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
ENDINGS = (".txt", ".json")  # of what profilers write


def build_loggers(cfg: DictConfig, folder: Path, resumed_at: int) -> list[Logger]:
    """Build the loggers, each with the run folder to write to and the run's name where it takes them.

    Args:
        cfg: The configuration; ``logger`` holds loggers by name, or is null for none.
        folder: The run folder.
        resumed_at: Number of steps before the checkpoint; TensorBoard drops later events.

    Raises:
        InputError: If one cannot be built, is no logger, or its package is not installed.
    """
    node = OmegaConf.select(cfg, "logger")
    one = isinstance(node, DictConfig) and "_target_" in node  # a single logger without a name
    offered = {"save_dir": folder, "name": folder.name, "run_name": folder.name, "purge_step": resumed_at}
    loggers = []
    for key in ["logger"] if one else [f"logger.{name}" for name in node or () if node[name] is not None]:
        settings = OmegaConf.select(cfg, key)
        target = settings.get("_target_") if isinstance(settings, DictConfig) else None
        taken = set(_parameters(str(target))) if target else set()
        if str(target).endswith("TensorBoardLogger"):  # passes it on
            taken.add("purge_step")
        given = {name: value for name, value in offered.items() if name in taken and name not in settings}
        loggers.append(build(cfg, key, Logger, **given))  # type: ignore[type-abstract]
    return loggers


def build_timer(cfg: DictConfig) -> Timer:
    """Return the timer, which ends training after the epoch in which ``trainer.max_time`` passes."""
    duration = OmegaConf.select(cfg, "trainer.max_time")
    if OmegaConf.is_config(duration):
        duration = OmegaConf.to_container(duration)
    try:
        return Timer(duration, interval="epoch")
    except (MisconfigurationException, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"trainer.max_time={duration!r} is not a duration; write DD:HH:MM:SS, such as +trainer.max_time=00:01:30:00"
        ) from error


def build_trainer(
    cfg: DictConfig, folder: Path, callbacks: Sequence[L.Callback], loggers: Sequence[Logger]
) -> L.Trainer:
    """Build the Trainer of a run.

    Args:
        cfg: The configuration, whose ``trainer`` has its arguments.
        folder: The run folder.
        callbacks: All callbacks, including the timer.
        loggers: All loggers; may be empty.

    Raises:
        InputError: If the Trainer refuses a value.
    """
    limit = _max_steps(cfg)
    callbacks = [*callbacks, StopAfter(limit)] if limit else callbacks
    keeps = OmegaConf.select(cfg, "trainer.enable_checkpointing") is not False
    mine = [callback for callback in callbacks if keeps or not isinstance(callback, ModelCheckpoint)]
    if not loggers:  # it needs one
        mine = [callback for callback in mine if not isinstance(callback, LearningRateMonitor)]
    for callback in mine:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder / "checkpoints")  # not where the first logger writes
    if OmegaConf.select(cfg, "trainer.enable_model_summary") and not _any(mine, ModelSummary):
        mine.append(RichModelSummary())
    if OmegaConf.select(cfg, "trainer.enable_progress_bar") is not False and not _any(mine, ProgressBar):
        mine.append(RunProgress())
    arguments = {
        "default_root_dir": folder,
        "logger": list(loggers) or False,
        "callbacks": mine,
        "plugins": [*_plugins(cfg), WholeCheckpoints()],
        "enable_checkpointing": _any(mine, ModelCheckpoint),  # otherwise Lightning adds one
        "profiler": _profiler(cfg, folder),
        "max_time": None,  # handled by the timer
        "max_steps": -1,  # handled by StopAfter
    }
    given: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    if limit and given.get("max_epochs") is None:
        given["max_epochs"] = -1
    settings = {name: value for name, value in given.items() if name not in arguments}
    return build(OmegaConf.create({"trainer": settings}), "trainer", L.Trainer, **arguments)


def refuse_arguments(cfg: DictConfig) -> None:
    """Refuse arguments of the Trainer that do not exist, or that would break a promise of a run.

    Raises:
        InputError: Names the first such argument.
    """
    target = str(cfg.trainer.get("_target_"))
    known = _parameters(target)
    for name, value in cfg.trainer.items():
        if str(name).startswith("_"):
            continue
        if known and name not in known and "kwargs" not in known:
            near = nearest(str(name), list(known))
            meant = f"; did you mean {near}?" if near else ""
            raise InputError(f"trainer.{name} is not an argument of {target}{meant}")
        harmless = (None, False, *HARMLESS.get(str(name), ()))
        if name in REFUSED and not any(type(value) is type(same) and value == same for same in harmless):
            raise InputError(f"trainer.{name} cannot be set: {REFUSED[str(name)]}")
        if name in ("logger", "callbacks") and value is False:
            raise InputError(f"trainer.{name} cannot be set: {REFUSED[str(name)]}")
    each = cfg.trainer.get("accumulate_grad_batches", 1)
    if type(each) is not int or each < 1:
        raise InputError(f"trainer.accumulate_grad_batches must be a whole number from 1, but is {each}")
    _max_steps(cfg)


def _max_steps(cfg: DictConfig) -> int | None:
    steps = OmegaConf.select(cfg, "trainer.max_steps")
    if steps in (None, -1):
        return None
    if type(steps) is not int or steps < 1:
        raise InputError(f"trainer.max_steps must be a whole number from 1, or -1 for no limit, but is {steps}")
    return steps


def profiles(folder: Path) -> list[Path]:
    """Return the files that a profiler wrote."""
    return sorted(path for path in folder.glob("*profile*") if path.suffix in ENDINGS)


def _profiler(cfg: DictConfig, folder: Path) -> Profiler | None:
    """Build the profiler; one given by name writes into the run folder instead of a log."""
    named = OmegaConf.select(cfg, "trainer.profiler")
    if named is None or named is False:
        return None
    if isinstance(named, DictConfig):
        return build(cfg, "trainer.profiler", Profiler)  # type: ignore[type-abstract]
    if named not in PROFILERS:
        raise InputError(f"trainer.profiler={named} does not exist; choose one of {', '.join(PROFILERS)}")
    return PROFILERS[named](dirpath=folder, filename="profile")


def _plugins(cfg: DictConfig) -> list[Any]:
    node = OmegaConf.select(cfg, "trainer.plugins")
    if node is None:
        return []
    if not OmegaConf.is_list(node):
        raise InputError(f"trainer.plugins must be a list, such as [{{_target_: CLASS}}], but is {node}")
    holder = OmegaConf.create({"trainer": {"plugins": {str(place): part for place, part in enumerate(node)}}})
    found = list(build_all(holder, "trainer.plugins", object).values())
    if _any(found, CheckpointIO):
        raise InputError("trainer.plugins: cellseg writes checkpoints itself; remove the CheckpointIO")
    return found


def _parameters(target: str) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a class; none if it cannot be imported, which building it reports."""
    try:
        return inspect.signature(get_object(target)).parameters
    except Exception:  # a user's module may raise anything
        return {}


def _any(parts: Sequence[Any], kind: type) -> bool:
    return any(isinstance(part, kind) for part in parts)
