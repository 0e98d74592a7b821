"""Functions that the configuration may use in ``${...}``."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from cellseg.run.naming import run_name


def register_resolvers() -> None:
    """Register ``run_name``, ``channels`` (their number) and ``experiment`` (one value with it, another without)."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("channels", lambda chosen: len(chosen or "RGB"), replace=True)
    OmegaConf.register_new_resolver("experiment", _by_experiment, replace=True)


def _by_experiment(name: str, with_it: Any, without: Any, *, _root_: DictConfig) -> Any:
    value = with_it if _root_.get("experiment") == name else without
    return OmegaConf.create(value) if isinstance(value, list) else value
