"""Pickles of PyTorch's files, read without running anything: the tensors that they describe, and what holds them.

A pickle is a program that names functions and calls them. `read` follows that program, but looks up no name and calls
nothing: the few functions that rebuild a tensor give its description, a `Stored`; names that stand for values (numbers
of NumPy, paths, options) give an `Inert`; any other name ends the reading. So a file runs no code, and a tensor's shape
and strides are judged before memory is taken for it. Python's protocols 0 to 5 are read.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any

from jresnet.errors import first_line
from jresnet.models.pickle_names import Global, Inert, Storage, Table, called, described, known

__all__ = ["read"]

OPERATIONS = 500_000
"""In one pickle, which take seconds; a network's has some 25 for each tensor."""


def read(stream: IO[bytes]) -> tuple[Any, list[Storage]]:
    """The value of the pickle at the stream's position, and the storages that it mentions; the stream ends behind it.

    Dictionaries are `Table`s, lists and tuples Python's own, tensors `Stored`; sets and all other objects are `Inert`.

    Raises:
      Code: it names what could run code.
      ValueError: it is damaged, too long, or no pickle.
    """
    machine = _Machine()
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if number == OPERATIONS:
                raise ValueError(f"a pickle of more than {OPERATIONS} operations")
            machine.step(operation.name, argument)
        return machine.stack.pop(), machine.storages
    except (AttributeError, LookupError, RecursionError, TypeError) as error:  # operations without what they work on
        raise ValueError(f"a damaged pickle: {first_line(error)}") from None


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_IGNORED = {"PROTO", "FRAME", "STOP"}


class _Machine:
    """The stack, the marked stacks below it, and the memo of a pickle that is followed."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: list[Storage] = []

    def step(self, name: str, argument: Any) -> None:
        """Follow one operation."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name not in _IGNORED:
            _STEPS[name](self, argument)

    def marked(self) -> list[Any]:
        """What lies above the last mark, taken away with it."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def mark(self, _: Any) -> None:
        """Begin a stack above this one."""
        self.below.append(self.stack)
        self.stack = []

    def push(self, value: Any) -> None:
        """Put a value on the stack, which an argument with `marked` may have changed."""
        self.stack.append(value)

    def push_tuple(self, count: int) -> None:
        """In place of so many values, the tuple of them."""
        self.push(tuple(self.stack.pop() for _ in range(count))[::-1])

    def put(self, place: int) -> None:
        """Remember the value on top."""
        if not 0 <= place < 2**32:
            raise ValueError("an impossible place in the memo")
        self.memo[place] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        """Append to a list; what is no list takes no items."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Set keys and values by turns in a table; what is no table takes none."""
        if isinstance(self.stack[-1], Table):
            self.stack[-1].put_all(zip(items[::2], items[1::2], strict=True))

    def push_table(self, _: Any) -> None:
        """In place of keys and values above a mark, the table of them."""
        items = self.marked()
        self.push(Table())
        self.set_items(items)

    def push_set(self, _: Any) -> None:
        """In place of what is above a mark, a set, which is of no use here."""
        self.marked()
        self.push(Inert())

    def push_name(self, name: str) -> None:
        """Push a name of the form "module name"."""
        module, _, name = name.partition(" ")
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # as Python 2 has them
        self.push(known(f"{module}.{name}"))

    def call(self, arguments: Any) -> None:
        """In place of a function on the stack, what its call would give."""
        function = self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        self.push(called(function.name, arguments))

    def call_with_words(self, _: Any) -> None:
        """As `call`, for a class with arguments and keyword arguments above it."""
        self.stack.pop()
        self.call(self.stack.pop())

    def call_name(self, name: Any) -> None:
        """As `call`, for a name with arguments above a mark."""
        arguments = tuple(self.marked())
        self.push_name(name)
        self.call(arguments)

    def call_marked(self, _: Any) -> None:
        """As `call`, for a class and its arguments above a mark."""
        function, *arguments = self.marked()
        self.push(function)
        self.call(tuple(arguments))

    def persistent(self, _: Any) -> None:
        """In place of PyTorch's description of a storage, a `Storage`."""
        self.storages.append(described(self.stack.pop()))
        self.push(self.storages[-1])


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": _Machine.mark,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "POP": lambda machine, _: machine.stack.pop() if machine.stack else machine.marked(),
    "POP_MARK": lambda machine, _: machine.marked(),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.marked()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "EMPTY_DICT": lambda machine, _: machine.push(Table()),
    "DICT": _Machine.push_table,
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.marked()),
    "EMPTY_SET": lambda machine, _: machine.push(Inert()),
    "FROZENSET": _Machine.push_set,
    "ADDITEMS": lambda machine, _: machine.marked(),
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": lambda machine, _: machine.push_name(" ".join([machine.stack.pop(), machine.stack.pop()][::-1])),
    "REDUCE": lambda machine, _: machine.call(machine.stack.pop()),
    "NEWOBJ": lambda machine, _: machine.call(machine.stack.pop()),
    "NEWOBJ_EX": _Machine.call_with_words,
    "INST": _Machine.call_name,
    "OBJ": _Machine.call_marked,
    "BUILD": lambda machine, _: machine.stack.pop(),
    "BINPERSID": _Machine.persistent,
}
"""Operations that push no value of their own; those of an extension registry are unknown."""
