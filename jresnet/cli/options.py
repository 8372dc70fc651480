"""What every command-line program of the project shares: options from a dataclass, and exit statuses."""

import contextlib
import dataclasses
import difflib
import io
import re
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from jresnet.errors import InputError

Options = TypeVar("Options")


def parse(
    options: type[Options], arguments: Sequence[str] | None, program: str, default: Options | None = None
) -> Options:
    """Command-line options from a frozen dataclass; `--help` prints its docstrings and exits with 0.

    Args:
      options: the dataclass.
      arguments: the words after the program's name; None for this process's own.
      program: the command as the user types it.
      default: values of the options that are not given; None for the dataclass's own.

    Raises:
      InputError: an option is unknown or breaks its rule.
    """
    import tyro

    words = list(sys.argv[1:] if arguments is None else arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            if default is None:
                return tyro.cli(options, prog=program, args=words)
            return tyro.cli(options, prog=program, args=words, default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        if isinstance(stop.__context__, InputError):  # the dataclass's own word, which tyro has boxed
            raise stop.__context__ from None
        raise InputError(_complaint(complaint.getvalue(), options, words)) from None


def _complaint(box: str, options: type, words: list[str]) -> str:
    """Tyro's boxed complaint as this project puts it: the option as typed, the rule, the remedy."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m|[│─╭╮╰╯]|-{5,}", " ", box).split())
    names = {f"--{name.replace('_', '-')}": hint for name, hint in typing.get_type_hints(options).items()}
    if unknown := re.search(r"Unrecognized options: ([^ ,]+)", text):
        close = difflib.get_close_matches(unknown[1], names, n=1, cutoff=0.75)
        what = "no such option" if unknown[1].startswith("-") else "neither an option nor the value of one"
        return f"{unknown[1]}: {what}: {f'use {close[0]}, or see' if close else 'see'} --help for all options"
    if "Required options" in text:
        required = [field.name.upper() for field in dataclasses.fields(options) if field.default is dataclasses.MISSING]
        return f"{' and '.join(required)}: must be given: see --help"
    if chosen := re.search(r"invalid choice '(.*?)' for argument '(\w+)'", text):
        return f"{chosen[2]} {chosen[1]}: must be {_kind(typing.get_type_hints(options)[chosen[2]])}"
    found = re.search(r"(?:Missing value for argument|Error parsing|for argument) '?(--[\w-]+)", text)
    if found and found[1] in names:
        values = _values(found[1], words)
        kind = _kind(names[found[1]])
        return f"{' '.join((found[1], *values))}: {'must be' if values else 'lacks its value: give it'} {kind}"
    return text.partition(" For full helptext")[0]


def _values(name: str, words: list[str]) -> list[str]:
    """The words given to an option where it occurs last."""
    values: list[str] = []
    inside = False
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            inside = option.replace("_", "-") == name
            values = ([value] if equals else []) if inside else values
        elif inside:
            values.append(word)
    return values


def _kind(hint: Any) -> str:
    """What an option of this type takes, in words."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = typing.get_args(hint)[0]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(arguments)}"
    if typing.get_origin(hint) is tuple:
        several = {int: "whole numbers", float: "numbers"}.get(arguments[0], "words")
        return f"{several}, as in 2 2 2 2" if arguments[1] is ... else f"{len(arguments)} {several}"
    return {int: "a whole number", float: "a number"}.get(hint, "a text")
