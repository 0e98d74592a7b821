"""One run from its configuration to its summary: prepare, train, test, record."""

import gc
import logging
import os
import re
import shlex
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BaseFinetuning, Timer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from cellseg.data import CellDataModule
from cellseg.data.dataset import derived_seed
from cellseg.run.baselines import write_baselines
from cellseg.run.begin import code_since, finished, start_run
from cellseg.run.building import origin_of, places_of, targets_of
from cellseg.run.callbacks import EpochTable, ImageRecords, Pace, StopWhenAsked
from cellseg.run.checkpoints import (
    BEST,
    ENDED,
    PREVIOUS,
    LastCheckpoint,
    epochs_at_end,
    free,
    last_intact,
    load_best,
    load_weights,
    note_end,
    steps_done,
)
from cellseg.run.folder import NetworkFacts, leaves
from cellseg.run.hardware import describe_device, keep_freed_memory, out_of_memory
from cellseg.run.locking import occupied
from cellseg.run.module import SegmentationModule
from cellseg.run.parts import build, build_callbacks, build_module
from cellseg.run.probing import probe, try_gradient, try_loss, try_scores
from cellseg.run.provenance import code_patch, provenance
from cellseg.run.results import print_results
from cellseg.run.signals import StopRequest
from cellseg.run.summary import summarise
from cellseg.run.tiles import Tiles
from cellseg.run.trainer import build_loggers, build_timer, build_trainer, profiles, refuse_arguments
from cellseg.storage.errors import InputError
from cellseg.storage.tensors import write_tensors

SPLIT_STREAM = 1  # tells the seed of a split from the number of a fold

