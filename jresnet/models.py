"""Residual networks for small images (report section 3.3.1; He et al. 2015, arXiv 1512.03385), in Flax Linen."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.layers import BatchNorm, Conv, torch_bias_init, torch_weight_init


class BasicBlock(nn.Module):
    """Two convolutions and a skip connection; the first convolution strides.

    Attributes:
      features: channels of the block.
      stride: step of the first convolution in pixels.
      conv: makes a convolution from (features, stride=, name=) and, for the shortcut, side=1.
      norm: makes a batch normalisation from (name=).
    """

    features: int
    stride: int
    conv: Callable
    norm: Callable
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, **norm_options) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), features]."""
        y = self.conv(self.features, stride=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, **norm_options))
        y = self.conv(self.features, name="conv2")(y)
        y = self.norm(name="bn2")(y, **norm_options)
        return nn.relu(y + shortcut(self, x, self.features, norm_options))


class Bottleneck(nn.Module):
    """1x1, KxK and 1x1 convolutions and a skip connection; the KxK one strides; the output has 4 x features channels.

    Attributes: as of `BasicBlock`.
    """

    features: int
    stride: int
    conv: Callable
    norm: Callable
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, **norm_options) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), 4 x features]."""
        outputs = self.features * self.expansion
        y = self.conv(self.features, side=1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, **norm_options))
        y = self.conv(self.features, stride=self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, **norm_options))
        y = self.conv(outputs, side=1, name="conv3")(y)
        y = self.norm(name="bn3")(y, **norm_options)
        return nn.relu(y + shortcut(self, x, outputs, norm_options))


def shortcut(block: nn.Module, x: jax.Array, outputs: int, norm_options: dict) -> jax.Array:
    """x itself, or its projection by a strided 1x1 convolution where the block changes the shape (option B)."""
    if block.stride == 1 and x.shape[-1] == outputs:
        return x
    x = block.conv(outputs, side=1, stride=block.stride, name="shortcut_conv")(x)
    return block.norm(name="shortcut_bn")(x, **norm_options)


class ResNet(nn.Module):
    """The report's network: stem, stages of residual blocks, P x P average pooling, one linear layer (section 3.3.1).

    Stages have width, 2 x width, 4 x width, ... channels and strides 1, 2, 2, ...; every block ends in ReLU.
    The softmax belongs to the loss and to prediction: the network returns logits.

    Attributes:
      stage_sizes: blocks per stage.
      block: BasicBlock or Bottleneck.
      num_classes: logits per image.
      width: channels of the first stage.
      kernel_size: K, side of the stem's and the blocks' kernels, odd.
      pool_size: P, side and stride of the average pooling, in cells of the last feature map.
      dropout: rate before the linear layer.
      dtype: of the arithmetic.
      param_dtype: of parameters, statistics and logits.
      axis_name: mapped axis whose devices share one batch, for batch normalisation.
    """

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    block: Callable[..., nn.Module] = BasicBlock
    num_classes: int = 10
    width: int = 64
    kernel_size: int = 3
    pool_size: int = 4
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Classify images.

        Args:
          images: float [batch, height, width, channels], normalised.
          train: use and update batch statistics, and drop out (needs the rng "dropout" if the rate is above 0).
          mask: bool [batch], false for padding that batch statistics must not count; None: all count.

        Returns:
          logits: [batch, num_classes], of param_dtype.

        Raises:
          InputError: the pooling is larger than the last feature map.
        """
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv: Callable = partial(Conv, side=self.kernel_size, **types)
        norm: Callable = partial(BatchNorm, axis_name=self.axis_name, param_dtype=self.param_dtype)
        norm_options: dict[str, Any] = {"train": train, "mask": mask}
        x = conv(self.width, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x, **norm_options))
        for stage, depth in enumerate(self.stage_sizes):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"layer{stage + 1}_{index}"
                x = self.block(self.width * 2**stage, stride, conv, norm, name=name)(x, **norm_options)
        return self.head(x, train)

    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """Pool, flatten, drop out and apply the linear layer: [batch, height, width, channels] -> logits."""
        if self.pool_size > min(x.shape[1:3]):
            raise InputError(
                f"pool_size {self.pool_size}: exceeds the last feature map, {x.shape[1]} x {x.shape[2]}: lower it"
            )
        side = (self.pool_size, self.pool_size)
        x = nn.avg_pool(x, side, strides=side)
        # In PyTorch's order, channels before rows and columns, so that its linear weights fit as they are.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1).astype(self.param_dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(
            self.num_classes, dtype=self.param_dtype, param_dtype=self.param_dtype, name="linear",
            kernel_init=torch_weight_init, bias_init=torch_bias_init(x.shape[-1]),
        )(x)  # fmt: skip


resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck)
resnet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck)


def from_config(config: Config, num_classes: int, axis_name: str | None = None) -> ResNet:
    """The network a configuration describes, for `num_classes` classes."""
    return ResNet(
        stage_sizes=config.blocks,
        num_classes=num_classes,
        width=config.width,
        kernel_size=config.kernel_size,
        pool_size=config.pool_size,
        dropout=config.dropout,
        dtype=jnp.dtype(config.precision),
        axis_name=axis_name,
    )
