"""What every command-line program shares: its console, its exit status, and the command that repeats it."""

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence

import rich.console

from jresnet.errors import Diverged, InputError, Interrupted, Lost
from jresnet.parallel import distributed


def exit_status(program: Callable[[], None]) -> int:
    """Run a program; say what stopped it in one plain line on stderr, and return its exit status.

    Returns:
      0: done; 1: the training diverged; 2: unusable input; 3: another process of the run is gone; 130 or
      143: interrupted after saving, or 130 at once; 141: nobody reads the output any more. One process of
      several that fails by itself ends here instead.
    """
    status = 0
    error: Exception | str = ""
    try:
        program()
    except (Diverged, Interrupted) as both:  # in all processes alike
        return _stopped(both, 1 if isinstance(both, Diverged) else 128 + both.signal)
    except InputError as found:
        status, error = 2, found
    except Lost as found:
        status, error = 3, found
    except KeyboardInterrupt:  # outside the training, or for the second time
        status, error = 130, "interrupted at once: --resume goes on from the latest checkpoint, if there is one"
    except BrokenPipeError:
        # Python flushes once more on exit, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except Exception:
        if not distributed.is_initialized():
            raise
        traceback.print_exc()
        status = 1
    if error:
        _stopped(error, status)
    distributed.exit_after_failure(status)
    return status


def _stopped(error: Exception | str, status: int) -> int:
    print(" ".join(str(error).split()), file=sys.stderr)
    return status


def command(program: str, arguments: Sequence[str]) -> str:
    """A command line that a shell reads back as these words."""
    return f"{program} {shlex.join(arguments)}"


def make_console(quiet: bool = False) -> rich.console.Console:
    """The console for tables and progress; a pipe, which has no width, gets room for a whole table."""
    console = _Console(quiet=quiet)
    return console if console.is_terminal else _Console(width=120, quiet=quiet)


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Leave the exit status to `exit_status`; rich would exit by itself."""
        raise BrokenPipeError
