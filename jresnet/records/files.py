"""Atomic file writes, JSON records, and the user's cache directory."""

import contextlib
import json
import math
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from jresnet.errors import InputError

Record = dict[str, Any]
"""A JSON object."""


def write_json(path: str | os.PathLike[str], record: Any) -> None:
    """Write a record as JSON, atomically; see `json_bytes`."""
    write_bytes(path, json_bytes(record))


def json_bytes(record: Any, indent: int | None = 2) -> bytes:
    """Encode a record as JSON that ends in a line break; NaN and infinity become null.

    The record may hold numpy's numbers; TypeError if it contains something that JSON cannot express. Without an indent
    everything is on one line.
    """
    return json.dumps(_jsonable(record), indent=indent, allow_nan=False).encode() + b"\n"


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file to write it atomically: after a crash at any moment `path` holds either the old data or the new."""
    path = pathlib.Path(path)
    # In the same directory, because a rename is atomic only within one file system. A random suffix, because
    # processes in different containers or on different machines can have the same process ID.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _jsonable(value: Any) -> Any:
    """Convert to JSON's own types: numpy numbers to Python's, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def read_json(path: pathlib.Path) -> Record:
    """Read a JSON object from a file in a run's directory; InputError if the file is missing or contains none."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable record of a run ({error}): choose a run's directory") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a record of a run: choose a run's directory")
    return record


def cache_directory() -> pathlib.Path:
    """The project's cache directory: $XDG_CACHE_HOME/jresnet, or ~/.cache/jresnet if that is not set."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jresnet"
