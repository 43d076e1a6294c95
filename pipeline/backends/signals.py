"""SIGINT and SIGTERM as exceptions, with one chance to checkpoint first.

Outside `grace` a signal raises at once. Inside it the first signal only asks for a stop, and the second
one raises.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from components.errors import Interrupted, RecurraError, Terminated

MESSAGES: dict[int, tuple[type[RecurraError], str]] = {
    signal.SIGINT: (Interrupted, "Interrupted."),
    signal.SIGTERM: (Terminated, "Terminated."),
}


class Signals:
    """The process's handlers. Install them after Ray, which brings its own."""

    def __init__(self) -> None:
        self._ask: Callable[[], None] | None = None
        self.received: int | None = None

    def install(self) -> None:
        """Take over SIGINT and SIGTERM of the main thread."""
        for number in MESSAGES:
            signal.signal(number, self._handle)

    @contextmanager
    def grace(self, ask: Callable[[], None]) -> Iterator[None]:
        """Within, the first signal calls `ask` instead of raising."""
        self._ask = ask
        try:
            yield
        finally:
            self._ask = None

    def stopped(self) -> RecurraError:
        """The error that says by which signal the work was stopped."""
        kind, text = MESSAGES[self.received or signal.SIGTERM]
        return kind(f"{text} The run is checkpointed.", hint="The same command goes on from there.")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, number
        if self._ask is not None and first:
            self._ask()
            return
        kind, text = MESSAGES[number]
        raise kind(text)
