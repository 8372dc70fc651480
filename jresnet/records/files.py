"""Files written atomically, and records as JSON."""

import json
import math
import numbers
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from jresnet.errors import InputError


def write_json(path: str | os.PathLike, record: Any) -> None:
    """Write `json_bytes` of a record, whole or not at all."""
    write_bytes(path, json_bytes(record))


def json_bytes(record: Any) -> bytes:
    """`record` as indented JSON; NaN and infinity become null.

    Raises:
      TypeError: the record holds something that JSON cannot express.
    """
    return json.dumps(_strict(record), indent=2, allow_nan=False).encode() + b"\n"


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file whole or not at all: after a crash at any moment `path` holds the old data or the new."""
    path = pathlib.Path(path)
    # In the same directory, because only within one file system is a rename atomic.
    # A process number does not tell containers apart, nor machines that share a file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _strict(value: Any) -> Any:
    """`value` in JSON's own types: numpy's numbers as Python's, those that are not finite as None."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else None
    return value


def read_json(path: pathlib.Path) -> dict:
    """A JSON object from a file of a run's directory.

    Raises:
      InputError: the file is missing or holds none.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable record of a run ({error}): choose a run's directory") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a record of a run: choose a run's directory")
    return record


def cache_directory() -> pathlib.Path:
    """The project's directory in the user's cache: $XDG_CACHE_HOME/jresnet, else ~/.cache/jresnet."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jresnet"
