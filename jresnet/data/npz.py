"""Arrays in .npz archives: nothing in them is unpickled, and none takes more memory than its file accounts for."""

import math
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from jresnet.data import memory
from jresnet.errors import InputError, first_line

DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip
"""What `read_array` and zipfile raise for a damaged archive."""

# Images compress to a tenth at best, and sorted labels, which compress better, are small; deflate's limit is 1032.
_LARGE, _MOST_COMPRESSED = 2**28, 100


def read_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Read the array `key` from an open archive.

    Raises:
      InputError: the array holds pickled objects, or takes more memory than the machine has or its file accounts for.
      One of DAMAGED: the archive or the array is damaged.
    """
    member = archive.getinfo(f"{key}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is compressed in a way that numpy does not write")
    with archive.open(member) as file:
        shape, dtype = _header(file)
    if dtype.hasobject:
        raise InputError(
            f"{key} in {archive.filename} holds pickled Python objects, which are never read because "
            f"they can run code: save it again as a plain array, np.stack({key}) or {key}.astype(...)"
        )
    # numpy would allocate memory for the whole shape first. Elements of no bytes count too, as loops run over them.
    if not all(0 <= side < 2**31 for side in shape) or math.prod(shape) * max(dtype.itemsize, 1) > member.file_size:
        raise ValueError(f"{key} is shorter than its header says")
    if member.file_size > _LARGE and member.file_size > _MOST_COMPRESSED * member.compress_size:
        raise InputError(
            f"{key} in {archive.filename} would take {member.file_size:,} bytes of memory, over {_MOST_COMPRESSED} "
            "times as many as in the file: if the file can be trusted, write it again with np.savez"
        )
    memory.check(f"{key} in {archive.filename}", member.file_size)
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype in the header of an .npy file, a literal of Python."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # Python's tokenizer and parser have errors of their own
        raise ValueError(first_line(error)) from None
    return shape, dtype
