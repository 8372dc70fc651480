"""Several processes that train one run: how they meet, agree, and notice that one of them is gone.

Without a cluster around it, a process is alone, and everything here does nothing.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jresnet.errors import InputError, Lost, first_line

# Where launchers say which process this is; the first that is set counts.
_INDICES = ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX")
# By one of these JAX finds the coordinator itself.
_ADDRESSES = ("OMPI_MCA_orte_hnp_uri", "SLURM_STEP_NODELIST")

# Words by which the errors of collectives are known that another process did not take part in.
_LOST = re.compile(
    r"gloo .*failed|remote process exited|coordination service|heartbeat|barrier|connection closed by peer",
    re.IGNORECASE,
)
_GRACE = 2.0  # seconds
_FILE_SECONDS = 60.0  # what attribute caches of network file systems may hide a new file for

_ENDED = (
    "this process ended before its run did, as it does where another process of the run is gone: "
    "start all of them again with --resume; the latest checkpoint is whole"
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Options by which the processes of one run meet; all of them share --workdir and all other options."""

    coordinator: str | None = None
    """HOST:PORT at which process 0 awaits the others (default: found by SLURM's or Open MPI's environment)."""
    num_processes: int | None = None
    """Processes that train this run together (default: as SLURM or Open MPI started them, else 1)."""
    process_id: int | None = None
    """Which of them this is, from 0 (default: by the environment of SLURM, Open MPI or a Kubernetes indexed job)."""
    join_seconds: int = 300
    """Seconds within which all of them must have come."""


def join(options: Cluster) -> None:
    """Meet the run's other processes, if there are any; to be called before JAX is asked for its devices.

    Raises:
      InputError: the options name no possible place in a cluster. Where not all processes come in time,
        the process says so and ends with status 2, as JAX cannot be stopped from waiting otherwise.
    """
    count, index = place(options, os.environ)
    if count == 1:
        return
    if index == 0 and options.coordinator is not None:
        _check_port(options)
    # It would take SIGTERM away from Python.
    jax.config.update("jax_enable_preemption_service", False)
    _start_witness(index)
    with _patience(options, index):
        jax.distributed.initialize(
            options.coordinator, count, index,
            # The timer comes first: beyond this time JAX aborts with a stack of C++.
            initialization_timeout=options.join_seconds + 60,
            shutdown_timeout_seconds=60,
        )  # fmt: skip
    atexit.register(_say_farewell)


def place(options: Cluster, environment: Mapping[str, str]) -> tuple[int, int]:
    """(number of processes, index of this one) by the options or else by the launcher's environment.

    Raises:
      InputError: they contradict each other, or do not suffice.
    """
    count = launched(environment) if options.num_processes is None else options.num_processes
    _require(options, "num_processes", count >= 1, "must be at least 1")
    _require(options, "join_seconds", options.join_seconds >= 1, "must be at least 1")
    if options.coordinator is not None:
        port = re.fullmatch(r"\S+:(\d{1,5})", options.coordinator)
        sound = port is not None and 0 < int(port[1]) < 2**16
        _require(options, "coordinator", sound, "must be HOST:PORT, as in node1:12345")
        alone = options.num_processes is None and count == 1
        _require(options, "coordinator", not alone, "needs --num-processes, the same in every process")
    index = options.process_id
    if index is None:
        name = next((name for name in _INDICES if name in environment), None)
        _require(options, "num_processes", count == 1 or name is not None, "needs --process-id, another in each", count)
        index = int(environment[name]) if name and count > 1 else 0
    rule = f"must lie from 0 to {count - 1}, as --num-processes is {count}"
    _require(options, "process_id", 0 <= index < count, rule, index)
    found = count == 1 or options.coordinator is not None or any(name in environment for name in _ADDRESSES)
    _require(options, "num_processes", found, "needs --coordinator HOST:PORT, where process 0 awaits the others", count)
    return count, index


def launched(environment: Mapping[str, str]) -> int:
    """Processes that Open MPI or SLURM has started with this one, 1 without either."""
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return int(environment["OMPI_COMM_WORLD_SIZE"])
    # The job's SLURM_NTASKS stands in a batch script's own shell too, which srun has not started.
    return int(environment.get("SLURM_STEP_NUM_TASKS", 1))


def primary() -> bool:
    """Whether this process is the one that writes records and speaks."""
    return jax.process_index() == 0


def most(values: Sequence[float]) -> list[float]:
    """The largest of each value over all processes, which must all call this."""
    return gathered(np.asarray(values, np.float32)).max(axis=0).tolist() if jax.process_count() > 1 else list(values)


