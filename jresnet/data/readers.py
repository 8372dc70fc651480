"""Readers of images on the user's disk: MedMNIST-style .npz files and folders of image files.

The readers only decode; `jresnet.data.checks` validates what they return, and `load_dataset` adds the name of the
data set to their messages.
"""

import os
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jresnet.data import npz
from jresnet.errors import InputError, first_line

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Images and labels as stored, by split: "train", "test" and, if the source has it, "validation"."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
# Pillow goes by a file's content, and for some of its other formats, as EPS, it starts programs.
_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")


def size(image: np.ndarray) -> str:
    """ "height x width" of [..., height, width, channels], for messages."""
    height, width = image.shape[-3:-1]
    return f"{height} x {width}"


def read_npz(file: str) -> tuple[Arrays, tuple[str, ...] | None]:
    """Read a file in MedMNIST's layout: {train,val,test}_{images,labels}; `val` and `classes` are optional.

    Returns the arrays by split, and the class names in `classes`, or None.

    Raises:
      InputError: a missing file or array, pickled objects (never unpickled), or a damaged file.
    """
    path = os.path.abspath(os.path.expanduser(file))
    if not os.path.isfile(path):
        raise InputError(f"there is no file {path}: give the path of an .npz file after npz:")
    _check_readable(path, open)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an .npz file, or a truncated one: write it with np.savez")
    try:
        with zipfile.ZipFile(path) as archive:
            return _npz_arrays(path, archive)
    except InputError:
        raise
    except npz.DAMAGED as error:
        raise InputError(f"{path} is damaged ({first_line(error)}): copy or write it again") from None


def _check_readable(path: str, open_path: Callable[[str], Any]) -> None:
    """Refuse a path that `open_path`, open or os.scandir, cannot open; is_zipfile and isdir only return False."""
    try:
        open_path(path).close()
    except OSError as error:
        raise InputError(f"{os.path.normpath(path)} cannot be read ({error.strerror}): check its permissions") from None


def _npz_arrays(path: str, archive: zipfile.ZipFile) -> tuple[Arrays, tuple[str, ...] | None]:
    keys = sorted(member[:-4] for member in archive.namelist() if member.endswith(".npy"))
    pairs = {split: (f"{split}_images", f"{split}_labels") for split in ("train", "test")}
    if "val_images" in keys or "val_labels" in keys:
        pairs["validation"] = ("val_images", "val_labels")
    missing = [key for pair in pairs.values() for key in pair if key not in keys]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)} (has {', '.join(keys) or 'nothing'}): "
            "give it train_images, train_labels, test_images and test_labels"
        )
    read = partial(npz.read_array, archive)
    arrays = {split: (read(images), read(labels)) for split, (images, labels) in pairs.items()}
    if "classes" not in keys:
        return arrays, None
    classes = read("classes")
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise InputError(
            f"classes in {path} is {classes.dtype} of shape {classes.shape}: "
            "make it a one-dimensional array of strings, one per class"
        )
    return arrays, tuple(map(str, classes))


def read_folder(directory: str) -> tuple[Arrays, tuple[str, ...]]:
    """Read image files from train/<class>/, test/<class>/ and, if it exists, validation/<class>/.

    The classes are the sub-directories of train in sorted order. Hidden entries and files without the suffix
    of an image are skipped. Symbolic links are followed.

    Raises:
      InputError: a missing directory, a class without training directory, an unreadable image, unequal sizes, or
        images that together exceed the machine's memory.
    """
    root = os.path.abspath(os.path.expanduser(directory))
    if os.path.isdir(root):
        _check_readable(os.path.join(root, "."), os.scandir)
    for required in (root, os.path.join(root, "train"), os.path.join(root, "test")):
        if not os.path.isdir(required):
            raise InputError(f"there is no directory {required}: images belong in train/<class>/ and test/<class>/")
    splits = ["train", "test"] + ["validation"] * os.path.isdir(os.path.join(root, "validation"))
    try:
        classes = tuple(_subdirectories(os.path.join(root, "train")))
        return {split: _folder_split(os.path.join(root, split), classes) for split in splits}, classes
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): check its permissions") from None


def _folder_split(directory: str, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    unknown = [entry for entry in _subdirectories(directory) if entry not in classes]
    if unknown:
        raise InputError(
            f"{directory} has classes that train lacks: {', '.join(unknown[:10])}"
            f"{', ...' if len(unknown) > 10 else ''}: add training images of them or remove them"
        )
    files = [
        (os.path.join(directory, entry, file), label)
        for label, entry in enumerate(classes)
        for file in _image_files(os.path.join(directory, entry))
    ]
    if not files:
        raise InputError(
            f"there are no images in {directory}: put them into {directory}/<class>/ as {' '.join(_IMAGE_SUFFIXES)}"
        )
    first = _decode(files[0][0])
    npz.check_memory(f"{len(files):,} images of {size(first)} in {directory}", len(files) * first.nbytes)
    images = np.empty((len(files), *first.shape), np.uint8)
    for index, (file, _) in enumerate(files):
        image = _decode(file)
        if image.shape != first.shape:
            raise InputError(
                f"{file} is {size(image)} but {files[0][0]} is {size(first)} "
                "(height x width): resize all images to one size first"
            )
        images[index] = image
    return images, np.array([label for _, label in files], np.int32)


def _subdirectories(directory: str) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")


def _image_files(directory: str) -> list[str]:
    if not os.path.isdir(directory):
        return []
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.is_file() and entry.name[0] != "."]
    return sorted(name for name in names if name.lower().endswith(_IMAGE_SUFFIXES))


def _decode(file: str) -> np.ndarray:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow only warns of images that are large enough to exhaust the memory of a small machine.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_IMAGE_FORMATS) as image:
                # Pillow would clip 16-bit and float images to white instead of scaling them.
                if image.mode[0] not in "IF":
                    return np.asarray(image.convert("RGB"))
                mode = image.mode
    except Exception as error:  # Pillow's decoders have their own errors for damage, as struct.error
        reason = first_line(error)
        raise InputError(f"{file} cannot be read as an image ({reason}): repair or remove it") from None
    raise InputError(f"{file} has more than 8 bits per channel (mode {mode}): convert it to 8 bits first")
