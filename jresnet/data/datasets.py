"""Data sets: loading by name, stratified hold-out, folds and subsets, channel statistics."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.console

from jresnet.config import Source
from jresnet.data import memory, synthetic
from jresnet.data.arrays import cifar
from jresnet.data.arrays.cifar import read_cifar
from jresnet.data.arrays.reader import read_npz
from jresnet.data.checks import check_names, check_test, checked_arrays, checked_classes
from jresnet.data.contents import Contents
from jresnet.data.images.folder import read_folder
from jresnet.data.images.resize import resized_all
from jresnet.data.mapped import Images, pieces, select, size
from jresnet.data.tfds_reader import directory_of, is_prepared, read_tfds
from jresnet.errors import InputError, first_line, listed
from jresnet.records.files import Record
from jresnet.records.run import Data
from jresnet.rules import require

# Mixed into the seed, so that each use of a seed has its own random numbers.
_HOLD_OUT_STREAM, _FOLD_STREAM, _SUBSET_STREAM, _TEST_STREAM = 0x486F6C64, 0x466F6C64, 0x53756273, 0x54657374
# Sizes of the data set "synthetic": enough for a small ResNet to learn it, and drawn within a second.
_SYNTHETIC_TRAIN, _SYNTHETIC_TEST = 4000, 1000


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
    """One split of a data set: training, validation or test.

    The arrays are not copied. Do not modify them while the split is in use: data sets cache what they compute from
    them, and training may read them at any time.

    Attributes:
      images: uint8 [n, height, width, 3]; in a file if they take too much memory, see `mapped.MappedImages`.
      labels: int32 [n].
      names: of the images, n of them: of a folder's the paths of their files, relative to it; None if they have none.

    Raises:
      InputError: arrays of other dtypes or shapes, or another number of names.
    """

    images: Images
    labels: np.ndarray
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise InputError(
                f"images are {images.dtype} of shape {images.shape}: give uint8 of shape (n, height, width, 3)"
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise InputError(f"labels are {labels.dtype} of shape {labels.shape}: give int32 of shape ({len(images)},)")
        if self.names is not None and len(self.names) != len(images):
            raise InputError(f"{len(images)} images have {len(self.names)} names: give one per image")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images of {size(self.images)})"

    def take(self, rows: np.ndarray | slice) -> "Split":
        """The split of these rows: a mask bool [n], indices, or a slice."""
        names = self.names and tuple(self.names[row] for row in np.arange(len(self))[rows])
        return Split(select(self.images, rows), self.labels[rows], names)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """An image-classification data set.

    Attributes:
      name: as in `load_dataset`, or any other.
      train: the training split.
      validation: the validation split, often without images.
      test: the test split.
      classes: names of the classes, indexed by the labels.
      cut_from: `sha256` of the data set that this one is a fold or a subset of; None for a complete one.
      source: how it was read; None if it was made in Python.
      skipped: files that it was read without, see `Source.skip_unreadable`.

    Raises:
      InputError: labels beyond the classes, or splits with images of different sizes.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    cut_from: str | None = None
    source: Source | None = None
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            split: Split = getattr(self, name)
            if len(split) and not 0 <= split.labels.min() <= split.labels.max() < len(self.classes):
                raise InputError(
                    f"{name} labels go from {split.labels.min()} to {split.labels.max()}: "
                    f"give indices from 0 to {len(self.classes) - 1}, into the {len(self.classes)} classes"
                )
            if len(split) and split.images.shape[1:3] != self.image_size:
                raise InputError(
                    f"{name} images are {size(split.images)}, train images {size(self.train.images)} (height x width): "
                    "give --image-size H W, or resize all to one size first"
                )

    def __repr__(self) -> str:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = ", ".join(f"{len(split):,} {name}" for name, split in splits.items() if len(split))
        classes = f"{len(self.classes)} classes ({listed(self.classes, 3, 20)})"
        return f"Dataset({self.name}: {counts} images of {size(self.train.images)}, {classes})"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        height, width = self.train.images.shape[1:3]
        return height, width

    @functools.cached_property
    def sha256(self) -> str:
        """Hex digest of the shapes, pixels and labels of all splits; identifies the data."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(repr(tuple(map(int, split.images.shape))).encode())
            for piece in pieces(split.images):
                digest.update(piece.data)
            digest.update(np.ascontiguousarray(split.labels, "<i4").data)
        return digest.hexdigest()

    def hold_out(self, n: int, seed: int) -> "Dataset":
        """Move `n` training images into the validation split, stratified by class.

        The counts per class are rounded by the largest-remainder method. Both splits keep the order of the images.

        Args:
          n: number of validation images; 0 returns the data set unchanged.
          seed: seed of the random choice of images.

        Raises:
          InputError: too many images, a class without remaining training images, or a data set that already
            has a validation split.
        """
        if n == 0:
            return self
        if not 0 < n < len(self.train):
            raise InputError(f"--validation {n}: must lie below {len(self.train)}, the training images of {self.name}")
        if len(self.validation):
            raise InputError(
                f"--validation {n}: {self.name} already has a validation split of {len(self.validation)} images: "
                "give --validation 0"
            )
        held = _held_out("--validation", self.train.labels, self.classes, n, (seed, _HOLD_OUT_STREAM))
        return dataclasses.replace(self, train=self.train.take(~held), validation=self.train.take(held))

    def fold(self, folds: int, index: int, seed: int = 0) -> "Dataset":
        """Split the training set for cross-validation: one of `folds` parts for validation, the others for training.

        Each training image is in the validation split of exactly one fold. The folds have equal numbers of images, in
        total and of each class, to within one image. The data set's own validation and test images are dropped.

        Args:
          folds: number of folds.
          index: index of the fold, from 0.
          seed: seed of the random assignment of images to folds.

        Raises:
          InputError: fewer than 2 folds, or a class with fewer images than folds.
        """
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        if not 2 <= folds <= counts.min():
            fewest = f"{self.classes[counts.argmin()]}, the smallest class, has {counts.min()} training images"
            raise InputError(f"--folds {folds}: must lie from 2 to {counts.min()}, as {fewest}")
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
        """Keep `train` training and `test` test images, stratified by class and the same every time; None keeps all.

        Raises:
          InputError: more images than the split has, or fewer training images than every class needs to keep one.
        """
        if train is None and test is None:
            return self
        train_split, test_split = self._part("train", train), self._part("test", test)
        return dataclasses.replace(self, cut_from=self.cut_from or self.sha256, train=train_split, test=test_split)

    def _part(self, name: str, n: int | None) -> Split:
        split: Split = getattr(self, name)
        if n is None:
            return split
        if not 0 < n <= len(split):
            raise InputError(f"--{name}-images {n}: must lie from 1 to {len(split)}, the {name} images of {self.name}")
        shares = _shares(split.labels, len(self.classes), n)
        if name == "train" and not shares.all():
            raise InputError(
                f"--train-images {n}: leaves class {self.classes[shares.argmin()]} without an image: raise it"
            )
        return split.take(_drawn(split.labels, shares, (len(split), _SUBSET_STREAM)))

    @functools.cached_property
    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training images / 255 per channel, rounded to 4 decimals.

        The standard deviation is that of all pixels, not the average over images. It is 1.0 for a constant
        channel, so that normalisation can divide by it.
        """
        # Exact, in integers: numpy's for the sums, Python's for the products, which exceed 64 bits.
        totals, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
        for piece in pieces(self.train.images):
            chunk = piece.astype(np.uint16)
            totals += chunk.sum(axis=0).sum(axis=(0, 1), dtype=np.int64)
            squares += np.square(chunk).sum(axis=0).sum(axis=(0, 1), dtype=np.int64)
        n, sums = self.train.images.nbytes // 3, list(zip(totals.tolist(), squares.tolist(), strict=True))
        mean = tuple(round(total / n / 255, 4) for total, _ in sums)
        std = tuple(round(math.sqrt(n * square - total**2) / n / 255, 4) or 1.0 for total, square in sums)
        return mean, std


