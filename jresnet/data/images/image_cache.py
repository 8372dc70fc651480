"""Decoded images of one size in the cache: a file of their pixels alone, which can stay on disk, verified by digest."""

import hashlib
import math
import pathlib
from collections.abc import Collection, Iterable

import numpy as np
import rich.console

from jresnet.data import cache
from jresnet.data.mapped import Images, MappedImages, pieces
from jresnet.data.progress import tracked
from jresnet.errors import CannotWrite
from jresnet.records.files import atomic_write, parse_json, write_json


def load(
    name: str, shape: tuple[int, ...], mapped: bool, console: rich.console.Console | None = None
) -> tuple[Images, list[int]] | None:
    """The images, uint8 of this shape, and the refused rows that `store` has stored under `name`.

    None if there are none or the file differs from what was written. The images are a copy in memory, or with `mapped`
    stay in the file. All of it is read in either case; the console shows how far that is.
    """
    try:
        path, record = cache.paths(f"{name}.uint8")
        stored = parse_json(record.read_bytes())
        refused = stored["refused"]
        if path.stat().st_size != math.prod(shape) or not set(refused) <= set(range(shape[0])):
            return None
        images = MappedImages(path, shape) if mapped else np.fromfile(path, np.uint8).reshape(shape)
        sha256 = hashlib.sha256()
        for piece in tracked(pieces(images), len(images), "verifying decoded images", console):
            sha256.update(piece.data)
        return (images, refused) if sha256.hexdigest() == stored["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, CannotWrite):  # the record may hold any JSON
        return None


def store(name: str, images: Iterable[np.ndarray], refused: Collection[int]) -> pathlib.Path:
    """Store images, one at a time, and the rows of those without pixels, which are known when the last is taken.

    Returns the file, which holds their pixels and nothing else.

    Raises:
      CannotWrite: the cache cannot be written.
    """
    path, record = cache.paths(f"{name}.uint8")
    cache.prepare()
    sha256 = hashlib.sha256()
    with atomic_write(path) as file:
        for image in images:
            pixels = np.ascontiguousarray(image).data
            sha256.update(pixels)
            file.write(pixels)
    # Last, as in `cache.store`; processes that decode equal files write equal files.
    write_json(record, {"sha256": sha256.hexdigest(), "refused": sorted(refused)})
    return path
