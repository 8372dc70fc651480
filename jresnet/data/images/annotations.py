"""Tiny ImageNet's list of the classes of its validation images."""

import os
import unicodedata

from jresnet.errors import InputError

NAME = "val_annotations.txt"
_LONGEST = 2**26


def read(path: str, labels: dict[str, int]) -> dict[str, int]:
    """File -> label, from lines of a file's name and its class, with a tab between them.

    Args:
      path: of the list.
      labels: class -> label.

    Raises:
      InputError: the list cannot be read, or has a line of another form, another class or two classes for a file.
    """
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _LONGEST:
            raise InputError(f"{path} is no file, or one of over {_LONGEST:,} bytes: give one line for each image")
        with open(path, encoding="utf-8") as file:
            lines = [line.split("\t") for line in file.read().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy it again") from None
    found: dict[str, int] = {}
    for number, fields in enumerate(lines, 1):
        label = labels.get(unicodedata.normalize("NFC", fields[1])) if len(fields) > 1 else None
        if label is None or found.setdefault(fields[0], label) != label:
            raise InputError(f"line {number} of {path} is not a file and one class of train: repair it")
    return found
