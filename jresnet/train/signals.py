"""SIGINT and SIGTERM, recorded for a loop that stops at a safe point."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopSignal:
    """The first stop signal received.

    Attributes:
      number: its number; None until one arrives.
    """

    number: int | None = None


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopSignal]:
    """Record SIGINT and SIGTERM while the context lasts; a second signal has its usual effect at once.

    Outside the main thread, where Python allows no signal handlers, nothing is recorded.
    """
    received = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, _frame: FrameType | None) -> None:
        received.number = number
        restore()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()
