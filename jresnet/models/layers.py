"""The two layers a residual network is made of, with PyTorch's semantics: convolution and batch normalisation.

Flax's own layers differ from PyTorch's in the running variance, in the initial weights and in the
padding of strided convolutions. Hence these.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jresnet.models.convolution import conv2d

# torch.nn.Conv2d and Linear draw weights from U(-b, b), b = 1 / sqrt(fan_in): kaiming_uniform with a = sqrt(5).
torch_weight_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias_init(fan_in: int) -> Callable:
    """The initialiser of torch.nn.Linear's bias, U(-b, b) with b = 1 / sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


class Conv(nn.Module):
    """A bias-free convolution, as torch.nn.Conv2d(side, padding=side // 2, bias=False).

    Attributes:
      features: output channels.
      side: height and width of the kernel, odd.
      stride: step of the kernel in pixels.
      dtype: of the arithmetic and the output.
      param_dtype: of the kernel.
    """

    features: int
    side: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), features]."""
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", torch_weight_init, shape, self.param_dtype)
        return conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class MaxPool(nn.Module):
    """The largest value of every window, as torch.nn.MaxPool2d(side, stride, padding=side // 2)."""

    side: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, ceil(height / stride), ceil(width / stride), channels]."""
        pad = self.side // 2
        return nn.max_pool(x, (self.side, self.side), (self.stride, self.stride), ((pad, pad), (pad, pad)))


class AvgPool(nn.Module):
    """The mean of every window of `side`, (rows, columns); windows touch, as torch.nn.AvgPool2d(side)."""

    side: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height // rows, width // columns, channels]."""
        return nn.avg_pool(x, self.side, strides=self.side)


class Dropout(nn.Module):
    """Sets activations to zero with probability `rate` in training, and scales the others by 1 / (1 - rate).

    An image's mask depends on the key and on its place in the batch alone, however many devices share it.

    Attributes:
      rate: from 0 to below 1.
      axis_name: mapped axis whose devices share one batch, or None.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[batch, ...] -> the same shape and dtype; needs the rng "dropout" in training."""
        if not train or self.rate == 0:
            return x
        first = 0 if self.axis_name is None else lax.axis_index(self.axis_name) * x.shape[0]
        key = self.make_rng("dropout")

        def kept(place):
            return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.rate, x.shape[1:])

        return jnp.where(jax.vmap(kept)(first + jnp.arange(x.shape[0])), x / (1 - self.rate), 0).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over (batch, height, width) with torch.nn.BatchNorm2d's semantics.

    The batch is normalised by its biased variance; the running variance is updated with the unbiased
    one. Statistics are computed in `param_dtype` whatever the dtype of the activations.

    Attributes:
      momentum: weight of the old running statistics; torch's `momentum=0.1` is 0.9 here.
      epsilon: added to the variance, torch's default.
      axis_name: mapped axis whose devices share one batch, or None.
      param_dtype: of scale, bias and statistics.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Normalise x, [batch, height, width, channels], and keep its dtype.

        Args:
          x: activations.
          train: use the batch's statistics and update `batch_stats`; else use the running ones.
          mask: bool [batch], false for images that are padding and must not be counted; None: all count.
        """
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)
        if not train:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var, count = batch_statistics(x.astype(self.param_dtype), mask, self.axis_name)
            if not self.is_initializing():
                unbiased = var * (count / jnp.maximum(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        return normalised(x, mean, var + self.epsilon, scale, bias)


# These two are jitted for their traces to be kept: a network normalises many maps of few shapes.
@jax.jit
def normalised(x, mean, var, scale, bias):
    """x, [batch, height, width, channels], less its mean, over the root of var, scaled and offset; keeps its dtype."""
    factor = scale * lax.rsqrt(var)
    # The mean goes off before the product: as an offset after it, in float32, the gradient of `scale` is
    # the small difference of two large sums. Its own gradient is that of an offset whose value is zero.
    center = lax.stop_gradient(mean)
    offset = bias + (center - mean) * factor
    return ((x - _wide(center)) * _wide(factor) + _wide(offset)).astype(x.dtype)


@partial(jax.jit, static_argnums=2)
def batch_statistics(x, mask, axis_name):
    """Mean and biased variance of every channel of x, [batch, height, width, channels], and the count behind them."""
    weights = None if mask is None else mask.astype(x.dtype)[:, None, None, None]
    count = x.size // x.shape[-1] if mask is None else mask.sum() * (x.shape[1] * x.shape[2])

    def total(values):
        return _sum_over(jnp.sum(values if weights is None else values * weights, (0, 1, 2)), axis_name)

    real = _sum_over(jnp.asarray(count, x.dtype), axis_name)
    count = jnp.maximum(real, 1)
    mean = total(x) / count
    # The variance does not change with the mean to first order, as deviations from it add up to zero:
    # its gradient by way of the mean is zero, and need not be computed.
    deviations = x - _wide(lax.stop_gradient(mean))
    # A device whose images are all padding has none to normalise by; with a variance of 0 what they become
    # would overflow within a few layers.
    return mean, jnp.where(real > 0, total(lax.square(deviations)) / count, 1), count


def _sum_over(value, axis_name):
    return value if axis_name is None else lax.psum(value, axis_name)


def _wide(vector):
    return vector[None, None, None, :]
