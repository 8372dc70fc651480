"""Shared by the benchmarks: options, main program, the machine, and JSON records that --resume continues."""

import dataclasses
import datetime
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.timing import Device
from jresnet import cli
from jresnet.errors import InputError, Interrupted
from jresnet.records.environment import commit, cpu_cores, cpu_instructions, cpu_name, gpu_versions, versions
from jresnet.records.files import read_json, write_json
from jresnet.rules import require

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
VARIABLES = ("XLA_FLAGS", "XLA_CLIENT_MEM_FRACTION", "OMP_NUM_THREADS")
# Measurements of two calls belong in one record only if these entries of the environment agree.
_FIXED = ("device", "cores", "versions", "commit")


@dataclasses.dataclass(frozen=True)
class RecordOptions:
    """Options of every program that measures and writes a record."""

    device: Device = "cpu"
    """Where the computation runs."""
    output: Path | None = None
    """JSON file for the record."""

    def __post_init__(self):
        """Every list needs values, unless it has none by default, and repeats none; every number is at least 1."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else (value,)
            require(self, field.name, len(values) > 0 or field.default == (), "give at least one value")
            require(self, field.name, len(set(values)) == len(values), "a value is given twice")
            least = min((number for number in values if type(number) is int), default=1)
            require(self, field.name, least >= 1, "must be at least 1")


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(RecordOptions):
    """Options that every benchmark has which times its programs itself."""

    rounds: int = 5
    """Timed calls of each program."""


def run_benchmark(
    benchmark: str,
    options: type,
    run: Callable[[Any], None],
    arguments: Sequence[str] | None = None,
    default: Any = None,
) -> int:
    """Parse the command line, see `cli.parse`, and run a benchmark; returns the exit status, see `cli.exit_status`.

    An interruption names the command that continues the record, if there is one.
    """
    program = f"python -m benchmarks.{benchmark}"

    def parse_and_run(words: list[str]) -> None:
        parsed = cli.parse(options, words, program, default)
        try:
            run(parsed)
        except (KeyboardInterrupt, Interrupted) as stop:
            message = str(stop) or "interrupted"
            if parsed.output and hasattr(parsed, "resume"):
                again = words if parsed.resume else [*words, "--resume"]
                message += f"; go on with: {cli.command(program, again)}"
            raise Interrupted(message, getattr(stop, "signal", signal.SIGINT)) from None

    return cli.run_program(parse_and_run, arguments)


def select_device(device: Device) -> None:
    """Make JAX compute on `device`; call it before JAX has computed anything."""
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        jax.devices(device)
    except RuntimeError:
        raise InputError(f"--device {device}: JAX sees none here; install jax[cuda12], or use --device cpu") from None


def environment(device: Device) -> dict[str, Any]:
    """Everything a speed depends on besides the code under test, as JSON.

    Call it after the number of threads is set and before any load, so that `load_average` is that of other processes.
    """
    torch = sys.modules.get("torch")  # loaded where it is a rival
    installed = versions() | ({"torch": str(torch.__version__)} if torch else {})
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": installed["python"],
        "platform": platform.platform(),
        "versions": {package: installed.get(package) for package in PACKAGES} | gpu_versions(),
        "device": cpu_name() if device == "cpu" else jax.devices(device)[0].device_kind,
        "cpu": cpu_name(),
        "cpu_instructions": cpu_instructions(),
        "cores": cpu_cores(),
        "torch_threads": torch.get_num_threads() if torch else None,
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def new_record(benchmark: str, options: Any) -> dict[str, Any]:
    """The header of a record: benchmark, options and environment, without any path of this machine."""
    values = {name: value.name if isinstance(value, Path) else value for name, value in vars(options).items()}
    return {"benchmark": benchmark, "options": values, "environment": environment(options.device)}


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write a record atomically, so that an interrupted run leaves the last good file; None: write nothing."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}: choose another --output") from None
    write_json(path, record)


def open_record(path: Path | None, record: dict[str, Any], resume: bool, kept: Sequence[str]) -> dict[str, Any]:
    """Start a new record on disk, or continue the one that is there, which must agree with it.

    A continued record is the new one with the `kept` keys, those of the measurements, taken over from the file.
    """
    if resume and path is None:
        raise InputError("--resume: continues the record in --output: add --output")
    if path is not None and path.exists():
        if not resume:
            raise InputError(f"--output {path}: already exists: add --resume to continue it, or choose another")
        existing = read_json(path)
        old, new = _settings(existing), _settings(json.loads(json.dumps(record)))
        for name in {**new, **old}:
            if old.get(name) != new.get(name):
                values = f"{name} {old.get(name)}, not {new.get(name)}"
                raise InputError(f"--output {path}: holds another measurement ({values}): choose another")
        record = record | {name: existing[name] for name in kept if name in existing}
    write_record(path, record)
    return record


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """Everything in which the measurements of one record agree."""
    environment, options = (
        part if isinstance(part := record.get(name), dict) else {} for name in ("environment", "options")
    )
    values: dict[str, Any] = {name: record.get(name) for name in ("benchmark", "dataset")}
    return values | {name: environment.get(name) for name in _FIXED} | options