log = logging.getLogger("train")


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start or to continue.

    Attributes:
        trainer, module, datamodule: Lightning's three.
        epochs: The table of epochs; None if the configuration has none.
        scored: Collects one row per scored image.
        timer: Measures training time, including that before an interruption.
        asked: Ends training if a stop was requested.
        folder: The run folder.
        checkpoint: The file to continue from; None to start.
        network: Properties of the network that were found by trying it.
        origin: Seed, command, versions and commit.
    """

    trainer: L.Trainer
    module: SegmentationModule
    datamodule: CellDataModule
    epochs: EpochTable | None
    scored: ImageRecords
    timer: Timer
    asked: StopWhenAsked
    folder: Path
    checkpoint: Path | None
    network: NetworkFacts
    origin: Mapping[str, Any]


def execute(cfg: DictConfig, folder: Path, stop: StopRequest, command: str | None = None) -> float:
    """Train, test and record one run in ``folder``; return the mean Dice over its test images.

    A finished run prints its results again; an interrupted one continues from its last checkpoint.

    Raises:
        InputError: If the configuration cannot be run, or memory or disk space runs out.
        Interrupted: If a stop was requested.
    """
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0  # this process starts those of the other devices
    with _explained(cfg, folder), occupied(folder) if first else nullcontext():
        if summary := finished(folder, cfg):
            remark = code_since(summary)
            log.info("this run is finished already%s; its results follow", f" ({remark})" if remark else "")
            print_results(summary, folder)
            return summary.metrics["test/dice"]
        origin = provenance() | {"seed": cfg.seed, "command": command}  # before the code changes
        began = time.perf_counter()
        run = prepare(cfg, folder, stop, origin)
        seconds = {"prepare": time.perf_counter() - began}
        train_metrics = fit(run, stop)
        seconds["train"] = run.timer.time_elapsed("train")
        if run.datamodule.has_validation:
            load_best(run.module, folder / "checkpoints")
        began = time.perf_counter()
        run.trainer.test(run.module, run.datamodule, verbose=False)
        seconds["test"] = time.perf_counter() - began
        metrics = train_metrics | run.trainer.callback_metrics
        if run.trainer.is_global_zero:
            write_baselines(folder, run.datamodule)
            record(run, cfg, folder, metrics, seconds)
        return float(metrics["test/dice"])


def prepare(cfg: DictConfig, folder: Path, stop: StopRequest, origin: Mapping[str, Any]) -> Prepared:
    """Build all parts of a run and write its configuration, split and code."""
    _settle_libraries()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    L.seed_everything(stream_of(cfg), workers=True)
    refuse_arguments(cfg)
    datamodule, module, callbacks = build(cfg, "data", CellDataModule), build_module(cfg), build_callbacks(cfg)
    timer = build_timer(cfg)
    network = probe(
        module.network,
        len(datamodule.reading.channels or "RGB"),
        cfg.data.image_size,
        origin_of(dict(OmegaConf.to_container(cfg.model, resolve=True)), module.network),  # type: ignore[arg-type]
    )
    if not any(isinstance(callback, BaseFinetuning) for callback in callbacks.values()):  # which frees weights later
        try_gradient(module.network, len(datamodule.reading.channels or "RGB"), network.side_least)
    try_loss(module.loss, cfg.data.image_size)
    try_scores(module.added_scores, cfg.data.image_size)
    if datamodule.resize == "crop":
        module.tiles = Tiles(network, datamodule.image_size)
    checkpoint = last_intact(folder / "checkpoints")
    # before images are read, because a package may be missing
    loggers = build_loggers(cfg, folder, steps_done(module, checkpoint) if checkpoint else 0)
    datamodule.prepare_data()
    datamodule.setup()
    _refuse_small_batches(network, datamodule)
    _refuse_choosing(callbacks, module, chosen=datamodule.has_validation)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # it starts the others after this
        targets = targets_of(OmegaConf.to_container(cfg))
        start_run(folder, cfg, datamodule.split_record(), code_patch(targets, module.network))
    scored, asked = ImageRecords(module.val_scores.added), StopWhenAsked(stop)
    trainer = build_trainer(cfg, folder, [*callbacks.values(), scored, timer, asked, Pace()], loggers)
    if datamodule.has_validation:
        _refuse_no_validation(trainer)
    if trainer.strategy.root_device.type != "mps" and not module.wants_plain_layout:  # "mps" does not know another
        # before a callback copies the weights: averaging two layouts takes four times as long
        module.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
    if trainer.is_global_zero:
        device = describe_device(trainer.strategy.root_device)
        begun = "continuing" if checkpoint else "training"
        log.info("%s %s on %s in %s", begun, module.network_name, device, trainer.precision)
    epochs = next((callback for callback in callbacks.values() if isinstance(callback, EpochTable)), None)
    return Prepared(trainer, module, datamodule, epochs, scored, timer, asked, folder, checkpoint, network, origin)


def fit(run: Prepared, stop: StopRequest) -> dict[str, Tensor]:
    """Train, from the checkpoint if there is one; return the metrics of the last epoch."""
    if run.checkpoint and (ended := epochs_at_end(run.checkpoint)) is not None:
        run.trainer.fit_loop.max_epochs = ended  # whatever ended it, Lightning then finds nothing left to train
    try:
        run.trainer.fit(run.module, run.datamodule, ckpt_path=run.checkpoint, weights_only=True)
    except InputError:
        raise
    except (RuntimeError, MisconfigurationException, ValueError, TypeError, ArithmeticError) as error:
        said = " ".join(str(error).split())
        if out_of_memory(error):
            raise
        if _of_optimizer(error):
            raise InputError(f"optimizer or scheduler fails in training: {said}") from error
        if run.asked.begun and ("monitor" in said or "conditioned on metric" in said):
            raise InputError(f"a callback watches a score that is not logged: {said}") from error
        if run.asked.begun or isinstance(error, RuntimeError):
            raise
        raise InputError(f"training cannot start with this configuration: {' '.join(str(error).split())}") from error
    out_of_time = (left := run.timer.time_remaining()) is not None and left <= 0
    if (stop.number is None or out_of_time or run.asked.ended(run.trainer)) and run.trainer.is_global_zero:
        note_end(run.folder / "checkpoints", run.trainer.current_epoch, run.trainer.global_step)
    stop.obey()
    if out_of_time:
        log.info("trainer.max_time has passed; training ends after epoch %d", run.trainer.current_epoch)
    metrics = {name: value for name, value in run.trainer.callback_metrics.items() if name == "train/loss"}
    if run.checkpoint and not metrics:  # interrupted after its last epoch: nothing is left to train
        load_weights(run.module, run.checkpoint)
        metrics = {"train/loss": torch.tensor(run.epochs.rows[-1]["train/loss"])} if run.epochs else {}
    return metrics


def record(
    run: Prepared, cfg: DictConfig, folder: Path, metrics: Mapping[str, Tensor], seconds: Mapping[str, float]
) -> None:
    """Write the weights and then the summary, and print the results."""
    write_weights(folder / "weights.pth", run.module.network)
    summary = summarise(
        run.trainer,
        run.module,
        run.datamodule,
        metrics=metrics,
        image_rows=run.scored.rows,
        seconds=seconds,
        network=run.network,
        score_places=places_of(targets_of(OmegaConf.to_container(cfg).get("metrics"))),  # type: ignore[union-attr]
        origin=run.origin,
    )
    summary.write(folder / "summary.json")
    log_hyperparameters(run.trainer, cfg, run.module.network_name, summary.metrics, run.origin["command"] or "")
    keep = any(isinstance(callback, LastCheckpoint) and callback.keep for callback in run.trainer.callbacks)  # type: ignore[attr-defined]
    if keep:
        for name in (PREVIOUS, ENDED):
            (folder / "checkpoints" / name).unlink(missing_ok=True)
    else:
        free(folder)
    print_results(summary, folder)
    for path in profiles(folder):
        log.info("profile: %s", path)
    _finish(run.trainer.loggers)


def write_weights(path: Path, network: nn.Module) -> None:
    """Write the network as a plain ``state_dict`` that loads with ``weights_only=True`` on any machine."""
    write_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)


def log_hyperparameters(
    trainer: L.Trainer, cfg: DictConfig, network: str, metrics: Mapping[str, float], command: str
) -> None:
    """Log the settings that people sweep, those of the command first; in TensorBoard's HPARAMS tab beside scores."""
    settings = {"network": network}
    typed = [word.lstrip("+").partition("=")[0] for word in shlex.split(command) if "=" in word]
    there, written = (leaves(OmegaConf.to_container(cfg, resolve=resolve)) for resolve in (True, False))
    for key, value in sorted(there.items(), key=lambda item: item[0] not in typed):
        plumbing = key.startswith(("module.", "callbacks.", "logger.")) or key.endswith("_target_")
        whole = next((part for part in (key, *_parts_of(key)) if part in written), key)
        repeats = re.match(r"\$\{[^:]*$", str(written.get(whole)))  # another key's value, or another part
        if value is not None and not plumbing and not repeats:
            settings[key] = value
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    for logger in trainer.loggers:
        try:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings, tested, trainer.global_step)
            else:
                logger.log_hyperparams(settings)
            logger.save()
        except Exception as error:  # a logger may raise anything, and the run is finished
            log.warning("%s failed at the end of the run: %s", type(logger).__name__, " ".join(str(error).split()))


