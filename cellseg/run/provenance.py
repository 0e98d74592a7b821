"""The origin of a run: versions, commit, and changes that are not committed."""

import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

CLONE = Path(__file__).resolve().parents[2]
PACKAGES = ("cellseg", "torch", "lightning", "torchmetrics", "hydra-core", "numpy", "pillow", "tifffile", "scipy")
CODE = ("*.py", "*.yaml", "*.yml", "*.toml")  # new files of the clone that can change a run
DIFF = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "--binary")
LARGEST_PATCH = 2**24  # bytes, of the changes and of each new file


def provenance() -> dict[str, Any]:
    """Return versions, platform and, in a clone, the commit."""
    status = _git("status", "--porcelain", "--", ".")
    return {
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES},
        "platform": sys.platform,
        "git_commit": (_git("rev-parse", "HEAD") or b"").decode().strip() or None if _is_clone() else None,
        "git_dirty": _is_clone() and status != b"",  # also if git fails
    }


def code_patch(targets: Iterable[str], network: nn.Module) -> bytes:
    """Return a patch of all code that is not committed; empty if there is none.

    It contains changed and new files of the clone, the source of classes that the configuration uses from elsewhere,
    and the modules that these import from their folder. Of an installed package only the file of the network
    is in it.

    Args:
        targets: Names of the classes and functions in the configuration.
        network: The network of the run.
    """
    changes = _changes() if _is_clone() else b""
    new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE) if _is_clone() else b""
    tracked = _git("ls-files", "-z", "--", ".") if _is_clone() else b""
    files = _paths(new) | set(_sources(targets, network))
    return changes + b"".join(_added(path) for path in sorted(files - _paths(tracked)) if path.is_file())


def _changes() -> bytes:
    changes = _git("diff", *DIFF, "HEAD", "--", ".")
    if changes is None:
        return b"git could not read the changes of this clone, so they are not here.\n"
    if len(changes) > LARGEST_PATCH:
        return b"The changes of this clone have %d bytes, so they are not here.\n" % len(changes)
    return changes


def _paths(listed: bytes | None) -> set[Path]:
    """Return the files in the output of ``git ls-files -z``."""
    return {CLONE / name.decode("utf-8", "surrogateescape") for name in (listed or b"").split(b"\0") if name}


def _sources(targets: Iterable[str], network: nn.Module) -> Iterator[Path]:
    """Yield the source files of the targets, and those that they import from their folder."""
    own = type(network).__module__
    names = {target.rpartition(".")[0] for target in targets} | {type(part).__module__ for part in network.modules()}
    places = set()
    for name in names - {"builtins", "__main__"}:
        module = next((sys.modules[part] for part in _prefixes(name) if part in sys.modules), None)
        path = _source(module) if module else None
        if path is None or name.split(".")[0] in ("cellseg", "torch", "lightning"):  # the recorded version is enough
            continue
        if not _is_installed(path):
            places.add(path.parents[module.__name__.count(".") if module else 0])
            yield path
        elif name == own:
            yield path
    for module in list(sys.modules.values()) if places - {CLONE} else ():
        path = _source(module)
        if path and not _is_installed(path) and not (places - {CLONE}).isdisjoint(path.parents):
            yield path


def _source(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file and file.endswith(".py") else None


def _prefixes(name: str) -> Iterator[str]:
    """Yield a.b.c, a.b, a; a class may be inside another class."""
    while name:
        yield name
        name = name.rpartition(".")[0]


@cache
def _installed_in() -> tuple[Path, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(path).resolve() for path in paths | {*site.getsitepackages(), site.getusersitepackages()})


def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in _installed_in())


def _added(path: Path) -> bytes:
    """Return the patch that adds a file, named by its path in the repository, or by its full path."""
    inside = _is_clone() and path.is_relative_to(CLONE)
    top = Path((_git("rev-parse", "--show-toplevel") or b"").decode().strip()).resolve() if inside else path.anchor
    place = path.relative_to(top)
    name, content = place.as_posix().encode("utf-8", "surrogateescape"), path.read_bytes()
    if len(content) > LARGEST_PATCH:
        return b"%s has %d bytes, so it is not here.\n" % (name, len(content))
    *lines, last = content.split(b"\n")
    body = b"".join(b"+%s\n" % line for line in lines) + (
        b"+%s\n\\ No newline at end of file\n" % last if last else b""
    )
    heading = b"diff --git a/%s b/%s\nnew file mode 100644\n" % (name, name)
    count = len(lines) + bool(last)
    return heading + (b"--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n%s" % (name, count, body) if count else b"")


@cache
def _is_clone() -> bool:
    """Tell whether git tracks this file; an installed package may be inside another repository."""
    return _git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is not None


def _git(*arguments: str) -> bytes | None:
    """Return the output of git; None if it fails."""
    try:
        result = subprocess.run(["git", *arguments], cwd=CLONE, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
