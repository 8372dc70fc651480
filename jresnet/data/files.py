"""Paths of data that users name."""

import os
from collections.abc import Callable
from typing import Any

from jresnet.errors import InputError


def check_readable(path: str, open_path: Callable[[str], Any]) -> None:
    """Refuse a path that `open_path`, open or os.scandir, cannot open; is_zipfile and isdir only return False."""
    try:
        open_path(path).close()
    except OSError as error:
        raise InputError(f"{os.path.normpath(path)} cannot be read ({error.strerror}): check its permissions") from None
