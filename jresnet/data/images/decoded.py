"""Image files -> one array: decoded in parallel, once for equal files, into memory or, if that is short, a file."""

import hashlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import rich.console

from jresnet.data import cache, memory
from jresnet.data.images import image_cache
from jresnet.data.mapped import Images, MappedImages
from jresnet.data.progress import tracked, warn
from jresnet.errors import CannotWrite, InputError
from jresnet.records.environment import cpu_cores
from jresnet.records.files import cache_directory

T = TypeVar("T")
R = TypeVar("R")

MAPPED_SHARE = 0.25
"""Images that would take more than this share of the available memory stay in a file: others are copied when some are
held out, and once more by training."""
# Seconds of decoding that are worth a file in the cache, if it takes at most this share of what the disk has free.
_WORTH_SECONDS, _WORTH_SHARE = 2.0, 0.25
# Each thread holds one image as stored, which can be far larger than as used, and takes addresses for its stack.
_MOST_THREADS = 8
# Blocks of items that may wait for each thread, and pixels of the images in a block: small ones cost more to hand over
# than to decode.
_AHEAD, _BLOCK_BYTES, _BLOCK = 2, 2**20, 16


def decode_files(
    files: Sequence[str],
    decode: Callable[[str], np.ndarray],
    image_size: tuple[int, int],
    settings: str,
    console: rich.console.Console | None,
) -> tuple[Images, dict[int, str]]:
    """Decode image files, or read from the cache what was decoded from equal files before.

    Args:
      files: paths, in the order of the result.
      decode: path -> uint8 [height, width, 3]; called by several threads. InputError for a file that it refuses.
      image_size: (height, width) in pixels.
      settings: a text that decides, with the files' contents and Pillow's version, what `decode` returns.
      console: where to show progress; None for nowhere.

    Returns:
      uint8 [files, height, width, 3], in a file of the cache if they would take more than MAPPED_SHARE of the available
      memory; and index -> message for each file that `decode` refused, whose pixels are zeros.

    Raises:
      InputError: the images fit neither the memory nor the disk, or their files change meanwhile.
      CannotWrite: the images need a file, which cannot be written.
    """
    shape = (len(files), *image_size, 3)
    mapped = math.prod(shape) > MAPPED_SHARE * memory.available()
    stamps = [*map(_stamp, files)]
    name = _name(files, image_size, settings, console)
    if (stored := image_cache.load(name, shape, mapped, console)) is not None:
        images, rows = stored
        refused = {row: _decoded(decode, files[row]) for row in rows}
        reasons = {row: reason for row, reason in refused.items() if isinstance(reason, str)}
        if len(reasons) == len(rows):
            return images, reasons
    reasons = {}
    decoded = _decode_all(files, decode, shape, reasons, console)
    if mapped:
        return _into_file(name, shape, decoded, reasons, lambda: [*map(_stamp, files)] == stamps), reasons
    images, started = np.empty(shape, np.uint8), time.perf_counter()
    for row, image in enumerate(decoded):
        images[row] = image
    worth = time.perf_counter() - started >= _WORTH_SECONDS and cache_directory() is not None
    if worth and [*map(_stamp, files)] == stamps:
        try:
            if images.nbytes <= _WORTH_SHARE * cache.free():
                image_cache.store(name, images, reasons)
        except CannotWrite as error:
            warn(f"decoded images are not cached, and will be decoded again: {error}")
    return images, reasons


def in_parallel(
    function: Callable[[T], R], items: Sequence[T], what: str, console: rich.console.Console | None
) -> list[R]:
    """`function` of each item, in order, by as many threads as there are cores; `what` names the work on the console.

    An exception ends it: the first in the order of the items is raised.
    """
    return list(tracked(_in_order(function, items, _BLOCK), len(items), what, console))


def _in_order(function: Callable[[T], R], items: Sequence[T], block: int) -> Iterator[R]:
    """`function` of each item, by threads that are at most a few blocks of items ahead of what is taken."""
    threads = min(cpu_cores(), _MOST_THREADS)

    def run(start: int) -> list[R]:
        return [function(item) for item in items[start : start + block]]

    waiting: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(items), block):
                waiting.append(pool.submit(run, start))
                if len(waiting) > _AHEAD * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_all(
    files: Sequence[str], decode: Callable[[str], np.ndarray], shape: tuple[int, ...], reasons: dict[int, str],
    console: rich.console.Console | None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """The images of all files in order; those that are refused are zeros, and their messages go into `reasons`."""
    nothing = np.zeros(shape[1:], np.uint8)
    block = max(1, min(64, _BLOCK_BYTES // nothing.nbytes))
    decoded = _in_order(partial(_decoded, decode), files, block)
    for row, image in enumerate(tracked(decoded, len(files), "decoding images", console)):
        if isinstance(image, str):
            reasons[row] = image
        yield nothing if isinstance(image, str) else image


def _decoded(decode: Callable[[str], np.ndarray], file: str) -> np.ndarray | str:
    """The image of a file, or why it is refused."""
    try:
        return decode(file)
    except InputError as error:
        return str(error)


def _into_file(
    name: str,
    shape: tuple[int, ...],
    decoded: Iterator[np.ndarray],
    reasons: dict[int, str],
    unchanged: Callable[[], bool],
) -> MappedImages:
    """Write images into a file of the cache as they are decoded, and map it."""

    def images() -> Iterator[np.ndarray]:
        yield from decoded
        if not unchanged():
            raise InputError("its files change while they are read: start again when they do not")

    try:
        _check_room(shape)
        return MappedImages(image_cache.store(name, images(), reasons), shape)
    except CannotWrite as error:
        raise CannotWrite(
            f"{error}, or set XDG_CACHE_HOME: {_words(shape)}, over {MAPPED_SHARE:.0%} of the available memory, need it"
        ) from None


def _check_room(shape: tuple[int, ...]) -> None:
    """Raise InputError unless images that are too large for the memory fit the disk and the process's addresses."""
    need, remedy = math.prod(shape), "lower --image-size or take fewer images"
    left = memory.in_words(memory.available())
    if need > memory.address_space():
        raise InputError(f"{_words(shape)} of memory, and {left} are available: {remedy}")
    if need > (free := cache.free()):
        raise InputError(
            f"{_words(shape)}, {left} of memory are available, and {cache.directory()}, from where they could be read, "
            f"has {memory.in_words(free)} free: make room there, set XDG_CACHE_HOME to a larger disk, {remedy}"
        )


def _words(shape: tuple[int, ...]) -> str:
    images, height, width, _ = shape
    return f"{images:,} images of {height} x {width} need {memory.in_words(math.prod(shape))}"


def _name(
    files: Sequence[str], image_size: tuple[int, int], settings: str, console: rich.console.Console | None
) -> str:
    """The name in the cache of what is decoded from files of these contents, in this order, with these settings."""
    from PIL import __version__  # as another version may decode otherwise

    digest = hashlib.sha256(repr((settings, image_size, __version__)).encode())
    for of_file in in_parallel(_digest, files, "reading images", console):
        digest.update(of_file)
    return f"folder-{digest.hexdigest()}"


def _digest(file: str) -> bytes:
    """SHA-256 of a file's content; of no content if it cannot be read, as `decode` will find."""
    try:
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").digest()
    except OSError:
        return bytes(32)


def _stamp(file: str) -> tuple[int, int] | None:
    """What changes when a file does: its size in bytes and its time of modification."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
