"""A progress bar for work that takes long, on a terminal only."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], doing: str, total: int) -> Iterable[Item]:
    """Yield the items while a bar on standard error counts them; it vanishes at the end."""
    console = Console(stderr=True)
    return track(items, doing, total, console=console, transient=True, disable=not console.is_terminal)
