"""The name of a run's folder, and of the file in it that says why the run failed."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from cellseg.storage.errors import InputError

FAILURE = "failure.txt"
LONGEST_NAME = 120
FIRST = {"data.split.fold": "fold", "data.split.seed": "split"}  # in this form of the key; + and ~ differ
APART = ("model", "seed", "study", "n_jobs", "margin", "looks", "callbacks.last.keep")


def check_study(name: object) -> None:
    """Check the name of a study, which becomes a folder.

    Raises:
        InputError: If it cannot be one.
    """
    if not re.fullmatch(r"\w[\w.,+-]*", str(name)):
        raise InputError(
            f"study must be a name of letters, digits, _ and, after the first, any of . , + -, but is {name}"
        )


def run_name(model: str | None, seed: int | str, overrides: Sequence[str]) -> str:
    """Name a run by its model, its seed and every other override, in plain ASCII without ``=`` and ``/``.

    What tells the runs of a sweep apart comes first: TensorBoard shows only the beginning of a long name.
    A short hash replaces characters that are not allowed, so that different values give different names.
    """
    parts = [model or "network", f"seed-{seed}"]  # ~model takes the option away, for one that is typed
    for override in sorted(overrides, key=lambda text: (text.partition("=")[0] not in FIRST, text)):
        key, _, value = override.lstrip("+~").partition("=")
        if key in APART or key.partition(".")[0] == "logger":
            continue  # in the name already, or not part of the training
        if value in ("True", "False"):  # as Hydra's sweeper writes them
            value = value.lower()
        clean = re.sub(r"[^\w.,+-]+", "-", Path(value).name or value, flags=re.ASCII)
        prefix = "no-" if override.startswith("~") else ""
        name = FIRST.get(override.partition("=")[0], key.replace("/", "-"))
        parts.append(f"{prefix}{name}-{clean}" + ("" if clean == value else f"-{_short_hash(value)}"))
    name = "_".join(parts)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 7]}-{_short_hash(name)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
