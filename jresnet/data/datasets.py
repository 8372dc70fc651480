"""A name becomes a `Dataset`: training, validation and test images in memory, checked, with class names."""

import dataclasses
import functools
import hashlib
import math

import numpy as np

from jresnet.data import synthetic
from jresnet.data.readers import Arrays, read_folder, read_npz, refuse, size
from jresnet.data.tfds_reader import read_tfds

# Set these draws apart from every other use of a seed.
_HOLD_OUT_STREAM, _FOLD_STREAM, _SUBSET_STREAM = 0x486F6C64, 0x466F6C64, 0x53756273
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

    def take(self, rows: np.ndarray | slice) -> "Split":
        """The images of these rows, a mask, indices or a slice."""
        return Split(self.images[rows], self.labels[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory; `validation` may hold 0 images.

    `cut_from` is the `sha256` of the data set that this one was cut from; None: it is whole.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    cut_from: str | None = None

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
        shares = _shares(self.train.labels, len(self.classes), n)
        emptied = np.flatnonzero(shares >= np.bincount(self.train.labels))
        if len(emptied):
            refuse(f"--validation {n}: would take every training image of class {self.classes[emptied[0]]}: lower it")
        held = _drawn(self.train.labels, shares, np.random.default_rng((seed, _HOLD_OUT_STREAM)))
        return dataclasses.replace(self, train=self.train.take(~held), validation=self.train.take(held))

    def fold(self, folds: int, index: int, seed: int = 0) -> "Dataset":
        """One of `folds` parts of the training set for validation, the others for training, and no test images.

        Every training image is validated on by exactly one fold. A class's images are shared out among the
        folds equally, to within one image, and so are all images. Validation images that the data set
        brings along are left out.

        Args:
          folds: number of parts.
          index: which of them is the validation split, from 0.
          seed: with the data, decides which image is in which part.

        Raises:
          InputError: fewer than 2 folds, or a class with fewer images than folds.
        """
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        if not 2 <= folds <= counts.min():
            fewest = f"{self.classes[counts.argmin()]}, the smallest class, has {counts.min()} training images"
            refuse(f"--folds {folds}: must lie from 2 to {counts.min()}, as {fewest}")
        rng = np.random.default_rng((seed, _FOLD_STREAM))
        by_class = [rng.permutation(np.flatnonzero(self.train.labels == label)) for label in range(len(counts))]
        held = np.zeros(len(self.train), bool)
        held[np.concatenate(by_class)[index::folds]] = True
        return dataclasses.replace(
            self,
            cut_from=self.cut_from or self.sha256,
            name=f"{self.name}, fold {index + 1} of {folds}",
            train=self.train.take(~held),
            validation=self.train.take(held),
            test=self.test.take(slice(0)),
        )

    def subset(self, train: int | None = None, test: int | None = None) -> "Dataset":
        """The data set with `train` training and `test` test images, every class by its share; None for all.

        Raises:
          InputError: more images than there are, or too few for every class to have one.
        """
        if train is None and test is None:
            return self
        return dataclasses.replace(
            self,
            cut_from=self.cut_from or self.sha256,
            train=self._part("train", train),
            test=self._part("test", test),
        )

    def _part(self, name: str, n: int | None) -> Split:
        split: Split = getattr(self, name)
        if n is None:
            return split
        if not 0 < n <= len(split):
            refuse(f"--{name}-images {n}: must lie from 1 to {len(split)}, the {name} images of {self.name}")
        shares = _shares(split.labels, len(self.classes), n)
        if name == "train" and not shares.all():
            refuse(f"--train-images {n}: leaves class {self.classes[shares.argmin()]} without an image: raise it")
        stream = (len(split), _SUBSET_STREAM)
        return split.take(_drawn(split.labels, shares, np.random.default_rng(stream)))

    @functools.cached_property
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


def _shares(labels: np.ndarray, classes: int, n: int) -> np.ndarray:
    """How many of `n` images fall to each class by its share, int64 [classes], by largest remainder."""
    shares, remainders = np.divmod(n * np.bincount(labels, minlength=classes), len(labels))
    shares[np.argsort(-remainders, kind="stable")[: n - shares.sum()]] += 1
    return shares


def _drawn(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask, bool [images], of `shares` images of each class drawn without replacement."""
    chosen = np.zeros(len(labels), bool)
    for label, share in enumerate(shares):
        chosen[rng.choice(np.flatnonzero(labels == label), share, replace=False)] = True
    return chosen


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
    names = classes or tuple(map(str, range(count)))
    return Dataset(name, splits["train"], splits["validation"], splits["test"], names)


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


def dataset_record(dataset: Dataset, sha256: str) -> dict:
    """Name, sizes and digest of the data, and the digest of the whole that it was cut from, for records."""
    return {
        "name": dataset.name,
        "train": len(dataset.train),
        "validation": len(dataset.validation),
        "test": len(dataset.test),
        "classes": len(dataset.classes),
        "sha256": sha256,
        **({"cut_from": dataset.cut_from} if dataset.cut_from else {}),
    }