def load_dataset(
    source: str | Source,
    data_dir: str | None = None,
    console: rich.console.Console | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Dataset:
    """Load a data set by name.

    >>> import jresnet
    >>> dataset = jresnet.load_dataset("synthetic")
    >>> dataset.train.images.shape, dataset.test.labels.shape, dataset.classes[:3]
    ((4000, 32, 32, 3), (1000,), ('disc', 'ring', 'square'))

    Args:
      source: "synthetic", "npz:FILE" (arrays, as `jresnet.data.arrays.reader.read_npz` describes), "folder:DIR"
        (train/<class>/*, and if there are such validation/<class>/* and test/<class>/*), or the name of an
        image-classification data set in TFDS, such as "cifar10". Or a `Config`, which has the name and all that
        follows.
      data_dir: directory of prepared TFDS data sets, or of CIFAR's archives (default: $TFDS_DATA_DIR, or
        ~/tensorflow_datasets).
      console: where to show progress while many images are decoded; None for nowhere.
      classes: names of the classes of a folder that has no training images, in the order of the labels: then the folder
        needs only test/<class>/*, or <class>/*, and the training split is empty. Ignored for other data.
      **options: the other fields of `Source`: image_size, resize, background, skip_unreadable, test_from, holdout_test.

    Returns:
      The data set, unaffected by later changes of its files: splits in stored order, grayscale images repeated to 3
      channels. Images from a folder that would take over a quarter of the available memory stay in a file of the cache.

    Raises:
      InputError: the data are missing, unreadable or unusable; the message is one line with a remedy.
    """
    source = Source(source, data_dir, **options) if isinstance(source, str) else source.source
    name = source.dataset
    given = None if classes is None else tuple(classes)
    check_names(given or ())
    try:
        contents = _read(source, console, given)
        names = contents.names
        splits = {
            split: Split(*checked_arrays(split, *pair), names.get(split)) for split, pair in contents.splits.items()
        }
        splits = {split: _resized(part, source, console) for split, part in splits.items()}
        labels = {split: part.labels for split, part in splits.items()}
        if "train" in splits or given is None:
            given = checked_classes(labels, contents.classes, contents.columns)
        splits = _with_test(source, splits, given)
        empty = splits["test"].take(slice(0))
        train, validation, test = (splits.get(split, empty) for split in ("train", "validation", "test"))
        return Dataset(name, train, validation, test, given, source=source, skipped=contents.skipped)
    except InputError as error:
        # On one line, even if a quoted error or file name has several.
        raise InputError(" ".join(f"--dataset {name}: {error}".splitlines())) from None
    except MemoryError as error:
        raise InputError(
            f"--dataset {name}: reading it takes more memory than there is ({first_line(error)}; "
            f"{memory.in_words(memory.available())} are available): lower --image-size or give fewer images"
        ) from None


def _read(source: Source, console: rich.console.Console | None, classes: tuple[str, ...] | None) -> Contents:
    name = source.dataset
    folder = name.startswith("folder:")
    require(source, "skip_unreadable", folder or not source.skip_unreadable, "applies to folder:DIR only: leave it out")
    if name == "synthetic":
        images, labels, test_images, test_labels = synthetic.draw(_SYNTHETIC_TRAIN, _SYNTHETIC_TEST)
        return Contents({"train": (images, labels), "test": (test_images, test_labels)}, synthetic.CLASSES)
    if name in ("npz:", "folder:"):
        raise InputError(f"no path follows the colon: give one, or {name}. for the current directory")
    if name.startswith("npz:"):
        return read_npz(name.removeprefix("npz:"))
    if folder:
        return read_folder(source, console, classes)
    directory = directory_of(source)
    archive = cifar.find(name, directory)
    if archive is None or is_prepared(name, directory):
        return read_tfds(source)
    return read_cifar(name, archive)


def _resized(split: Split, source: Source, console: rich.console.Console | None) -> Split:
    """A split in the size that --image-size asks for."""
    if source.image_size in (None, split.images.shape[1:3]):
        return split
    images = resized_all(np.asarray(split.images), source.image_size, source.resize, source.background, console)
    return dataclasses.replace(split, images=images)


def _with_test(source: Source, splits: dict[str, Split], classes: tuple[str, ...]) -> dict[str, Split]:
    """The splits with a test split: the data's own, or as --test-from or --holdout-test say."""
    check_test(source, splits)
    if source.test_from:
        return {"test" if split == "validation" else split: part for split, part in splits.items()}
    if n := source.holdout_test:
        train = splits["train"]
        require(source, "holdout_test", n < len(train), f"must lie below {len(train)}, the training images")
        held = _held_out("--holdout-test", train.labels, classes, n, (n, _TEST_STREAM))
        return splits | {"train": train.take(~held), "test": train.take(held)}
    return splits


def _shares(labels: np.ndarray, classes: int, n: int) -> np.ndarray:
    """Distribute `n` images over the classes in proportion to `labels`, by largest remainder: int64 [classes]."""
    shares, remainders = np.divmod(n * np.bincount(labels, minlength=classes), len(labels))
    shares[np.argsort(-remainders, kind="stable")[: n - shares.sum()]] += 1
    return shares


def _held_out(option: str, labels: np.ndarray, classes: tuple[str, ...], n: int, seed: tuple[int, int]) -> np.ndarray:
    """Choose `n` images to hold out, stratified by class: a mask, bool [images].

    Raises:
      InputError: no image of a class would remain.
    """
    shares, counts = _shares(labels, len(classes), n), np.bincount(labels, minlength=len(classes))
    emptied = np.flatnonzero((shares == counts) & (counts > 0))
    if len(emptied):
        raise InputError(f"{option} {n}: would take every training image of class {classes[emptied[0]]}: lower it")
    return _drawn(labels, shares, seed)


def _drawn(labels: np.ndarray, shares: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """Choose `shares[c]` images of each class c at random: a mask, bool [images]."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label, share in enumerate(shares):
        chosen[rng.choice(np.flatnonzero(labels == label), share, replace=False)] = True
    return chosen


def dataset_record(dataset: Dataset, sha256: str) -> Record:
    """The record in JSON of a data set that is trained on; `sha256` is that of the data before the hold-out."""
    sizes = {name: len(getattr(dataset, name)) for name in ("train", "validation", "test", "classes")}
    skipped = dataset.skipped or None
    return Data(name=dataset.name, **sizes, sha256=sha256, cut_from=dataset.cut_from, skipped=skipped).to_json()
