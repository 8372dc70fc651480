"""Residual blocks, and squeeze-and-excitation."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jresnet.config import Shortcut
from jresnet.models.layers import Dropout, torch_dense

ModuleDef = Callable[..., Callable[..., jax.Array]]


class Block(nn.Module):
    """The fields and the shortcut of every residual block.

    Attributes:
      features: channels of the block, before `expansion`.
      conv: makes a convolution from (features, kernel_size, strides=1, name=).
      norm: makes a batch normalisation from (name=).
      kernel_size: side of the square kernels, odd.
      strides: of the block, in pixels.
      shortcut: of a block that changes the shape, see `ResNet`.
      dropout: makes the dropout between the convolutions of a PreactBlock.
      zero_init: the last normalisation begins with scale 0; not of a PreactBlock.
    """

    features: int
    conv: ModuleDef
    norm: ModuleDef
    kernel_size: int = 3
    strides: int = 1
    shortcut: Shortcut = "projection"
    dropout: ModuleDef = partial(Dropout, 0.0)
    zero_init: bool = False
    expansion: ClassVar[int] = 1
    preactivated: ClassVar[bool] = False

    @property
    def last_norm(self) -> ModuleDef:
        """Makes the normalisation before the skip connection is added."""
        return partial(self.norm, scale_init=nn.initializers.zeros) if self.zero_init else self.norm

    def changes_shape(self, x: jax.Array) -> bool:
        """Whether the output's shape differs from that of x, [batch, height, width, inputs]."""
        return self.strides > 1 or x.shape[-1] != self.features * self.expansion

    def match(self, x: jax.Array) -> jax.Array:
        """x in the output's shape: a strided 1x1 convolution, or zero padding (options B and A of He et al. 2015).

        Padding takes every strides-th pixel and adds zero channels before and after x's own, the odd one after.
        """
        features = self.features * self.expansion
        if self.shortcut == "projection":
            return self.conv(features, 1, self.strides, name="shortcut_conv")(x)
        missing = features - x.shape[-1]
        channels = (missing // 2, missing - missing // 2)
        # Of a symbolic number of images, x[:, ::2] would be a gather.
        strided = lax.slice(x, (0, 0, 0, 0), x.shape, (1, self.strides, self.strides, 1))
        return jnp.pad(strided, [(0, 0)] * 3 + [channels])

    def skip(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """The skip connection of blocks that activate last: x, or `match(x)`, normalised after a projection."""
        if not self.changes_shape(x):
            return x
        x = self.match(x)
        return self.norm(name="shortcut_bn")(x, mask=mask) if self.shortcut == "projection" else x


class BasicBlock(Block):
    """Two KxK convolutions and a skip connection; the first convolution is strided (He et al. 2015)."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / strides), ceil(width / strides), features]."""
        y = self.conv(self.features, self.kernel_size, self.strides, name="conv1")(x)
        y = self.norm(name="bn1")(y, mask=mask, relu=True)
        y = self.conv(self.features, self.kernel_size, name="conv2")(y)
        return self.last_norm(name="bn2")(y, mask=mask, residual=self.skip(x, mask), relu=True)


class Bottleneck(Block):
    """1x1, strided KxK and 1x1 convolutions, the last to 4 x features, and a skip connection (He et al. 2015)."""

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / strides), ceil(width / strides), 4 x features]."""
        y = self.conv(self.features, 1, name="conv1")(x)
        y = self.norm(name="bn1")(y, mask=mask, relu=True)
        y = self.conv(self.features, self.kernel_size, self.strides, name="conv2")(y)
        y = self.norm(name="bn2")(y, mask=mask, relu=True)
        y = self.conv(self.features * self.expansion, 1, name="conv3")(y)
        return self.last_norm(name="bn3")(y, mask=mask, residual=self.skip(x, mask), relu=True)


class PreactBlock(Block):
    """BatchNorm and ReLU before each of two convolutions (He et al. 2016, arXiv 1603.05027).

    If the block changes the shape, the shortcut starts from the activated input and has no batch
    normalisation. Dropout comes between the convolutions (Zagoruyko and Komodakis 2016, arXiv 1605.07146).
    """

    preactivated: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / strides), ceil(width / strides), features]."""
        activated = self.norm(name="bn1")(x, mask=mask, relu=True)
        y = self.conv(self.features, self.kernel_size, self.strides, name="conv1")(activated)
        y = self.norm(name="bn2")(y, mask=mask, relu=True)
        y = self.dropout()(y)
        y = self.conv(self.features, self.kernel_size, name="conv2")(y)
        return y + (self.match(activated) if self.changes_shape(x) else x)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a weight from 0 to 1 computed from all channels' means (Hu et al. 2017, arXiv 1709.01507).

    Attributes:
      reduction: channels of x for each hidden unit.
      dtype: of the arithmetic.
      param_dtype: of the parameters.
    """

    reduction: int = 16
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same shape and dtype."""
        channels = x.shape[-1]
        dense = partial(torch_dense, dtype=self.dtype, param_dtype=self.param_dtype)
        y = dense(channels // self.reduction, channels, name="fc1")(x.mean((1, 2)))
        y = dense(channels, channels // self.reduction, name="fc2")(nn.relu(y))
        return x * nn.sigmoid(y)[:, None, None, :].astype(x.dtype)
