"""`--help`: the options of a dataclass by group, from its fields and their docstrings."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import rich.console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jresnet.rules import as_typed, choices, flag, switch

EVERYWHERE = {
    "--config FILE.toml": "Read options from a file; those on the command line override them.",
    "--help": "Show this.",
}
"""Options of every program."""
_OTHERS = "options"
_USAGE = 32  # columns for how an option is typed
_LISTED = 24  # letters of choices that are shown there


class Option(typing.NamedTuple):
    """One option as its help shows it: how it is typed, and what it means."""

    usage: str
    meaning: str
    positional: bool


def print_help(
    console: rich.console.Console, options: type, program: str, default: Any = None, example: str = ""
) -> None:
    """Print how a program is called, what it does, and its options.

    Args:
      console: where to.
      options: the dataclass.
      program: the command as the user types it.
      default: an instance with the program's defaults; None for the dataclass's own.
      example: a command line.
    """
    groups = grouped(options, default)
    positional = [option for listed in groups.values() for option in listed if option.positional]
    words = [program, *(option.usage for option in positional), "[options]"]
    console.print(
        Text(" ".join(words), "bold"), "", inspect.getdoc(options) or "", sep="\n", highlight=False, markup=False
    )
    if example:
        console.print("", Text("example: ") + Text(example, "bold"), sep="\n")
    others = [Option(*option, False) for option in EVERYWHERE.items()]
    named = {group: [option for option in listed if not option.positional] for group, listed in groups.items()}
    for group, listed in {"": positional, **named, "every command": others}.items():
        if listed:
            table = Table.grid(padding=(0, 2))
            table.add_column(min_width=_USAGE, max_width=_USAGE, overflow="fold")
            table.add_column()
            for option in listed:
                table.add_row(Text(option.usage, "cyan"), Text(option.meaning))
            console.print("", Text(group, "bold"), Padding(table, (0, 0, 0, 2)), sep="\n")


def grouped(options: type, default: Any = None) -> dict[str, list[Option]]:
    """Heading -> options: each field belongs to the GROUP of the class that declares it."""
    groups: dict[str, list[Option]] = {}
    owners = {name: base for base in reversed(options.__mro__) for name in inspect.get_annotations(base)}
    for field in dataclasses.fields(options):
        owner = owners[field.name]
        group = vars(owner).get("GROUP", _OTHERS)
        value = field.default if default is None else getattr(default, field.name)
        option = _option(field, field_docstrings(owner).get(field.name, ""), value)
        groups.setdefault(group, []).append(option)
    return groups


def see_help(word: str, known: Iterable[str]) -> str:
    """The remedy for an option that is not among the known ones."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.75)
    return f"{f'use {close[0]}, or see' if close else 'see'} --help for all options"


def _option(field: dataclasses.Field[Any], meaning: str, default: Any) -> Option:
    positional = is_positional(field.type)
    hint = typing.get_args(field.type)[0] if positional else field.type
    if positional:
        return Option(f"{field.name.upper()}{' ...' if _is_tuple(hint) else ''}", meaning, True)
    if hint is bool:
        shown = f"{flag(field.name)}, {switch(field.name, False)}" if default is True else flag(field.name)
        return Option(shown, meaning, False)
    if default not in (None, (), dataclasses.MISSING) and "(default" not in meaning:
        meaning += f" (default: {as_typed(default)})"
    values = _values(hint)
    if len(values) > _LISTED and choices(hint):
        values, meaning = "NAME", f"{meaning} One of {', '.join(choices(hint))}."
    return Option(f"{flag(field.name)} {values}", meaning, False)


def is_positional(hint: Any) -> bool:
    """Whether the type of a field is `tyro.conf.Positional[T]`, which is an Annotated."""
    return typing.get_origin(hint) is typing.Annotated


def _values(hint: Any) -> str:
    """How the values of an option of this type are typed."""
    if listed := choices(hint):
        return "|".join(listed)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        return _values(kinds[-1])
    if _is_tuple(hint):
        element, *rest = typing.get_args(hint)
        return f"{_values(element)} ..." if rest == [...] else " ".join([_values(element)] * (1 + len(rest)))
    return {int: "N", float: "X"}.get(hint, "TEXT")


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def field_docstrings(kind: type) -> dict[str, str]:
    """Field of a dataclass, without those of its bases -> the string that follows it in its source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    return dict(_documented(tree))


def _documented(tree: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in itertools.pairwise(tree.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())
