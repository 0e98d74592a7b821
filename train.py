"""Train and test one run: ``python train.py model=xopinet``; sweep many: ``-m model=unet,potinet seed=0,1``."""

import gc
import logging
import re
import time
import warnings
from itertools import pairwise
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cellseg import CellDataModule, SegmentationModule, runs
from cellseg.callbacks import ImageRecords
from cellseg.console import print_results
from cellseg.errors import InputError
from cellseg.hardware import describe_device, native_precision
from cellseg.summary import summarise

log = logging.getLogger("train")

OmegaConf.register_new_resolver("run_name", runs.run_name, replace=True)


def run(cfg: DictConfig, folder: Path) -> float:
    """Train, test and record one run in ``folder``; return the mean Dice over its test images."""
    origin = runs.provenance()  # before anything else: the code may change while the run goes on
    times = [time.perf_counter()]
    trainer, module, datamodule, records = prepare(cfg, folder)
    times.append(time.perf_counter())
    trainer.fit(module, datamodule)
    times.append(time.perf_counter())
    train_loss = trainer.callback_metrics["train/loss"]
    if datamodule.has_validation:
        load_best(module, folder / "checkpoints" / "best.ckpt")
    trainer.test(module, datamodule, verbose=False)
    times.append(time.perf_counter())
    metrics = {"train/loss": train_loss} | trainer.callback_metrics

    if trainer.is_global_zero:
        phases = zip(("prepare", "train", "test"), pairwise(times), strict=True)
        seconds = {phase: end - start for phase, (start, end) in phases}
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
        runs.write_json(folder / "summary.json", summary)
        print_results(summary, folder)
    return float(metrics["test/dice"])


def prepare(cfg: DictConfig, folder: Path) -> tuple[L.Trainer, SegmentationModule, CellDataModule, ImageRecords]:
    """Build everything a run needs and write down its configuration and split, unless something is wrong."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # images lie in memory
    warnings.filterwarnings("ignore", module="PIL")  # what matters of them is said of the files they are about
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 calls a torch function that torch renamed
    gc.freeze()  # what the libraries made on import stays: no use in looking through it again and again
    refuse_bad_values(cfg)
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = native_precision(cfg.trainer.accelerator)
    L.seed_everything(cfg.seed, workers=True)
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
    trainer = instantiate(
        cfg.trainer,
        default_root_dir=folder,
        logger=instantiate(cfg.logger, save_dir=folder),
        callbacks=[*callbacks.values(), records],
    )
    if trainer.is_global_zero:
        runs.start_run(folder, cfg)
        runs.write_json(folder / "split.json", datamodule.split_record())
        device = describe_device(trainer.strategy.root_device)
        log.info("training %s on %s in %s", module.network_name, device, trainer.precision)
    return trainer, module, datamodule, records


def refuse_bad_values(cfg: DictConfig) -> None:
    """Refuse what nothing further down would refuse by name."""
    root = OmegaConf.load(Path(__file__).parent / "conf" / "config.yaml")
    known = {*root, *(group for entry in root.defaults if entry != "_self_" for group in entry)}
    if unknown := sorted(set(cfg) - known):
        raise InputError(f"{unknown[0]} is no key of this project, so adding it with + changes nothing; see --help")
    if type(cfg.seed) is not int or not 0 <= cfg.seed < 2**32:
        raise InputError(f"seed must be a whole number from 0 to {2**32 - 1}, but is {cfg.seed}")
    if not re.fullmatch(r"[\w.,+-]+", str(cfg.study)):
        raise InputError(f"study must be a name of letters, digits, and any of _ . , + -, but is {cfg.study}")
    if cfg.trainer.max_epochs == 0:
        raise InputError("trainer.max_epochs must be at least 1, but is 0")


def load_best(module: SegmentationModule, checkpoint: Path) -> None:
    """Put the weights that were best on the validation images into the module."""
    if not checkpoint.exists():
        raise InputError(
            f"{checkpoint} was never written, so there are no best weights on the validation images to score; "
            "keep callbacks.best and validate at least once, or set data.split.val_fraction=0"
        )
    best = torch.load(checkpoint, map_location=module.device, weights_only=True)
    module.load_state_dict(best["state_dict"])


def _monitors_validation(callback: L.Callback) -> bool:
    return str(getattr(callback, "monitor", "")).startswith("val/")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Run what the command line composed; say what is wrong with its input without a traceback."""
    try:
        return run(cfg, Path(HydraConfig.get().runtime.output_dir))
    except (InputError, InstantiationException) as error:
        ours = error.__cause__ if isinstance(error.__cause__, InputError) else error
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra itself will only say the first failure of a sweep
            log.error("this run of the sweep failed: %s", ours)
        raise CompactHydraException(str(ours)) from error


if __name__ == "__main__":
    main()
