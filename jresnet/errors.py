"""Errors that end a program, each with a message of one line for its user.

A program's `main` maps them to exit statuses: `Diverged` 1, `InputError` 2, `Lost` 3, `CannotWrite` 4, `Incomplete` 5,
`Interrupted` 128 + signal.
"""

from collections.abc import Iterable


class InputError(ValueError):
    """Unusable input. The message is one line: the value, the rule that it breaks, the remedy."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # a value may hold line breaks


class InUse(InputError):
    """Another process works in the same directory; the message names it and its host."""


class CannotWrite(RuntimeError):
    """A file cannot be written: no room, no permission, or its directory is gone. The message names the path."""


class Diverged(RuntimeError):
    """The training loss became NaN or infinite; the message names the epoch and the step."""


class Lost(RuntimeError):
    """Another process of the run has ended, so this one cannot continue; the latest checkpoint remains."""


class Incomplete(RuntimeError):
    """The work is done, but for some of its inputs, which could not be read; each was named."""


class Interrupted(Exception):
    """The run stopped on a signal, after saving its state.

    Attributes:
      signal: the signal's number, 2 (SIGINT) or 15 (SIGTERM).
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


def visible(text: str) -> str:
    """A text without characters that a terminal would obey: they become Python's escapes, as in \\x1b."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def listed(names: Iterable[str], most: int, longest: int | None = 100) -> str:
    """The first `most` names, each `visible`, on one line and cut to `longest` characters, and how many more there are.

    >>> listed("abc", most=2)
    'a, b and 1 more'
    """
    names = list(names)
    shown = ", ".join(visible(name).replace("\n", "\\n")[:longest] or repr(name) for name in names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def by(shape: tuple[int, ...] | None) -> str:
    """A shape in words, as "32 x 32 x 42"; empty for None."""
    return " x ".join(map(str, shape or ()))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
