"""SIGINT and SIGTERM, recorded for a loop that stops at a safe point."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopSignal:
    """The number of the first stop signal received; None until one arrives."""

    number: int | None = None


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopSignal]:
    """Record SIGINT and SIGTERM while the context lasts; a second signal has its usual effect at once.

    Outside the main thread, where Python allows no signal handlers, nothing is recorded.
    """
    received = StopSignal()
    with contextlib.ExitStack() as previous_handlers:

        def handle(number: int, _frame: FrameType | None) -> None:
            received.number = number
            previous_handlers.close()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous_handlers.callback(signal.signal, number, signal.getsignal(number))
                signal.signal(number, handle)
        yield received
