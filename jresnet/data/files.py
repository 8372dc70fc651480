"""Paths that users name: what cannot be read is refused by name."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from jresnet.errors import InputError


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn an OSError in the block into an InputError that names its file, or else the path."""
    try:
        yield
    except OSError as error:
        where = os.path.normpath(error.filename or path)
        raise InputError(f"{where} cannot be read ({error.strerror or error}): check its permissions") from None


def check_readable(path: str, open_path: Callable[[str], Any]) -> None:
    """Refuse a path that `open_path`, open or os.scandir, cannot open; is_zipfile and isdir only return False."""
    with readable(path):
        open_path(path).close()


def check_file(path: str, remedy: str) -> None:
    """Refuse what is no regular file, as devices and pipes might never end; the remedy is the message's last part."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file: {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError of a null character
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}): {remedy}") from None
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise InputError(f"{path}: is {what}: {remedy}")
