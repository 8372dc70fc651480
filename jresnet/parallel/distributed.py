"""Multi-process runs: initialisation, consistency checks between processes, and lost peers.

In a single-process run everything here is a no-op.
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
from typing import Any, ClassVar

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from jresnet.errors import CannotWrite, InputError, Lost, first_line
from jresnet.rules import require

# Environment variables in which launchers give the process index; the first one set counts.
_INDEX_VARIABLES = ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX")
# Variables from which JAX finds the coordinator by itself.
_COORDINATOR_VARIABLES = ("OMPI_MCA_orte_hnp_uri", "SLURM_STEP_NODELIST")

# How errors of collectives and of the coordination service begin or read when a peer is gone.
_LOST_PEER = re.compile(
    r"gloo .*failed|remote process exited|coordination service|heartbeat|barrier|connection closed by peer",
    re.IGNORECASE,
)
_EXIT_DELAY = 2.0  # seconds
_FILE_TIMEOUT = 60.0  # seconds; attribute caches of network file systems may hide a new file for as long

_REMEDY = "start all processes again with --resume; the latest checkpoint is complete"


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """Options of a multi-process run; all its processes share --workdir and every other option."""

    GROUP: ClassVar = "devices"

    coordinator: str | None = None
    """HOST:PORT of process 0, where the others connect (default: from SLURM's or Open MPI's environment)."""
    num_processes: int | None = None
    """Processes that train this run together (default: as many as SLURM or Open MPI started, else 1)."""
    process_id: int | None = None
    """Index of this process, from 0 (default: from SLURM, Open MPI or a Kubernetes indexed job)."""
    join_seconds: int = 300
    """Seconds to wait for all processes to connect."""


def initialize(options: ProcessOptions) -> None:
    """Connect to the run's other processes, if there are any; call it before JAX initialises its devices.

    If not all processes connect in time, this one prints a line and exits with status 2: JAX cannot be interrupted
    while it waits.

    Raises:
      InputError: the options and the launcher's environment contradict each other or do not suffice.
    """
    count, index = num_processes_and_id(options, os.environ)
    if count == 1:
        return
    if index == 0 and options.coordinator is not None:
        _check_port(options)
    # The preemption service would take SIGTERM away from Python.
    jax.config.update("jax_enable_preemption_service", False)
    _start_witness(index)
    timer = threading.Timer(options.join_seconds, _give_up, (options, index))
    timer.start()
    try:
        jax.distributed.initialize(
            options.coordinator, count, index,
            # Longer than our own timer: at this timeout JAX aborts with a C++ stack trace.
            initialization_timeout=options.join_seconds + 60,
            shutdown_timeout_seconds=60,
        )  # fmt: skip
    finally:
        timer.cancel()
    atexit.register(_dismiss_witness)


def num_processes_and_id(options: ProcessOptions, environment: Mapping[str, str]) -> tuple[int, int]:
    """The number of processes and the index of this one, from the options or else the launcher's environment."""
    # Not SLURM_NTASKS: that is also set in a batch script's own shell, which srun has not started.
    launched = environment.get("OMPI_COMM_WORLD_SIZE", environment.get("SLURM_STEP_NUM_TASKS", "1"))
    count = int(launched) if options.num_processes is None else options.num_processes
    require(options, "num_processes", count >= 1, "must be at least 1")
    require(options, "join_seconds", options.join_seconds >= 1, "must be at least 1")
    if options.coordinator is not None:
        port = re.fullmatch(r"\S+:(\d{1,5})", options.coordinator)
        valid = port is not None and 0 < int(port[1]) < 2**16
        require(options, "coordinator", valid, "must be HOST:PORT, as in node1:12345")
        single = options.num_processes is None and count == 1
        require(options, "coordinator", not single, "needs --num-processes, the same in every process")
    index = options.process_id
    if index is None:
        given = [environment[name] for name in _INDEX_VARIABLES if name in environment] if count > 1 else ["0"]
        require(options, "num_processes", bool(given), "needs --process-id, a different one in each process", count)
        index = int(given[0])
    rule = f"must lie from 0 to {count - 1}, as --num-processes is {count}"
    require(options, "process_id", 0 <= index < count, rule, index)
    reachable = count == 1 or options.coordinator is not None or any(n in environment for n in _COORDINATOR_VARIABLES)
    require(options, "num_processes", reachable, "needs --coordinator HOST:PORT, the address of process 0", count)
    return count, index


def is_primary() -> bool:
    """Whether this is process 0, the only one that writes records and prints."""
    return jax.process_index() == 0


