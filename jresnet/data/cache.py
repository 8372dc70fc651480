"""Decoded data cached in the user's cache directory, verified by size and digest before use."""

import hashlib
import json
import math
import pathlib
import shutil
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import rich.console

from jresnet.data import npz
from jresnet.data.mapped import Images, MappedImages, pieces
from jresnet.data.progress import tracked, warn
from jresnet.errors import CannotWrite
from jresnet.records.files import OLD, atomic_write, cache_directory, parse_json, sweep, write_json, writing


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
        path, record = _paths(f"{name}.npz")
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
    path, record = _paths(f"{name}.npz")
    try:
        _prepare()
        with atomic_write(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stubs take names for allow_pickle
        # Last: if two processes write at once, `load` rejects a file that is not the recorded one.
        write_json(record, {"size": path.stat().st_size, "sha256": digest([path])})
    except CannotWrite as error:
        warn(f"decoded images are not cached, and will be decoded again: {error}")


def load_images(
    name: str, shape: tuple[int, ...], mapped: bool, console: rich.console.Console | None = None
) -> tuple[Images, list[int]] | None:
    """The images, uint8 of this shape, and the refused rows that `store_images` has stored under `name`.

    None if there are none or the file differs from what was written. The images are a copy in memory, or with `mapped`
    stay in the file. All of it is read in either case; the console shows how far that is.
    """
    try:
        path, record = _paths(f"{name}.uint8")
        stored = parse_json(record.read_bytes())
        refused = stored["refused"]
        if path.stat().st_size != math.prod(shape) or not set(refused) <= set(range(shape[0])):
            return None
        images = MappedImages(path, shape) if mapped else np.fromfile(path, np.uint8).reshape(shape)
        sha256 = hashlib.sha256()
        for piece in tracked(pieces(images), len(images), "verifying decoded images", console):
            sha256.update(piece.data)
        return (images, refused) if sha256.hexdigest() == stored["sha256"] else None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        CannotWrite,
    ):  # the record may hold any JSON; InputError is a ValueError
        return None


def store_images(name: str, images: Iterable[np.ndarray], refused: Collection[int]) -> pathlib.Path:
    """Store images, one at a time, and the rows of those without pixels, which are known when the last is taken.

    Returns the file, which holds their pixels and nothing else.

    Raises:
      CannotWrite: the cache cannot be written.
    """
    path, record = _paths(f"{name}.uint8")
    _prepare()
    sha256 = hashlib.sha256()
    with atomic_write(path) as file:
        for image in images:
            pixels = np.ascontiguousarray(image).data
            sha256.update(pixels)
            file.write(pixels)
    # Last, as in `store`; processes that decode equal files write equal files.
    write_json(record, {"sha256": sha256.hexdigest(), "refused": sorted(refused)})
    return path


def free() -> int:
    """Bytes that are free on the disk of the cache; CannotWrite if it cannot be written."""
    _prepare()
    with writing(directory()):
        return shutil.disk_usage(directory()).free


def directory() -> pathlib.Path:
    """The directory of decoded data; CannotWrite if there is no cache."""
    if (caches := cache_directory()) is None:
        raise CannotWrite("there is no directory for caches: set XDG_CACHE_HOME to one that can be written")
    return caches / "datasets"


def _prepare() -> None:
    """Make the directory, and remove what killed processes have left there."""
    with writing(directory()):
        directory().mkdir(parents=True, exist_ok=True)
    sweep(directory(), OLD)


def _paths(file: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The file of the data, and the file of its digest."""
    return directory() / file, (directory() / file).with_suffix(".json")
