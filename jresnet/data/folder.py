"""Data sets in folders of image files, one folder for each class."""

import os

import numpy as np
import rich.console

from jresnet.config import Source
from jresnet.data import memory
from jresnet.data.contents import Contents, size
from jresnet.data.files import check_readable
from jresnet.data.images import decode
from jresnet.errors import InputError

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def read_folder(source: Source, console: rich.console.Console | None = None) -> Contents:
    """Read image files from train/<class>/, test/<class>/ and, if it exists, validation/<class>/.

    The classes are the sub-directories of train in sorted order. Hidden entries and files without the suffix
    of an image are skipped. Symbolic links are followed.

    Raises:
      InputError: a missing directory, a class without training directory, an unreadable image, unequal sizes, or
        images that together exceed the machine's memory.
    """
    directory = source.dataset.removeprefix("folder:")
    root = os.path.abspath(os.path.expanduser(directory))
    if os.path.isdir(root):
        check_readable(os.path.join(root, "."), os.scandir)
    for required in (root, os.path.join(root, "train"), os.path.join(root, "test")):
        if not os.path.isdir(required):
            raise InputError(f"there is no directory {required}: images belong in train/<class>/ and test/<class>/")
    splits = ["train", "test"] + ["validation"] * os.path.isdir(os.path.join(root, "validation"))
    try:
        classes = tuple(_subdirectories(os.path.join(root, "train")))
        return Contents({split: _folder_split(os.path.join(root, split), classes) for split in splits}, classes)
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
    first = decode(files[0][0])
    memory.check(f"{len(files):,} images of {size(first)} in {directory}", len(files) * first.nbytes)
    images = np.empty((len(files), *first.shape), np.uint8)
    for index, (file, _) in enumerate(files):
        image = decode(file)
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
