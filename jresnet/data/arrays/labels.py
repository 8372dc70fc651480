"""Arrays of labels as people store them, from one-hot rows to words: read as class indices, or refused."""

import sys
from collections.abc import Mapping

import numpy as np

from jresnet.data.progress import warn
from jresnet.errors import InputError

Labels = Mapping[str, np.ndarray]
"""Arrays of labels by split."""


def as_indices(
    labels: Labels, classes: tuple[str, ...] | None, where: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None, int | None]:
    """Labels as integers [n], the names of the classes, and the columns of one-hot labels; None for what is not known.

    Takes [n] or [n, 1] of integers, booleans, whole floats or words, or one-hot rows [n, classes]. Words are numbered
    in the order of `classes`, or sorted without it. `where` is what they are from, for what is logged.

    Raises:
      InputError: several classes per image, words that are no class, numbers that are not whole, or splits that differ.
    """
    labels = {split: array[:, 0] if array.shape[1:] == (1,) else array for split, array in labels.items()}
    if any(array.ndim == 2 for array in labels.values()):
        indices, columns = _from_one_hot(labels, where)
        return indices, classes, columns
    if any(array.dtype.kind in "US" for array in labels.values()):
        return *_from_words(labels, classes, where), None
    return {split: _whole(split, array) for split, array in labels.items()}, classes, None


def _from_one_hot(labels: Labels, where: str) -> tuple[dict[str, np.ndarray], int]:
    shapes = " and ".join(str(array.shape) for array in labels.values())
    if len({array.shape[1:] for array in labels.values()}) > 1:
        raise InputError(f"labels have shapes {shapes}: store all splits in one way, one class per image")
    for split, array in labels.items():
        found = f"{split} labels have shape {array.shape}"
        if array.dtype.kind not in "biuf" or array.ndim != 2:
            raise InputError(f"{found}: give one class per image, shape (n,) or (n, 1), not several")
        if not np.isin(array, (0, 1)).all():
            raise InputError(
                f"{found}, soft labels or scores rather than one class per image: save labels.argmax(axis=1)"
            )
        if array.shape[1] == 0 or not (array.sum(axis=1, dtype=np.int64) == 1).all():
            raise InputError(
                f"{found}, multi-hot: a row has several classes or none: give one class per image, shape (n,) or (n, 1)"
            )
    warn(f"{where}: labels are one-hot, of shapes {shapes}: read as their argmax")
    columns = labels["train"].shape[1]
    return {split: array.argmax(axis=1) for split, array in labels.items()}, columns


def _from_words(
    labels: Labels, classes: tuple[str, ...] | None, where: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    if not all(array.dtype.kind in "US" and array.ndim == 1 for array in labels.values()):
        raise InputError(
            f"labels are {' and '.join(f'{array.dtype} {array.shape}' for array in labels.values())}: store all splits "
            "in one way, one class per image"
        )
    words = {split: as_text(f"{split} labels", array) for split, array in labels.items()}
    names = classes or tuple(np.unique(words["train"]).tolist())
    for split, array in words.items():
        unknown = np.setdiff1d(array, names)
        if len(unknown):
            lack = "classes lacks" if classes else "train lacks"
            raise InputError(f"{split} labels hold {str(unknown[0])!r}, which {lack}: rename, add or remove that class")
    if not classes and all(name.lstrip("+-").isdecimal() for name in names):
        raise InputError(f"labels are numbers as text, such as {names[0]!r}: save labels.astype(int)")
    order = np.argsort(names, kind="stable")
    found = {split: order[np.searchsorted(np.array(names)[order], array)] for split, array in words.items()}
    warn(f"{where}: labels are words, numbered in {'the order of classes' if classes else 'sorted order'}")
    return found, names


def as_text(what: str, array: np.ndarray) -> np.ndarray:
    """An array of text or of UTF-8 bytes as text; `what` names it in the InputError if it is neither."""
    if array.dtype.kind == "U":
        points = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
        if points.max(initial=0) > sys.maxunicode:  # Python's own strings cannot hold them
            raise InputError(f"{what} hold numbers that are no characters: save them as text")
        return array
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{what} are bytes that are no UTF-8: save them as text") from None


def _whole(split: str, array: np.ndarray) -> np.ndarray:
    """Booleans and whole floats as integers; other arrays as they are."""
    if array.dtype.kind == "b":
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):  # of numbers beyond float64
        values = array.astype(np.float64)
    whole = (np.abs(values) < 2**53) & (np.trunc(values) == values)
    if not whole.all():
        value = values[~whole][0]
        raise InputError(f"{split} labels are {array.dtype} such as {value:.6g}: save them as integers from 0")
    return array.astype(np.int64)
