"""From a configuration to a network: build it, check it and count its parameters."""

import bisect
import dataclasses
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from jresnet.config import Config, require
from jresnet.errors import InputError
from jresnet.models.options import check_options
from jresnet.models.resnet import ResNet
from jresnet.models.variants import VARIANTS


@lru_cache
def from_config(config: Config, num_classes: int) -> ResNet:
    """The network that a configuration describes, for `num_classes` classes; built and checked once.

    Raises:
      InputError: options that do not go together.
    """
    variant = VARIANTS[config.model]
    dropout = "block_dropout" if variant().block_cls.preactivated else "dropout"
    options = {
        "width": config.width,
        "stage_sizes": config.blocks,
        "kernel_size": config.kernel_size,
        "pool_size": config.pool_size,
        dropout: config.dropout,
    }
    model = variant(
        num_classes=num_classes, dtype=jnp.dtype(config.precision), local_norm=config.batch_norm == "local",
        **{name: value for name, value in options.items() if value is not None},
    )  # fmt: skip
    check_options(model)
    # Otherwise the padded network would add and drop other channels.
    same = config.channel_multiple == 1 or (
        model.shortcut == "projection" and model.dropout == model.block_dropout == 0
    )
    require(config, "channel_multiple", same, "needs projection shortcuts and no dropout: choose 1")
    same = _begins_with_projection(model) == _begins_with_projection(padded(model, config.channel_multiple))
    require(config, "channel_multiple", same, "would change the first block's shortcut: choose 1, or another --width")
    return model


def _begins_with_projection(model: ResNet) -> bool:
    """Whether the first block of the first stage, of stride 1, changes the number of channels."""
    return (model.stem_width or model.width) != model.width * model.block_cls.expansion


def padded(model: ResNet, multiple: int) -> ResNet:
    """The network with the channels of its stem and of its first stage rounded up to a multiple of `multiple`.

    With zeros for the additional parameters, at the end of each axis, it computes the same function. The zeros stay:
    the additional channels are zero, and so is every gradient of the additional parameters.
    """

    def up(channels: int) -> int:
        return -(-channels // multiple) * multiple

    stem_width = None if model.stem_width is None else up(model.stem_width)
    return model.clone(width=up(model.width), stem_width=stem_width)


def fill_defaults(config: Config) -> Config:
    """The same configuration with the network's own defaults filled in, as records hold it.

    A `pool_size` of None is kept: it means the whole feature map.
    """
    model = from_config(config, 2)
    return dataclasses.replace(
        config, width=model.width, blocks=model.stage_sizes, kernel_size=model.kernel_size,
        pool_size=model.pool_size, dropout=model.block_dropout or model.dropout,
    )  # fmt: skip


@lru_cache
def init_fn(model: ResNet) -> Callable[[jax.Array, jax.Array], Any]:
    """`(key, images) -> variables`: `model.init` with `train=False`, jitted so that it is traced once per shape.

    Images are float32 [batch, height, width, channels]; only their shape matters.
    """
    return jax.jit(partial(model.init, train=False))


def variable_shapes(model: ResNet, image_size: tuple[int, int]) -> dict[str, Any]:
    """What `model.init` returns on RGB images of `image_size`, (height, width) in pixels, as `jax.ShapeDtypeStruct`s.

    Raises:
      InputError: options that do not go together, or pooling larger than the last feature map.
    """
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    shapes: dict[str, Any] = jax.eval_shape(init_fn(model), jax.random.key(0), images)
    return shapes


@lru_cache
def parameter_count(model: ResNet, image_size: tuple[int, int]) -> int:
    """Number of trainable parameters of a network on RGB images of `image_size`, (height, width) in pixels.

    Raises:
      InputError: options that do not go together, or pooling larger than the last feature map.
    """
    params = variable_shapes(model, image_size)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def check_network(config: Config, num_classes: int, image_size: tuple[int, int]) -> int:
    """Check a configuration's network against its images and its budget.

    Args:
      config: the configuration.
      num_classes: number of classes, the linear layer's outputs.
      image_size: (height, width) of the images in pixels.

    Returns:
      The network's number of trainable parameters.

    Raises:
      InputError: options that do not go together, pooling larger than the feature map, or too many parameters.
    """
    model = from_config(config, num_classes)
    height, width = model.feature_map(image_size)
    require(
        config, "pool_size", model.pool_size is None or model.pool_size <= min(height, width),
        f"exceeds the last feature map, {height} x {width} for images of {image_size[0]} x {image_size[1]}: "
        f"choose at most {min(height, width)}",
    )  # fmt: skip
    count = parameter_count(model, image_size)
    if config.budget is not None and count > config.budget:
        fitting = bisect.bisect_right(
            # Every network has more parameters than its width squared.
            range(1, min(model.width, math.isqrt(config.budget) + 1)), config.budget,
            key=lambda width: parameter_count(model.clone(width=width), image_size),
        )  # fmt: skip
        remedy = f"--width {fitting} or less" if fitting else "fewer --blocks"
        raise InputError(
            f"--width {model.width}: the network has {count:,} parameters, over the budget of {config.budget:,}: "
            f"choose {remedy}, or raise --budget"
        )
    return count
