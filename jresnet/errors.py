"""What can go wrong, as types: each carries one plain line fit for a user's eyes.

A program's `main` maps them to exit statuses: `InputError` 2, `Diverged` 1, `Lost` 3, `Interrupted` 128 + signal.
"""


class InputError(ValueError):
    """The input cannot be used. The message is one line: the value, the rule it breaks, the remedy."""


class Diverged(RuntimeError):
    """The training loss became NaN or infinite; the message names epoch and step."""


class Lost(RuntimeError):
    """Another process of the run is gone, so that this one cannot go on; the latest checkpoint stays."""


class Interrupted(Exception):
    """A signal asked the run to stop, and its state was saved first.

    Attributes:
      signal: the signal's number, 2 (SIGINT) or 15 (SIGTERM).
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type's name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
