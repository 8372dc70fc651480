"""Data sets in files of arrays: .npz in MedMNIST's layout."""

import os
import zipfile
from functools import partial

from jresnet.data import npz
from jresnet.data.contents import Contents
from jresnet.data.files import check_readable
from jresnet.errors import InputError, first_line


def read_npz(file: str) -> Contents:
    """Read a file in MedMNIST's layout: {train,val,test}_{images,labels}; `val` and `classes` are optional.

    Raises:
      InputError: a missing file or array, pickled objects (never unpickled), or a damaged file.
    """
    path = os.path.abspath(os.path.expanduser(file))
    if not os.path.isfile(path):
        raise InputError(f"there is no file {path}: give the path of an .npz file after npz:")
    check_readable(path, open)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an .npz file, or a truncated one: write it with np.savez")
    try:
        with zipfile.ZipFile(path) as archive:
            return _npz_arrays(path, archive)
    except InputError:
        raise
    except npz.DAMAGED as error:
        raise InputError(f"{path} is damaged ({first_line(error)}): copy or write it again") from None


def _npz_arrays(path: str, archive: zipfile.ZipFile) -> Contents:
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
        return Contents(arrays, None)
    classes = read("classes")
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise InputError(
            f"classes in {path} is {classes.dtype} of shape {classes.shape}: "
            "make it a one-dimensional array of strings, one per class"
        )
    return Contents(arrays, tuple(map(str, classes)))
