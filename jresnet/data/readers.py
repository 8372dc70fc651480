"""Readers of images on the user's disk: MedMNIST-style .npz files and folders of image files.

The readers only decode; `jresnet.data.checks` validates what they return, and `load_dataset` adds the name of the
data set to their messages.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jresnet.errors import InputError

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Images and labels as stored, by split: "train", "test" and, if the source has it, "validation"."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


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
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged ({error}): copy or write it again") from None


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
    read = partial(_npz_array, path, archive)
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


def _npz_array(path: str, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(member)
    if dtype.hasobject:
        raise InputError(
            f"{key} in {path} holds pickled Python objects, which are never read because "
            f"they can run code: save it again as a plain array, np.stack({key}) or {key}.astype(...)"
        )
    # read_array would allocate memory for the whole shape before it notices.
    if math.prod(shape) * dtype.itemsize > archive.getinfo(f"{key}.npy").file_size:
        raise ValueError(f"{key} is shorter than its header says")
    with archive.open(f"{key}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def read_folder(directory: str) -> tuple[Arrays, tuple[str, ...]]:
    """Read image files from train/<class>/, test/<class>/ and, if it exists, validation/<class>/.

    The classes are the sub-directories of train in sorted order. Hidden entries and files without the suffix
    of an image are skipped.

    Raises:
      InputError: a missing directory, a class without training directory, an unreadable image, unequal sizes.
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
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and entry.name[0] != ".")


def _image_files(directory: str) -> list[str]:
    if not os.path.isdir(directory):
        return []
    names = (entry.name for entry in os.scandir(directory) if entry.is_file() and entry.name[0] != ".")
    return sorted(name for name in names if name.lower().endswith(_IMAGE_SUFFIXES))


def _decode(file: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            # Pillow would clip 16-bit and float images to white instead of scaling them.
            if image.mode[0] not in "IF":
                return np.asarray(image.convert("RGB"))
            mode = image.mode
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image ({error}): repair or remove it") from None
    raise InputError(f"{file} has more than 8 bits per channel (mode {mode}): convert it to 8 bits first")
