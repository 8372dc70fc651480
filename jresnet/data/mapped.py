"""Images that stay in a file: data sets that are larger than the memory, or would take too much of it."""

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from jresnet.errors import InputError, by

# What is read at once: enough to hide what a call costs.
_PIECE_BYTES = 2**22


class MappedImages:
    """Images in a file that is mapped into memory, or some of them; read where they are used, by indexing.

    Indexing and `np.asarray` copy what is asked for into memory; `select` copies nothing. The file stays open: it may
    be removed or replaced, but not changed. Pickling keeps its path, not its pixels.

    Args:
      path: a file of uint8 pixels, and nothing else.
      shape: (images, height, width, 3) of the file.
      rows: which of its images, int64 [n], in this order; None for all.
      file: the file, if it is mapped already.

    Raises:
      InputError: the file is gone, or shorter; in an unpickled object at the first access.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, ...],
        rows: np.ndarray | None = None,
        file: np.ndarray | None = None,
    ):
        self._path, self._stored = os.path.abspath(path), shape
        self._rows = np.arange(shape[0]) if rows is None else rows
        self._file = self._mapped() if file is None else file

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, height, width, 3)."""
        return (len(self._rows), *self._stored[1:])

    @property
    def nbytes(self) -> int:
        """Bytes that the images would take in memory."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images at an index, a slice, indices or a mask of the first axis, copied into memory."""
        if self._file is None:
            self._file = self._mapped()
        taken: np.ndarray = self._file[self._rows[rows]]
        return taken if taken.base is None else taken.copy()  # not a view of the file

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images in a file cannot become an array without being copied")
        return self[:].astype(dtype or self.dtype, copy=False)

    def select(self, rows: np.ndarray | slice) -> "MappedImages":
        """The images of a slice, of indices or of a mask, still in the file."""
        return MappedImages(self._path, self._stored, self._rows[rows], self._file)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_file": None}

    def _mapped(self) -> np.ndarray:
        try:
            return np.asarray(np.memmap(self._path, np.uint8, "r", shape=self._stored))
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path} cannot be mapped ({error}): start again, and it is made anew") from None


Images = np.ndarray | MappedImages
"""uint8 [n, height, width, 3], in memory or in a file."""


def size(images: Images) -> str:
    """ "height x width" of [..., height, width, channels], for messages."""
    return by(images.shape[-3:-1])


def select(images: Images, rows: np.ndarray | slice) -> Images:
    """The images of a slice, of indices or of a mask; those in a file stay there."""
    return images.select(rows) if isinstance(images, MappedImages) else images[rows]


def pieces(images: Images) -> Iterator[np.ndarray]:
    """All images in order, a few MB at a time, each piece contiguous in memory."""
    size = max(1, _PIECE_BYTES // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[start : start + size])
