"""Check values of a configuration without torch, so that a sweep can check all of them before its first run."""

import contextlib

from omegaconf import DictConfig, OmegaConf

from cellseg.storage.errors import InputError

OWN_DATA, OWN_SPLIT = "cellseg.CellDataModule", "cellseg.data.SplitPlan"
OWN_CALLBACKS = {"learning_rate", "table", "panels", "best", "last", "ema"}


def check_values(cfg: DictConfig) -> None:
    """Check the values that a sweep may vary.

    Raises:
        InputError: If one has the wrong type or is out of range; the message names the key.
    """
    if type(cfg.seed) is not int or not 0 <= cfg.seed < 2**32:
        raise InputError(f"seed must be a whole number from 0 to {2**32 - 1}, but is {cfg.seed}")
    if cfg.threads is not None and (type(cfg.threads) is not int or cfg.threads < 1):
        raise InputError(f"threads must be a whole number from 1, or null for all there are, but is {cfg.threads}")
    epochs = cfg.trainer.max_epochs
    if epochs is not None and (type(epochs) is not int or epochs == 0 or epochs < -1):
        kind = "" if type(epochs) is int else ", which is not a whole number"
        raise InputError(f"trainer.max_epochs must be at least 1, but is {epochs}{kind}")
    steps, time = (OmegaConf.select(cfg, f"trainer.{key}") for key in ("max_steps", "max_time"))
    own = set(OmegaConf.select(cfg, "callbacks") or ()) - OWN_CALLBACKS  # which may stop
    if epochs == -1 and time is None and steps in (None, -1) and not own:
        raise InputError(
            "trainer.max_epochs=-1 never ends; set it to a number, or set trainer.max_steps or max_time, or "
            "add a callback that stops it"
        )
    rate = OmegaConf.select(cfg, "optimizer.lr")
    if isinstance(rate, str | bool):
        raise InputError(f"optimizer.lr must be a number above 0, but is {rate}")
    if type(rate) in (int, float) and rate <= 0:
        raise InputError(
            f"optimizer cannot be built with these values: Invalid learning rate: {rate}; set optimizer.lr above 0"
        )
    if OmegaConf.select(cfg, "data._target_") == OWN_DATA:
        from cellseg.data.facts import check_numbers  # scipy takes a second, which --help need not wait for

        check_numbers(cfg.data.image_size, cfg.data.batch_size, cfg.data.mask_threshold)
        split = OmegaConf.to_container(cfg.data.split, resolve=True)
        if isinstance(split, dict) and split.pop("_target_", None) == OWN_SPLIT:
            from cellseg.data.splits import SplitPlan

            with contextlib.suppress(TypeError):  # an unknown key, which Hydra reports when it makes the split
                SplitPlan(**{str(key): value for key, value in split.items()})
