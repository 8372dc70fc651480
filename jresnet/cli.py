"""What every command-line program of the project shares: options from a dataclass, and exit statuses."""

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import rich.console

from jresnet.errors import Diverged, InputError, Interrupted

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

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            if default is None:
                return tyro.cli(options, prog=program, args=arguments)
            return tyro.cli(options, prog=program, args=arguments, default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_unboxed(complaint.getvalue(), options.__name__)) from None


def _unboxed(box: str, name: str) -> str:
    """Tyro's boxed complaint as one plain line, without its help footer."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines() if not line.startswith(("╭", "╰"))]
    rule = next((position for position, line in enumerate(lines) if line.startswith("─")), len(lines))
    return " ".join(lines[:rule]).removeprefix(f"Error parsing {name}: ").replace(" .", ".")


def exit_status(program: Callable[[], None]) -> int:
    """Run a program; say what stopped it in one plain line on stderr, and return its exit status.

    Returns:
      0: done; 1: the training diverged; 2: unusable input; 130 or 143: interrupted after saving.
    """
    try:
        program()
    except InputError as error:
        return _stopped(error, 2)
    except Diverged as error:
        return _stopped(error, 1)
    except Interrupted as error:
        return _stopped(error, 128 + error.signal)
    return 0


def _stopped(error: Exception, status: int) -> int:
    print(" ".join(str(error).split()), file=sys.stderr)
    return status


def command(program: str, arguments: Sequence[str]) -> str:
    """A command line that a shell reads back as these words."""
    return f"{program} {shlex.join(arguments)}"


def make_console() -> rich.console.Console:
    """The console for tables and progress; a pipe, which has no width, gets room for a whole table."""
    console = rich.console.Console()
    return console if console.is_terminal else rich.console.Console(width=120)
