"""What `Classifier.predict` accepts: files, images of Pillow and arrays, each brought into the network's size."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np

from jresnet.config import Resize
from jresnet.data.images import decoded, image_file
from jresnet.data.images.color import Color
from jresnet.data.images.resize import resized
from jresnet.data.progress import warn
from jresnet.errors import InputError, by
from jresnet.records.files import local_path

_SHAPES = "(height, width), (height, width, 1) or (height, width, 3)"


@dataclasses.dataclass(frozen=True)
class Form:
    """How images become what a network takes.

    Attributes:
      image_size: (height, width) of the network's images in pixels.
      resize: how images of another size are fitted, see `resized`; None: they are refused.
      background: red, green and blue levels behind transparent pixels and around padded images.
    """

    image_size: tuple[int, int]
    resize: Resize | None
    background: Color

    def fit(self, image: Any) -> np.ndarray:
        """One image, see `each`, as uint8 [*image_size, 3]; in a block of `image_file.without_warnings`.

        Raises:
          InputError: it is none, or of another size and not to be resized.
        """
        pixels = levels(np.asarray(image)) if is_array(image) else self._decoded(image)
        if pixels.shape[:2] != self.image_size and self.resize is None:
            name = image if is_path(image) else "it"
            raise InputError(
                f"{name} has {by(pixels.shape[:2])} pixels, and the network's images have {by(self.image_size)} and "
                "were not resized: choose how to resize others with --resize crop, pad or stretch"
            )
        return resized(pixels, self.image_size, self.resize or "stretch", self.background)

    def fit_all(self, images: Sequence[Any]) -> "list[np.ndarray | InputError]":
        """Each image as `fit` returns it, or the error that it raises; by threads."""

        def attempt(image: Any) -> np.ndarray | InputError:
            try:
                return self.fit(image)
            except InputError as error:
                return error

        with image_file.without_warnings():
            return decoded.in_parallel(attempt, images, "reading images", None)

    def batches(self, images: Any, size: int) -> Iterator[np.ndarray]:
        """All images, see `each`, as uint8 [n, *image_size, 3] with n up to `size`; no more are in memory at a time.

        Raises:
          InputError: one of them is none, or of another size and not to be resized.
        """
        if is_array(images) and images.dtype == np.uint8 and images.shape[1:] == (*self.image_size, 3):
            yield from (np.asarray(images[start : start + size]) for start in range(0, len(images), size))
            return
        left, count = each(images), 0
        while piece := list(itertools.islice(left, size)):
            fitted: list[np.ndarray] = []
            for image, result in zip(piece, self.fit_all(piece), strict=True):
                if isinstance(result, InputError):
                    raise result if is_path(image) else InputError(f"image {count + len(fitted)}: {result}")
                fitted.append(result)
            count += len(fitted)
            yield np.stack(fitted)

    def _decoded(self, image: Any) -> np.ndarray:
        if not is_path(image) and not is_pillow(image):
            raise InputError(f"{image!r:.80}: is no image: give a path, an image of Pillow or an array")
        source = os.fspath(local_path(image)) if is_path(image) else image
        name = source if is_path(image) else "it"
        try:
            return image_file.pixels(source, self.background, lambda note: warn(f"{name}: {note}"))
        except InputError as error:
            raise InputError(f"{name} cannot be read as an image ({error}): repair it, or leave it out") from None


def each(images: Any) -> Iterator[Any]:
    """The images in a path, an image of Pillow, an array of one or several, or any iterable of these: one by one."""
    if is_path(images) or is_pillow(images):
        yield images
    elif is_array(images):
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, Iterable) and not isinstance(images, bytes):
        for inner in images:
            yield from each(inner)
    else:
        yield images  # which `Form.fit` refuses


def is_path(image: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether this names a file."""
    return isinstance(image, str | os.PathLike)


def is_array(images: Any) -> bool:
    """Whether this is an array of numpy, JAX or another library, or images in a file."""
    return hasattr(images, "__array__") and not is_pillow(images)


def is_pillow(image: Any) -> bool:
    """Whether this is an image of Pillow."""
    from PIL import Image  # here, as loading a network needs no time for it

    return isinstance(image, Image.Image)


def levels(array: np.ndarray) -> np.ndarray:
    """An array of one image as 8-bit RGB: uint8 [height, width, 3].

    Takes [height, width], [height, width, 1] or [height, width, 3], of uint8 or of floats v from 0 to 1, which become
    v * 255, rounded half up, as those in files of images do. Data sets are read by a rule for all their images together
    (`data.arrays.levels`), which single images do not allow: whether a dark one is of levels or of shares.

    Raises:
      InputError: another shape, dtype or range.
    """
    what = f"it is {array.dtype} of shape {array.shape}"
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)) or not array.size:
        raise InputError(f"{what}: give {_SHAPES}{_remedy(array.shape)}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 1:  # false for NaN
            raise InputError(f"{what}, from {low:.4g} to {high:.4g}: give floats from 0 to 1, or uint8 from 0 to 255")
        array = np.floor(array.astype(np.float64) * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"{what}: give uint8 from 0 to 255, or floats from 0 to 1")
    return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if array.shape[2:] != (3,) else array


def _remedy(shape: tuple[int, ...]) -> str:
    """How an array of another shape may be meant."""
    if len(shape) == 3 and shape[2] in (2, 4):
        return ", without transparency, or PIL.Image.fromarray(image), whose transparency is read"
    if len(shape) == 3 and shape[0] in (1, 3):
        return ": if its channels are first, image.transpose(1, 2, 0)"
    return ", or several along a first axis; gray ones as images[..., None]"