def _parts_of(key: str) -> list[str]:
    """Return the parts of the configuration around a key, the smallest first: a.b and a of a.b.c."""
    words = key.split(".")
    return [".".join(words[:length]) for length in range(len(words) - 1, 0, -1)]


def _finish(loggers: Sequence[Logger]) -> None:
    """Close loggers that stay open: W&B would add the next run of this process to this one."""
    for logger in loggers:
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(finish):
            finish()


def stream_of(cfg: DictConfig) -> int:
    """Return the seed of the initial weights, which differs between folds and between splits.

    The statistics treat runs with different training images as independent, so they must not start from the same
    weights.
    """
    fold, split = (OmegaConf.select(cfg, f"data.split.{key}") for key in ("fold", "seed"))
    parts = [cfg.seed, *([] if fold is None else [fold]), *([split, SPLIT_STREAM] if split else [])]
    return int(cfg.seed) if len(parts) == 1 else derived_seed(*parts) % 2**32


@contextmanager
def _explained(cfg: DictConfig, folder: Path) -> Iterator[None]:
    """Turn errors about disk and memory into readable ones."""
    try:
        yield
    except OSError as error:
        place = error.filename2 or error.filename or folder  # the second name is the target of a rename
        raise InputError(
            f"{place}: {error.strerror or error}; checkpoints are kept; fix this and "
            f"run the same command with study={cfg.study} to continue"
        ) from error
    except InputError:
        raise
    except Exception as error:  # Hydra wraps errors that occur while it builds a network
        if not out_of_memory(error):
            raise
        raise InputError(
            f"memory ran out; reduce data.batch_size (now {cfg.data.batch_size}), data.image_size, "
            "model.init_features, or the number of runs at the same time (n_jobs)"
        ) from error


