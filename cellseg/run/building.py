"""Building a network from the configuration of a run: own networks always, others only if they are trusted."""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from cellseg.networks import PotiNet, UNet, XopiNet
from cellseg.run.resolvers import register_resolvers
from cellseg.storage.errors import InputError
from cellseg.storage.files import read_bounded

OWN = {
    f"{module}.{kind.__name__}": kind for module in ("cellseg", "cellseg.networks") for kind in (UNet, PotiNet, XopiNet)
}

log = logging.getLogger(__name__)


def targets_of(settings: Any) -> list[str]:
    """Return all classes and functions in a configuration, also nested ones."""
    return list(dict.fromkeys(_targets(settings)))


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    for child in node if isinstance(node, list | tuple) else ():
        yield from _targets(child)


def is_own(settings: Mapping[str, Any]) -> bool:
    """Tell whether a network and all its parts are from this package."""
    return str(settings.get("_target_")) in OWN and set(targets_of(settings)) <= OWN.keys()


def build_own(settings: Mapping[str, Any]) -> UNet:
    """Build a network of this package on the meta device, so that settings from a file cannot exhaust memory.

    Raises:
        InputError: If the settings do not fit.
    """
    arguments = {key: value for key, value in settings.items() if key != "_target_"}
    try:
        with torch.device("meta"):
            return OWN[settings["_target_"]](**arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        kind = OWN[settings["_target_"]].__name__
        raise InputError(f"the settings do not fit a {kind} ({error})") from error


def build_foreign(settings: Mapping[str, Any], places: Sequence[str], run: Path | None) -> nn.Module:
    """Import and build a trusted network of another package; see ``build_trusted``.

    Raises:
        InputError: If something cannot be imported or built.
    """
    if not isinstance(settings.get("_target_"), str):
        raise InputError(f"{run or 'the configuration'}: does not name a network (model._target_)")
    network = build_trusted(settings, places, run)
    if not isinstance(network, nn.Module):
        raise InputError(f"{settings['_target_']} gives a {type(network).__name__} and not an nn.Module")
    return network


def build_trusted(settings: Mapping[str, Any], places: Sequence[str], run: Path | None) -> Any:
    """Import and build a trusted object of another package.

    Modules are searched on Python's path, then in the given folders; never in a run folder, which may be a stranger's.

    Args:
        settings: With ``_target_``.
        places: Folders to search: the one that the run recorded, or those around a configuration file.
        run: The run folder; None for a bare file of weights.

    Raises:
        InputError: If something cannot be imported or built.
    """
    for target in targets_of(settings):
        _import(target, places, run)
    try:
        return instantiate(dict(settings), _convert_="all")
    except (HydraException, OmegaConfBaseException, SystemExit) as error:
        cause = error.__cause__ or error
        raise InputError(f"{settings['_target_']} cannot be built: {' '.join(str(cause).split())}") from error


def _import(target: str, places: Sequence[str], run: Path | None) -> None:
    top = target.split(".")[0]
    if top in sys.modules:
        _refuse_twins(target, home_of(sys.modules[top]), places)
        return
    spec, added = _found(top), ""
    for place in places if spec is None else ():
        if spec is None and _is_safe(Path(place)):
            sys.path.append(place)
            importlib.invalidate_caches()
            spec, added = _found(top), place
            if spec is None:
                sys.path.remove(place)
    origin = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    if spec is None or origin is None:
        where = f", nor in {' or '.join(places)}" if places else ""
        raise InputError(f"{target}: no module {top} is on Python's path{where}; install it, or set PYTHONPATH=FOLDER")
    if not _is_safe(Path(origin).parent) or (run and _inside(Path(origin), run)):
        raise InputError(f"{target}: would be imported from the run folder ({origin}), which must not execute code")
    if not added:
        path = Path(origin)
        _refuse_twins(target, path.parent.parent if path.name == "__init__.py" else path.parent, places)
    log.warning("importing %s from %s", top, origin)
    try:
        importlib.import_module(top)
    except (Exception, SystemExit) as error:
        raise InputError(f"{origin}: cannot be imported ({type(error).__name__}: {error})") from error


def _refuse_twins(target: str, home: Path | None, places: Sequence[str]) -> None:
    """Refuse a module if the one that the run used, of the same name, is elsewhere."""
    top = target.split(".")[0]
    there = [place for place in places if any((Path(place) / name).exists() for name in (f"{top}.py", top))]
    if home and there and home.resolve() not in {Path(place).resolve() for place in there}:
        raise InputError(
            f"{target}: {home} and {there[0]} both have a module {top}, and the run used the second; "
            f"start a new process with PYTHONPATH={there[0]}"
        )


def _found(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _is_safe(folder: Path) -> bool:
    """Tell whether a folder exists and is not inside a run folder, whose files may be a stranger's."""
    try:
        around = [folder.resolve(), *folder.resolve().parents]
        return folder.is_dir() and not any(
            (place / "config.yaml").exists() and (place / "split.json").exists() for place in around
        )
    except (OSError, ValueError):
        return False


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def read_network(file: Path) -> dict[str, Any]:
    """Read the configuration of one network, a file as in conf/model.

    Raises:
        InputError: If it is not one, or refers to keys outside the file.
    """
    try:
        register_resolvers()
        config = OmegaConf.create({"model": _with_defaults(file), "data": {"channels": None}})
        settings: Any = OmegaConf.to_container(config, resolve=True)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{file}: is not a configuration of a network ({' '.join(str(error).split())})") from error
    found = settings["model"]
    if not isinstance(found, dict) or not isinstance(found.get("_target_"), str):
        raise InputError(f"{file}: does not name a network (_target_)")
    return found


def _with_defaults(file: Path) -> dict[str, Any]:
    """Return the keys of a file, over those of the files in its list of defaults."""
    content = yaml.safe_load(read_bounded(file, "a configuration").decode())
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping")
    defaults = content.pop("defaults", None) or []
    if not isinstance(defaults, list) or not all(isinstance(name, str) for name in defaults):
        raise ValueError("its list of defaults must hold only names of files in the same folder")
    beside = [name for name in defaults if name != "_self_"]
    settings: dict[str, Any] = {}
    for name in beside:
        settings |= _with_defaults(file.with_name(f"{Path(name).name}.yaml"))
    return settings | content


def origin_of(settings: Mapping[str, Any], network: nn.Module) -> tuple[str, str | None]:
    """Return the class of a network, and the folder from which it was imported; None for this package."""
    target = str(settings.get("_target_", f"{type(network).__module__}.{type(network).__qualname__}"))
    home = home_of(sys.modules.get(target.split(".")[0]))
    return target, None if is_own(settings) or home is None else str(home)


def places_of(targets: Sequence[str]) -> list[str]:
    """Return the folders from which classes of other packages were imported."""
    tops = {target.split(".")[0] for target in targets} - {"cellseg"}
    return sorted(str(home) for top in tops if (home := home_of(sys.modules.get(top))) is not None)


def home_of(module: ModuleType | None) -> Path | None:
    """Return the folder that must be on Python's path to import a module."""
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return None
    path = Path(file).resolve()
    return path.parent.parent if path.name == "__init__.py" else path.parent
