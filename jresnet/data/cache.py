"""The cache of decoded data in the user's cache directory, and arrays in it, verified by size and digest before use.

Images of one size, which may stay in their file, are in `jresnet.data.images.image_cache`.
"""

import hashlib
import json
import pathlib
import shutil
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from jresnet.data.arrays import npz
from jresnet.data.progress import warn
from jresnet.errors import CannotWrite
from jresnet.records.files import OLD, atomic_write, cache_directory, sweep, write_json, writing


def digest(files: Sequence[pathlib.Path]) -> str:
    """SHA-256 hex digest of the names, sizes and contents of files."""
    sha256 = hashlib.sha256()
    for path in files:
        sha256.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: sha256)  # updates the hash that it is given
    return sha256.hexdigest()


def load(name: str) -> dict[str, np.ndarray] | None:
    """Load the arrays stored under `name`; None if there are none or the file differs from what was written.

    The arrays are copies in memory: later changes of the file do not reach them.
    """
    try:
        path, record = paths(f"{name}.npz")
        stored = json.loads(record.read_text())
        if path.stat().st_size != stored["size"] or digest([path]) != stored["sha256"]:
            return None
        with zipfile.ZipFile(path) as archive:
            keys = [member.removesuffix(".npy") for member in archive.namelist()]
            return {key: npz.read_array(archive, key) for key in keys}
    except (*npz.DAMAGED, TypeError, CannotWrite):  # the record may hold any JSON; InputError is a ValueError
        return None


def store(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Store arrays under `name`; if the cache cannot be written, only a warning says so, as it only saves time."""
    if cache_directory() is None:  # which has been said
        return
    path, record = paths(f"{name}.npz")
    try:
        prepare()
        with atomic_write(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stubs take names for allow_pickle
        # Last: if two processes write at once, `load` rejects a file that is not the recorded one.
        write_json(record, {"size": path.stat().st_size, "sha256": digest([path])})
    except CannotWrite as error:
        warn(f"decoded images are not cached, and will be decoded again: {error}")


def free() -> int:
    """Bytes that are free on the disk of the cache; CannotWrite if it cannot be written."""
    prepare()
    with writing(directory()):
        return shutil.disk_usage(directory()).free


def directory() -> pathlib.Path:
    """The directory of decoded data; CannotWrite if there is no cache."""
    if (caches := cache_directory()) is None:
        raise CannotWrite("there is no directory for caches: set XDG_CACHE_HOME to one that can be written")
    return caches / "datasets"


def prepare() -> None:
    """Make the directory, and remove what killed processes have left there."""
    with writing(directory()):
        directory().mkdir(parents=True, exist_ok=True)
    sweep(directory(), OLD)


def paths(file: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The file of the data, and the file of its digest."""
    return directory() / file, (directory() / file).with_suffix(".json")
