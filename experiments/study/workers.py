"""Several runs at once on one device, each in a process of its own.

A process puts all that it computes on a GPU into one queue, so that runs overlap there from different processes only.
The study's process hands its workers one run after another and reads no data back: runs are on disk, where the study
finds them as if it had trained them itself.

A worker gets pickled runs on its stdin and replies on its stdout, a JSON list [kind, text] per line. It stops, with its
state saved, as soon as its stdin ends: the study was interrupted, or is gone.
"""

import contextlib
import json
import os
import pathlib
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable
from typing import Any, Literal, NamedTuple

import jax

from experiments.study.runs import StudyRun
from jresnet.errors import Interrupted
from jresnet.records.environment import variable
from jresnet.rules import require
from jresnet.train.signals import catch_stop_signals

COMMAND = (sys.executable, "-m", "experiments.study.worker")
MEMORY = 0.9
"""Share of a GPU's memory that the workers have together; the rest is for their CUDA contexts."""
POLL = 0.2
"""Seconds until a signal is noticed."""

_ROOT = pathlib.Path(__file__).parents[2]
_MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")

Kind = Literal[
    "started", "line", "trained", "elsewhere", "Diverged", "InputError", "CannotWrite", "Interrupted", "Lost"
]


class Reply(NamedTuple):
    """What there is to say of a worker's run: that it started, a line of its log, or last how it ended."""

    kind: Kind
    text: str = ""


def check(options: Any) -> None:
    """Raise InputError unless this machine's devices can be shared as the options `processes` and `parallel` say."""
    if options.processes > 1:
        devices = _device_count()
        one = options.parallel == "jit" or devices == 1
        rule = f"share one device, but {devices} are visible: set CUDA_VISIBLE_DEVICES to one, or add --parallel jit"
        require(options, "processes", one, rule)


def _device_count() -> int:
    """The number of local devices; looking at them leaves a GPU's memory to the workers."""
    with variable("XLA_PYTHON_CLIENT_PREALLOCATE", "false"):
        return jax.local_device_count()


def sharing(processes: int) -> str:
    """How so many processes share the device, in one line."""
    backend = jax.default_backend()
    if backend != "gpu":
        return f"{processes} processes share the {backend.upper()}"
    pipe = pathlib.Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps", "control")
    found = f"the MPS daemon of {pipe} lets them compute at the same time"
    missing = f"they take turns on it, as there is no MPS daemon at {pipe}: nvidia-cuda-mps-control -d starts one"
    return f"{processes} processes share one GPU; {found if pipe.exists() else missing}"


def environment(processes: int) -> dict[str, str]:
    """The environment of each of so many workers: this process's, and a share of a GPU's memory if none is set.

    jaxlib refuses the variable together with its deprecated name, so only one may be set. The number of threads is left
    alone, as XLA splits a CPU's sums by it: the bits of a result would depend on the number of workers.
    """
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.getenv("PYTHONPATH")])])}
    if not any(os.environ.get(name) for name in _MEMORY_VARIABLES):
        variables[_MEMORY_VARIABLES[0]] = str(MEMORY / processes)
    return variables


class _Worker:
    """A worker process; threads put its replies into `events`, None at its end, and its stderr on this process's."""

    def __init__(
        self, number: int, variables: dict[str, str], events: "queue.SimpleQueue[tuple[_Worker, Reply | None]]"
    ):
        self.number, self._events, self._last_line = number, events, "it printed no error"
        pipe = subprocess.PIPE
        # In a session of its own, as Ctrl-C reaches every process of the terminal's: only the study is to act on it.
        self._process = subprocess.Popen(
            COMMAND, env=variables, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._tasks, self._replies, self._errors = self._process.stdin, self._process.stdout, self._process.stderr
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_replies, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def give(self, run: StudyRun) -> None:
        """Let it train a run; if it has ended, its None is among the events."""
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(run, self._tasks)
            self._tasks.flush()

    def stop(self) -> None:
        """Let it end: at once if it has no run, else at the run's next step."""
        with contextlib.suppress(BrokenPipeError):
            self._tasks.close()

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()
        self.wait()

    def wait(self) -> str:
        """Wait for its end; returns in words how that came about."""
        status = self._process.wait()
        for reader in self._readers:
            reader.join()
        self.stop()
        self._replies.close()
        self._errors.close()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"worker {self.number} ended with {how}: {self._last_line}"

    def _read_replies(self) -> None:
        for line in self._replies:
            if line.endswith(b"\n"):  # else it was killed while it wrote
                self._events.put((self, Reply(*json.loads(line))))
        self._events.put((self, None))

    def _read_errors(self) -> None:
        for line in self._errors:
            text = line.decode(errors="replace").rstrip()
            self._last_line = text or self._last_line
            print(f"[{self.number}] {text}", file=sys.stderr, flush=True)


def train(runs: Iterable[StudyRun], processes: int) -> Generator[tuple[int, StudyRun, Reply]]:
    """Train runs in so many workers, each of which takes the next run when it is done with one.

    Yields:
      (worker's number, run, reply), where a run's last reply says how it ended: "trained"; "elsewhere", if another
      process trains it or has done so; or an error's name with its message. It is "Lost" if the worker ended by itself:
      the other workers go on, and runs for which none is left are not trained.

    Raises:
      Interrupted: SIGINT or SIGTERM arrived; every worker has stopped, with its state saved.
    """
    waiting = deque(runs)
    events: queue.SimpleQueue[tuple[_Worker, Reply | None]] = queue.SimpleQueue()
    variables = environment(processes)
    workers: list[_Worker] = []
    at_work: dict[_Worker, StudyRun] = {}
    with catch_stop_signals() as received, contextlib.ExitStack() as started:
        for number in range(1, min(processes, len(waiting)) + 1):
            workers.append(_Worker(number, variables, events))
            started.callback(workers[-1].kill)
        idle = list(workers)
        while workers:
            for worker in idle:
                if waiting and received.number is None:
                    at_work[worker] = waiting.popleft()
                    worker.give(at_work[worker])
                    yield worker.number, at_work[worker], Reply("started")
                else:
                    worker.stop()
            idle = [] if received.number is None else list(workers)
            try:
                worker, reply = events.get(timeout=POLL)
            except queue.Empty:
                continue
            if reply is None:
                workers.remove(worker)
                ending = worker.wait()
                if worker in at_work:
                    yield worker.number, at_work[worker], Reply("Lost", ending)
                continue
            yield worker.number, at_work[worker], reply
            if reply.kind != "line":
                del at_work[worker]
                idle.append(worker)
        if received.number is not None:
            raise Interrupted("interrupted; the state of every run is saved", received.number)
