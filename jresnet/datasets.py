"""A name becomes a `Dataset`: training, validation and test images in memory, checked, with class names."""

import dataclasses
import functools
import hashlib
import math

import numpy as np

from jresnet import synthetic
from jresnet.readers import Arrays, read_folder, read_npz, refuse, size
from jresnet.tfds_reader import read_tfds

# Sets the draw of the validation images apart from every other use of the run's seed.
_HOLD_OUT_STREAM = 0x486F6C64
_CHUNK = 1024

SYNTHETIC_TRAIN, SYNTHETIC_TEST = 4000, 1000
"""Sizes of the data set "synthetic": enough for a small ResNet to learn it, few enough for seconds."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
      images: uint8 [n, height, width, 3].
      labels: int32 [n].
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory; `validation` may hold 0 images."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of every image in pixels."""
        height, width = self.train.images.shape[1:3]
        return height, width

    @functools.cached_property
    def sha256(self) -> str:
        """Hex digest over shapes, pixels and labels of all splits: which copy of the data this is."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(repr(tuple(map(int, split.images.shape))).encode())
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(np.ascontiguousarray(split.labels, "<i4").data)
        return digest.hexdigest()

    def hold_out(self, n: int, seed: int) -> "Dataset":
        """Move `n` training images into the validation split, every class by its share of the training set.

        Shares are rounded by largest remainder. The remaining training images keep their order.

        Args:
          n: number of validation images; 0 returns the data set as it is.
          seed: with the data, decides which images are taken.

        Raises:
          InputError: too many images, a class left without training images, or a validation split
            that the data set already brings along.
        """
        if n == 0:
            return self
        if not 0 < n < len(self.train):
            refuse(f"--validation {n}: must lie below {len(self.train)}, the training images of {self.name}")
        if len(self.validation):
            refuse(f"--validation {n}: {self.name} has {len(self.validation)} validation images of its own: leave it 0")
        held = np.zeros(len(self.train), bool)
        rng = np.random.default_rng((seed, _HOLD_OUT_STREAM))
        for label, share in enumerate(self._shares(n)):
            of_class = np.flatnonzero(self.train.labels == label)
            held[rng.choice(of_class, share, replace=False)] = True
        train, validation = (Split(self.train.images[rows], self.train.labels[rows]) for rows in (~held, held))
        return dataclasses.replace(self, train=train, validation=validation)

    def _shares(self, n: int) -> np.ndarray:
        """Validation images per class, int64 [classes], by largest remainder."""
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        shares, remainders = np.divmod(n * counts, len(self.train))
        shares[np.argsort(-remainders, kind="stable")[: n - shares.sum()]] += 1
        emptied = np.flatnonzero(shares >= counts)
        if len(emptied):
            refuse(f"--validation {n}: would take every training image of class {self.classes[emptied[0]]}: lower it")
        return shares

    def channel_statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation of the training pixels / 255 per channel, rounded to 4 decimals.

        The deviation is over all pixels together, not the average of the images' own. A channel that
        never varies gets 1.0, so that one can divide by it.
        """
        totals, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
        for start in range(0, len(self.train), _CHUNK):
            chunk = self.train.images[start : start + _CHUNK].astype(np.uint16)
            totals += chunk.sum(axis=0).sum(axis=(0, 1), dtype=np.int64)
            squares += np.square(chunk).sum(axis=0).sum(axis=(0, 1), dtype=np.int64)
        count = self.train.images.size // 3
        mean, std = [], []
        for total, square in zip(map(int, totals), map(int, squares), strict=True):
            mean.append(round(total / count / 255, 4))
            std.append(round(math.sqrt(count * square - total**2) / count / 255, 4) or 1.0)
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def load_dataset(name: str, data_dir: str | None = None) -> Dataset:
    """Load a data set by name.

    Args:
      name: "synthetic"; "npz:FILE" (MedMNIST's layout); "folder:DIR" (train/<class>/*, test/<class>/*,
        optional validation/<class>/*); anything else is TFDS's name of an image-classification data set,
        such as "cifar10".
      data_dir: directory of prepared TFDS data sets (default: TFDS_DATA_DIR, else ~/tensorflow_datasets).

    Returns:
      The data set: gray images repeated to 3 channels, splits in stored order.

    Raises:
      InputError: the data cannot be found, read or used; one line says what to do.
    """
    classes: tuple[str, ...] | None
    if name == "synthetic":
        images, labels, test_images, test_labels = synthetic.draw(SYNTHETIC_TRAIN, SYNTHETIC_TEST)
        arrays = {"train": (images, labels), "test": (test_images, test_labels)}
        classes = synthetic.CLASSES
    elif name.startswith("npz:"):
        arrays, classes = read_npz(name, name.removeprefix("npz:"))
    elif name.startswith("folder:"):
        arrays, classes = read_folder(name, name.removeprefix("folder:"))
    else:
        arrays, classes = read_tfds(name, data_dir)
    return _assemble(name, arrays, classes)


