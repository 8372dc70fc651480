"""Flax layers with PyTorch's semantics: convolution, linear layer, dropout and batch normalisation.

Flax's own differ from PyTorch's in the initial weights, the padding of strided convolutions, and the running variance.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Tree = TypeVar("Tree")

# PyTorch draws the weights of Conv2d and Linear from U(-b, b), b = 1 / sqrt(fan_in): kaiming_uniform with a = sqrt(5).
torch_weight_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias_init(fan_in: int) -> Callable[..., jax.Array]:
    """The initialiser of torch.nn.Linear's bias, U(-b, b) with b = 1 / sqrt(fan_in)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


def torch_conv(features: int, kernel_size: int, strides: int = 1, **options: Any) -> nn.Conv:
    """torch.nn.Conv2d(features, kernel_size, strides, padding=kernel_size // 2, bias=False) with its initial weights.

    The padding is symmetric for every stride, where Flax's "SAME" pads images of even sides on one side only.
    """
    return nn.Conv(
        features, (kernel_size, kernel_size), strides, padding=kernel_size // 2,
        use_bias=False, kernel_init=torch_weight_init, **options,
    )  # fmt: skip


def torch_dense(features: int, inputs: int, **options: Any) -> nn.Dense:
    """torch.nn.Linear(inputs, features) with its initial weights and bias."""
    return nn.Dense(features, kernel_init=torch_weight_init, bias_init=torch_bias_init(inputs), **options)