def seen_by_all(path: pathlib.Path) -> bool:
    """Whether a file exists for all processes, which must all call this; network file systems get time to show it."""
    deadline = time.monotonic() + _FILE_SECONDS
    while not path.exists() and jax.process_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    return most([0.0 if path.exists() else 1.0]) == [0.0]


def gathered(array: np.ndarray) -> np.ndarray:
    """Equally shaped arrays of all processes, [processes, ...]."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array)).reshape(-1, *array.shape)


def compare(run: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
    """See that all processes, which must all call this, are about to do the same.

    Args:
      run: what must be equal in all of them, name -> a value that JSON can hold.
      versions: what should be.

    Returns:
      A warning for each version that is not equal.

    Raises:
      InputError: in every process, which of them differs from process 0 in what.
    """
    if jax.process_count() == 1:
        return []
    runs, every = zip(*_exchanged([dict(run), dict(versions)]), strict=True)
    for index, other in enumerate(runs):
        for name, value in runs[0].items():
            if other.get(name) != value:
                raise InputError(
                    f"process {index}: {name} is {other.get(name)}, but {value} in process 0: "
                    "give all processes of a run the same options, data and --workdir"
                )
    return [
        f"process {index} has {name} {other.get(name)}, process 0 {version}: results may differ from one installation's"
        for index, other in enumerate(every)
        for name, version in every[0].items()
        if other.get(name) != version
    ]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Turn the errors of a collective that another process did not take part in into `Lost`."""
    try:
        yield
    except Exception as error:
        if not means_lost(error):
            raise
        raise Lost(
            f"process {jax.process_index()}: another process of this run is gone ({first_line(error)}): "
            "start all of them again with --resume; the latest checkpoint is whole"
        ) from error


def means_lost(error: Exception) -> bool:
    """Whether an error is that of a collective in which another process did not take part."""
    return jax.process_count() > 1 and not isinstance(error, InputError) and _LOST.search(str(error)) is not None


def joined() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized()


def leave(status: int) -> None:
    """End a process of several that has failed by itself: JAX would first wait for the others, which wait for it."""
    if status and joined():
        sys.stdout.flush()
        sys.stderr.flush()
        if primary():
            # The others lose their connection with this process, and may have a word to say before that.
            time.sleep(_GRACE)
        _say_farewell()
        os._exit(status)


def _exchanged(record: Any) -> list[Any]:
    """Every process's record, in the processes' order."""
    data = np.frombuffer(json.dumps(record, sort_keys=True).encode(), np.uint8)
    sizes = gathered(np.array([len(data)], np.int32))[:, 0]
    rows = gathered(np.pad(data, (0, sizes.max() - len(data))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _check_port(options: Cluster) -> None:
    """Raise InputError where process 0 could not listen; JAX would end with a fault of its own."""
    port = str(options.coordinator).rpartition(":")[2]
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", int(port)), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        _require(options, "coordinator", False, f"port {port} cannot be used here ({error.strerror}): choose another")


@contextlib.contextmanager
def _patience(options: Cluster, index: int) -> Iterator[None]:
    """End the process with a plain line where the context takes longer than `join_seconds`."""
    where = options.coordinator or "the coordinator"

    def give_up():
        what = "not all processes came to it" if index == 0 else "cannot be reached, or not all processes came to it"
        remedy = "start all of them, and see that --coordinator names process 0's host and a free port"
        print(f"{where}: {what} within {options.join_seconds} seconds: {remedy}", file=sys.stderr, flush=True)
        _say_farewell()
        os._exit(2)

    timer = threading.Timer(options.join_seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_witness: subprocess.Popen | None = None


def _start_witness(index: int) -> None:
    """Start a witness that says a plain line if this process dies without a farewell.

    Where another process is gone, JAX's runtime may abort this one from a thread of its own, out of
    Python's reach, with a stack of C++ as its last words.
    """
    global _witness
    script = 'read -r farewell || echo "$0" >&2'
    words = ["sh", "-c", script, f"process {index}: {_ENDED}"]
    with contextlib.suppress(OSError):  # no shell: only the plain line is lost
        _witness = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)


def _say_farewell() -> None:
    global _witness
    witness, _witness = _witness, None
    if witness is not None and witness.stdin is not None:
        with contextlib.suppress(OSError):
            witness.stdin.write(b"farewell\n")
            witness.stdin.close()
            witness.wait(5)


def _require(options: Cluster, name: str, holds: bool, rule: str, value: object = None) -> None:
    if not holds:
        shown = getattr(options, name) if value is None else value
        raise InputError(f"--{name.replace('_', '-')} {shown}: {rule}")
