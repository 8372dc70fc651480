"""SIGINT and SIGTERM as a flag that a loop reads when it can stop cleanly."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Flag:
    """Which signal asked to stop.

    Attributes:
      signal: its number, None until one came.
    """

    signal: int | None = None


@contextlib.contextmanager
def stop_flag() -> Iterator[Flag]:
    """Collect SIGINT and SIGTERM in a flag while the context lasts; a second one acts at once, as without it.

    Outside the main thread, where Python allows no handlers, the flag is never set.
    """
    flag = Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}

    def restore():
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number, _frame):
        flag.signal = number
        restore()

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield flag
    finally:
        restore()