class Dropout(nn.Module):
    """Sets activations to zero with probability `rate`, and scales the others by 1 / (1 - rate).

    Unlike `nn.Dropout`, an image's mask depends only on the key and on its position in the batch, so that it is the
    same however many devices share the batch.

    Attributes:
      rate: from 0 to below 1.
      axis_name: mapped axis whose devices share one batch, or None.
      deterministic: leave the activations as they are; else the rng "dropout" is needed, unless the rate is 0.
    """

    rate: float
    axis_name: str | None = None
    deterministic: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, ...] -> the same shape and dtype."""
        if self.deterministic or self.rate == 0:
            return x
        first = 0 if self.axis_name is None else lax.axis_index(self.axis_name) * x.shape[0]
        key = self.make_rng("dropout")

        def kept(index: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, index), 1 - self.rate, x.shape[1:])

        masks = jax.vmap(kept)(first + jnp.arange(x.shape[0], dtype=jnp.int32))
        return jnp.where(masks, x / (1 - self.rate), 0).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over (batch, height, width) with torch.nn.BatchNorm2d's semantics.

    Unlike `nn.BatchNorm`, it updates the running variance with the unbiased variance; the batch itself is normalised
    by the biased one. Statistics are computed in `param_dtype`, whatever the dtype of the activations.

    Attributes:
      use_running_average: normalise by the running statistics; else by the batch's, which update `batch_stats`.
      momentum: weight of the old running statistics; torch's `momentum=0.1` is 0.9 here.
      epsilon: added to the variance, torch's default.
      axis_name: mapped axis whose devices share one batch, or None.
      param_dtype: of scale, bias and statistics.
      scale_init: initialiser of the scale.
    """

    use_running_average: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    param_dtype: jnp.dtype = jnp.float32
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, residual: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        """Normalise activations, then add `residual` and apply ReLU if asked to.

        Args:
          x: [batch, height, width, channels].
          mask: bool [batch], false for padding, which the batch's statistics exclude; None: no padding.
          residual: of x's shape and dtype; None: nothing to add.
          relu: apply ReLU last.

        Returns:
          Activations of x's shape and dtype.
        """
        shape = x.shape[-1:]
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)
        if self.use_running_average:
            output: jax.Array = normalised(x, running_mean.value, running_var.value + self.epsilon, scale, bias)
            return activated(output, residual, relu)
        output, mean, var, count = self.over_batch(x, scale, bias, mask, residual, relu)
        if not self.is_initializing():
            unbiased = var * (count / jnp.maximum(count - 1, 1))
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        return output

    def over_batch(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None, residual: jax.Array | None,
        relu: bool,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:  # fmt: skip
        """The output by the batch's statistics, and these: mean and biased variance [channels], number of values []."""
        mean, var, count = batch_statistics(x.astype(self.param_dtype), mask, self.axis_name)
        return activated(normalised(x, mean, var + self.epsilon, scale, bias), residual, relu), mean, var, count


def activated(x: jax.Array, residual: jax.Array | None, relu: bool) -> jax.Array:
    """x plus `residual`, if there is one, then ReLU if asked to."""
    x = x if residual is None else x + residual
    return nn.relu(x) if relu else x


# This and `batch_statistics` are jitted so that equal layers are traced once.
@jax.jit
def normalised(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) / sqrt(var) * scale + bias by channel, for x [batch, height, width, channels]; keeps x's dtype."""
    factor = scale * lax.rsqrt(var)
    # Subtract the mean before scaling: folding it into the bias makes the gradient of scale a small difference
    # of two large sums in float32. The mean's own gradient goes through `offset`, whose extra term is zero.
    center = lax.stop_gradient(mean)
    offset = bias + (center - mean) * factor
    return ((x.astype(mean.dtype) - per_channel(center)) * per_channel(factor) + per_channel(offset)).astype(x.dtype)


@partial(jax.jit, static_argnums=2)
def batch_statistics(
    x: jax.Array, mask: jax.Array | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and biased variance of each channel of x, [batch, height, width, channels], and the number of values."""
    weights = image_weights(mask, x.dtype)
    actual = values_per_channel(x, mask, axis_name)
    count = jnp.maximum(actual, 1)
    mean = _total(x, weights, axis_name) / count
    # On a device whose images are all padding, a variance of 0 would make activations overflow within a few layers.
    return mean, jnp.where(actual > 0, _variance(x, mean, weights, count, axis_name), 1), count


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _variance(
    x: jax.Array, mean: jax.Array, weights: jax.Array | None, count: jax.Array, axis_name: str | None
) -> jax.Array:
    return _total(lax.square(x - per_channel(mean)), weights, axis_name) / count


@_variance.defjvp
def _variance_jvp(axis_name: str | None, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Without the derivative with respect to the mean: it is zero, as deviations from the mean sum to zero."""
    x, mean, weights, count = primals
    deviations = x - per_channel(mean)
    variance = _total(lax.square(deviations), weights, axis_name) / count
    return variance, _total(tangents[0] * (2 * deviations), weights, axis_name) / count


def _total(x: jax.Array, weights: jax.Array | None, axis_name: str | None) -> jax.Array:
    return psum_over(jnp.sum(x if weights is None else x * weights, (0, 1, 2)), axis_name)


def image_weights(mask: jax.Array | None, dtype: jnp.dtype) -> jax.Array | None:
    """A mask of images as factors of their activations, [batch, 1, 1, 1]; None without one."""
    return None if mask is None else mask.astype(dtype)[:, None, None, None]


def values_per_channel(x: jax.Array, mask: jax.Array | None, axis_name: str | None) -> jax.Array:
    """The number of values of each channel of x that are not padding, [], on all devices together, in x's dtype."""
    count = x.size // x.shape[-1] if mask is None else mask.sum() * (x.shape[1] * x.shape[2])
    return psum_over(jnp.asarray(count, x.dtype), axis_name)


def psum_over(tree: Tree, axis_name: str | None) -> Tree:
    """The sums of arrays over the devices of a mapped axis, or the arrays themselves without one."""
    return tree if axis_name is None else cast(Tree, lax.psum(tree, axis_name))


def per_channel(vector: jax.Array) -> jax.Array:
    """[channels] -> [1, 1, 1, channels]."""
    return vector[None, None, None, :]
