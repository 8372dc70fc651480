"""The lock on a directory: a run's process holds it alone, the processes of a study share it.

It is flock(2)'s, which the operating system releases when a process ends, however it ends. Nothing here judges by time:
what another host holds, it holds. On network file systems see docs/trust.md.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import IO

from jresnet.errors import CannotWrite, InputError, InUse
from jresnet.records import schema
from jresnet.records.files import OLD, parse_json, sweep, writing
from jresnet.records.schema import Count

LOCK = "lock"

_TRIES, _PAUSE = 3, 0.05  # seconds; `is_held` takes the lock for some microseconds


@dataclasses.dataclass(frozen=True)
class _Holder:
    """Who holds a lock, as its file says."""

    process: Count
    host: str


class Lock:
    """A lock that this process holds on a directory."""

    def __init__(self, directory: pathlib.Path, file: IO[bytes]):
        self._directory, self._file = directory, file

    @property
    def lost(self) -> bool:
        """Whether the directory has been removed, renamed or replaced since it was locked."""
        try:
            return not os.path.samestat(os.stat(self._directory / LOCK), os.fstat(self._file.fileno()))
        except OSError:
            return True

    def check(self) -> None:
        """Raise CannotWrite if the directory is lost."""
        if self.lost:
            raise CannotWrite(f"{self._directory}: was removed, renamed or replaced while this process worked in it")


@contextlib.contextmanager
def hold(directory: pathlib.Path, shared: bool = False) -> Iterator[Lock]:
    """Hold the lock on a directory, which is created if necessary; other holders are allowed only if all share it.

    Temporary files that killed processes have left there are removed.

    Raises:
      InUse: another process holds it.
      InputError: the file system has no locks.
      CannotWrite: the directory or the file of its lock cannot be written.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with writing(directory / LOCK):
        file = (directory / LOCK).open("a+b", buffering=0)
    with file:
        _flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, directory)
        lock = Lock(directory, file)
        lock.check()
        sweep(directory, older_than=OLD if shared else 0.0)
        if not shared:  # for the message to another process
            with writing(directory / LOCK):
                file.truncate(0)
                file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode() + b"\n")
        try:
            yield lock
        finally:
            if not shared:
                with contextlib.suppress(OSError):
                    file.truncate(0)


def check_free(directory: pathlib.Path) -> None:
    """Raise InUse if a process holds the lock on a directory alone."""
    if is_held(directory):
        raise _in_use(directory)


def is_held(directory: pathlib.Path) -> bool:
    """Whether a process, this one included, holds the lock on a directory alone at this moment."""
    try:
        with (directory / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or none that can be read: `hold` reports what is wrong
        return False
    return False


def _flock(file: IO[bytes], operation: int, directory: pathlib.Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if left:
                time.sleep(_PAUSE)
        except OSError as error:
            raise InputError(
                f"--workdir {directory}: cannot be locked ({error.strerror}): choose a directory on another file system"
            ) from None
    raise _in_use(directory)


def _in_use(directory: pathlib.Path) -> InUse:
    return InUse(
        f"--workdir {directory}: {_holder(directory)} works there: wait until it is done, or choose another directory"
    )


def _holder(directory: pathlib.Path) -> str:
    """The process that says that it holds the lock, in words."""
    with contextlib.suppress(OSError, ValueError):
        holder = schema.parse(_Holder, parse_json((directory / LOCK).read_bytes()), LOCK)
        return f"process {holder.process} on {holder.host[:100]}"
    return "another process"
