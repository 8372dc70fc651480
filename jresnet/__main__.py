"""The library's own command line: see a network, carry weights over.

python -m jresnet inspect resnet18 --width 42 --figure resnet18.svg
python -m jresnet convert resnet18.pth resnet18.safetensors --layout torchvision
"""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tyro.conf

from jresnet import cli, models
from jresnet.config import Config, Model
from jresnet.errors import InputError
from jresnet.models import diagram, summary, torch_weights
from jresnet.models.torch_weights import Layout
from jresnet.use.classifier import Classifier, store

ARCHITECTURE = ("model", "width", "blocks", "kernel_size", "pool_size")
"""Options that say which network; the names are Config's."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show a network layer by layer: output shapes, kernels, parameters and multiply-adds."""

    model: tyro.conf.Positional[Model]
    """Which network."""
    width: int | None = None
    """Channels of the first stage (default, here and below: the network's own)."""
    blocks: tuple[int, ...] | None = None
    """Residual blocks per stage."""
    kernel_size: int | tuple[int, ...] | None = None
    """K: side of the blocks' convolution kernels, one number or one for each stage."""
    pool_size: int | None = None
    """P: side and stride of the final average pooling."""
    num_classes: int | None = None
    """Classes to tell apart."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images in pixels (default: 32 32, or 224 224 for the imagenet networks)."""
    budget: int = summary.BUDGET
    """Trainable parameters allowed (section 4.3)."""
    figure: str | None = None
    """File for a drawing of the architecture: .svg, .png or .pdf."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Carry weights over: from PyTorch's file or a run's directory to PyTorch's file or a new run's directory.

    Files end in .pth, .pt or .safetensors and hold a state dict in kuangliu/pytorch-cifar's or torchvision's layout.
    """

    source: tyro.conf.Positional[str]
    """A file, or a run's directory."""
    target: tyro.conf.Positional[str]
    """A file, or a directory to make, from which jresnet.Classifier.load reads."""
    layout: Layout = "kuangliu"
    """Whose names a target file has."""
    model: Model | None = None
    """Which network a source file belongs to (default: resnet18)."""
    width: int | None = None
    """Channels of its first stage (default, here and below: the network's own)."""
    blocks: tuple[int, ...] | None = None
    """Its residual blocks per stage."""
    kernel_size: int | tuple[int, ...] | None = None
    """K: side of its blocks' kernels, one number or one for each stage."""
    pool_size: int | None = None
    """P: side and stride of its final average pooling."""
    image_size: tuple[int, int] | None = None
    """Height and width of its images in pixels (default: 32 32, or 224 224 for the imagenet networks)."""
    mean: tuple[float, float, float] | None = None
    """For a target directory: mean of each channel that the images were normalised with, on a scale of 0 to 1."""
    std: tuple[float, float, float] | None = None
    """For a target directory: standard deviation of each channel, likewise."""
    classes: tuple[str, ...] | None = None
    """For a target directory: names of the classes (default: 0 1 2 ...)."""


def inspect(options: Inspect) -> None:
    """Print the table of a network's layers, and draw its figure if asked to."""
    if options.figure:
        diagram.check_path(options.figure)
    variant = models.VARIANTS[options.model]()
    image_size = options.image_size or usual_size(variant)
    num_classes = variant.num_classes if options.num_classes is None else options.num_classes
    for name, values in (("image-size", image_size), ("num-classes", (num_classes,)), ("budget", (options.budget,))):
        if not all(1 <= value < 2**31 for value in values):
            raise InputError(f"--{name} {' '.join(map(str, values))}: must be from 1 to 2147483647")
    given: dict[str, Any] = {name: getattr(options, name) for name in ARCHITECTURE}
    config = Config(**given)
    models.check_network(config, num_classes, image_size)
    layers = summary.layers(models.from_config(config, num_classes), image_size)
    width = models.explicit(config).width
    title = f"{options.model}, width {width}, {num_classes} classes, images of {summary.by(image_size)}"
    console = cli.make_console()
    console.print(summary.table(layers, title, options.budget))
    if options.figure:
        diagram.draw(layers, options.figure, title)
        console.print(options.figure, highlight=False, soft_wrap=True)


