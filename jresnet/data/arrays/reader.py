"""Data sets in files of arrays: an .npz file, or a directory of .npy files, in the layouts that people have."""

import os
import re
import zipfile
from collections.abc import Callable, Sequence

import numpy as np

from jresnet.data.arrays import npz
from jresnet.data.arrays.labels import as_indices, as_text
from jresnet.data.arrays.levels import as_levels
from jresnet.data.contents import SPLITS, Contents
from jresnet.data.files import check_file, check_readable
from jresnet.data.progress import warn
from jresnet.errors import InputError, listed
from jresnet.records.files import local_path

Keys = dict[str, tuple[str, str]]
"""The names of a split's images and labels, by split."""

_IMAGES = {
    "images": "labels", "image": "label", "imgs": "labels", "img": "label", "x": "y", "data": "labels",
    "inputs": "targets", "features": "labels",
}  # fmt: skip
_LABELS = {"labels": "images", "label": "image", "y": "x", "targets": "data", "target": "data"}
_CLASSES = ("classes", "class_names", "label_names", "target_names")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+")
_WANTED = (
    "give it train_images, train_labels, test_images and test_labels, or x_train, y_train, x_test and y_test, and no "
    "other name for any of them"
)


def read_npz(file: str) -> Contents:
    """Read an .npz file, or the .npy files of a directory, in the layout of MedMNIST, Keras or their like.

    The names are a split (train, test, and val, valid, validation or dev) and images, x or data, or labels, y or
    targets, in either order; without a split they are the training images. Names of classes may stand in `classes`.
    What images and labels may be is in `levels.as_levels` and `labels.as_indices`.

    Raises:
      InputError: a URL, a missing file or array, arrays with two meanings or none, pickled objects (never unpickled),
        or a damaged file.
    """
    path = os.path.abspath(local_path(file))
    if os.path.isdir(path):
        return _contents(path, npz.names_in(path), lambda key: npz.read_file(os.path.join(path, f"{key}.npy")))
    check_file(path, "give the path of an .npz file after npz:")
    check_readable(path, open)
    if path.endswith(".npy"):
        raise InputError(
            f"{path} is not an .npz file but one array: give the directory that holds it and its like, such as "
            "x_train.npy and y_train.npy, or write one file with np.savez"
        )
    with npz.reading(path):
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not an .npz file, or a truncated one: write it with np.savez")
        archive = zipfile.ZipFile(path)

    def read(key: str) -> np.ndarray:
        with npz.reading(path):
            return npz.read_array(archive, key)

    with archive:
        keys = [member[:-4] for member in archive.namelist() if member.endswith(".npy")]
        return _contents(path, keys, read)


def _contents(path: str, keys: Sequence[str], read: Callable[[str], np.ndarray]) -> Contents:
    pairs = _pairs(path, keys)
    named = [key for key in _CLASSES if key in keys]
    if len(named) > 1:
        raise InputError(f"{path} has {' and '.join(named)}: keep one of them, the names of the classes")
    used = {*named, *(key for pair in pairs.values() for key in pair)}
    if passed := sorted(set(keys) - used):
        warn(f"{path}: {listed(passed, 10)} {'is' if len(passed) == 1 else 'are'} not used")
    classes = _classes(path, read(named[0]), named[0]) if named else None
    images = as_levels({split: read(pair[0]) for split, pair in pairs.items()}, path)
    labels, classes, columns = as_indices({split: read(pair[1]) for split, pair in pairs.items()}, classes, path)
    return Contents({split: (images[split], labels[split]) for split in pairs}, classes, columns=columns)


def _pairs(path: str, keys: Sequence[str]) -> Keys:
    """The names of each split's images and labels."""
    found: dict[tuple[str, str], list[str]] = {}
    for key in sorted(keys):
        if meaning := _meaning(key):
            found.setdefault(meaning, []).append(key)
    if several := [names for names in found.values() if len(names) > 1]:
        raise InputError(f"{path} has {' and '.join(several[0][:3])}, which mean the same: {_WANTED}")
    splits = sorted({split for split, _ in found} | {"train"}, key=("train", "validation", "test").index)
    missing = [
        _partner(found, split, kind) for split in splits for kind in ("images", "labels") if (split, kind) not in found
    ]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)} (has {listed(sorted(keys), 10) or 'nothing'}): {_WANTED}")
    return {split: (found[split, "images"][0], found[split, "labels"][0]) for split in splits}


def _meaning(key: str) -> tuple[str, str] | None:
    """The split and the kind, "images" or "labels", that a name says; None if it says anything else."""
    words = [word.lower() for word in _WORD.findall(key)]
    kinds = ["images" if word in _IMAGES else "labels" for word in words if word in _IMAGES or word in _LABELS]
    splits = [SPLITS[word] for word in words if word in SPLITS]
    if len(kinds) != 1 or len(splits) > 1 or len(words) != len(kinds) + len(splits):
        return None
    return (splits[0] if splits else "train"), kinds[0]


def _partner(found: dict[tuple[str, str], list[str]], split: str, kind: str) -> str:
    """The name that is wanted for a split's images or labels, in the manner of its other name."""
    other = found.get((split, "labels" if kind == "images" else "images"))
    if other is None:
        return f"{'val' if split == 'validation' else split}_{kind}"
    names = _LABELS if kind == "images" else _IMAGES

    def partner(match: re.Match[str]) -> str:
        word = match[0]
        name = names.get(word.lower(), word)
        return name.upper() if word.isupper() and len(word) > 1 else name

    return _WORD.sub(partner, other[0])


def _classes(path: str, names: np.ndarray, key: str) -> tuple[str, ...]:
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise InputError(
            f"{key} in {path} is {names.dtype} of shape {names.shape}: "
            "make it a one-dimensional array of strings, one per class"
        )
    return tuple(map(str, as_text(f"{key} in {path}", names)))
