"""The command line: options from dataclasses, exit statuses, and the library's own commands."""

from jresnet.cli.options import command_line, parse
from jresnet.cli.program import command, exit_status, make_console, run_program

__all__ = ["command", "command_line", "exit_status", "make_console", "parse", "run_program"]
