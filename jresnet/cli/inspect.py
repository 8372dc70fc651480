"""`jresnet inspect`: a network layer by layer, and its figure."""

import dataclasses
from typing import ClassVar

import tyro.conf

from jresnet import models
from jresnet.cli.network import NetworkOptions
from jresnet.cli.program import make_console
from jresnet.config import Model
from jresnet.errors import by
from jresnet.models import diagram, summary
from jresnet.rules import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """Show a network layer by layer: output shapes, kernels, parameters and multiply-adds."""

    GROUP: ClassVar = "network"

    model: tyro.conf.Positional[Model]
    """Which network."""
    num_classes: int | None = None
    """Number of classes (default: the network's own)."""
    budget: int = summary.BUDGET
    """Trainable parameters allowed (section 4.3)."""
    figure: str | None = None
    """File for a drawing of the architecture: .svg, .png or .pdf."""


def run(options: Options) -> None:
    """Print the table of a network's layers, and draw its figure if a file is named."""
    if options.figure:
        diagram.check_path(options.figure)
    variant = models.VARIANTS[options.model]()
    image_size = options.size(variant)
    num_classes = variant.num_classes if options.num_classes is None else options.num_classes
    for name, value in (("num_classes", num_classes), ("budget", options.budget)):
        require(options, name, 1 <= value < 2**31, "must be from 1 to 2147483647")
    config = options.config(options.model)
    models.check_network(config, num_classes, image_size)
    network = models.from_config(config, num_classes)
    layers = summary.layers(network, image_size)
    title = f"{options.model}, width {network.width}, {num_classes} classes, images of {by(image_size)}"
    console = make_console()
    console.print(summary.table(layers, title, options.budget))
    if options.figure:
        diagram.draw(layers, options.figure, title)
        console.out(options.figure, highlight=False)
