"""A network layer by layer: output shapes, kernels, parameters and multiply-adds, recorded as it is traced."""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jresnet.config import Config
from jresnet.errors import by
from jresnet.models import ResNet, from_config
from jresnet.models.layers import BatchNorm
from jresnet.records.tables import Column, Table, number, text

BUDGET = 5_000_000
"""The report's limit on trainable parameters (section 4.3)."""


class Layer(NamedTuple):
    """One layer of a network.

    Attributes:
      name: path of the module, as "layer1_0/conv1", or of a pooling function, "max_pool" or "avg_pool".
      kind: the operation, in words.
      output: shape for one image, (height, width, channels) or (features,).
      kernel: (rows, columns) of the kernel or window; None if it has none.
      stride: (rows, columns) of the strides in cells; None if it has none.
      parameters: number of trainable parameters.
      macs: multiply-adds for one image of convolutions and linear layers, as commonly counted;
        batch normalisation, which folds into the convolution before it, pooling and additions count 0.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    parameters: int = 0
    macs: int = 0


def layers(model: ResNet, image_size: tuple[int, int]) -> list[Layer]:
    """Every layer of a network in the order of its calls; only shapes are computed.

    Args:
      model: the network.
      image_size: (height, width) of its images, of 3 channels, in pixels.

    Raises:
      InputError: options that do not go together, or pooling larger than the last feature map.
    """
    recorded: list[Layer] = []

    def record(call: Callable[..., jax.Array], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, nn.Conv | nn.Dense | BatchNorm):
            recorded.append(_layer(context.module, output.shape[1:]))
        return output

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    if model.pools_first:
        before = 1 if model.block_cls.preactivated else 2
        height, width, channels = recorded[before - 1].output
        pooled = (-(-height // 2), -(-width // 2), channels)
        recorded.insert(before, Layer("max_pool", "max pooling", pooled, (3, 3), (2, 2)))
    height, width, channels = recorded[-2].output
    rows, columns = (height, width) if model.pool_size is None else (model.pool_size, model.pool_size)
    pooled = (height // rows, width // columns, channels)
    recorded.insert(-1, Layer("avg_pool", "average pooling", pooled, (rows, columns), (rows, columns)))
    return recorded


def _layer(module: nn.Module, output: tuple[int, ...]) -> Layer:
    """Describe a module that has just computed an output of this shape."""
    sizes = {name: math.prod(leaf.shape) for name, leaf in module.variables.get("params", {}).items()}
    macs = sizes.get("kernel", 0) * math.prod(output[:-1])
    describe: Callable[..., Layer] = partial(
        Layer, "/".join(module.path), output=output, parameters=sum(sizes.values()), macs=macs
    )
    if isinstance(module, nn.Conv):
        return describe("convolution", kernel=module.kernel_size, stride=(module.strides,) * 2)
    return describe("batch normalisation" if isinstance(module, BatchNorm) else "linear")


@functools.lru_cache(maxsize=1024)
def training_flops(config: Config, classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> int:
    """Floating-point operations of training on one image: 2 per multiply-add of convolutions and linear layers.

    For each product of the forward pass the backward pass makes two, for inputs and for weights; with SAM, twice.
    """
    passes = 2 if config.sam else 1
    return passes * 3 * 2 * sum(layer.macs for layer in layers(from_config(config, classes), image_size))


def table(layers: list[Layer], title: str, budget: int = BUDGET) -> Table:
    """The layers as a table with totals and a comparison with a budget of parameters.

    Shares are of the network's multiply-adds.
    """
    parameters, macs = sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    fits = "fits" if parameters <= budget else "exceeds"
    columns = [
        text("layer", "name", missing=""),
        text("kind", "kind", missing=""),
        *(Column(name, (name,), by, right=True, missing="") for name in ("output", "kernel", "stride")),
        number("parameters", "parameters", ",d", missing=""),
        number("MACs", "macs", ",d", missing=""),
        number("share (%)", "share", ".1f", 100, missing=""),
    ]
    rows = [
        layer._asdict()
        | {"stride": layer.stride and (layer.stride[:1] if len(set(layer.stride)) == 1 else layer.stride)}
        | {"parameters": layer.parameters or None, "macs": layer.macs or None}
        | {"share": layer.macs / macs if layer.macs else None}
        for layer in layers
    ]
    caption = (
        f"{parameters:,} trainable parameters: {fits} the budget of {budget:,} by {abs(budget - parameters):,}\n"
        f"{macs:,} multiply-adds for one image, {2 * macs / 1e6:,.1f} MFLOP at 2 each"
    )
    total = {"name": "total", "parameters": parameters, "macs": macs, "share": 1}
    return Table(columns, rows, caption, title, footer=total)
