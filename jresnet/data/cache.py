"""Arrays cached in the user's cache directory, verified by size and digest before use."""

import hashlib
import json
import logging
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from jresnet.data import npz
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
    if (paths := _paths(name)) is None:
        return None
    path, record = paths
    try:
        stored = json.loads(record.read_text())
        if path.stat().st_size != stored["size"] or digest([path]) != stored["sha256"]:
            return None
        with zipfile.ZipFile(path) as archive:
            keys = [member.removesuffix(".npy") for member in archive.namelist()]
            return {key: npz.read_array(archive, key) for key in keys}
    except (*npz.DAMAGED, TypeError):  # the record may hold any JSON; InputError is a ValueError
        return None


def store(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Store arrays under `name`; if the cache cannot be written, only a warning says so, as it only saves time."""
    if (paths := _paths(name)) is None:
        return
    path, record = paths
    try:
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, OLD)
        with atomic_write(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stubs take names for allow_pickle
        # Last: if two processes write at once, `load` rejects a file that is not the recorded one.
        write_json(record, {"size": path.stat().st_size, "sha256": digest([path])})
    except CannotWrite as error:
        logging.getLogger(__name__).warning(f"decoded images are not cached, and will be decoded again: {error}")


def _paths(name: str) -> tuple[pathlib.Path, pathlib.Path] | None:
    """The file of the arrays, and the file of its size and digest; None if there is no cache."""
    if (directory := cache_directory()) is None:
        return None
    return directory / "datasets" / f"{name}.npz", directory / "datasets" / f"{name}.json"
