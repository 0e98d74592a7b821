"""One run from its configuration to its summary: seed, fit, test, record."""

import gc
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cellseg.data import CellDataModule
from cellseg.data.dataset import derived_seed
from cellseg.run.callbacks import PREVIOUS, EpochTable, ImageRecords, StopWhenAsked, WholeCheckpoints
from cellseg.run.folder import finished, leaves, occupied, provenance, start_run, write_json
from cellseg.run.hardware import describe_device, keep_freed_memory, out_of_memory
from cellseg.run.module import SegmentationModule
from cellseg.run.results import print_results
from cellseg.run.resuming import ResumeCheck, fitting, last_intact, load_weights, read_checkpoint
from cellseg.run.signals import StopRequest
from cellseg.run.summary import summarise
from cellseg.storage.errors import InputError
from cellseg.storage.tensors import write_tensors

EVENTS = re.compile(r"events\.out\.tfevents\.(\d{10})\..*")

log = logging.getLogger("train")


def run(cfg: DictConfig, folder: Path, stop: StopRequest) -> float:
    """Train, test and record one run in ``folder``; return the mean Dice over its test images.

    What is finished already is only told again; what was interrupted goes on from its last checkpoint.

    Raises:
        InputError: If the run cannot be done as it is configured, or the machine has no room for it.
        Interrupted: If a stop was asked for.
    """
    try:
        with occupied(folder) if int(os.environ.get("LOCAL_RANK", 0)) == 0 else nullcontext():
            if summary := finished(folder, cfg):
                log.info("this run was finished before; nothing is trained again")
                return tell_again(summary, folder)
            return fit_and_test(cfg, folder, stop)
    except OSError as error:
        place = error.filename2 or error.filename or folder  # the second is what the first was to become
        raise InputError(
            f"{place}: {error.strerror or error}; what is trained is kept, and once that is mended "
            f"the same command with study={cfg.study} goes on"
        ) from error
    except InputError:
        raise
    except Exception as error:  # Hydra wraps what happens while it builds a network in one of its own
        if not out_of_memory(error):
            raise
        raise InputError(
            f"memory ran out; take a smaller data.batch_size (it is {cfg.data.batch_size}), data.image_size or "
            "model.init_features, or fewer runs at once (n_jobs)"
        ) from error


def tell_again(summary: Mapping[str, Any], folder: Path) -> float:
    """Print what a finished run's summary says, and return its mean Dice."""
    try:
        print_results(summary, folder)
        return float(summary["metrics"]["test/dice"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{folder / 'summary.json'} is not as train.py wrote it ({error!r}); delete it, and the same command "
            "scores the run again"
        ) from error


def fit_and_test(cfg: DictConfig, folder: Path, stop: StopRequest) -> float:
    """Do what is left of a run."""
    origin = provenance()  # before anything else: the code may change while the run goes on
    began = time.perf_counter()
    trainer, module, datamodule, scored, checkpoint = prepare(cfg, folder, stop)
    seconds = {"prepare": time.perf_counter() - began}
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
    [check] = [callback for callback in callbacks if isinstance(callback, ResumeCheck)]
    with fitting(checkpoint, lambda: check.begun):
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    stop.obey()
    timer = next(callback for callback in callbacks if isinstance(callback, Timer))
    seconds["train"] = timer.time_elapsed("train")  # before an interruption too
    train_metrics = {name: value for name, value in trainer.callback_metrics.items() if name == "train/loss"}
    if checkpoint and not train_metrics:  # it was interrupted after its last epoch: there was nothing left to train
        with fitting(checkpoint):
            load_weights(module, checkpoint)
            tables = [callback for callback in callbacks if isinstance(callback, EpochTable)]
            train_metrics = {"train/loss": torch.tensor(tables[0].rows[-1]["train/loss"])} if tables else {}
    if datamodule.has_validation:
        load_best(module, folder / "checkpoints" / "best.ckpt")
    began = time.perf_counter()
    trainer.test(module, datamodule, verbose=False)
    seconds["test"] = time.perf_counter() - began
    metrics = train_metrics | trainer.callback_metrics

    if trainer.is_global_zero:
        write_weights(folder / "weights.pth", module.network)
        summary = summarise(
            trainer,
            module,
            datamodule,
            metrics=metrics,
            image_rows=scored.rows,
            seed=cfg.seed,
            seconds=seconds,
            origin=origin,
        )
        log_hyperparameters(trainer, cfg, module.network_name, summary["metrics"])
        write_json(folder / "summary.json", summary)
        (folder / "checkpoints" / PREVIOUS).unlink(missing_ok=True)
        print_results(summary, folder)
    return float(metrics["test/dice"])


def write_weights(path: Path, network: nn.Module) -> None:
    """Write the network as a plain ``state_dict`` that loads with ``weights_only=True`` on any machine."""
    write_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)


