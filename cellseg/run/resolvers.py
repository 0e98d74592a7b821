"""Functions that the configuration may use in ``${...}``."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from cellseg.run.naming import run_name


def register_resolvers() -> None:
    """Register ``run_name``, ``channels`` (their number) and ``smoke`` (a smaller value in experiment=smoke)."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("channels", lambda chosen: len(chosen or "RGB"), replace=True)
    OmegaConf.register_new_resolver("smoke", _less, replace=True)


def _less(less: Any, usual: Any, *, _root_: DictConfig) -> Any:
    value = less if _root_.get("experiment") == "smoke" else usual
    return OmegaConf.create(value) if isinstance(value, list) else value
