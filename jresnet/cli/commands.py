"""The commands of `jresnet`: each is the module of this package with its name, its `Options` and its function `run`."""

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType

from jresnet.cli.options import parse
from jresnet.cli.program import run_program
from jresnet.errors import InputError

PROGRAM = "jresnet"
COMMANDS = {
    "train": "train --dataset folder:photos --image-size 32 32 --width 16 --epochs 20 --workdir runs/mine",
    "evaluate": "evaluate runs/mine --tta flip --page evaluation.html",
    "predict": "predict runs/mine holiday.jpg new-photos",
    "export": "export runs/mine mine.onnx",
    "inspect": "inspect resnet18 --width 42 --figure resnet18.svg",
    "convert": "convert resnet18.pth resnet18.safetensors --layout torchvision",
    "verify": "verify runs/mine",
    "watch": "watch runs",
    "completion": "completion bash",
}
"""An example of each command."""
USAGE = "\n".join(f"{PROGRAM} {example}" for example in COMMANDS.values())


def module(name: str) -> ModuleType:
    """The module of a command, imported when it is needed: some take seconds."""
    return importlib.import_module(f"jresnet.cli.{name}")


def run(words: Sequence[str]) -> None:
    """Run the command that the first word names."""
    if words and words[0] in ("-h", "--help"):
        print(f"{USAGE}\n\n{PROGRAM} COMMAND --help lists a command's options.")
        return
    if not words or words[0] not in COMMANDS:
        name = words[0] if words else "the command"
        raise InputError(f"{name}: must be one of {', '.join(COMMANDS)}: see {PROGRAM} --help")
    command = module(words[0])
    example = f"{PROGRAM} {COMMANDS[words[0]]}"
    command.run(parse(command.Options, words[1:], f"{PROGRAM} {words[0]}", example=example))


main = functools.partial(run_program, run)
