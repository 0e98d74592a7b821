"""Check values of a configuration without torch, so that a sweep can check all of them before its first run."""

from omegaconf import DictConfig, OmegaConf

from cellseg.storage.errors import InputError

OWN_DATA = "cellseg.CellDataModule"


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
    if OmegaConf.select(cfg, "data._target_") == OWN_DATA:
        from cellseg.data.facts import check_numbers  # scipy takes a second, which --help need not wait for

        check_numbers(cfg.data.image_size, cfg.data.batch_size, cfg.data.mask_threshold)
