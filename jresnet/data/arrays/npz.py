"""Arrays in .npz archives and .npy files: none is unpickled, or takes more memory than its file accounts for."""

import contextlib
import lzma
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from jresnet.data import memory
from jresnet.data.files import readable
from jresnet.errors import InputError, first_line

DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, TypeError, LookupError,
    ArithmeticError, RuntimeError,
)  # fmt: skip
"""What `read_array` and zipfile raise for a damaged archive."""

# Images compress to a tenth at best, and sorted labels, which compress better, are small; deflate's limit is 1032.
_LARGE, _MOST_COMPRESSED, _DEFLATE = 2**28, 100, 1032
_SUFFIX = ".npy"


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what damage raises in the block into an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} does not fit into memory: give fewer images") from None
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    except DAMAGED as error:
        raise InputError(f"{path} is damaged ({first_line(error)[:200]}): copy or write it again") from None


def names_in(directory: str) -> list[str]:
    """The names of the .npy files in a directory, without the suffix.

    Raises:
      InputError: the directory cannot be read.
    """
    with readable(directory), os.scandir(directory) as entries:
        return sorted(entry.name[:-4] for entry in entries if entry.name.endswith(_SUFFIX) and entry.is_file())


def read_file(path: str) -> np.ndarray:
    """Read the array of an .npy file.

    Raises:
      InputError: the file cannot be read, is damaged, or holds what `read_array` refuses.
    """
    with reading(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        shape, dtype = _header(file)
        _check(os.path.basename(path).removesuffix(_SUFFIX), path, shape, dtype, size)
        file.seek(0)
        return _array(file)


def read_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Read the array `key` from an open archive.

    Raises:
      InputError: the array holds pickled objects or records, is encrypted or there twice, or takes more memory than the
        machine has or its file accounts for.
      One of DAMAGED: the archive or the array is damaged.
    """
    where, name = f"{key} in {archive.filename}", f"{key}{_SUFFIX}"
    member = archive.getinfo(name)
    if archive.namelist().count(name) > 1:
        raise InputError(f"{where} is there twice: write the file again with one array of that name")
    if member.flag_bits & 1:
        raise InputError(f"{where} is encrypted: write it again with np.savez")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is compressed in a way that numpy does not write")
    _check_sizes(where, member, os.path.getsize(str(archive.filename)))
    with archive.open(member) as file:
        shape, dtype = _header(file)
    _check(key, where, shape, dtype, member.file_size)
    with archive.open(member) as file:
        return _array(file)


def _check_sizes(where: str, member: zipfile.ZipInfo, size: int) -> None:
    """Refuse sizes in an archive's directory that cannot be, or are a bomb's; `size` is that of the archive's file."""
    if member.file_size > _LARGE and member.file_size > _MOST_COMPRESSED * member.compress_size:
        raise InputError(
            f"{where} would take {member.file_size:,} bytes of memory, over {_MOST_COMPRESSED} "
            "times as many as in the file: if the file can be trusted, write it again with np.savez"
        )
    memory.check(where, member.file_size)
    # Deflate's first bytes are its tables, so that a few bytes may hold a little more than its limit says.
    if member.compress_size > size or member.file_size > (member.compress_size + 64) * _DEFLATE:
        raise ValueError(f"{where} has sizes in the archive's directory that cannot be")


def _check(key: str, where: str, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    """Refuse an array that cannot be or is not read; `size` is that of its header and elements in bytes."""
    if dtype.hasobject:
        raise InputError(
            f"{where} holds pickled Python objects, which are never read because "
            f"they can run code: save it again as a plain array, np.stack({key}) or {key}.astype(...)"
        )
    if dtype.kind not in "biufcSU" or dtype.subdtype:
        raise InputError(
            f"{where} holds {str(dtype)[:100]}, neither numbers nor text: save it with another .astype(...)"
        )
    # numpy would allocate memory for the whole shape first. Elements of no bytes count too, as loops run over them.
    plain = all(type(side) is int and 0 <= side < 2**31 for side in shape)
    if not plain or math.prod(shape) * max(dtype.itemsize, 1) > size:
        raise ValueError(f"{key} is shorter than its header says, or has no possible shape")
    memory.check(where, size)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype in the header of an .npy file, a literal of Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers as Python 2 wrote them, and of dtypes in old spelling
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
    except Exception as error:  # Python's tokenizer and parser have errors of their own
        raise ValueError(first_line(error)) from None
    return shape, dtype


def _array(file: IO[bytes]) -> np.ndarray:
    """Read an array whose header has been checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.lib.format.read_array(file, allow_pickle=False)
