"""What residual networks are built of: blocks with a skip connection, squeeze-and-excitation, the linear layer."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jresnet.models.layers import Dropout, torch_bias_init, torch_weight_init

Shortcut = Literal["projection", "padding"]


class Block(nn.Module):
    """What the residual blocks have in common.

    Attributes:
      features: channels of the block, before `expansion`.
      stride: step of the block in pixels.
      conv: makes a convolution from (features, side=, stride=, name=).
      norm: makes a batch normalisation from (name=).
      shortcut: what takes the place of x where the block changes the shape; see `ResNet`.
      dropout: makes the dropout between the convolutions of a PreactBlock.
    """

    features: int
    stride: int
    conv: Callable
    norm: Callable
    shortcut: Shortcut = "projection"
    dropout: Callable = partial(Dropout, 0.0)
    expansion: ClassVar[int] = 1
    preactivated: ClassVar[bool] = False

    def changes(self, x: jax.Array) -> bool:
        """Whether the output has another shape than x, [batch, height, width, inputs], so that x cannot be added."""
        return self.stride > 1 or x.shape[-1] != self.features * self.expansion

    def padded(self, x: jax.Array) -> jax.Array:
        """Every stride-th pixel of x, with channels of zeros on both sides (He et al. 2015, option A).

        [batch, height, width, inputs] -> the shape of the block's output, x's dtype. An odd number of
        channels has the one more after x's own.
        """
        missing = self.features * self.expansion - x.shape[-1]
        return jnp.pad(x[:, :: self.stride, :: self.stride], [(0, 0)] * 3 + [(missing // 2, missing - missing // 2)])

    def projected(self, x: jax.Array) -> jax.Array:
        """x under a strided 1x1 convolution (option B): as `padded`, of the convolution's dtype."""
        outputs = self.features * self.expansion
        return self.conv(outputs, side=1, stride=self.stride, name="shortcut_conv")(x)

    def skip(self, x: jax.Array, norm_options: dict) -> jax.Array:
        """x itself, or what stands for it in the output's shape; `norm_options` are those of `BatchNorm.__call__`."""
        if not self.changes(x):
            return x
        if self.shortcut == "padding":
            return self.padded(x)
        return self.norm(name="shortcut_bn")(self.projected(x), **norm_options)


class BasicBlock(Block):
    """Two convolutions and a skip connection; the first convolution strides (He et al. 2015)."""

    @nn.compact
    def __call__(self, x: jax.Array, **norm_options) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), features]."""
        y = self.conv(self.features, stride=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, **norm_options))
        y = self.conv(self.features, name="conv2")(y)
        y = self.norm(name="bn2")(y, **norm_options)
        return nn.relu(y + self.skip(x, norm_options))


class Bottleneck(Block):
    """1x1, KxK and 1x1 convolutions and a skip connection; the KxK one strides, the last one has 4 x features."""

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, **norm_options) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), 4 x features]."""
        y = self.conv(self.features, side=1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, **norm_options))
        y = self.conv(self.features, stride=self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, **norm_options))
        y = self.conv(self.features * self.expansion, side=1, name="conv3")(y)
        y = self.norm(name="bn3")(y, **norm_options)
        return nn.relu(y + self.skip(x, norm_options))


class PreactBlock(Block):
    """BatchNorm and ReLU before each of two convolutions (He et al. 2016, arXiv 1603.05027).

    Where the block changes the shape, the shortcut starts from the activated input and has no batch
    normalisation; dropout acts between the convolutions (Zagoruyko and Komodakis 2016, arXiv 1605.07146).
    """

    preactivated: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array, **norm_options) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), features]."""
        active = nn.relu(self.norm(name="bn1")(x, **norm_options))
        y = self.conv(self.features, stride=self.stride, name="conv1")(active)
        y = nn.relu(self.norm(name="bn2")(y, **norm_options))
        y = self.dropout()(y, norm_options["train"])
        y = self.conv(self.features, name="conv2")(y)
        if not self.changes(x):
            return y + x
        return y + (self.padded(active) if self.shortcut == "padding" else self.projected(active))


class SqueezeExcitation(nn.Module):
    """Scale every channel by a weight from 0 to 1 that depends on all channels' means.

    The squeeze-and-excitation block of Hu et al. 2017 (arXiv 1709.01507), its linear layers with biases.

    Attributes:
      reduction: how many times fewer channels the hidden layer has.
      dtype: of the arithmetic.
      param_dtype: of the parameters.
    """

    reduction: int = 16
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels], scaled; shape and dtype stay."""
        channels = x.shape[-1]
        dense = partial(torch_dense, dtype=self.dtype, param_dtype=self.param_dtype)
        y = dense(channels // self.reduction, channels, name="fc1")(x.mean((1, 2)))
        y = dense(channels, channels // self.reduction, name="fc2")(nn.relu(y))
        return x * nn.sigmoid(y)[:, None, None, :].astype(x.dtype)


def torch_dense(features: int, inputs: int, **options: Any) -> nn.Dense:
    """A linear layer, [batch, inputs] -> [batch, features], with torch.nn.Linear's initial weights and bias."""
    return nn.Dense(features, kernel_init=torch_weight_init, bias_init=torch_bias_init(inputs), **options)
