"""The command line: options from dataclasses, exit statuses, and the library's own commands."""

from jresnet.cli.options import parse
from jresnet.cli.program import command, exit_status, make_console, run_program

__all__ = ["command", "exit_status", "make_console", "parse", "run_program"]
