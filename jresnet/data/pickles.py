"""Pickles of dictionaries, lists, numbers, text and numpy arrays, read without unpickling.

The opcodes are read by the standard library's disassembler, which executes nothing, and interpreted here: no name in a
pickle is ever imported or called. What can be built takes little more memory than the pickle itself.
"""

import math
import pickletools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from jresnet.errors import first_line

# 50,000 images with a file name and two labels each, as CIFAR-100 has them, take 300,000.
_MOST_OPCODES = 2_000_000

_STRINGS = {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


class _Name(str):
    """A name that a pickle would import."""


class _Array:
    """A numpy array or dtype in the making: `numpy` makes it first and sets its state, then its value, later."""

    value: Any = None


class _Reader:
    """The state of reading one pickle: a stack, marks in it, and what was put aside by number."""

    def __init__(self, size: int):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.room = size  # bytes that may be copied while text is encoded: each of the pickle's once

    def step(self, opcode: str, argument: Any) -> None:
        """Do what an opcode says.

        Raises:
          ValueError: it is not one that data need.
        """
        stack = self.stack
        if opcode in _STRINGS:
            stack.append(argument.encode("latin-1") if isinstance(argument, str) else bytes(argument))
        elif opcode in _VALUES:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            stack.append(tuple(self.last(_TUPLES[opcode])))
        elif opcode in _PUTS or opcode == "MEMOIZE":
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif opcode in _GETS:
            stack.append(self.memo[argument])
        elif opcode in _STEPS:
            _STEPS[opcode](self)
        elif opcode == "GLOBAL":
            stack.append(_Name(argument.replace(" ", ".")))
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"{opcode} is no part of data")

    def marked(self) -> list[Any]:
        """Take what is above the latest mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, n: int) -> list[Any]:
        """Take the last `n` values."""
        items = self.stack[-n:]
        del self.stack[-n:]
        return items

    def dictionary(self) -> None:
        items = self.marked()
        self.stack.append({})
        self.set(items)

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for what is no list")
        self.stack[-1].extend(items)

    def set(self, items: list[Any]) -> None:
        # The hash of other keys could take forever.
        if not isinstance(self.stack[-1], dict) or any(type(key) not in (str, bytes, int) for key in items[::2]):
            raise ValueError("items for what is no dictionary, or keys that are no names")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_Name(f"{module}.{name}"))

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no name")
        self.stack.append(self.called(str(name).replace("numpy._core.", "numpy.core."), arguments))

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a function would return, of the few that arrays and bytes are written with."""
        match name, arguments:
            case "numpy.core.multiarray._reconstruct", (_Name() as kind, *_) if kind == "numpy.ndarray":
                return _Array()
            case "numpy.dtype", (str() | bytes() as code, *_):
                made = _Array()
                made.value = _dtype(code)
                return made
            case "numpy.core.numeric._frombuffer", (bytes() as data, _Array() as dtype, tuple() as shape, order):
                return _filled(data, dtype, shape, order == "F")
            case "numpy.core.multiarray.scalar", (_Array() as dtype, bytes() as data):
                return _filled(data, dtype, (), False).item()
            case "_codecs.encode", (str() as text, "latin1" | "latin-1" | b"latin1"):
                self.room -= len(text)
                if self.room < 0:
                    raise ValueError("it would take more memory than its file")
                return text.encode("latin-1")
            case "__builtin__.bytes" | "builtins.bytes", ():
                return b""
            case "__builtin__.bytearray" | "builtins.bytearray", (bytes() as data,):
                return data
        raise ValueError(f"it calls {name[:100]}, which is no part of data")

    def build(self) -> None:
        """Give an array or a dtype its state."""
        state, made = self.stack.pop(), self.stack[-1]
        match made, state:
            case _Array(value=np.dtype() as dtype), (int(), "<" | b"<" | ">" | b">" | "|" | b"|" as order, *_):
                # A version, the byte order, then what only records have.
                made.value = dtype.newbyteorder(">" if order in (">", b">") else "<")
            case _Array(value=None), (int(), tuple() as shape, _Array() as dtype, fortran, bytes() as data):
                made.value = _filled(data, dtype, shape, bool(fortran))
            case _:
                raise ValueError("it gives a state to what is no array")


_STEPS: dict[str, Callable[[_Reader], None]] = {
    "EMPTY_LIST": lambda reader: reader.stack.append([]),
    "EMPTY_DICT": lambda reader: reader.stack.append({}),
    "MARK": lambda reader: reader.marks.append(len(reader.stack)),
    "TUPLE": lambda reader: reader.stack.append(tuple(reader.marked())),
    "LIST": lambda reader: reader.stack.append(reader.marked()),
    "DICT": _Reader.dictionary,
    "APPEND": lambda reader: reader.append(reader.last(1)),
    "APPENDS": lambda reader: reader.append(reader.marked()),
    "SETITEM": lambda reader: reader.set(reader.last(2)),
    "SETITEMS": lambda reader: reader.set(reader.marked()),
    "STACK_GLOBAL": _Reader.name,
    "REDUCE": _Reader.call,
    "BUILD": _Reader.build,
}


def read(content: bytes) -> Any:
    """What a pickle holds: dict, list, tuple, int, float, bool, None, str, bytes, and numpy arrays of numbers.

    Text that Python 2 wrote is bytes. The arrays are views of the pickle's bytes.

    Raises:
      ValueError: it is damaged, or holds anything else; what it names is neither imported nor called.
    """
    reader = _Reader(len(content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in text that Python no longer has
            for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
                if number >= _MOST_OPCODES:
                    raise ValueError(f"it has more than {_MOST_OPCODES:,} opcodes")
                reader.step(opcode.name, argument)
        return _finished(reader.stack.pop())
    except (LookupError, TypeError, ArithmeticError, RecursionError, MemoryError, AttributeError) as error:
        raise ValueError(f"no pickle, or a damaged one ({first_line(error)})") from None


def _finished(value: Any) -> Any:
    """A value of which the arrays are made, two levels deep: a dictionary of arrays and lists."""
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, _Array) else item for key, item in value.items()}
    return value


def _dtype(code: str | bytes) -> "np.dtype[Any]":
    """The dtype of numbers that a code such as "u1" names."""
    text = code.decode("latin-1") if isinstance(code, bytes) else code
    if text[:1] not in tuple("biuf") or not text[1:].isdecimal() or len(text) > 3:
        raise ValueError(f"an array of {text[:20]!r}, which are no numbers")
    return np.dtype(text)


def _filled(data: bytes, dtype: _Array, shape: tuple[Any, ...], fortran: bool) -> np.ndarray:
    """An array of these bytes, of which it must account for all."""
    kind = dtype.value
    if not isinstance(kind, np.dtype) or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise ValueError("an array without a dtype, or of an impossible shape")
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of shape {shape[:8]} in {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
