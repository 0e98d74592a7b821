"""The parts of a run, built from its configuration one by one, so that one that cannot be used is refused by name."""

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
    network = build(cfg, "model", nn.Module)  # first: its weights are the first random numbers drawn
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
    """Build the callbacks, by name; a name that is null is left out.

    Raises:
        InputError: If one cannot be built or is none.
    """
    return build_all(cfg, "callbacks", L.Callback)


def build(cfg: DictConfig, key: str, kind: type[Part], **arguments: Any) -> Part:
    """Build what one key of the configuration names.

    Args:
        cfg: The configuration.
        key: In dots.
        kind: Of what it must be.
        arguments: Besides those in the configuration.

    Raises:
        InputError: If there is nothing under the key, it cannot be built, or is something else.
    """
    built = _instantiated(key, _settings(cfg, key), arguments)
    if not isinstance(built, kind):
        package = kind.__module__.partition(".")[0]
        raise InputError(f"{key} gives a {type(built).__name__}, where a {kind.__name__} of {package} is needed")
    return built


def build_all(cfg: DictConfig, key: str, kind: type[Part]) -> dict[str, Part]:
    """Build every part under a key that holds several, by name; one that is null is left out.

    Raises:
        InputError: As ``build``.
    """
    node = OmegaConf.select(cfg, key)
    if node is None:
        return {}
    if not isinstance(node, DictConfig):
        raise InputError(
            f"{key}={node!r} names nothing to build; it is a group of parts, each {key}.NAME._target_=CLASS"
        )
    if "_target_" in node:
        raise InputError(f"{key}._target_ stands where a name must be: set {key}.NAME._target_ instead")
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
        return instantiate(dict(settings), _convert_="all", **arguments)  # checkpoints hold plain lists
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        if missing := _missing_package(error):
            raise InputError(f"{key} needs the package {missing}: {_install(missing)}") from error
        raise _refused(key, str(settings.get("_target_")), error) from error


def _refused(key: str, target: str, error: InstantiationException) -> Exception:
    """Return an error of the user's words where the class refused its arguments; others say enough, or are no such."""
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
    """Return the package whose absence is the reason, if it is."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ModuleNotFoundError):
            for name in EXTRAS:  # libraries say it in words of their own, and leave the name out
                if seen.name == name or (seen.name is None and name in str(seen)):
                    return name
            top = (seen.name or "").partition(".")[0]
            return top if top and importlib.util.find_spec(top) is None else None
        seen = seen.__cause__ or seen.__context__
    return None


def _install(package: str) -> str:
    return f"pip install 'cellseg[{package}]'" if package in EXTRAS else f"pip install {package}, or set PYTHONPATH"


def _waiting(cfg: DictConfig, key: str) -> functools.partial[Any]:
    """Build what is called later, with the weights or the optimizer, whether or not it says ``_partial_``."""
    found = _instantiated(key, _deferred(_settings(cfg, key)), {})
    return found if isinstance(found, functools.partial) else functools.partial(found)


def _schedule(cfg: DictConfig) -> Schedule | None:
    if OmegaConf.select(cfg, "scheduler") is None:
        return None
    settings = _settings(cfg, "scheduler")
    own = {key: settings.pop(key, None) for key in OF_SCHEDULE}
    return Schedule(_instantiated("scheduler", _deferred(settings), {}), **own)


def _deferred(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Say of a class, and of the schedules it is made of, that it is called later."""
    parts = settings.get("schedulers")
    inside = {"schedulers": [_deferred(part) if isinstance(part, dict) else part for part in parts]} if parts else {}
    return {**settings, **inside, "_partial_": True}
