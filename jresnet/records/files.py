"""Atomic file writes, JSON records, and the user's cache directory."""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import pathlib
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Literal

import numpy as np

from jresnet.errors import CannotWrite, InputError

Record = dict[str, Any]
"""A JSON object."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a full disk, and of a quota that is used up."""


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
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the block, which writes to `path`, into CannotWrite."""
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno in FULL else "check its directory and permissions"
        raise CannotWrite(f"{path}: cannot be written ({error.strerror or error}): {remedy}") from None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file to write it atomically: after a crash at any moment `path` holds either the old data or the new.

    CannotWrite if that fails; `path` then holds the old data.
    """
    path = local_path(path)
    # In the same directory, because a rename is atomic only within one file system. A random suffix, because
    # processes in different containers or on different machines can have the same process ID.
    temporary = temporary_name(path)
    with writing(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_name(path: pathlib.Path) -> pathlib.Path:
    """A new name in the same directory, which `sweep` recognises."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def free_name(path: pathlib.Path) -> pathlib.Path:
    """`path` with -1, -2, ... after its name: the first that does not exist."""
    return next(free for n in itertools.count(1) if not (free := path.with_name(f"{path.name}-{n}")).exists())


def file_sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file's content; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


OLD = 24 * 3600.0
"""Seconds after which a temporary file belongs to no living process."""


def sweep(directory: pathlib.Path, older_than: float = 0.0) -> None:
    """Remove temporary files that killed processes have left, if they are this many seconds old.

    Without an age only where no other process writes.
    """
    with contextlib.suppress(OSError):  # a later write reports what is wrong with the directory
        for path in directory.iterdir():
            if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) and time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def _jsonable(value: Any) -> Any:
    """Convert to JSON's own types: numpy numbers to Python's, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


_DEEPEST = 50  # levels; records have up to eight


def read_json(path: pathlib.Path) -> Record:
    """Read a JSON object from a file in a run's directory; InputError if the file is missing or contains none."""
    try:
        record = parse_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): choose a run's directory") from None
    except ValueError as error:
        raise InputError(f"{path}: not a readable record of a run ({error}): restore it, or choose another") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a record of a run: restore it, or choose another directory")
    return record


def parse_json(data: bytes) -> Any:
    """Parse JSON as RFC 8259 has it; ValueError also for NaN, infinity, names given twice and absurd depth."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    def finite(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            raise ValueError("a number is too large")
        return number

    def unique(pairs: list[tuple[str, Any]]) -> Record:
        record = dict(pairs)
        if len(record) < len(pairs):
            raise ValueError("a name is given twice")
        return record

    try:
        value = json.loads(data.decode(), parse_constant=refuse, parse_float=finite, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level, depth = [value], 0
    while level:  # so that whoever walks through the value may recurse
        if (depth := depth + 1) > _DEEPEST:
            raise ValueError("nested too deeply")
        level = [item for outer in level for item in _items(outer)]
    return value


def _items(value: Any) -> Iterable[Any]:
    """The items of a JSON object or list; of anything else none."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def local_path(path: str | os.PathLike[str], option: str = "") -> pathlib.Path:
    """A path on this machine, with `~` for the home directory; `option` begins the message of a refusal.

    Raises:
      InputError: it is a URL, as gs://bucket/run, of which pathlib would make a directory called "gs:"; or there is no
        such home directory.
    """
    given = f"{option} {os.fspath(path)}".strip()
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", os.fspath(path)):
        raise InputError(f"{given}: is a URL, and jresnet reads and writes local files: mount it, or copy the files")
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{given}: there is no such home directory: give the full path") from None


def kind(path: pathlib.Path, option: str = "") -> Literal["directory", "file"] | None:
    """What is at a path, links followed; None if there is nothing, or a link to nothing.

    Whatever is no directory is a "file". `option` begins the message of a refusal.

    Raises:
      InputError: the system does not tell, as its name is too long or a directory above it is closed to this user;
        `pathlib`'s own methods let these errors of the system through.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last of a name with a null character
        return None
    except OSError as error:
        given = f"{option} {path}".strip()
        raise InputError(f"{given}: cannot be reached ({error.strerror}): check the path and its permissions") from None
    return "directory" if stat.S_ISDIR(mode) else "file"


def check_output(path: str, option: str) -> pathlib.Path:
    """The path of a file that an option names, checked before the work whose result goes there.

    Raises:
      InputError: it is no file in a directory in which files can be created.
      CannotWrite: there is no room for it.
    """
    file = local_path(path, option)
    found = kind(file, option)
    if not path or found == "directory" or kind(file.parent, option) != "directory":
        problem = "is a directory" if found == "directory" else f"there is no directory {file.parent}"
        raise InputError(f"{option} {path}: {problem}: name a file in a directory that exists")
    check_creatable(file.parent, f"{option} {path}")
    return file


def check_creatable(directory: pathlib.Path, given: str) -> None:
    """Raise InputError, which begins with `given`, unless files can be created in a directory.

    CannotWrite if there is no room for them.
    """
    # By trying: for root, os.access allows writing on a read-only file system.
    probe = temporary_name(directory / "probe")
    try:
        probe.touch()
        probe.unlink(missing_ok=True)  # whoever holds the directory sweeps it
    except OSError as error:
        if error.errno in FULL:
            raise CannotWrite(f"{directory}: cannot be written ({error.strerror}): make room") from None
        raise InputError(f"{given}: {directory} is not writable: choose another directory") from None


def cache_directory() -> pathlib.Path | None:
    """The project's cache directory: $XDG_CACHE_HOME/jresnet, or ~/.cache/jresnet if that is not set.

    None, and one warning in a process, if it cannot be written: caches only save time.
    """
    try:
        return _writable(pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jresnet")
    except RuntimeError:
        return _writable(None)


@functools.cache
def _writable(directory: pathlib.Path | None) -> pathlib.Path | None:
    try:
        if directory is None:
            raise CannotWrite("no home directory is known")
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        probe = temporary_name(directory / "probe")
        try:
            with writing(directory):
                probe.write_bytes(bytes(2**16))  # a full disk may still have room for a name
        finally:
            probe.unlink(missing_ok=True)
    except CannotWrite as error:
        logging.getLogger(__name__).warning(f"compiled programs and decoded images are not cached: {error}")
        return None
    return directory
