"""What the benchmark programs share around their measuring: rules for options, and records on disk."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.timing import Device
from jresnet.config import numbers, require
from jresnet.errors import InputError
from jresnet.records import run_directory


def require_values(options: Any, *names: str) -> None:
    """Raise InputError unless each of these tuples of options has a value."""
    for name in names:
        require(options, name, len(getattr(options, name)) > 0, "give at least one value")


def require_distinct(options: Any, *names: str) -> None:
    """Raise InputError if one of these tuples of options has a value twice."""
    for name in names:
        values = getattr(options, name)
        require(options, name, len(set(values)) == len(values), "a value is given twice")


def require_positive(options: Any, *names: str) -> None:
    """Raise InputError if one of these options, a number, several or None, has a number below 1."""
    for name in names:
        require(options, name, min(numbers(getattr(options, name)), default=1) >= 1, "must be at least 1")


def new_record(benchmark: str, options: Any, device: Device) -> dict[str, Any]:
    """The beginning of a record: what is measured, by which options, where; no path of this machine is in it.

    Args:
      benchmark: its name.
      options: a dataclass with the field `output`, a path or None, of which the file's name is recorded.
      device: see `timing.environment`.
    """
    shown = dataclasses.asdict(options) | {"output": options.output.name if options.output else None}
    return {"benchmark": benchmark, "options": shown, "environment": timing.environment(device)}


# Of an environment, what makes measurements of two calls one record.
_SAME = ("device", "cores", "versions", "commit")


def open_record(path: Path | None, record: dict[str, Any], resume: bool, kept: Sequence[str]) -> dict[str, Any]:
    """The record to fill, on disk if it has a path.

    Args:
      path: its file.
      record: a new one: benchmark, options, environment, and what else must agree.
      resume: go on with the record that the file holds.
      kept: names of what has been measured, taken over from that record.

    Raises:
      InputError: there is something in the file and it is not to be gone on with, or it is of another measurement, or
        unreadable, or the file cannot be written.
    """
    if resume and path is None:
        raise InputError("--resume: goes on with the record in --output: name it")
    if path is not None and path.exists():
        if not resume:
            raise InputError(f"--output {path}: is there already: add --resume to go on with it, or choose another")
        found = run_directory.read_json(path)
        for name, old, new in _differences(found, record):
            raise InputError(f"--output {path}: holds another measurement ({name} {old}, not {new}): choose another")
        record = record | {name: found[name] for name in kept if name in found}
    timing.write_record(path, record)
    return record


def _differences(found: dict[str, Any], record: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What sets two records' measurements apart: name, the old value, the new one."""

    def flat(one: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {name: one.get(name) for name in ("benchmark", "dataset")}
        values |= {name: (one.get("environment") or {}).get(name) for name in _SAME}
        return values | (one.get("options") or {})

    old, new = flat(found), flat(json.loads(json.dumps(record)))
    return [(name, old.get(name), new.get(name)) for name in {**new, **old} if old.get(name) != new.get(name)]