def _settle_libraries() -> None:
    """Silence warnings about intended settings, and switch off work that is not needed."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # images are in memory
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run continues
    warnings.filterwarnings("ignore", module="PIL")  # our own messages name the files
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 calls a torch function that torch renamed
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # sweeps go to Slurm by hydra/launcher
    threading.excepthook = _without_disk_errors
    for name in ("lightning.pytorch", "lightning.fabric"):  # its tips and device lists; cellseg logs the device
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning").handlers.clear()  # otherwise each line appears twice
    keep_freed_memory()
    # deterministic runs would fill each new tensor with NaN, which takes a tenth of a step and is not needed here
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch declares no type
    gc.freeze()  # objects made by imports stay; the garbage collector need not visit them


def _without_disk_errors(arguments: threading.ExceptHookArgs) -> None:
    """Ignore disk errors of TensorBoard's thread; the main thread receives and reports them."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)


def _of_optimizer(error: BaseException) -> bool:
    """Tell whether an optimizer or a schedule of torch raised an error."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals.get("__name__", "")).startswith("torch.optim.")


def _refuse_small_batches(network: NetworkFacts, datamodule: CellDataModule) -> None:
    """Refuse batches of one image, including the last batch of an epoch, for a network that needs two."""
    images, size, side = datamodule.counts["train"], datamodule.batch_size, datamodule.image_size
    if network.least_batch > 1 and (size == 1 or images % size == 1):
        fitting = next((other for other in range(2, images + 1) if images % other != 1), images)
        raise InputError(
            f"the network cannot be trained on one image of {side}x{side}, and with "
            f"data.batch_size={size} a batch of the {images} training images has one; set data.batch_size={fitting}, "
            "or a larger data.image_size"
        )


def _refuse_choosing(callbacks: dict[str, L.Callback], module: SegmentationModule, *, chosen: bool) -> None:
    """Check that nothing is chosen by test images, and that something is chosen by validation images."""
    if chosen:
        if not any(getattr(callback, "filename", None) == Path(BEST).stem for callback in callbacks.values()):
            raise InputError(
                "data.split.val_fraction sets images aside to choose the best weights, but no callback keeps them; "
                "keep callbacks.best, or set data.split.val_fraction=0"
            )
        return
    callbacks.pop("best", None)
    watching = {f"callbacks.{name}": getattr(callback, "monitor", None) for name, callback in callbacks.items()}
    if module.schedule and module.schedule.on_plateau:
        watching["scheduler"] = module.schedule.watched
    for key, monitor in watching.items():
        if str(monitor).startswith("val/"):
            other = ", or scheduler.monitor=train/loss scheduler.mode=min" if key == "scheduler" else ""
            raise InputError(
                f"{key} watches {monitor}, but without a validation part those are the test images, "
                f"which must not choose anything; set data.split.val_fraction=0.2{other}"
            )


def _refuse_no_validation(trainer: L.Trainer) -> None:
    """Refuse settings with which the validation images would never be scored."""
    every, last = trainer.check_val_every_n_epoch or 1, trainer.max_epochs
    if trainer.limit_val_batches == 0 or (last is not None and 0 < last < every):
        raise InputError(
            "data.split.val_fraction sets images aside to choose the best weights, but the Trainer would never "
            "score them; remove trainer.limit_val_batches and trainer.check_val_every_n_epoch"
        )
