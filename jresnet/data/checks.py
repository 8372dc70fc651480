"""Validation of the arrays and class names that a reader returns, whatever the source."""

import dataclasses
import itertools
import unicodedata
from collections.abc import Collection

import numpy as np

from jresnet.config import Source
from jresnet.data.contents import Contents
from jresnet.data.mapped import Images, MappedImages
from jresnet.data.progress import warn
from jresnet.errors import InputError, listed
from jresnet.rules import require

# Unicode's categories of control characters, surrogates (undecodable bytes of file names) and line breaks, and the
# characters that reorder the text around them.
_UNPRINTABLE, _REORDERING = {"Cc", "Cs", "Zl", "Zp"}, set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_test(source: Source, splits: Collection[str]) -> None:
    """Check, before the images of these splits are read, that it is clear what to test on.

    Raises:
      InputError: there is no test split and no option says what to test on, or an option does although there is one.
    """
    if "test" in splits:
        own = "it has test images of its own: leave it out"
        require(source, "test_from", source.test_from is None, own)
        require(source, "holdout_test", source.holdout_test == 0, own)
    elif source.test_from:
        rule = f"it has no validation images: {'use --holdout-test N' if 'train' in splits else 'leave it out'}"
        require(source, "test_from", "validation" in splits, rule)
    elif not source.holdout_test:
        choices = {"train": "--holdout-test N of the training images", "validation": "--test-from validation"}
        there = [split for split in choices if split in splits]
        remedy = ", or ".join(choices[split] for split in reversed(there))
        raise InputError(f"it has no test images, only {' and '.join(there)}: choose what to test on: {remedy}")


def checked_arrays(split: str, images: Images, labels: np.ndarray) -> tuple[Images, np.ndarray]:
    """Check the images and labels of a split, and bring them into the form of `Split`, with contiguous images.

    Takes images uint8 [n, height, width] or [n, height, width, 1 or 3], and integer labels [n] or [n, 1].

    Raises:
      InputError: other shapes or dtypes, or labels that cannot be class indices.
    """
    where = f"{split} images"
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        alpha = " (without alpha, images[..., :3])" if images.shape[3:] == (4,) else ""
        raise InputError(
            f"{where} have shape {images.shape}: make it (n, height, width), or that with 1 or 3 channels{alpha}"
        )
    if images.dtype != np.uint8:
        raise InputError(f"{where} are {images.dtype}: save them as uint8 from 0 to 255")
    if 0 in images.shape[1:]:
        raise InputError(f"{where} have shape {images.shape}, no pixels: give images of at least 1 x 1")
    if len(images) == 0 and split != "validation":
        raise InputError(f"{where}: there are none: give at least one")
    labels = _checked_labels(split, labels)
    if len(images) != len(labels):
        raise InputError(f"{where} are {len(images)} and its labels {len(labels)}: give one label per image")
    if isinstance(images, MappedImages):
        return images, labels
    if images.shape[3:] != (3,):
        images = np.repeat(images.reshape(*images.shape[:3], 1), 3, axis=3)
    return np.ascontiguousarray(images), labels


def _checked_labels(split: str, labels: np.ndarray) -> np.ndarray:
    where = f"{split} labels"
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where} are {labels.dtype}: save them as integers from 0")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(
            f"{where} have shape {labels.shape}: give one class per image, shape (n,) or (n, 1), not several"
        )
    if len(labels) and labels.min() < 0:
        raise InputError(f"{where} go down to {labels.min()}: number the classes from 0")
    if len(labels) and labels.max() > np.iinfo(np.int32).max:
        raise InputError(f"{where} go up to {labels.max()}: number the classes from 0 without gaps")
    return labels.astype(np.int32)


