"""Images from the user's own disk: MedMNIST-style .npz files and folders of image files.

A reader finds the data and decodes them; `jresnet.datasets` holds them to its rules.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from jresnet.errors import InputError

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Images and labels as stored, by split: "train", "test" and, where the source has one, "validation"."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def refuse(message: str) -> NoReturn:
    """Raise InputError with `message` on one line, whatever a quoted error or file name holds."""
    raise InputError(" ".join(message.splitlines()))


def size(image: np.ndarray) -> str:
    """Height x width of an image, or of a batch of them, for messages."""
    height, width = image.shape[-3:-1]
    return f"{height} x {width}"


def read_npz(name: str, file: str) -> tuple[Arrays, tuple[str, ...] | None]:
    """Read a file in MedMNIST's layout: {train,val,test}_{images,labels}, `val` and `classes` optional.

    Args:
      name: what the user calls the data set, for messages.
      file: path of the file.

    Returns:
      The arrays by split, and the class names where the file has an array `classes`.

    Raises:
      InputError: no such file, no such arrays, pickled objects (never unpickled), or a damaged file.
    """
    path = os.path.abspath(os.path.expanduser(file))
    if not os.path.isfile(path):
        refuse(f"--dataset {name}: there is no file {path}: give the path of an .npz file after npz:")
    _check_readable(name, path, open)
    if not zipfile.is_zipfile(path):
        refuse(f"--dataset {name}: {path} is not an .npz file, or a truncated one: write it with np.savez")
    try:
        with zipfile.ZipFile(path) as archive:
            return _npz_arrays(name, path, archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        refuse(f"--dataset {name}: {path} is damaged ({error}): copy or write it again")


def _check_readable(name: str, path: str, attempt: Callable) -> None:
    """Refuse a path that `attempt`, open or os.scandir, fails on: is_zipfile and isdir only say no."""
    try:
        attempt(path).close()
    except OSError as error:
        refuse(f"--dataset {name}: {os.path.normpath(path)} cannot be read ({error.strerror}): check its permissions")


def _npz_arrays(name: str, path: str, archive: zipfile.ZipFile) -> tuple[Arrays, tuple[str, ...] | None]:
    there = sorted(member[:-4] for member in archive.namelist() if member.endswith(".npy"))
    prefixes = {"train": "train", "test": "test"}
    if "val_images" in there or "val_labels" in there:
        prefixes["validation"] = "val"
    pairs = {split: (f"{prefix}_images", f"{prefix}_labels") for split, prefix in prefixes.items()}
    missing = [key for pair in pairs.values() for key in pair if key not in there]
    if missing:
        refuse(
            f"--dataset {name}: {path} lacks {', '.join(missing)} (has {', '.join(there) or 'nothing'}): "
            "give it train_images, train_labels, test_images and test_labels"
        )
    wanted = [key for pair in pairs.values() for key in pair] + ["classes"] * ("classes" in there)
    read = {key: _npz_array(name, path, archive, key) for key in wanted}
    classes = read.get("classes")
    if classes is not None and (classes.dtype.kind != "U" or classes.ndim != 1):
        refuse(
            f"--dataset {name}: classes in {path} is {classes.dtype} of shape {classes.shape}: "
            "make it a one-dimensional array of strings, one per class"
        )
    arrays = {split: (read[images], read[labels]) for split, (images, labels) in pairs.items()}
    return arrays, None if classes is None else tuple(map(str, classes))


def _npz_array(name: str, path: str, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(member)
    if dtype.hasobject:
        refuse(
            f"--dataset {name}: {key} in {path} holds pickled Python objects, which are never read because "
            f"they can run code: save it again as a plain array, np.stack({key}) or {key}.astype(...)"
        )
    if math.prod(shape) * dtype.itemsize > archive.getinfo(f"{key}.npy").file_size:
        raise ValueError(f"{key} is shorter than its header says")
    with archive.open(f"{key}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def read_folder(name: str, directory: str) -> tuple[Arrays, tuple[str, ...]]:
    """Read image files from train/<class>/, test/<class>/ and, where there is one, validation/<class>/.

    Classes are the sub-directories of train in sorted order; hidden entries and files that are no images
    by their suffix are passed over.

    Args:
      name: what the user calls the data set, for messages.
      directory: path of the directory.

    Returns:
      The arrays by split, images uint8 [n, height, width, 3], and the class names.

    Raises:
      InputError: a missing directory, a test class that train lacks, an unreadable image, unequal sizes.
    """
    root = os.path.abspath(os.path.expanduser(directory))
    if os.path.isdir(root):
        _check_readable(name, os.path.join(root, "."), os.scandir)
    for needed in (root, os.path.join(root, "train"), os.path.join(root, "test")):
        if not os.path.isdir(needed):
            refuse(
                f"--dataset {name}: there is no directory {needed}: images belong in train/<class>/ and test/<class>/"
            )
    splits = ["train", "test"] + ["validation"] * os.path.isdir(os.path.join(root, "validation"))
    try:
        classes = tuple(_subdirectories(os.path.join(root, "train")))
        return {split: _folder_split(name, os.path.join(root, split), classes) for split in splits}, classes
    except OSError as error:
        refuse(f"--dataset {name}: {error.filename} cannot be read ({error.strerror}): check its permissions")


def _folder_split(name: str, directory: str, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    unknown = [entry for entry in _subdirectories(directory) if entry not in classes]
    if unknown:
        refuse(
            f"--dataset {name}: {directory} has classes that train lacks: {_some(unknown)}: "
            "add training images of them or remove them"
        )
    files = [
        (os.path.join(directory, entry, file), label)
        for label, entry in enumerate(classes)
        for file in _image_files(os.path.join(directory, entry))
    ]
    if not files:
        refuse(
            f"--dataset {name}: there are no images in {directory}: put them into {directory}/<class>/ "
            f"as {' '.join(_IMAGE_SUFFIXES)}"
        )
    first = _decode(name, files[0][0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for index, (file, _) in enumerate(files):
        image = _decode(name, file)
        if image.shape != first.shape:
            refuse(
                f"--dataset {name}: {file} is {size(image)} but {files[0][0]} is {size(first)} "
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


def _decode(name: str, file: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            # Pillow would clip these to white instead of scaling them.
            if image.mode[0] not in "IF":
                return np.asarray(image.convert("RGB"))
            mode = image.mode
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        refuse(f"--dataset {name}: {file} cannot be read as an image ({error}): repair or remove it")
    refuse(f"--dataset {name}: {file} has more than 8 bits per channel (mode {mode}): convert it to 8 bits first")


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