def _assemble(name: str, arrays: Arrays, classes: tuple[str, ...] | None) -> Dataset:
    """Hold the arrays to the rules every data set must keep, whatever its source."""
    splits = {split: _split(name, split, images, labels) for split, (images, labels) in arrays.items()}
    train = splits["train"]
    if "validation" not in splits:
        splits["validation"] = Split(train.images[:0], train.labels[:0])
    for split, data in splits.items():
        if data.images.shape[1:] != train.images.shape[1:]:
            refuse(
                f"--dataset {name}: {split} images are {size(data.images)}, "
                f"train images {size(train.images)} (height x width): resize all to one size first"
            )
    count = _count_classes(name, train.labels, classes)
    for split, data in splits.items():
        if len(data) and data.labels.max() >= count:
            refuse(
                f"--dataset {name}: {split}_labels reach {data.labels.max()}, train_labels only {count - 1}: "
                "add training images of those classes or remove their test images"
            )
    return Dataset(name=name, classes=classes or tuple(map(str, range(count))), **splits)


def _split(name: str, split: str, images: np.ndarray, labels: np.ndarray) -> Split:
    where = f"--dataset {name}: {split} images"
    if images.dtype != np.uint8:
        refuse(f"{where} are {images.dtype}: save them as uint8 from 0 to 255")
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        refuse(f"{where} have shape {images.shape}: make it (n, height, width), or that with 1 or 3 channels")
    if 0 in images.shape[1:]:
        refuse(f"{where} have shape {images.shape}, no pixels: give images of at least 1 x 1")
    if len(images) == 0 and split != "validation":
        refuse(f"{where}: there are none: give at least one")
    labels = _checked_labels(name, split, labels)
    if len(images) != len(labels):
        refuse(f"{where} are {len(images)} and its labels {len(labels)}: give one label per image")
    if images.shape[3:] != (3,):
        images = np.repeat(images.reshape(*images.shape[:3], 1), 3, axis=3)
    return Split(np.ascontiguousarray(images), labels)


def _checked_labels(name: str, split: str, labels: np.ndarray) -> np.ndarray:
    where = f"--dataset {name}: {split} labels"
    if labels.dtype.kind not in "iu":
        refuse(f"{where} are {labels.dtype}: save them as integers from 0")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        refuse(f"{where} have shape {labels.shape}: give one class per image, shape (n,) or (n, 1), not several")
    if len(labels) and labels.min() < 0:
        refuse(f"{where} go down to {labels.min()}: number the classes from 0")
    if len(labels) and labels.max() > np.iinfo(np.int32).max:
        refuse(f"{where} go up to {labels.max()}: number the classes from 0 without gaps")
    return labels.astype(np.int32)


def _count_classes(name: str, labels: np.ndarray, classes: tuple[str, ...] | None) -> int:
    present = set(np.unique(labels).tolist())
    count = max(present) + 1
    if classes is not None and len(classes) < count:
        refuse(f"--dataset {name}: {len(classes)} class names for labels up to {count - 1}: give one name per class")
    count = len(classes) if classes is not None else count
    if len(present) < count:
        # Bounded, so that one stray label of a million does not make a list of a million.
        empty = [label for label in range(min(count, len(present) + 10)) if label not in present]
        names = ", ".join(classes[label] if classes is not None else str(label) for label in empty[:10])
        refuse(
            f"--dataset {name}: {count - len(present)} of {count} classes have no training image ({names}"
            f"{', ...' if count - len(present) > 10 else ''}): add some, or number the classes without gaps"
        )
    if count < 2:
        refuse(f"--dataset {name}: it has {count} class: give at least 2 to tell apart")
    return count