def checked_classes(
    labels: dict[str, np.ndarray], classes: tuple[str, ...] | None, columns: int | None = None
) -> tuple[str, ...]:
    """Check that every class has a training image and every label a class, and name the classes if they have no names.

    There are as many classes as names, or as `columns` of one-hot labels, or as the training labels count up to.

    Raises:
      InputError: names and columns that differ, fewer than 2 classes, too few names, a class without training images,
        or a name that is empty, there twice, or that a terminal or a browser would not show as it is.
    """
    check_names(classes or ())
    if classes is not None and columns not in (None, len(classes)):
        raise InputError(
            f"one-hot labels have {columns} columns for {len(classes)} class names: give one name per column"
        )
    present = set(np.unique(labels["train"]).tolist())
    declared = columns if classes is None else len(classes)
    count = max(present) + 1 if declared is None else declared
    if min(present) == 1 and len(present) == max(present) and max(present) >= count - (declared is None):
        raise InputError(
            f"labels go from 1 to {max(present)}, without 0: subtract 1 from them if class 0 does not exist, or add "
            "training images of it"
        )
    if max(present) >= count:
        raise InputError(f"{count} class names for labels up to {max(present)}: give one name per class")
    if missing := count - len(present):
        # At most 10, so that a stray label of a million does not make a list of a million.
        empty = itertools.islice((label for label in range(count) if label not in present), 10)
        names = ", ".join(str(label) if classes is None else classes[label] for label in empty)
        raise InputError(
            f"{missing} of {count} classes have no training image ({names}{', ...' if missing > 10 else ''}): "
            f"add some, or {'drop the empty columns' if columns else 'number the classes without gaps'}"
        )
    if count < 2:
        raise InputError(f"it has {count} class: give at least 2")
    for split, indices in labels.items():
        if len(indices) and indices.max() >= count:
            raise InputError(
                f"{split}_labels reach {indices.max()}, train_labels only {count - 1}: "
                "add training images of those classes or remove their test images"
            )
    return classes or numbered(count)


def numbered(count: int) -> tuple[str, ...]:
    """The names of classes that have none: "0", "1", and so on."""
    return tuple(map(str, range(count)))


def unnamed(classes: tuple[str, ...]) -> bool:
    """Whether classes have no names but their numbers."""
    return classes == numbered(len(classes))


def used_classes(contents: Contents, name: str) -> Contents:
    """The contents without the classes that no training image has, and so with other labels.

    Raises:
      InputError: an image of another split has such a class.
    """
    labels, classes = contents.splits["train"][1], contents.classes
    used = np.unique(labels)
    if classes is None or len(used) == len(classes) or used.min(initial=0) < 0 or used.max(initial=0) >= len(classes):
        return contents
    new = np.full(len(classes), -1, np.int64)
    new[used] = np.arange(len(used))
    splits = {}
    for split, (pixels, old) in contents.splits.items():
        unknown = old[~np.isin(old, used)]
        if len(unknown):
            raise InputError(
                f"{len(unknown):,} of its {split} images are of classes without training images, such as "
                f"{classes[unknown[0]] if 0 <= unknown[0] < len(classes) else unknown[0]}: choose another data set"
            )
        splits[split] = pixels, new[old]
    unused = [unused for label, unused in enumerate(classes) if new[label] < 0]
    warn(
        f"{name}: {len(unused)} of {len(classes)} classes have no training image and are left out "
        f"({listed(unused, 10)})"
    )
    return dataclasses.replace(contents, splits=splits, classes=tuple(classes[label] for label in used))


def check_names(names: tuple[str, ...]) -> None:
    """Check that names of classes can be told apart on a screen, and be shown there.

    Raises:
      InputError: a name is empty, there twice, or would not be shown as it is.
    """
    seen = set()
    for name in names:
        if not is_printable(name):
            raise InputError(f"the class name {name!a} holds control characters: rename the class")
        if not name.strip():
            raise InputError(f"the name of class {names.index(name)} is {name!r}, which is empty: name the class")
        shown = unicodedata.normalize("NFC", name)
        if shown in seen:
            raise InputError(f"two classes have the name {name!r}: rename one, or merge them")
        seen.add(shown)


def is_printable(text: str) -> bool:
    """Whether a text has no line breaks, no characters that control a terminal, and none that UTF-8 cannot encode."""
    return not any(unicodedata.category(char) in _UNPRINTABLE or char in _REORDERING for char in text)
