"""Pickles of dictionaries, lists, numbers, text and numpy arrays, read without unpickling: see `pickles`."""

import io
import math
from typing import Any

import numpy as np

from jresnet.data.pickles import Global, Machine

__all__ = ["read"]

# The few that arrays and bytes are written with.
_NAMES = {
    "numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer", "_codecs.encode", "builtins.bytes", "builtins.bytearray",
}  # fmt: skip


def read(content: bytes) -> Any:
    """What a pickle holds: dict, list, tuple, int, float, bool, None, str, bytes, and numpy arrays of numbers.

    Raises:
      ValueError: it is damaged, or holds anything else; what it names is neither imported nor called.
    """
    value = _Arrays(len(content)).read(io.BytesIO(content))
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, _Array) else item for key, item in value.items()}
    return value


class _Array:
    """A numpy array or dtype in the making: `numpy` makes it first and sets its state, then its value, later."""

    value: Any = None


class _Arrays(Machine):
    """Follows a pickle of arrays. Text is copied when it is encoded: as much as the pickle has bytes."""

    def check_name(self, name: str) -> None:
        if name not in _NAMES:
            raise ValueError(f"it names {name[:100]}, which is no part of data")

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        match name, arguments:
            case "numpy.core.multiarray._reconstruct", (Global("numpy.ndarray"), *_):
                return _Array()
            case "numpy.dtype", (str() as code, *_):
                made = _Array()
                made.value = _dtype(code)
                return made
            case "numpy.core.numeric._frombuffer", (data, _Array() as dtype, tuple() as shape, order):
                return self.filled(data, dtype, shape, order == "F")
            case "numpy.core.multiarray.scalar", (_Array() as dtype, data):
                return self.filled(data, dtype, (), False).item()
            case "_codecs.encode", (str() as text, "latin1" | "latin-1"):
                return self.encoded(text)
            case "builtins.bytes", ():
                return b""
            case "builtins.bytearray", (bytes() as data,):
                return data
        raise ValueError(f"it calls {name} in a way that is no part of data")

    def put_item(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if type(key) not in (str, bytes) and not (type(key) is int and 0 <= key < 2**32):
            raise ValueError("an item of a dictionary under what is no name")
        table[key] = value

    def set_state(self, value: Any, state: Any) -> None:
        match value, state:
            case _Array(value=np.dtype() as dtype), (int(), "<" | ">" | "|" as order, *_):
                # A version, the byte order, then what only records have.
                value.value = dtype.newbyteorder(">" if order == ">" else "<")
            case _Array(value=None), (int(), tuple() as shape, _Array() as dtype, fortran, data):
                value.value = self.filled(data, dtype, shape, bool(fortran))
            case _:
                raise ValueError("a state for what is no array")

    def encoded(self, text: str) -> bytes:
        """The bytes that Python 2, or an old protocol, wrote as text."""
        self.spend(len(text))
        return text.encode("latin-1")

    def filled(self, data: Any, dtype: _Array, shape: tuple[Any, ...], fortran: bool) -> np.ndarray:
        """An array of these bytes, of which it must account for all; a view, except of text."""
        kind = dtype.value
        if not isinstance(kind, np.dtype) or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
            raise ValueError("an array without a dtype, or of an impossible shape")
        if math.prod(shape) * kind.itemsize != len(data):
            raise ValueError(f"an array of shape {shape[:8]} in {len(data)} bytes")
        data = self.encoded(data) if isinstance(data, str) else data
        return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _dtype(code: str) -> "np.dtype[Any]":
    """The dtype of numbers that a code such as "u1" names."""
    if code[:1] not in tuple("biuf") or not code[1:].isdecimal() or len(code) > 3:
        raise ValueError(f"an array of {code[:20]!r}, which are no numbers")
    return np.dtype(code)
