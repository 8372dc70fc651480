"""Image files and arrays of images: from whatever is stored to 8-bit RGB pixels of a stated size."""

import contextlib
import ctypes
import functools
import io
import os
import pathlib
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jresnet.data.images import color, whole
from jresnet.data.images.color import Color
from jresnet.errors import InputError, first_line

FORMATS = (
    "PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "CUR", "ICNS", "PCX",
    "SGI", "DDS", "QOI", "PSD", "SUN", "TGA",
)  # fmt: skip
"""Formats of Pillow's, in the order in which they are tried: the last is known by nothing but plausible numbers.

Rasters that Pillow decodes itself. Left out: EPS and WMF, for which it starts programs; BUFR, GRIB, HDF5 and
MPEG, which it cannot decode; FITS, SPIDER and others whose levels have no range; XBM and XPM, which are source code.
"""
# What the pictures after the first are: frames or pages. ICO, ICNS and PSD hold one picture in several sizes or layers.
_SEVERAL = ("PNG", "GIF", "WEBP", "TIFF", "MPO", "AVIF")
_ORIENTATION = 0x0112
_LARGEST_FILE = 2**29
_LARGE = 2**25  # pixels
_one_large = threading.Lock()
_thread = threading.local()

Note = Callable[[str], None]


def decode(file: str | os.PathLike[str] | Any, background: Color = (255, 255, 255)) -> np.ndarray:
    """The pixels of an image as a viewer shows them, turned as its EXIF data say: uint8 [height, width, 3].

    By one thread at a time; several may call `pixels` in one block of `without_warnings`.

    Args:
      file: path, or a Pillow image.
      background: red, green and blue levels behind transparent pixels.

    Raises:
      InputError: it is no readable image.
    """
    try:
        with without_warnings():
            file = os.fspath(file) if isinstance(file, os.PathLike) else file
            return pixels(file, background, lambda note: None)
    except InputError as error:
        name = file if isinstance(file, str) else "the image"
        raise InputError(f"{name} cannot be read as an image ({error}): repair or remove it") from None


def pixels(file: str | Any, background: Color, note: Note) -> np.ndarray:
    """`decode` for many files, in a block of `without_warnings`: what is to be said of a file is given to `note`.

    Raises:
      InputError: it is no readable image; the message is the reason alone.
    """
    with _reasons(note):
        if not isinstance(file, str):
            return _upright(color.rgb(file, background), _orientation(file, note))
        data = _content(file)
        with _open(io.BytesIO(data)) as image:
            whole.check(image.format, data)
            with _one_large if image.width * image.height > _LARGE else contextlib.nullcontext():
                shown = color.rgb(image, background)
                if image.format == "PNG" and _may_lack_pixels(image):
                    whole.check_png_pixels(data)
                if image.format in _SEVERAL and getattr(image, "is_animated", False):
                    note("of several pictures, frames or pages the first is read")
                return _upright(shown, _orientation(image, note))


def _may_lack_pixels(image: Any) -> bool:
    """Whether the last row of a PNG, in which Pillow leaves 0 where there is none, needs a second look."""
    last = image.crop((0, image.height - 1, *image.size))
    return image.info.get("interlace") or not np.asarray(last).any()


def image_size(file: str) -> tuple[int, int]:
    """(height, width) of an image as `decode` would return it, from its header.

    Raises:
      InputError: it has no header of an image; the message is the reason alone.
    """
    with _reasons(lambda note: None), _stream(file) as stream, _open(stream) as image:
        size = image.height, image.width
        if image.format == "TIFF":  # Pillow has turned it
            return size
        # Pillow would decode a PNG to look for EXIF data behind its pixels.
        if image.format == "PNG" and not _mentions_exif(stream):
            return size
        turned = _orientation(image, lambda note: None) > 4
        return size[::-1] if turned else size


def _mentions_exif(stream: Any) -> bool:
    at = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(at)
    return any(word in data for word in (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp"))


def _stream(file: str) -> Any:
    """Open a regular file; others, as pipes and devices, might never end."""
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no file")
    if status.st_size == 0:
        raise ValueError("it is empty")
    if status.st_size > _LARGEST_FILE:
        raise ValueError(f"it has {status.st_size:,} bytes, over the limit of {_LARGEST_FILE:,}")
    return open(file, "rb")


def _content(file: str) -> bytes:
    with _stream(file) as stream:
        data: bytes = stream.read()
    return data


def _open(stream: Any) -> Any:
    from PIL import Image

    Image.init()
    _silence_libtiff()
    image = Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    # Pillow itself refuses twice as many, and only warns of these.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels exceed the limit of {limit:,}")
    return image


@functools.cache
def _silence_libtiff() -> None:
    """Keep libtiff from writing lines on stderr that name no file; Pillow raises an error besides.

    Pillow has no switch for it. Where the library cannot be found, as outside Linux, it goes on writing.
    """
    with contextlib.suppress(OSError, AttributeError):
        maps = pathlib.Path("/proc/self/maps").read_text()
        for path in {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "libtiff" in line}:
            ctypes.CDLL(path).TIFFSetErrorHandler(None)


def _orientation(image: Any, note: Note) -> int:
    """EXIF's orientation, 1 to 8; 1 is upright."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's reader of EXIF has errors of several kinds for damage
        note("damaged EXIF data, taken as upright")
        return 1
    return value if value in range(1, 9) else 1


def _upright(shown: np.ndarray, orientation: int) -> np.ndarray:
    """Turn [height, width, 3] as EXIF's orientation says: where the first row and column of what is stored belong."""
    if orientation > 4:
        shown = shown.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        shown = shown[::-1]
    if orientation in (2, 3, 6, 7):
        shown = shown[:, ::-1]
    return np.ascontiguousarray(shown)


@contextlib.contextmanager
def _reasons(note: Note) -> Iterator[None]:
    """Make any error one of `InputError`, and give Pillow's warnings in this thread to `note`."""
    _thread.note = note
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders have their own errors for damage, as struct.error
        raise InputError(_reason(error)) from None
    finally:
        _thread.note = None


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keep Pillow's warnings, which name no file, from being printed in this block, whichever thread decodes.

    To be entered once around all threads, as Python's filters of warnings are those of the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\.")
        show = warnings.showwarning

        def shown(message: Warning | str, *rest: Any, **options: Any) -> None:
            note = getattr(_thread, "note", None)
            if note is None:
                show(message, *rest, **options)
            else:
                note(f"Pillow warns: {' '.join(str(message).split())}")

        warnings.showwarning = shown
        yield
