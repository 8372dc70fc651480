"""The commands of `python -m jresnet`: each is a module of this package with its options and a function."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jresnet.cli import convert, inspect, verify
from jresnet.cli.options import parse
from jresnet.cli.program import run_program
from jresnet.errors import InputError

USAGE = """\
python -m jresnet inspect resnet18 --width 42 --figure resnet18.svg
python -m jresnet convert resnet18.pth resnet18.safetensors --layout torchvision
python -m jresnet verify runs/final

python -m jresnet COMMAND --help lists a command's options.
"""

COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "inspect": (inspect.Inspect, inspect.run),
    "convert": (convert.Convert, convert.run),
    "verify": (verify.Verify, verify.run),
}
"""The options of each command, and what runs it."""


def run(words: Sequence[str]) -> None:
    """Run the command that the first word names."""
    if words and words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if not words or words[0] not in COMMANDS:
        name = words[0] if words else "the command"
        raise InputError(f"{name}: must be one of {', '.join(COMMANDS)}: see python -m jresnet --help")
    options, command = COMMANDS[words[0]]
    command(parse(options, words[1:], f"python -m jresnet {words[0]}"))


main = functools.partial(run_program, run)
