"""Train and test one run: ``python train.py model=xopinet``; sweep many: ``-m model=unet,potinet seed=0,1``."""

import time
import warnings
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cellseg import runs
from cellseg.console import print_results
from cellseg.errors import InputError
from cellseg.hardware import native_precision
from cellseg.summary import summarise

OmegaConf.register_new_resolver("run_name", runs.run_name, replace=True)


def run(cfg: DictConfig, folder: Path) -> float:
    """Train, test and record one run in ``folder``; return the mean Dice over its test images."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # images lie in memory
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 calls a torch function that torch renamed
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise InputError(f"seed must be a whole number from 0 to {2**32 - 1}, but is {cfg.seed}")
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = native_precision(cfg.trainer.accelerator)
    L.seed_everything(cfg.seed, workers=True)
    started = time.perf_counter()
    datamodule, callbacks = instantiate(cfg.data), instantiate(cfg.callbacks)
    datamodule.prepare_data()
    datamodule.setup()
    if not datamodule.has_validation:  # a checkpoint is never chosen on the images it is reported on
        callbacks.pop("best", None)
    module = instantiate(cfg.module)
    trainer = instantiate(
        cfg.trainer,
        default_root_dir=folder,
        logger=instantiate(cfg.logger, save_dir=folder),
        callbacks=list(callbacks.values()),
    )
    if trainer.is_global_zero:
        runs.start_run(folder, cfg)
        runs.write_json(folder / "split.json", datamodule.split_record())

    prepared = time.perf_counter()
    trainer.fit(module, datamodule)
    trained = time.perf_counter()
    metrics = dict(trainer.callback_metrics)
    if datamodule.has_validation:
        best = torch.load(folder / "checkpoints" / "best.ckpt", map_location=module.device, weights_only=True)
        module.load_state_dict(best["state_dict"])
    trainer.test(module, datamodule, verbose=False)
    tested = time.perf_counter()
    metrics |= trainer.callback_metrics

    if trainer.is_global_zero:
        summary = summarise(
            trainer,
            module,
            datamodule,
            metrics={name: float(value) for name, value in metrics.items() if "/" in name},  # not lr-Adam
            image_rows=callbacks["records"].rows,
            seed=cfg.seed,
            seconds={"prepare": prepared - started, "train": trained - prepared, "test": tested - trained},
        )
        runs.write_weights(folder / "weights.pth", module.network)
        runs.write_json(folder / "summary.json", summary)
        print_results(summary, folder)
    return float(metrics["test/dice"])


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Run what the command line composed; say what is wrong with its input without a traceback."""
    try:
        return run(cfg, Path(HydraConfig.get().runtime.output_dir))
    except InputError as error:
        raise CompactHydraException(str(error)) from error


if __name__ == "__main__":
    main()
