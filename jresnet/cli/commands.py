"""The commands of `python -m jresnet`: each is a module of this package with its options and a function."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jresnet.cli import convert, inspect
from jresnet.cli.options import parse
from jresnet.cli.program import exit_status
from jresnet.errors import InputError

USAGE = """\
python -m jresnet inspect resnet18 --width 42 --figure resnet18.svg
python -m jresnet convert resnet18.pth resnet18.safetensors --layout torchvision

python -m jresnet COMMAND --help lists a command's options.
"""

COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "inspect": (inspect.Inspect, inspect.run),
    "convert": (convert.Convert, convert.run),
}
"""The options of each command, and what runs it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see `jresnet.cli.exit_status` for the exit status."""
    return exit_status(lambda: run(sys.argv[1:] if arguments is None else arguments))


def run(words: Sequence[str]) -> None:
    """Run the command that the first word names."""
    name, *arguments = words or ["the command"]
    if name in ("-h", "--help"):
        print(USAGE, end="")
        return
    if name not in COMMANDS:
        raise InputError(f"{name}: must be one of {', '.join(COMMANDS)}: see python -m jresnet --help")
    options, command = COMMANDS[name]
    command(parse(options, arguments, f"python -m jresnet {name}"))
