"""What produced a run: versions, the commit of the code, and everything the commit does not hold."""

import inspect
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

CLONE = Path(__file__).resolve().parents[2]
PACKAGES = ("cellseg", "torch", "lightning", "torchmetrics", "hydra-core", "numpy", "pillow", "scipy")
CODE = ("*.py", "*.yaml", "*.yml", "*.toml")  # new files of the clone that can change a run
LARGEST_PATCH = 2**24  # bytes
KNOWN = ("cellseg", "torch", "lightning")  # packages whose version is enough


def provenance() -> dict[str, Any]:
    """Return the versions of Python and packages, the platform and, where the code is a clone, its commit."""
    return {
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES},
        "platform": sys.platform,
        "git_commit": _git("rev-parse", "HEAD").strip() or None,
        "git_dirty": bool(_git("status", "--porcelain", "--", ".")),
    }


def code_patch(targets: Iterable[str], network: nn.Module) -> str:
    """Return as a patch what the commit does not hold; empty where it holds everything.

    That is: changed and new files of the clone, and the source of classes from elsewhere. Of an installed package only
    the file of the network itself is taken.

    Args:
        targets: Names of the classes and functions that the configuration builds from.
        network: The network that they gave.
    """
    changes = _git("diff", "--no-color", "--no-ext-diff", "--binary", "HEAD", "--", ".")
    if len(changes) > LARGEST_PATCH:
        changes = f"The changes of this clone are left out: they have {len(changes)} characters.\n"
    new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).split("\0")
    files = {CLONE / name: name for name in new if name}
    tracked = {CLONE / name for name in _git("ls-files", "-z", "--", ".").split("\0") if name}
    for path in _sources(targets, network):
        if path not in tracked:
            files.setdefault(path, path.as_posix().replace(":", "").lstrip("/"))
    return changes + "".join(_added(name, path) for path, name in sorted(files.items()) if _is_text(path))


def _sources(targets: Iterable[str], network: nn.Module) -> Iterator[Path]:
    modules = {target.rpartition(".")[0] for target in targets} | {type(part).__module__ for part in network.modules()}
    own = type(network).__module__
    for name in sorted(modules):
        module = next((sys.modules[part] for part in _prefixes(name) if part in sys.modules), None)
        if module is None or name.split(".")[0] in KNOWN:
            continue
        try:
            path = Path(inspect.getsourcefile(module) or "").resolve()
        except TypeError:  # built in
            continue
        if path.is_file() and (name == own or "site-packages" not in path.parts):
            yield path


def _prefixes(name: str) -> Iterator[str]:
    """Yield a.b.c, a.b, a: a class may lie in another class."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _added(name: str, path: Path) -> str:
    """Return the patch that adds a file."""
    lines = path.read_text("utf-8", "replace").split("\n")
    last = lines.pop()
    body = "".join(f"+{line}\n" for line in lines) + (f"+{last}\n\\ No newline at end of file\n" if last else "")
    count = len(lines) + bool(last)
    heading = f"diff --git a/{name} b/{name}\nnew file mode 100644\n"
    return heading + (f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{count} @@\n{body}" if count else "")


def _is_text(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= LARGEST_PATCH


@cache
def _is_clone() -> bool:
    """Tell whether this very file is kept by git; an installed package may lie in somebody else's repository."""
    return _run_git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is not None


def _git(*arguments: str) -> str:
    return (_run_git(*arguments) or "") if _is_clone() else ""


def _run_git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=CLONE, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.decode("utf-8", "replace") if result.returncode == 0 else None
