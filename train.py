"""Train and test one run: ``python train.py model=xopinet``; sweep many: ``-m model=unet,potinet seed=0,1``."""

import gc
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from cellseg import CellDataModule, SegmentationModule, runs
from cellseg.callbacks import EpochTable, ImageRecords, WholeCheckpoints
from cellseg.console import print_results
from cellseg.data.dataset import derived_seed
from cellseg.errors import InputError
from cellseg.hardware import describe_device, native_precision
from cellseg.study import isolated, sweep
from cellseg.summary import summarise

log = logging.getLogger("train")


def run(cfg: DictConfig, folder: Path) -> float:
    """Train, test and record one run in ``folder``; return the mean Dice over its test images.

    What is finished already is only told again; what was interrupted goes on from its last epoch.
    """
    settle(cfg)
    with runs.occupied(folder) if int(os.environ.get("LOCAL_RANK", 0)) == 0 else nullcontext():
        if summary := runs.finished(folder, cfg):
            log.info("this run was finished before; nothing is trained again")
            print_results(summary, folder)
            return float(summary["metrics"]["test/dice"])
        return fit_and_test(cfg, folder)


def fit_and_test(cfg: DictConfig, folder: Path) -> float:
    """Do what is left of a run."""
    origin = runs.provenance()  # before anything else: the code may change while the run goes on
    began = time.perf_counter()
    trainer, module, datamodule, records, checkpoint = prepare(cfg, folder)
    seconds = {"prepare": time.perf_counter() - began}
    trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))
    seconds["train"] = timer.time_elapsed("train")  # before an interruption too
    train_metrics = {name: value for name, value in trainer.callback_metrics.items() if name == "train/loss"}
    if checkpoint and not train_metrics:  # it was interrupted after its last epoch: there was nothing left to train
        load_weights(module, checkpoint)
        tables = [callback for callback in trainer.callbacks if isinstance(callback, EpochTable)]
        train_metrics = {"train/loss": tables[0].rows[-1]["train/loss"]} if tables else {}
    if datamodule.has_validation:
        load_best(module, folder / "checkpoints" / "best.ckpt")
    began = time.perf_counter()
    trainer.test(module, datamodule, verbose=False)
    seconds["test"] = time.perf_counter() - began
    metrics = train_metrics | trainer.callback_metrics

    if trainer.is_global_zero:
        runs.write_weights(folder / "weights.pth", module.network)
        summary = summarise(
            trainer,
            module,
            datamodule,
            metrics=metrics,
            image_rows=records.rows,
            seed=cfg.seed,
            seconds=seconds,
            origin=origin,
        )
        log_hyperparameters(trainer, cfg, module.network_name, summary["metrics"])
        runs.write_json(folder / "summary.json", summary)
        print_results(summary, folder)
    return float(metrics["test/dice"])


def log_hyperparameters(trainer: L.Trainer, cfg: DictConfig, network: str, metrics: Mapping[str, float]) -> None:
    """Show the run in TensorBoard's HPARAMS tab: the settings people sweep beside the test metrics."""
    settings = {"network": network}
    for key, value in runs.leaves(OmegaConf.to_container(cfg, resolve=True)).items():
        plumbing = key.startswith(("module.", "callbacks.", "logger.")) or key.endswith("_target_")
        if value is not None and not plumbing:
            settings[key] = value
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, tested, trainer.global_step)
            logger.save()


def prepare(
    cfg: DictConfig, folder: Path
) -> tuple[L.Trainer, SegmentationModule, CellDataModule, ImageRecords, Path | None]:
    """Build everything a run needs and write down its configuration and split, unless something is wrong."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # images lie in memory
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run goes on
    warnings.filterwarnings("ignore", module="PIL")  # what matters of them is said of the files they are about
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 calls a torch function that torch renamed
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # sweeps go to Slurm by hydra/launcher
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
    records = ImageRecords()
    checkpoint = runs.start_run(folder, cfg, datamodule.split_record())
    step = read_checkpoint(checkpoint)["global_step"] if checkpoint else 0
    trainer = instantiate(
        cfg.trainer,
        default_root_dir=folder,
        logger=instantiate(cfg.logger, save_dir=folder, purge_step=step),  # TensorBoard forgets what comes after
        callbacks=[*callbacks.values(), records, Timer()],
        plugins=[WholeCheckpoints()],
    )
    if trainer.is_global_zero:
        device = describe_device(trainer.strategy.root_device)
        begun = "going on with" if checkpoint else "training"
        log.info("%s %s on %s in %s", begun, module.network_name, device, trainer.precision)
    return trainer, module, datamodule, records, checkpoint


def was_finished(cfg: DictConfig, folder: Path) -> bool:
    """Tell whether the folder holds this run, finished."""
    settle(cfg)
    return runs.finished(folder, cfg) is not None


def settle(cfg: DictConfig) -> None:
    """Decide what is left to the machine, and refuse what nothing further down would refuse by name."""
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = native_precision(cfg.trainer.accelerator)
    root = OmegaConf.load(Path(__file__).parent / "conf" / "config.yaml")
    known = {*root, *(group for entry in root.defaults if entry != "_self_" for group in entry)}
    if unknown := sorted(set(cfg) - known):
        raise InputError(f"{unknown[0]} is no key of this project, so adding it with + changes nothing; see --help")
    if type(cfg.seed) is not int or not 0 <= cfg.seed < 2**32:
        raise InputError(f"seed must be a whole number from 0 to {2**32 - 1}, but is {cfg.seed}")
    if not re.fullmatch(r"\w[\w.,+-]*", str(cfg.study)):
        raise InputError(
            f"study must be a name of letters, digits, _ and, after the first, any of . , + -, but is {cfg.study}"
        )
    if cfg.threads is not None and (type(cfg.threads) is not int or cfg.threads < 1):
        raise InputError(f"threads must be a whole number from 1, or null for all there are, but is {cfg.threads}")
    if type(cfg.n_jobs) is not int or cfg.n_jobs < 1:
        raise InputError(f"n_jobs must be a whole number from 1, the runs at once, but is {cfg.n_jobs}")
    if cfg.trainer.max_epochs == 0:
        raise InputError("trainer.max_epochs must be at least 1, but is 0")


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
    load_weights(module, checkpoint)


def load_weights(module: SegmentationModule, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the module: the averaged ones, where they are averaged."""
    module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise many kinds
        raise InputError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); delete it, and the same command starts the run anew"
        ) from error
    return content


def _monitors_validation(callback: L.Callback) -> bool:
    return str(getattr(callback, "monitor", "")).startswith("val/")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run what the command line composed; say what is wrong with its input without a traceback."""
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    if job.mode == RunMode.MULTIRUN:
        overrides = [*job.overrides.task, f"study={cfg.study}"]
        return isolated.run_isolated(
            Path(__file__).resolve(), overrides, folder, partial(was_finished, cfg, folder), cfg.n_jobs
        )
    isolated.end_with_the_sweep()
    try:
        return run(cfg, folder)
    except (InputError, InstantiationException) as error:
        ours = error.__cause__ if isinstance(error.__cause__, InputError) else error
        raise CompactHydraException(str(ours)) from error


if __name__ == "__main__":
    main()
    sys.exit(sweep.SweepAccount.complaint)  # none: exit code 0
