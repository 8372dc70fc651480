"""A network layer by layer: output shapes, kernels, parameters and multiply-adds, read off its own calls."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import rich.box
import rich.table

from jresnet.models import ResNet
from jresnet.models.layers import AvgPool, BatchNorm, Conv, MaxPool

BUDGET = 5_000_000
"""The report's limit on trainable parameters (section 4.3)."""


class Layer(NamedTuple):
    """One layer of a network.

    Attributes:
      name: path of the module, as "layer1_0/conv1".
      kind: what it computes, in words.
      output: shape for one image, (height, width, channels) or (features,).
      kernel: (rows, columns) of its kernel or window; None where it has none.
      stride: (rows, columns) of its steps in cells; None where it has none.
      parameters: trainable numbers.
      macs: multiply-adds for one image. Convolutions and linear layers count, as the usual figures do;
        batch normalisation, which folds into the convolution before it, pooling and additions do not.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    parameters: int
    macs: int


def layers(model: ResNet, image_size: tuple[int, int]) -> list[Layer]:
    """Every layer of a network in the order of its calls; nothing is computed but shapes.

    Args:
      model: the network.
      image_size: (height, width) of its images, of 3 channels, in pixels.

    Raises:
      InputError: the pooling is larger than the last feature map.
    """
    found: list[Layer] = []

    def note(call: Callable, arguments: tuple, options: dict, context: Any) -> Any:
        output = call(*arguments, **options)
        if context.method_name == "__call__" and type(context.module) in _DESCRIBED:
            found.append(_layer(context.module, output.shape[1:]))
        return output

    with nn.intercept_methods(note):
        images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return found


def _layer(module: nn.Module, output: tuple[int, ...]) -> Layer:
    """What a module that has just made an output of this shape is."""
    sizes = {name: math.prod(leaf.shape) for name, leaf in module.variables.get("params", {}).items()}
    kind, kernel, stride = _DESCRIBED[type(module)](module)
    cells = math.prod(output[:-1])
    macs = sizes.get("kernel", 0) * cells
    return Layer("/".join(module.path), kind, output, kernel, stride, sum(sizes.values()), macs)


_DESCRIBED: dict[type[nn.Module], Any] = {
    Conv: lambda conv: ("convolution", (conv.side, conv.side), (conv.stride, conv.stride)),
    BatchNorm: lambda _: ("batch normalisation", None, None),
    MaxPool: lambda pool: ("max pooling", (pool.side, pool.side), (pool.stride, pool.stride)),
    AvgPool: lambda pool: ("average pooling", pool.side, pool.side),
    nn.Dense: lambda _: ("linear", None, None),
}


def table(found: list[Layer], title: str, budget: int = BUDGET) -> rich.table.Table:
    """The layers as a table for the console, with the totals, and whether they fit a budget of parameters.

    A share is of the network's multiply-adds.
    """
    parameters, macs = sum(layer.parameters for layer in found), sum(layer.macs for layer in found)
    fits = "fits" if parameters <= budget else "exceeds"
    shown = rich.table.Table(
        title=title,
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        show_footer=True,
        caption=(
            f"{parameters:,} trainable parameters: {fits} the budget of {budget:,} by {abs(budget - parameters):,}\n"
            f"{macs:,} multiply-adds for one image, {2 * macs / 1e6:,.1f} MFLOP at 2 each"
        ),
        caption_justify="left",
        title_justify="left",
    )  # fmt: skip
    for header, footer in (("layer", "total"), ("kind", "")):
        shown.add_column(header, footer, overflow="fold")
    footers = {"output": "", "kernel": "", "stride": "", "parameters": f"{parameters:,}", "MACs": f"{macs:,}"}
    for header, footer in (footers | {"share (%)": "100.0"}).items():
        shown.add_column(header, footer, justify="right", overflow="fold")
    for layer in found:
        share = f"{100 * layer.macs / macs:.1f}" if layer.macs else ""
        numbers = (f"{number:,}" if number else "" for number in (layer.parameters, layer.macs))
        steps = layer.stride and (layer.stride[:1] if len(set(layer.stride)) == 1 else layer.stride)
        shown.add_row(layer.name, layer.kind, *map(by, (layer.output, layer.kernel, steps)), *numbers, share)
    return shown


def by(sides: tuple[int, ...] | None) -> str:
    """A shape in words, "32 x 32 x 42"; nothing where there is none."""
    return " x ".join(map(str, sides or ()))
