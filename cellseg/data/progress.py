"""Show a progress bar on terminals."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], doing: str, total: int) -> Iterable[Item]:
    """Yield the items and count them in a bar on standard error, which disappears at the end."""
    console = Console(stderr=True)
    return track(items, doing, total, console=console, transient=True, disable=not console.is_terminal)