def process_max(values: Sequence[float]) -> list[float]:
    """The maximum of each value over all processes; a collective."""
    if jax.process_count() == 1:
        return list(values)
    return [float(value) for value in process_allgather(np.asarray(values, np.float32)).max(axis=0)]


def visible_to_all(path: pathlib.Path) -> bool:
    """Whether every process sees the file, allowing for slow network file systems; a collective."""
    deadline = time.monotonic() + _FILE_TIMEOUT
    while not path.exists() and jax.process_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    return process_max([0.0 if path.exists() else 1.0]) == [0.0]


def require_equal(settings: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
    """Check that all processes have the same JSON-serialisable settings; a collective.

    The packages' versions should be the same too: returns a warning for each that differs.

    Raises:
      InputError: a setting differs from process 0's; raised in every process.
    """
    if jax.process_count() == 1:
        return []
    all_settings, all_versions = zip(*_exchange([dict(settings), dict(versions)]), strict=True)
    for index, other in enumerate(all_settings):
        for name, value in all_settings[0].items():
            if other.get(name) != value:
                raise InputError(
                    f"process {index}: {name} is {other.get(name)}, but {value} in process 0: "
                    "give all processes of a run the same options, data and --workdir"
                )
    return [
        f"process {index} has {name} {other.get(name)}, process 0 {version}: results may differ from those of equal "
        "installations"
        for index, other in enumerate(all_versions)
        for name, version in all_versions[0].items()
        if other.get(name) != version
    ]


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Raise `Lost` instead of a collective's error if it failed because another process is gone."""
    try:
        yield
    except Exception as error:
        if not is_lost_peer(error):
            raise
        raise Lost(
            f"process {jax.process_index()}: another process of this run is gone ({first_line(error)}): {_REMEDY}"
        ) from error


def is_lost_peer(error: Exception) -> bool:
    """Whether a collective raised this error because another process is gone."""
    return (
        not isinstance(error, InputError | CannotWrite)
        and jax.process_count() > 1
        and _LOST_PEER.search(str(error)) is not None
    )


def exit_after_failure(status: int) -> None:
    """Exit at once if this process of several failed: JAX's shutdown would wait for peers that wait for it."""
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_primary():
            # The others lose their connection when this process exits; let them print their own errors first.
            time.sleep(_EXIT_DELAY)
        _dismiss_witness()
        os._exit(status)


def _exchange(record: Any) -> list[Any]:
    """The record of every process, in process order."""
    data = np.frombuffer(json.dumps(record, sort_keys=True).encode(), np.uint8)
    sizes = process_allgather(np.int32(len(data)))
    rows = process_allgather(np.pad(data, (0, sizes.max() - len(data))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _check_port(options: ProcessOptions) -> None:
    """Raise InputError if process 0 cannot listen on its port; JAX would abort the process."""
    port = str(options.coordinator).rpartition(":")[2]
    dualstack = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dualstack else socket.AF_INET
    try:
        socket.create_server(("", int(port)), family=family, dualstack_ipv6=dualstack).close()
    except OSError as error:
        require(options, "coordinator", False, f"port {port} cannot be used here ({error.strerror}): choose another")


def _give_up(options: ProcessOptions, index: int) -> None:
    """Exit with status 2, as not all processes have connected in time."""
    address = options.coordinator or "the coordinator"
    problem = "not all processes connected" if index == 0 else "cannot be reached, or not all processes connected"
    remedy = "start all of them, and check that --coordinator names process 0's host and a free port"
    print(f"{address}: {problem} within {options.join_seconds} seconds: {remedy}", file=sys.stderr, flush=True)
    _dismiss_witness()
    os._exit(2)


_witness: subprocess.Popen[bytes] | None = None


def _start_witness(index: int) -> None:
    """Start a shell that prints one plain line if this process dies without dismissing it.

    When a peer is gone, a thread of JAX's runtime may abort this process with a C++ stack trace, beyond Python's reach.
    (`jax_enable_recoverability` prevents the abort, but with it Orbax waits forever after the first checkpoint.)
    """
    global _witness
    line = f"process {index}: ended early, most likely because another process of the run is gone: {_REMEDY}"
    words = ["sh", "-c", 'read -r until_this_process_ends; echo "$0" >&2', line]
    with contextlib.suppress(OSError):  # without a shell only that line is lost
        _witness = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)


def _dismiss_witness() -> None:
    if _witness is not None:
        _witness.kill()
        _witness.communicate()