def log_hyperparameters(trainer: L.Trainer, cfg: DictConfig, network: str, metrics: Mapping[str, float]) -> None:
    """Show the run in TensorBoard's HPARAMS tab: the settings people sweep beside the test metrics."""
    settings = {"network": network}
    for key, value in leaves(OmegaConf.to_container(cfg, resolve=True)).items():
        plumbing = key.startswith(("module.", "callbacks.", "logger.")) or key.endswith("_target_")
        if value is not None and not plumbing:
            settings[key] = value
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, tested, trainer.global_step)
            logger.save()


def prepare(
    cfg: DictConfig, folder: Path, stop: StopRequest
) -> tuple[L.Trainer, SegmentationModule, CellDataModule, ImageRecords, Path | None]:
    """Build everything a run needs and write down its configuration and split, unless something is wrong."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # images lie in memory
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run goes on
    warnings.filterwarnings("ignore", module="PIL")  # what matters of them is said of the files they are about
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 calls a torch function that torch renamed
    threading.excepthook = without_disk_errors
    for name in ("lightning.pytorch", "lightning.fabric"):  # its tips and device lists; we say what was used
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning").handlers.clear()  # or all it says would be said twice
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # sweeps go to Slurm by hydra/launcher
    keep_freed_memory()
    # deterministic runs would fill every new tensor with NaN, a tenth of a step; nothing here reads before it writes
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch declares no type
    gc.freeze()  # what the libraries made on import stays: no use in looking through it again and again
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    L.seed_everything(stream_of(cfg), workers=True)
    datamodule, module, callbacks = instantiate(cfg.data), instantiate(cfg.module), instantiate(cfg.callbacks)
    datamodule.prepare_data()
    datamodule.setup()
    if not datamodule.has_validation:  # nothing is ever chosen on the images it is reported on
        callbacks.pop("best", None)
        if choosing := [name for name, callback in callbacks.items() if _monitors_validation(callback)]:
            raise InputError(
                f"callbacks.{choosing[0]} chooses by val/, but there are no images for that apart from the "
                "test images; set data.split.val_fraction"
            )
    scored = ImageRecords()
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # the others are started by it, after this
        start_run(folder, cfg, datamodule.split_record())
    checkpoint = last_intact(folder / "checkpoints")
    with fitting(checkpoint):
        step = int(read_checkpoint(checkpoint)["global_step"]) if checkpoint else 0
    trainer = instantiate(
        cfg.trainer,
        default_root_dir=folder,
        logger=instantiate(cfg.logger, save_dir=folder, purge_step=step),  # TensorBoard forgets what comes after
        callbacks=[*callbacks.values(), scored, Timer(), ResumeCheck(), StopWhenAsked(stop)],
        plugins=[WholeCheckpoints()],
    )
    if trainer.strategy.root_device.type != "mps":  # which does not know it
        # before any callback copies the weights: averaging two layouts takes four times as long
        module.network.to(memory_format=torch.channels_last)
    if trainer.is_global_zero:
        keep_events_in_order(folder)
        device = describe_device(trainer.strategy.root_device)
        begun = "going on with" if checkpoint else "training"
        log.info("%s %s on %s in %s", begun, module.network_name, device, trainer.precision)
    return trainer, module, datamodule, scored, checkpoint


def without_disk_errors(arguments: threading.ExceptHookArgs) -> None:
    """Leave it to the main thread to say that TensorBoard's cannot write: it hears of it, and says it once."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)


def keep_events_in_order(folder: Path) -> None:
    """Let TensorBoard read what an interrupted run wrote before what follows, also where the clock was set back.

    It reads files in the order of the times in their names.
    """
    found = {path: EVENTS.fullmatch(path.name) for path in folder.iterdir()}
    files = sorted((int(name[1]), path) for path, name in found.items() if name)
    before = int(time.time())
    if not files or files[-1][0] < before:
        return
    for written, path in reversed(files):
        before -= 1
        while (earlier := path.with_name(path.name.replace(f".{written:010d}.", f".{before:010d}.", 1))).exists():
            before -= 1
        path.rename(earlier)


def stream_of(cfg: DictConfig) -> int:
    """Return what the initial weights are drawn from: the seed, and other numbers of it in every fold.

    The comparison takes runs of different folds for independent, so they must not start from the same weights.
    """
    fold = OmegaConf.select(cfg, "data.split.fold")
    return int(cfg.seed) if fold is None else derived_seed(cfg.seed, fold) % 2**32


def load_best(module: SegmentationModule, checkpoint: Path) -> None:
    """Put the weights that were best on the validation images into the module."""
    if not checkpoint.exists():
        raise InputError(
            f"{checkpoint} was never written, so there are no best weights on the validation images to score; "
            "keep callbacks.best and validate at least once, or set data.split.val_fraction=0"
        )
    with fitting(checkpoint):
        load_weights(module, checkpoint)


def _monitors_validation(callback: L.Callback) -> bool:
    return str(getattr(callback, "monitor", "")).startswith("val/")
