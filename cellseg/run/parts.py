"""Building the parts of a run from its configuration, with errors that name the part."""

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any, TypeVar

import lightning as L
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cellseg.metrics import AddedScores
from cellseg.run.home import CLONE
from cellseg.run.module import SegmentationModule
from cellseg.run.schedule import Schedule
from cellseg.storage.errors import InputError

EXTRAS = ("monai", "wandb", "mlflow")  # packages that pyproject.toml has an extra of the same name for
OF_SCHEDULE = ("interval", "monitor")  # keys of scheduler that are not arguments of its class
Part = TypeVar("Part")


def build_module(cfg: DictConfig) -> SegmentationModule:
    """Build network, loss, optimizer, schedule and added scores, and the module that trains with them.

    Raises:
        InputError: If one of them cannot be built or is of the wrong kind.
    """
    network = build(cfg, "model", nn.Module)  # first: it draws the first random numbers
    parts = {
        "network": network,
        "loss": build(cfg, "loss", nn.Module),
        "optimizer": _waiting(cfg, "optimizer"),
        "scheduler": _schedule(cfg),
        "scores": AddedScores(build_all(cfg, "metrics", object)),
    }
    settings = OmegaConf.to_container(cfg.module, resolve=True)
    assert isinstance(settings, dict)
    own = {str(key): value for key, value in settings.items() if key not in parts}
    module = instantiate(own, _partial_=True)(**parts)
    if not isinstance(module, L.LightningModule):
        raise InputError(f"module gives a {type(module).__name__}, where a LightningModule is needed")
    return module  # type: ignore[return-value]


def build_callbacks(cfg: DictConfig) -> dict[str, L.Callback]:
    """Build the callbacks by name, except those that are null.

    Raises:
        InputError: If one cannot be built or is not a callback.
    """
    return build_all(cfg, "callbacks", L.Callback)


def build(cfg: DictConfig, key: str, kind: type[Part], **arguments: Any) -> Part:
    """Build the object that one key of the configuration describes.

    Args:
        cfg: The configuration.
        key: Dotted.
        kind: Required class.
        arguments: Added to those of the configuration.

    Raises:
        InputError: If the key is missing, or the object cannot be built or has another class.
    """
    built = _instantiated(key, _settings(cfg, key), arguments)
    if not isinstance(built, kind):
        package = kind.__module__.partition(".")[0]
        raise InputError(f"{key} gives a {type(built).__name__}, where a {kind.__name__} of {package} is needed")
    return built


def build_all(cfg: DictConfig, key: str, kind: type[Part]) -> dict[str, Part]:
    """Build all objects under a key by name, except those that are null.

    Raises:
        InputError: As ``build``.
    """
    node = OmegaConf.select(cfg, key)
    if node is None:
        return {}
    if not isinstance(node, DictConfig):
        raise InputError(f"{key}={node!r} is not a group of parts; write {key}.NAME._target_=CLASS for each")
    if "_target_" in node:
        raise InputError(f"{key}._target_ lacks a name; set {key}.NAME._target_ instead")
    names = [str(name) for name in node if node[name] is not None]
    return {name: build(cfg, f"{key}.{name}", kind) for name in names}


def _settings(cfg: DictConfig, key: str) -> dict[str, Any]:
    node = OmegaConf.select(cfg, key)
    if not isinstance(node, DictConfig) or node.get("_target_") is None:
        shown = "is missing" if node is None else f"has no _target_: {node!s}"
        group = key.partition(".")[0]
        raise InputError(f"{key} {shown}; choose {group}=OPTION (--help lists them), or set {key}._target_=CLASS")
    return dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]  # a mapping, as checked


def _instantiated(key: str, settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return instantiate(dict(settings), _convert_="all", **arguments)  # plain lists can be stored in checkpoints
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        if missing := _missing_package(error):
            raise InputError(f"{key} needs the package {missing}: {_install(missing)}") from error
        raise _refused(key, str(settings.get("_target_")), error) from error


def _refused(key: str, target: str, error: InstantiationException) -> Exception:
    """Return a readable error if the class refused its arguments, else the error itself."""
    cause = error.__cause__
    if isinstance(cause, ImportError):
        first: BaseException = cause
        while first.__cause__ is not None:
            first = first.__cause__
        return InputError(f"{key}: {target} cannot be imported: {' '.join(str(first).split())}")
    if isinstance(
        cause, TypeError | ValueError | KeyError | AttributeError | AssertionError | MisconfigurationException
    ):
        said = " ".join(str(cause).split()) or type(cause).__name__
        return InputError(f"{key} cannot be built with these values: {said}{_remedy(key, said)}")
    return error


def _remedy(key: str, said: str) -> str:
    return f"; ~{key}.fused takes that key away" if "fused" in said else ""


def _missing_package(error: BaseException) -> str | None:
    """Return the package that is not installed, if that is the reason."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ModuleNotFoundError):
            for name in EXTRAS:  # some libraries leave the name out
                if seen.name == name or (seen.name is None and name in str(seen)):
                    return name
            top = (seen.name or "").partition(".")[0]
            return top if top and importlib.util.find_spec(top) is None else None
        seen = seen.__cause__ or seen.__context__
    return None


def _install(package: str) -> str:
    if package in EXTRAS and CLONE:
        return f'python -m pip install -c constraints.txt -e ".[{package}]"'
    if package in EXTRAS:
        return f"pip install {package}"
    return (
        f"if it is your own file, name its folder: --config-dir FOLDER or PYTHONPATH=FOLDER; else pip install {package}"
    )


def _waiting(cfg: DictConfig, key: str) -> functools.partial[Any]:
    """Build an object that is called later, with or without ``_partial_`` in the configuration."""
    found = _instantiated(key, _deferred(_settings(cfg, key)), {})
    return found if isinstance(found, functools.partial) else functools.partial(found)


def _schedule(cfg: DictConfig) -> Schedule | None:
    if OmegaConf.select(cfg, "scheduler") is None:
        return None
    settings = _settings(cfg, "scheduler")
    own = {key: settings.pop(key, None) for key in OF_SCHEDULE}
    return Schedule(_instantiated("scheduler", _deferred(settings), {}), **own)


def _deferred(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add ``_partial_`` to a class and to the schedules inside it."""
    parts = settings.get("schedulers")
    inside = {"schedulers": [_deferred(part) if isinstance(part, dict) else part for part in parts]} if parts else {}
    return {**settings, **inside, "_partial_": True}
