"""The schema of the records: dataclasses, by whose type hints JSON is written, read and documented.

Written here, as no validation library is among the dependencies and the hints of the records are few: numbers, text,
`Literal`, optional values, tuples, mappings and other dataclasses.
"""

import contextlib
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from jresnet.errors import InputError
from jresnet.records.files import Record

VERSION = 1
"""Of the records' format. Records without a version are older and have the same fields, except for optional ones."""

T = TypeVar("T")


class Range(NamedTuple):
    """In `Annotated`: the least and the greatest number allowed."""

    least: float
    greatest: float


class Checked(NamedTuple):
    """In `Annotated`: the dataclass that a JSON object must fit, although it is kept as it is."""

    kind: type


Count = Annotated[int, Range(0, 2**63 - 1)]
"""A number of things, or the index of one."""
NonNegative = Annotated[float, Range(0, math.inf)]
"""A finite number that is not negative: a loss, a time, a rate."""
Fraction = Annotated[float, Range(0, 1)]
"""A share of all, as an accuracy is."""


def to_json(record: Any) -> Record:
    """A dataclass as a JSON object with its version; its fields with the default None are left out if they are None."""
    values = {field.name: (getattr(record, field.name), field.default) for field in dataclasses.fields(record)}
    given = {name: value for name, (value, default) in values.items() if value is not None or default is not None}
    return {"version": VERSION, **_plain(given)}


def _plain(value: Any) -> Any:
    """A value with dataclasses as JSON has it."""
    if dataclasses.is_dataclass(value):
        return _plain(vars(value))
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def parse(kind: type[T], value: object, path: object) -> T:
    """The record of this kind, a dataclass, in what a JSON file contains.

    Raises:
      InputError: it is not a JSON object, of a later version, has missing, unknown or wrong fields; the message names
        `path`.
    """
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a record but {_shown(value)}: restore the file, or choose another directory")
    try:
        return typing.cast(T, _convert(kind, value))
    except ValueError as error:
        raise InputError(
            f"{path}: not a record of this version ({error}{_writer(value)}): restore the file, or choose another "
            "directory"
        ) from None


def _writer(record: Record) -> str:
    """Which jresnet wrote a record, as far as it says so, in words."""
    versions = record.get("versions")
    version = record.get("jresnet") or (versions.get("jresnet") if isinstance(versions, dict) else None)
    return f"; jresnet {_shown(version)} wrote it" if isinstance(version, str) else ""


def describe(hint: Any) -> str:
    """The values that a type hint allows, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        match arguments[1]:
            case Range(least, greatest) if math.isfinite(greatest) and greatest < 2**31:
                return f"{describe(arguments[0])} from {least:g} to {greatest:g}"
            case Range(least, _):
                return f"{describe(arguments[0])} from {least:g}"
            case Checked(kind):
                return f"an object, {kind.__name__}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return f"a list{'' if arguments[-1] is ... else f' of {len(arguments)}'}, each {describe(arguments[0])}"
    if origin in (dict, Mapping):
        return f"an object, each value {describe(arguments[1])}"
    if dataclasses.is_dataclass(hint):
        return f"an object, {typing.cast(type, hint).__name__}"
    return _NAMES[hint]


_NAMES: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "null",
    Any: "any value",
}  # fmt: skip


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """The type hints of a dataclass's fields, with their annotations."""
    return typing.get_type_hints(kind, include_extras=True)


def _convert(hint: Any, value: Any) -> Any:
    """A value of JSON as the hint has it; ValueError says what is wrong."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        match arguments[1]:
            case Range(least, greatest):
                value = _convert(arguments[0], value)
                if not least <= value <= greatest:
                    raise _mismatch(hint, value)
            case Checked(kind):
                _convert(kind, value)
        return value
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if value is None or option is not types.NoneType]
        for option in options[:-1]:
            with contextlib.suppress(ValueError):
                return _convert(option, value)
        return _convert(options[-1], value)
    if origin is tuple and isinstance(value, list | tuple):
        count = len(value) if arguments[-1] is ... else len(arguments)
        if len(value) == count:
            kinds = arguments[:1] * count if arguments[-1] is ... else arguments
            return tuple(_convert(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {name: _convert(arguments[1], item) for name, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _dataclass(typing.cast(type, hint), value)
    if hint is float and type(value) in (int, float) and abs(value) < 2.0**1023:
        return float(value)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):  # 1 == True == 1.0
            return value
    elif hint is Any or (hint is not float and type(value) is hint):
        return value
    raise _mismatch(hint, value)


def _dataclass(kind: type, value: Record) -> Any:
    version = value.get("version", 0)
    if type(version) is not int or not 0 <= version <= VERSION:
        raise ValueError(f"its version is {_shown(version)}, and this jresnet reads 0 to {VERSION}")
    value = {name: item for name, item in value.items() if name != "version"}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := [name for name in value if name not in fields]:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        shown = ", ".join(map(_shown, unknown[:10])) + more
        raise ValueError(f"has {'an unknown field' if len(unknown) == 1 else 'unknown fields'} {shown}")
    required = (name for name, field in fields.items() if field.default is dataclasses.MISSING)
    if missing := [name for name in required if name not in value]:
        raise ValueError(f"lacks {', '.join(missing)}")
    converted = {}
    for name, item in value.items():
        try:
            converted[name] = _convert(hints(kind)[name], item)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return kind(**converted)


def _mismatch(hint: Any, value: object) -> ValueError:
    return ValueError(f"is {_shown(value)}, not {describe(hint)}")


def _shown(value: object) -> str:
    """A value as JSON would show it, shortened."""
    match value:
        case dict() | list():
            return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int() if abs(value) >= 10**18:
            return "a number of very many digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
