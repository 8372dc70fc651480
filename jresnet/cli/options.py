"""Command-line options from a frozen dataclass; a mistake in them is reported in one plain line."""

import dataclasses
import itertools
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

# Private, but the only way to get tyro's errors as events instead of a printed box: pyproject.toml bounds tyro's
# version, and tests/cli/test_options.py pins every message.
from tyro import _errors

from jresnet.cli.config_file import naming, with_config
from jresnet.cli.help import print_help, see_help
from jresnet.cli.program import command, make_console
from jresnet.errors import InputError
from jresnet.rules import as_typed, flag, switch

Options = TypeVar("Options")


def parse(
    options: type[Options], words: Sequence[str], program: str, default: Options | None = None, example: str = ""
) -> Options:
    """Parse a command line; `--help` prints the dataclass's docstrings and exits with 0.

    Args:
      options: the dataclass.
      words: of the command line, after the program's name; `--config FILE.toml` adds those of a file.
      program: the command as the user types it.
      default: values of the options that are not given; None for the dataclass's own.
      example: a command line for the help.

    Raises:
      InputError: an option is unknown, lacks its value or breaks its rule.
    """
    if {"-h", "--help"} & {*words}:
        print_help(make_console(), options, program, default, example)
        raise SystemExit(0)
    words, places = with_config(options, words)
    if words and words[0].replace("_", "-").startswith("--tyro-"):  # tyro's own, which raise, or write where they like
        raise InputError(f"{words[0]}: no such option: see --help for all options")

    def refuse(event: _errors.ParseErrorEvent) -> None:
        raise InputError(_message(event, typing.get_type_hints(options), words))

    with naming(places), _errors.on_parse_error(refuse):
        return tyro.cli(options, prog=program, args=words, default=tyro.MISSING_NONPROP if default is None else default)


def command_line(program: str, options: Any) -> str:
    """The command line that gives these options, of which none is positional, quoted for a shell."""
    words = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(switch(field.name, value))
        else:
            words += [flag(field.name), *map(as_typed, value if isinstance(value, tuple) else [value])]
    return command(program, words)


def _message(event: Any, hints: dict[str, Any], words: Sequence[str]) -> str:
    """The option as typed, the rule it breaks, and the remedy; `hints` are the types of the dataclass's fields."""
    flags = {name: flag(name) for name in hints}
    match event:
        case _errors.UnrecognizedArgs(tokens=[word, *_]) | _errors.MissingArgs(unrecognized_tokens=[word, *_]):
            problem = "no such option" if word.startswith("-") else "neither an option nor the value of one"
            return f"{word}: {problem}: {see_help(word, flags.values())}"
        case _errors.MissingArgs(missing_arguments=missing):
            names = [context.arg.field.intern_name.upper() for context in missing]
            return f"{' and '.join(names)}: must be given: see --help"
        case _errors.InstantiationFailure(argument=None, message=message):
            return message  # of the dataclass's own InputError
    name = event.argument.field.intern_name
    label = name if event.argument.is_positional() else flags[name]
    values = [event.value] if isinstance(event, _errors.InvalidChoice) else _values(label, words)
    return f"{' '.join([label, *values])}: {'must be' if values else 'lacks its value: give it'} {_kind(hints[name])}"


def _values(label: str, words: Sequence[str]) -> list[str]:
    """The values given to an option at its last occurrence."""
    values: list[str] = []
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.replace("_", "-") == label:
            after = itertools.takewhile(lambda word: not word.startswith("--"), words[index + 1 :])
            values = [value] if equals else list(after)
    return values


def _kind(hint: Any) -> str:
    """A description of the values that an option of this type takes."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = typing.get_args(hint)[0]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(arguments)}"
    if typing.get_origin(hint) is not tuple:
        return {int: "a whole number", float: "a number"}.get(hint, "a text")
    if typing.get_origin(arguments[0]) is typing.Literal:
        return f"some of {', '.join(typing.get_args(arguments[0]))}"
    several = {int: "whole numbers", float: "numbers"}.get(arguments[0], "words")
    return f"{several}, as in 2 2 2 2" if arguments[1] is ... else f"{len(arguments)} {several}"
