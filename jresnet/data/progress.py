"""What users are told while data are read: warnings, and a bar on the console for work that takes long."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jresnet.errors import visible

T = TypeVar("T")

# Seconds after which the bar appears.
_SHOWN_AFTER = 1.0


def warn(text: str) -> None:
    """Warn of what is no error, on one line without characters that a terminal would obey."""
    logging.getLogger(__name__).warning(visible(" ".join(text.splitlines())))


def tracked(items: Iterable[T], total: int, what: str, console: rich.console.Console | None) -> Iterator[T]:
    """Pass the `total` items on; a bar on a terminal or in a notebook says how many, if it takes over a moment."""
    if console is None or console.quiet or not (console.is_interactive or console.is_jupyter):
        yield from items
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    progress = Progress(*columns, console=console, transient=True)
    task, started = progress.add_task(what, total=total), time.perf_counter()
    try:
        for item in items:
            yield item
            progress.advance(task)
            if not progress.live.is_started and time.perf_counter() - started > _SHOWN_AFTER:
                progress.start()
    finally:
        if progress.live.is_started:
            progress.stop()
