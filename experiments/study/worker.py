"""The program of a worker: it trains the runs that `experiments.study.workers` gives it, until its stdin ends."""

import contextlib
import io
import json
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable

import rich.console

from experiments.study import runs
from experiments.study.runs import StudyRun
from experiments.study.workers import POLL, Reply
from jresnet.errors import CannotWrite, Diverged, InputError, Interrupted


class Lines(io.StringIO):
    """A console's file that sends each line as a reply."""

    def __init__(self, send: Callable[[Reply], None]):
        super().__init__()
        self._send = send

    def write(self, text: str) -> int:
        """Send every line of a text, which the console writes in whole lines."""
        for line in text.splitlines():
            self._send(Reply("line", line))
        return len(text)


def main() -> None:
    """Train every run from stdin and reply on stdout."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no reply

    def send(reply: Reply) -> None:
        with contextlib.suppress(BrokenPipeError):  # the study is gone; `listen` notices
            replies.write(json.dumps(reply).encode() + b"\n")
            replies.flush()

    # Only the end of stdin stops a worker. While it trains, `fit` has its own handlers until the first signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    given: queue.SimpleQueue[StudyRun | None] = queue.SimpleQueue()
    stop, done = threading.Event(), threading.Event()
    threading.Thread(target=listen, args=(given, stop, done), daemon=True).start()
    console = rich.console.Console(file=Lines(send), color_system=None)
    while (run := given.get()) is not None:
        send(Reply("Interrupted", "interrupted before its first step") if stop.is_set() else train(run, console))
    done.set()


def listen(given: "queue.SimpleQueue[StudyRun | None]", stop: threading.Event, done: threading.Event) -> None:
    """Receive runs until stdin ends; then set `stop` and, until `done`, interrupt the training."""
    # Truncated data are those of a study that was killed.
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            given.put(pickle.load(sys.stdin.buffer))
    stop.set()
    given.put(None)
    while not done.wait(POLL):  # again and again: `fit` may not have its handlers yet
        os.kill(os.getpid(), signal.SIGTERM)


def train(run: StudyRun, console: rich.console.Console) -> Reply:
    """Train a run; unexpected errors end the worker, with a traceback."""
    try:
        return Reply("trained" if runs.train(run, console) else "elsewhere")
    except Diverged as error:
        return Reply("Diverged", str(error))
    except InputError as error:
        return Reply("InputError", str(error))
    except CannotWrite as error:
        return Reply("CannotWrite", str(error))
    except Interrupted as error:
        return Reply("Interrupted", str(error))


if __name__ == "__main__":
    main()
