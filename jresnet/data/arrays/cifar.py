"""CIFAR-10 and CIFAR-100 from their authors' Python archives, packed or unpacked, without a network or TensorFlow."""

import dataclasses
import gzip
import hashlib
import io
import os
import tarfile
from typing import Any

import numpy as np

from jresnet.data.arrays import npz, pickled_arrays
from jresnet.data.checks import used_classes
from jresnet.data.contents import Contents
from jresnet.data.files import check_readable
from jresnet.data.progress import warn
from jresnet.errors import InputError, first_line, visible


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive as published at https://www.cs.toronto.edu/~kriz/cifar.html.

    Attributes:
      directory: the one that it is unpacked to.
      packed: its name, first, and others under which it is kept.
      train: files of training images, and the MD5 of each as published.
      test: the file of test images, likewise.
      meta: the file with the names of the classes, likewise.
      labels: the key of the labels in a file of images.
      names: the key of the names of the classes.
      classes: the names.
    """

    directory: str
    packed: tuple[str, ...]
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    labels: str
    names: str
    classes: tuple[str, ...]

    @property
    def files(self) -> dict[str, str]:
        """All files, and the MD5 of each."""
        return self.train | self.test | self.meta


_FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
""".split()  # noqa: SIM905

ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-batches-py",
        ("cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz"),
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        {"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        "labels",
        "label_names",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": Archive(
        "cifar-100-python",
        ("cifar-100-python.tar.gz",),
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        {"meta": "7973b15100ade9c7d40fb424638fde48"},
        "fine_labels",
        "fine_label_names",
        tuple(_FINE),
    ),
}
"""By the name of the data set."""

# CIFAR-100's training images take 155 MB, either archive 186 MB unpacked.
_LARGEST, _MOST_MEMBERS = 2**28, 1000


def find(name: str, directory: str) -> str | None:
    """The path of the archive of the data set `name` in a directory, unpacked or packed, or that is the directory."""
    if name not in ARCHIVES:
        return None
    archive = ARCHIVES[name]
    unpacked = os.path.join(directory, archive.directory)
    complete = [place for place in (unpacked, directory) if len(_present(place, archive)) == len(archive.files)]
    packed = [path for file in archive.packed if os.path.isfile(path := os.path.join(directory, file))]
    partial = [unpacked] if _present(unpacked, archive) else []
    return next(iter([*complete, *packed, *partial]), None)


def _present(directory: str, archive: Archive) -> list[str]:
    return [file for file in archive.files if os.path.isfile(os.path.join(directory, file))]


def remedy(name: str, directory: str) -> str:
    """How to have the data set `name` in a directory without a network; nothing for names that are not here."""
    plain, version, _ = name.partition(":")
    if plain not in ARCHIVES:
        return ""
    archive, called = ARCHIVES[plain], f", and call it {plain}, without a version" if version else ""
    if version and (found := find(plain, directory)):
        return f", or use {found}{called}"
    return f", or put {archive.packed[0]}, or {archive.directory}, to which it unpacks, into {directory}{called}"


def read_cifar(name: str, path: str) -> Contents:
    """Read an archive that `find` has found: training and test images in the order of its files.

    Raises:
      InputError: a file is missing, damaged, too large, or holds anything but images and labels of these classes; its
        pickles are not unpickled.
    """
    archive = ARCHIVES[name]
    files = _unpacked(path, archive) if os.path.isdir(path) else _packed(path, archive)
    missing = [file for file in archive.train | archive.test if file not in files]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: unpack or download {archive.packed[0]} again")
    other = [
        file for file in files if hashlib.md5(files[file], usedforsecurity=False).hexdigest() != archive.files[file]
    ]
    if other:
        warn(
            f"{path}: {', '.join(other)} {'is' if len(other) == 1 else 'are'} not as published: other data, or damaged"
        )
    for file in archive.meta:
        if file in files:
            _check_names(os.path.join(path, file), files.pop(file), archive)
    batches = {
        file: _batch(os.path.join(path, file), files.pop(file), archive) for file in archive.train | archive.test
    }
    joined = {
        split: tuple(np.concatenate(arrays) for arrays in zip(*(batches.pop(file) for file in names), strict=True))
        for split, names in (("train", archive.train), ("test", archive.test))
    }
    return used_classes(
        Contents({split: (images, labels) for split, (images, labels) in joined.items()}, archive.classes), path
    )


def _unpacked(directory: str, archive: Archive) -> dict[str, bytes]:
    files = {}
    for file in _present(directory, archive):
        path = os.path.join(directory, file)
        check_readable(path, open)
        if os.path.getsize(path) > _LARGEST:
            raise InputError(f"{path} has over {_LARGEST:,} bytes, more than any of {archive.packed[0]}: remove it")
        with open(path, "rb") as opened:
            files[file] = opened.read()
    return files


def _packed(path: str, archive: Archive) -> dict[str, bytes]:
    """The files of a .tar.gz, read into memory; nothing is written to disk."""
    check_readable(path, open)
    files = {}
    try:
        with gzip.open(path) as opened:
            content = opened.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"{path} unpacks to over {_LARGEST:,} bytes: download {archive.packed[0]} again")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for number, member in enumerate(tar):
                if number == _MOST_MEMBERS or member.size < 0:
                    raise InputError(f"{path} has too many or impossible members: download {archive.packed[0]} again")
                file = os.path.basename(member.name)
                # A sparse member is as large as it says, whatever is in the archive.
                if file in archive.files and member.isreg() and not member.issparse():
                    extracted = tar.extractfile(member)
                    files[file] = b"" if extracted is None else extracted.read()
        return files
    except InputError:
        raise
    except (tarfile.TarError, *npz.DAMAGED) as error:
        raise InputError(f"{path} is damaged ({first_line(error)[:200]}): download it again") from None


def _read(path: str, content: bytes) -> dict[str, Any]:
    """The dictionary in a pickle; its keys are bytes or text, as Python 2 or 3 wrote it."""
    try:
        value = pickled_arrays.read(content)
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read as arrays alone ({visible(first_line(error))[:200]}): download it again"
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no dictionary: download it again")
    return {_text(key): item for key, item in value.items()}


def _text(value: str | bytes | int) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _check_names(path: str, content: bytes, archive: Archive) -> None:
    """Refuse names of classes other than the published: labels would mean something else."""
    names = _read(path, content).get(archive.names)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise InputError(f"{path} holds no {archive.names}: download it again")
    for label, (name, known) in enumerate(zip(map(_text, names), archive.classes, strict=False)):
        if name != known:
            raise InputError(
                f"{path} names class {label} {name[:100]!r}, not {known!r}: give data of other classes as npz:FILE"
            )


def _batch(path: str, content: bytes, archive: Archive) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels int64 [n] of one file."""
    batch = _read(path, content)
    images, labels = batch.get("data"), batch.get(archive.labels)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3072,):
        raise InputError(f"{path} holds no data of uint8 [n, 3072]: download it again")
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    count = len(archive.classes)
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < count for label in labels):
        raise InputError(f"{path} holds no {archive.labels} from 0 to {count - 1}: download it again")
    if len(labels) != len(images):
        raise InputError(f"{path} holds {len(images)} images and {len(labels)} labels: download it again")
    return np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), np.array(labels, np.int64)
