"""Estimate the disk space that a sweep takes, before its first run."""

import shutil
from pathlib import Path
from typing import Any

import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cellseg.run.building import build_own, is_own
from cellseg.storage.errors import count

WITHOUT_PART = ("seed=", "data.split.", "data.root=", "optimizer.", "loss")  # words that do not change the network
CHECKPOINT = 4  # times the weights: with the two moments of Adam and the moving average
AT_ONCE = 3  # checkpoints of a run: the last one, the one before, and the one that is being written
MB, GB = 1e6, 1e9


def foresee_space(study: Path, config: DictConfig, overrides: list[Override]) -> str | None:
    """Say how much disk space the weights and checkpoints of a sweep take; None if a network cannot be built here.

    Args:
        study: The folder of the sweep.
        config: Its configuration.
        overrides: Those of the sweep.
    """
    loader = GlobalHydra.instance().config_loader()
    known = dict[tuple[str, ...], int]()
    jobs = BasicSweeper.split_arguments(overrides, None)[0]
    sizes = []
    for job in jobs:
        network = tuple(word for word in job if not word.startswith(WITHOUT_PART))
        try:
            if network not in known:
                composed = loader.load_sweep_config(config, job)
                known[network] = _bytes(OmegaConf.to_container(composed.model, resolve=True))
        except Exception:  # its run reports the error
            return None
        sizes.append(known[network])
    keeps = bool(OmegaConf.select(config, "callbacks.last.keep"))
    kept = sum(sizes) * (1 + CHECKPOINT * keeps)
    working = max(sizes) * CHECKPOINT * AT_ONCE * min(config.n_jobs, len(jobs))
    free = shutil.disk_usage(study).free
    line = (
        f"disk: up to {_written(kept)} for the weights of {count(len(jobs), 'run')}{' and their checkpoints' * keeps}, "
        f"{_written(working)} more while they train; {_written(free)} are free"
    )
    return line if kept + working < free else f"warning: {line}; free some, for example with cellseg prune logs"


def _written(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / MB:.1f} MB"


def _bytes(settings: Any) -> int:
    """Return the size of a network's weights and buffers."""
    with torch.device("meta"):
        network = build_own(settings) if is_own(settings) else instantiate(settings)
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
