"""Being asked to stop, by Ctrl-C or SIGTERM, with what is trained kept first."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """A run was asked to stop, and has; no Exception, so that nothing takes it for a failure of its own.

    Attributes:
        signal: What asked.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {'Ctrl-C' if number == signal.SIGINT else self.signal.name}")

    @property
    def exit_code(self) -> int:
        """As shells have it for what a signal ended."""
        return 128 + self.signal


class StopRequest:
    """Takes Ctrl-C and SIGTERM while it is entered: ``Interrupted`` at once or, while ``patient``, when it suits.

    A second signal does not wait.

    Args:
        promise: What is said at the first one while ``patient``.
    """

    def __init__(self, promise: str = "stopping at the end of this epoch, so that it is kept") -> None:
        self.promise, self.patient = promise, False
        self.number: int | None = None
        self._before: dict[int, Any] | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # no other may ask for signals
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in (self._before or {}).items():
            signal.signal(number, handler)
        self._before = None

    def listen(self) -> None:
        """Take the signals, also from whoever took them since this was entered."""
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
        say(f"{self.promise}; once more stops it at once")


def leave(number: int, frame: FrameType | None) -> None:
    """Take a signal while there is nothing to keep, by ending: an exception would come up in whatever is imported."""
    say(f"{Interrupted(number)}; the same command does what is missing")
    os._exit(128 + number)


def say(text: str) -> None:
    """Say something on the console from within a signal handler, where print and logging may be in use already."""
    with contextlib.suppress(OSError):  # nobody may be listening
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
