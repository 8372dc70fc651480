"""The rules of options: dataclasses whose fields are checked, each error naming the option as the command line does.

Standard library only, see `jresnet.config`.
"""

import dataclasses
import functools
import struct
from typing import Any, Literal, get_args, get_origin

from jresnet.errors import InputError

MAX_QUOTED = 200
"""Characters of a value in a message."""


def check_types(options: Any) -> None:
    """Raise InputError unless every field of a dataclass has its type, and one of its choices where these are listed.

    Whole numbers for a float become floats.
    """
    for name, hint in hints(options.__class__).items():
        value = getattr(options, name)
        if not fits(value, hint):
            require(options, name, False, _mismatch(value, hint))
        if isinstance(value, int) and hint is float and abs(value) < 2**31:  # as a record holds it
            object.__setattr__(options, name, float(value))
    for name, listed in literals(options.__class__).items():
        value = getattr(options, name)
        require(options, name, value is None or value in listed, f"must be one of {', '.join(listed)}")


def _mismatch(value: object, hint: Any) -> str:
    """The rule that a value of another type than `hint` breaks; of tuples, how many elements of which types it has."""
    count = next((len(get_args(part)) for part in (hint, *get_args(hint)) if _is_fixed(part)), 0)
    if count and isinstance(value, tuple) and len(value) != count:
        return f"must have {count} values, not {len(value)}"
    given = type(value).__name__
    if isinstance(value, tuple):
        given += f" of {' and '.join(dict.fromkeys(type(part).__name__ for part in value)) or 'nothing'}"
    return f"must be of type {hint.__name__ if isinstance(hint, type) else hint}, not {given}"


def _is_fixed(hint: Any) -> bool:
    """Whether a type is a tuple of so many elements."""
    return get_origin(hint) is tuple and get_args(hint)[1:] != (...,)


@functools.cache
def hints(kind: Any) -> dict[str, Any]:
    """Field of a dataclass -> its type; that of a Literal is str."""
    return {field.name: _plain(field.type) for field in dataclasses.fields(kind)}


def _plain(hint: Any) -> Any:
    """A type hint with str in the place of a Literal."""
    if get_origin(hint) is Literal:
        return str
    return str | None if choices(hint) else hint


def choices(hint: Any) -> tuple[str, ...]:
    """The values that a Literal, or a Literal or None, lists; () for other types."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((get_args(part) for part in get_args(hint) if get_origin(part) is Literal), ())


@functools.cache
def literals(kind: Any) -> dict[str, tuple[str, ...]]:
    """Field of a dataclass with listed values -> these."""
    return {field.name: listed for field in dataclasses.fields(kind) if (listed := choices(field.type))}


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type: a class, a tuple of elements of one class, or a union of these.

    As for type checkers, an int is a float too; unlike for them, a bool is no number.
    """
    if isinstance(hint, type):
        return isinstance(value, (int, float) if hint is float else hint) and (
            hint is bool or not isinstance(value, bool)
        )
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        return (
            isinstance(value, tuple)
            and (not _is_fixed(hint) or len(value) == len(get_args(hint)))
            and all(fits(part, element) for part in value)
        )
    return any(fits(value, part) for part in get_args(hint))


def float32(number: float) -> float:
    """A number in float32's range, rounded to float32."""
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded


def require(options: Any, name: str, holds: bool, rule: str, value: Any = None) -> None:
    """Raise an InputError "--option VALUE: rule" for the field `name` of a dataclass unless `holds`.

    The message quotes the field's value, or `value` if it is given, on one line and shortened if it is very long. State
    `holds` positively: NaN makes every comparison false, so it is refused too.
    """
    if not holds:
        try:
            text = as_typed(getattr(options, name) if value is None else value)
        except ValueError:
            text = "(an integer of thousands of digits)"  # Python refuses to print it
        text = " ".join(text.split())
        text = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
        raise InputError(f"{flag(name)} {text}".rstrip() + f": {rule}")


def flag(name: str) -> str:
    """A field of a dataclass as an option on the command line: "--batch-size" for batch_size."""
    return f"--{name.replace('_', '-')}"


def switch(name: str, on: bool) -> str:
    """A field of a dataclass as a switch on the command line: "--resume" or "--no-resume"."""
    return flag(name if on else f"no_{name}")


def as_typed(value: object) -> str:
    """An option's value as on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def numbers(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The value of an option as a tuple: () for None, (value,) for a single one."""
    return () if value is None else value if isinstance(value, tuple) else (value,)
