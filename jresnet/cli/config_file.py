"""`--config FILE.toml`: options from a file, as words of the command line."""

import contextlib
import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jresnet.cli.help import is_positional, see_help
from jresnet.errors import InputError, first_line
from jresnet.records.files import local_path
from jresnet.rules import flag, switch

_OPTION = "--config"


def with_config(options: type, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words of a command line with those of the file that --config names, which are last.

    A file's options that the command line gives itself are left out: it overrides the file.

    Args:
      options: the dataclass of the program's options.
      words: of the command line.

    Returns:
      The words; and option -> where it was read, "--config FILE", for those that are the file's.

    Raises:
      InputError: --config lacks its file, is given twice, or the file cannot be read, is no TOML, or has something
        that is no option.
    """
    path, rest = _split(words)
    if path is None:
        return rest, {}
    given = {_name(word) for word in rest if word.startswith("--")}
    fields = {field.name: field.type for field in dataclasses.fields(options) if not is_positional(field.type)}
    values = {name: value for name, value in _read(path, fields).items() if name not in given}
    words = rest + [word for name, value in values.items() for word in _words(name, value)]
    return words, {flag(name): f"{_OPTION} {path}" for name in values}


@contextlib.contextmanager
def naming(places: Mapping[str, str]) -> Iterator[None]:
    """Begin an InputError of the block with the place of the option that it is about, see `with_config`."""
    try:
        yield
    except InputError as error:
        option = re.match(r"--[a-z0-9-]+", str(error))
        if option and option[0] in places:
            raise InputError(f"{places[option[0]]}: {error}") from None
        raise


def _split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The file of --config and the other words."""
    rest, paths, left = [], [], iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if option == _OPTION:
            paths.append(value if equals else next(left, ""))
        else:
            rest.append(word)
    if len(paths) > 1:
        raise InputError(f"{_OPTION} {paths[1]}: a second file: give one")
    if paths and (not paths[0] or paths[0].startswith("--")):
        raise InputError(f"{_OPTION}: lacks its value: give it a file, as in {_OPTION} run.toml")
    return (paths[0] if paths else None), rest


def _name(word: str) -> str:
    """The field that an option on the command line sets."""
    return word.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")


def _read(path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a TOML file by the names of their fields, which have these types."""
    try:
        content = tomllib.loads(local_path(path, _OPTION).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{_OPTION} {path}: cannot be read ({error.strerror}): give another file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{_OPTION} {path}: is not TOML ({first_line(error)}): correct it") from None
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in fields:
            raise InputError(f"{_OPTION} {path}: {key}: no such option: {see_help(name, fields)}")
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, bool | int | float | str) for part in parts) or value == []:
            raise InputError(f"{_OPTION} {path}: {key}: must be a text, a number, true, false, or a list of these")
        if isinstance(value, bool) != (fields[name] is bool):  # a switch on the command line, which has no value
            rule = "must be true or false" if fields[name] is bool else "must be a value, as --help has it, no switch"
            raise InputError(f"{_OPTION} {path}: {key} = {json.dumps(value):.80}: {rule}")
        values[name] = value
    return values


def _words(name: str, value: Any) -> Iterator[str]:
    """An option as the command line has it."""
    if isinstance(value, bool):
        yield switch(name, value)
    elif isinstance(value, list):
        yield from (flag(name), *map(str, value))
    else:
        yield f"{flag(name)}={value}"