def usual_size(model: models.ResNet) -> tuple[int, int]:
    """(height, width) of the images a network was made for: CIFAR's, or ImageNet's after the usual crop."""
    return (224, 224) if model.stem == "imagenet" else (32, 32)


def convert(options: Convert) -> None:
    """Read, check, then write: nothing is written unless the weights are the network's."""
    from_run, to_run = pathlib.Path(options.source).is_dir(), not pathlib.Path(options.target).suffix
    refuse(options, ("mean", "std", "classes"), not to_run, "only a target directory records it: leave it out")
    refuse(options, (*ARCHITECTURE, "image_size"), from_run, "the run's own record says it: leave it out")
    if from_run and to_run:
        raise InputError(f"{options.target}: both are directories: copy the run, or name a file to write")
    if from_run:
        classifier = Classifier.load(options.source)
        state_dict = torch_weights.to_state_dict(
            classifier.variables, classifier.model, options.layout, classifier.image_size
        )
        torch_weights.save(options.target, state_dict)
    else:
        convert_file(options, to_run)
    cli.make_console().print(options.target, highlight=False, soft_wrap=True)


def refuse(options: Convert, names: Sequence[str], applies: bool, rule: str) -> None:
    """Raise InputError for the first of these options that was given, where the rule applies."""
    for name in names:
        value = getattr(options, name)
        if applies and value is not None:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise InputError(f"--{name.replace('_', '-')} {shown}: {rule}")


def convert_file(options: Convert, to_run: bool) -> None:
    """Convert a state dict in a file, to a run's directory if `to_run`, else to another file.

    Raises:
      InputError: options that do not go together, or weights of another network; nothing is written.
    """
    if to_run and (options.mean is None or options.std is None):
        raise InputError(
            "--mean and --std: a run's directory needs the normalisation that the weights were trained with: "
            "give both, as in --mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616"
        )
    if options.std is not None and not all(0 < value < math.inf for value in options.std):
        raise InputError(f"--std {' '.join(map(str, options.std))}: must be finite numbers above 0")
    given: dict[str, Any] = {name: getattr(options, name) for name in ARCHITECTURE}
    config = Config(**given | {"model": options.model or "resnet18"})
    state_dict = torch_weights.load(options.source)
    count = torch_weights.classes_of(state_dict)
    classes = options.classes or tuple(map(str, range(count)))
    if len(classes) != count:
        raise InputError(f"--classes {' '.join(classes)}: the weights tell {count} classes apart: name as many")
    model = models.from_config(config, len(classes))
    image_size = options.image_size or usual_size(model)
    models.check_network(config, len(classes), image_size)
    if to_run:
        variables = torch_weights.from_state_dict(state_dict, model, image_size)
        store(options.target, config, variables, classes, image_size, options.mean or (), options.std or ())
    else:
        torch_weights.save(options.target, torch_weights.relayout(state_dict, model, options.layout, image_size))


COMMANDS: dict[str, tuple[type, Any]] = {"inspect": (Inspect, inspect), "convert": (Convert, convert)}
"""A command's options and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see `jresnet.cli.exit_status` for the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return cli.exit_status(lambda: run(words))


def run(words: Sequence[str]) -> None:
    """Run the command that the first word names.

    Raises:
      InputError: there is no such command, or its options are unusable.
    """
    if words and words[0] in ("-h", "--help"):
        print(__doc__)
        return
    if not words or words[0] not in COMMANDS:
        name = words[0] if words else "the command"
        raise InputError(f"{name}: must be one of {', '.join(COMMANDS)}: see python -m jresnet --help")
    options, program = COMMANDS[words[0]]
    program(cli.parse(options, words[1:], f"python -m jresnet {words[0]}"))


if __name__ == "__main__":
    raise SystemExit(main())
