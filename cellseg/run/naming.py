"""The name of a run's folder."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

LONGEST_NAME = 120


def run_name(model: str, seed: int, overrides: Sequence[str]) -> str:
    """Name a run by what sets it apart: model, seed, then every other override, in plain ASCII without ``=`` and ``/``.

    Where characters had to go, a short hash of the value stays, so that different values give different names.
    """
    parts = [model, f"seed-{seed}"]
    for override in sorted(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        if key in ("model", "seed", "study", "n_jobs", "margin") or key.partition(".")[0] == "logger":
            continue  # said already, or no part of the training
        if value in ("True", "False"):  # Hydra's sweeper writes false as False
            value = value.lower()
        clean = re.sub(r"[^\w.,+-]+", "-", Path(value).name or value, flags=re.ASCII)
        prefix = "no-" if override.startswith("~") else ""
        parts.append(f"{prefix}{key.replace('/', '-')}-{clean}" + ("" if clean == value else f"-{_short_hash(value)}"))
    name = "_".join(parts)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 7]}-{_short_hash(name)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
