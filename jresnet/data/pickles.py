"""Pickles, read without unpickling: their operations are followed, but no name in them is imported or called.

A pickle is a program that names functions and calls them. The standard library's disassembler reads its operations and
executes nothing; a `Machine` follows them. What a name stands for depends on the kind of file, and is a subclass's.
"""

import abc
import dataclasses
import pickletools
import warnings
from collections.abc import Callable
from typing import IO, Any, ClassVar

from jresnet.errors import first_line

__all__ = ["OPERATIONS", "Global", "Inert", "Machine"]

OPERATIONS = 500_000
"""In one pickle, which take seconds. CIFAR-100's training images with names and labels have 250,000, in the oldest
protocol 350,000; a network some 25 for each tensor."""
NAME = 1000
"""Characters of the longest name of a class or function."""

_RENAMED = {
    "__builtin__": "builtins", "copy_reg": "copyreg",  # as Python 2 has them
    "numpy._core.multiarray": "numpy.core.multiarray", "numpy._core.numeric": "numpy.core.numeric",  # as numpy 2
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_IGNORED = {"PROTO", "FRAME", "STOP"}


class Inert:
    """In place of a value that is of no use, such as a set; it takes items, and forgets them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle would import, such as numpy.dtype."""

    name: str


class Machine(abc.ABC):
    """The stack, the marked stacks below it, and the memo of one pickle of protocol 0 to 5 that is followed.

    Numbers, text, bytes, lists and tuples are Python's own; text of Python 2 is str, a character for each byte. No
    value is nested deeper, or takes much more memory, than the pickle is long, unless a subclass copies: see `spend`.
    """

    table: ClassVar[type[dict[Any, Any]]] = dict
    """What dictionaries are read into."""

    def __init__(self, room: int) -> None:
        """`room` is how much may be copied, in the unit of `spend`."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.room = room

    @abc.abstractmethod
    def check_name(self, name: str) -> None:
        """ValueError unless a name such as builtins.bytes stands for what this kind of file has."""

    @abc.abstractmethod
    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a call of a checked name stands for."""

    @abc.abstractmethod
    def put_item(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Set an entry of a table; the hash of a key of any type could take forever."""

    def set_state(self, value: Any, state: Any) -> None:  # noqa: B027
        """Give a value a state, which most need not have."""

    def persistent(self, identity: Any) -> Any:
        """What lies outside of the pickle under a persistent ID."""
        raise ValueError("a persistent ID is no part of data")

    def spend(self, size: int) -> None:
        """Count what is copied, as one value may be on the stack many times; ValueError if it is more than `room`."""
        self.room -= size
        if self.room < 0:
            raise ValueError("it would take more memory than its file")

    def read(self, stream: IO[bytes]) -> Any:
        """The value of the pickle at the stream's position; the stream ends behind it.

        Raises:
          ValueError: it is damaged, too long, no pickle, or holds what the kind of file has not.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in text that Python no longer has
                for number, (operation, argument, _) in enumerate(pickletools.genops(stream)):
                    if number >= OPERATIONS:
                        raise ValueError(f"a pickle of more than {OPERATIONS:,} operations")
                    self._step(operation.name, argument)
            return self.stack.pop()
        except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError) as error:
            raise ValueError(f"no pickle, or a damaged one ({first_line(error)})") from None

    def _step(self, name: str, argument: Any) -> None:
        """Follow one operation."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _IGNORED:
            raise ValueError(f"{name} is no part of data")

    def _marked(self) -> list[Any]:
        """What lies above the last mark, taken away with it."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def _mark(self, _: Any) -> None:
        """Begin a stack above this one."""
        self.below.append(self.stack)
        self.stack = []

    def _push(self, value: Any) -> None:
        """Put a value on the stack, which an argument with `_marked` may have changed."""
        self.stack.append(value)

    def _last(self, count: int) -> list[Any]:
        """So many values, taken away."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def _put(self, place: int) -> None:
        """Remember the value on top."""
        if not 0 <= place < 2**32:
            raise ValueError("an impossible place in the memo")
        self.memo[place] = self.stack[-1]

    def _extend(self, items: list[Any]) -> None:
        """Append to the list on top."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Inert):
            raise ValueError("items for what is no list")

    def _set_items(self, items: list[Any]) -> None:
        """Set keys and values by turns in the table on top."""
        if isinstance(self.stack[-1], dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                self.put_item(self.stack[-1], key, value)
        elif not isinstance(self.stack[-1], Inert):
            raise ValueError("items for what is no dictionary")

    def _push_table(self, _: Any) -> None:
        """In place of keys and values above a mark, the table of them."""
        items = self._marked()
        self._push(self.table())
        self._set_items(items)

    def _push_set(self, _: Any) -> None:
        """In place of what is above a mark, a set, which is of no use."""
        self._marked()
        self._push(Inert())

    def _push_name(self, text: str) -> None:
        """Push a name of the form "module name"."""
        module, _, name = text.partition(" ")
        name = f"{_RENAMED.get(module, module)}.{name}"
        if len(name) > NAME:
            raise ValueError(f"a name of more than {NAME} characters")
        self.check_name(name)
        self._push(Global(name))

    def _call(self, arguments: Any) -> None:
        """In place of a name on the stack, what its call would give."""
        function = self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        self._push(self.called(function.name, arguments))

    def _call_with_words(self, _: Any) -> None:
        """As `_call`, for a class with arguments and keyword arguments above it."""
        self.stack.pop()
        self._call(self.stack.pop())

    def _call_name(self, name: Any) -> None:
        """As `_call`, for a name with arguments above a mark."""
        arguments = tuple(self._marked())
        self._push_name(name)
        self._call(arguments)

    def _call_marked(self, _: Any) -> None:
        """As `_call`, for a class and its arguments above a mark."""
        function, *arguments = self._marked()
        self._push(function)
        self._call(tuple(arguments))

    def _build(self, _: Any) -> None:
        """Give the value below a state that state."""
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)


_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    "MARK": Machine._mark,
    "MEMOIZE": lambda machine, _: machine._put(len(machine.memo)),
    "PUT": Machine._put,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "DUP": lambda machine, _: machine._push(machine.stack[-1]),
    "POP": lambda machine, _: machine.stack.pop() if machine.stack else machine._marked(),
    "POP_MARK": lambda machine, _: machine._marked(),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "LIST": lambda machine, _: machine._push(machine._marked()),
    "APPEND": lambda machine, _: machine._extend(machine._last(1)),
    "APPENDS": lambda machine, _: machine._extend(machine._marked()),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._marked())),
    "TUPLE1": lambda machine, _: machine._push(tuple(machine._last(1))),
    "TUPLE2": lambda machine, _: machine._push(tuple(machine._last(2))),
    "TUPLE3": lambda machine, _: machine._push(tuple(machine._last(3))),
    "EMPTY_DICT": lambda machine, _: machine._push(machine.table()),
    "DICT": Machine._push_table,
    "SETITEM": lambda machine, _: machine._set_items(machine._last(2)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._marked()),
    "EMPTY_SET": lambda machine, _: machine._push(Inert()),
    "FROZENSET": Machine._push_set,
    "ADDITEMS": lambda machine, _: machine._marked(),
    "GLOBAL": Machine._push_name,
    "STACK_GLOBAL": lambda machine, _: machine._push_name(" ".join(machine._last(2))),
    "REDUCE": lambda machine, _: machine._call(machine.stack.pop()),
    "NEWOBJ": lambda machine, _: machine._call(machine.stack.pop()),
    "NEWOBJ_EX": Machine._call_with_words,
    "INST": Machine._call_name,
    "OBJ": Machine._call_marked,
    "BUILD": Machine._build,
    "BINPERSID": lambda machine, _: machine._push(machine.persistent(machine.stack.pop())),
}
"""Operations that push no value of their own; those of an extension registry, and PERSID and buffers, are unknown."""
