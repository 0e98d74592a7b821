"""Stopping by Ctrl-C or SIGTERM after the current epoch is saved."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """Raised when a run was asked to stop; no Exception, so that no handler of errors catches it.

    Attributes:
        signal: The signal that asked.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {'Ctrl-C' if number == signal.SIGINT else self.signal.name}")

    @property
    def exit_code(self) -> int:
        """The exit code that shells use for a process ended by this signal."""
        return 128 + self.signal


class StopRequest:
    """Handles Ctrl-C and SIGTERM inside a ``with`` block.

    Raises ``Interrupted`` immediately or, while ``patient``, only records the request; a second signal always raises.

    Args:
        promise: Printed at the first signal while ``patient``.
    """

    def __init__(self, promise: str = "stopping after this epoch, which is saved first") -> None:
        self.promise, self.patient = promise, False
        self.number: int | None = None
        self._before: dict[int, Any] | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows no other to handle signals
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in (self._before or {}).items():
            signal.signal(number, handler)
        self._before = None

    def listen(self) -> None:
        """Handle the signals again, if something else has taken them meanwhile."""
        for number in self._before or ():
            signal.signal(number, self._hear)

    def obey(self) -> None:
        """Raise ``Interrupted`` if a stop was asked for."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again, self.number = self.number is not None, number
        if again or not self.patient:
            raise Interrupted(number)
        say(f"{self.promise}; press Ctrl-C again to stop immediately")


def leave(number: int, frame: FrameType | None) -> None:
    """End the process on a signal while there is nothing to save; an exception could be raised inside an import."""
    say(f"{Interrupted(number)}; run the same command again to continue")
    os._exit(128 + number)


def say(text: str) -> None:
    """Print from a signal handler, where print and logging may be in use already."""
    with contextlib.suppress(OSError):  # the console may be closed
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
