"""Many image files decoded in parallel into one array."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import rich.console

from jresnet.data import npz
from jresnet.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode_files(
    files: Sequence[str],
    decode: Callable[[str], np.ndarray],
    image_size: tuple[int, int],
    settings: str,
    console: rich.console.Console | None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode files in threads: uint8 [files, height, width, 3], and the reason for each index that was refused.

    Args:
      files: paths.
      decode: path -> uint8 [height, width, 3]; InputError refuses a file, whose pixels are then 0. Thread-safe.
      image_size: (height, width) of every image.
      settings: a text that, with the files' contents, determines the pixels.
      console: where to show progress; None for nowhere.

    Raises:
      InputError: the images together exceed the machine's memory.
    """
    height, width = image_size
    npz.check_memory(f"{len(files):,} images of {height} x {width}", len(files) * height * width * 3)
    images = np.zeros((len(files), height, width, 3), np.uint8)
    refused: dict[int, str] = {}

    def fill(index: int) -> None:
        try:
            images[index] = decode(files[index])
        except InputError as error:
            refused[index] = str(error)

    in_parallel(fill, range(len(files)), "images", console)
    return images, dict(sorted(refused.items()))


def select(images: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """The images of a slice or of indices."""
    return images[rows]


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, console: rich.console.Console | None
) -> list[Result]:
    """function(item) for each item, in order, computed by threads."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return list(threads.map(function, items))
