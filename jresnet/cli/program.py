"""What every command-line program shares: its console, its exit status, and the command that repeats it."""

import contextlib
import errno
import io
import logging
import os
import pathlib
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import rich.console

from jresnet.errors import CannotWrite, Diverged, Incomplete, InputError, Interrupted, Lost, visible
from jresnet.parallel import distributed
from jresnet.records.files import FULL, check_output
from jresnet.rules import flag, require
from jresnet.train.memory import exhausted, is_exhausted

STDOUT = "-"
"""In the place of a file to write: the standard output."""


def exit_status(program: Callable[[], None]) -> int:
    """Run a program; print what stopped it as one plain line on stderr, and return its exit status.

    An unexpected exception keeps its traceback. One process of several that fails alone leaves the run and exits here.

    Returns:
      0: done; 1: the training diverged; 2: unusable input; 3: another process of the run is gone; 4: a file cannot be
      written; 5: done, but for some inputs that cannot be read; 130 or 143: interrupted after saving, or 130 without;
      141: the reader of the output is gone.
    """
    try:
        program()
        status = 0
    except (Diverged, Interrupted) as error:  # in every process of the run at the same step
        return _report(error, 1 if isinstance(error, Diverged) else 128 + error.signal)
    except InputError as error:
        status = _report(error, 2)
    except Lost as error:
        status = _report(error, 3)
    except CannotWrite as error:
        status = _report(error, 4)
    except Incomplete as error:
        status = _report(error, 5)
    except KeyboardInterrupt:  # outside the training, or for the second time
        status = _report("interrupted at once: --resume continues from the latest checkpoint, if there is one", 130)
    except BrokenPipeError:
        _discard_output()
        status = 141
    except OSError as error:
        if error.errno not in (*FULL, errno.EFBIG):  # the library's own files are CannotWrite
            raise
        _discard_output()
        status = _report(f"the output cannot be written ({error.strerror}): make room where it goes", 4)
    except Exception as error:
        if is_exhausted(error):
            status = _report(exhausted(error), 2)
        elif jax.distributed.is_initialized():
            traceback.print_exc()
            status = 1
        else:
            raise
    distributed.exit_after_failure(status)
    return status


def run_program(run: Callable[[list[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Run a program on the words of its command line, by default this process's; returns its `exit_status`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with _plain_warnings():
        return exit_status(lambda: run(words))


def _report(error: Exception | str, status: int) -> int:
    print(_line(error), file=sys.stderr)
    return status


def _line(message: object) -> str:
    """A message on one line, without characters that a terminal would obey."""
    return visible(" ".join(str(message).split()))


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings as plain lines on stderr: the library's own, and those of others, as of JAX about its cache."""
    logger, handler = logging.getLogger("jresnet"), logging.StreamHandler()
    handler.format = lambda record: _line(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns twice of a cache that it cannot write
    formatted, propagate = warnings.formatwarning, logger.propagate
    warnings.formatwarning, logger.propagate = lambda message, *_, **__: f"warning: {_line(message)}\n", False
    try:
        yield
    finally:
        warnings.formatwarning, logger.propagate = formatted, propagate
        logger.removeHandler(handler)


def _discard_output() -> None:
    """Send what is left of the output nowhere: Python flushes stdout once more on exit, which would fail again."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def output_files(options: Any, names: Sequence[str]) -> dict[str, pathlib.Path]:
    """The files that options of these names are to write, without those that are not given or `STDOUT`.

    Raises:
      InputError: one cannot be created, or two are the same.
      CannotWrite: there is no room.
    """
    given = {name: path for name in names if (path := getattr(options, name)) not in (None, STDOUT)}
    files = {name: check_output(path, flag(name)) for name, path in given.items()}
    rule = f"is the file of {flag(names[0])} too: choose another"
    require(options, names[-1], len({*files.values()}) == len(files), rule)
    return files


def command(program: str, arguments: Sequence[str]) -> str:
    """The command line, quoted for a shell."""
    return f"{program} {shlex.join(arguments)}"


def make_console(quiet: bool = False) -> rich.console.Console:
    """The console for tables and progress; 120 columns wide where the output is a pipe."""
    console = _Console(quiet=quiet)
    return console if console.is_terminal else _Console(width=120, quiet=quiet)


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Leave the exit status to `exit_status`; rich would exit by itself."""
        raise BrokenPipeError
