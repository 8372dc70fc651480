"""`jresnet completion`: the script with which a shell completes commands, options, their choices and paths."""

import contextlib
import dataclasses
import functools
import io
from typing import Annotated, Any, Literal, Union

import tyro

from jresnet.cli import commands
from jresnet.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Print the script with which a shell completes commands, options, their choices and paths."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Which shell."""


def run(options: Options) -> None:
    """Print the script."""
    print(script(options.shell), end="")


def script(shell: str) -> str:
    """The completion script of every command for a shell, as tyro generates it."""
    kinds = {name: _with_config(commands.module(name).Options) for name in commands.COMMANDS}
    named = tuple(Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, kind in kinds.items())
    every: Any = Union[named]  # noqa: UP007
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(every, prog=commands.PROGRAM, args=["--tyro-print-completion", shell])
    if not output.getvalue():
        raise InputError(f"{shell}: tyro has no completion for it: choose bash or zsh")
    # Where no option fits, as after a command, there are files to complete.
    fallbacks = {"complete -F": "complete -o default -F", " completion_array\n}": " completion_array || _files\n}"}
    return functools.reduce(lambda text, pair: text.replace(*pair), fallbacks.items(), output.getvalue())


def _with_config(options: type) -> type:
    """The options of a command with `--config`, which is read before them."""
    config: Any = ("config", str | None, dataclasses.field(default=None, kw_only=True))
    return dataclasses.make_dataclass(options.__name__, [config], bases=(options,), frozen=True)
