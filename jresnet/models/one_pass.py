"""Batch normalisation for bfloat16 on GPUs, in few kernels: statistics in one pass, and their gradients in one more.

At the report's batch sizes a training step on a GPU is expected to take as long as launching its kernels does. XLA
makes three of this layer in each direction: one for two sums over the batch in parts, one that adds up the parts, and
one for the result, ReLU and residual connection included.

As a `jax.custom_vjp` of first order, this form supports reverse mode only, as training needs it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jresnet.models.layers import BatchNorm, image_weights, per_channel, psum_over, values_per_channel

# A sum over the batch takes two kernels, for parts and for their sum. XLA merges the second with the arithmetic on the
# sums if there are fewer than 32 parts; its own parts are more.
PARTS = 16
# Longer parts XLA would divide again.
MAX_ROWS = 2048


class OnePassBatchNorm(BatchNorm):
    """`BatchNorm` whose training reads the activations once for both statistics, as sums of x - s and of (x - s)^2.

    s is the channel's value in the first pixel of the first image that is not padding, so that nothing cancels however
    far the mean is from zero. Statistics and arithmetic are float32, and the result is rounded to x's dtype once.
    """

    def over_batch(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None, residual: jax.Array | None,
        relu: bool,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:  # fmt: skip
        """See `BatchNorm.over_batch`."""
        results: tuple[jax.Array, jax.Array, jax.Array, jax.Array] = _over_batch(
            x, scale, bias, mask, residual, self.epsilon, self.axis_name, relu
        )
        return results


def norm_for(platform: str, dtype: Any) -> type[BatchNorm]:
    """The `norm_cls` of `ResNet` for training on a platform ("cpu", "gpu", "tpu") in this dtype of arithmetic.

    One pass is for bfloat16, whose rounding exceeds by far what the two ways of summing in float32 differ in.
    """
    return OnePassBatchNorm if platform == "gpu" and dtype == jnp.bfloat16 else BatchNorm


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _over_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None, residual: jax.Array | None,
    epsilon: float, axis_name: str | None, relu: bool,
) -> Any:  # fmt: skip
    return _forward(x, scale, bias, mask, residual, epsilon, axis_name, relu)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None, residual: jax.Array | None,
    epsilon: float, axis_name: str | None, relu: bool,
) -> tuple[Any, Any]:  # fmt: skip
    values = x.astype(scale.dtype)
    actual = values_per_channel(values, mask, axis_name)
    shift = _shift(values, mask, axis_name)
    count = jnp.maximum(actual, 1)
    deviations = _masked(values - per_channel(shift), mask)
    # In the gradient XLA's own parts do as well: no arithmetic on the sums follows that it could merge.
    first, second = psum_over(_sums(deviations, lax.square(deviations), PARTS), axis_name)
    mean = shift + first / count
    # See `batch_statistics` for a device whose images are all padding.
    var = jnp.where(actual > 0, jnp.maximum(second / count - lax.square(first / count), 0), 1)
    factor = scale * lax.rsqrt(var + epsilon)
    y = values * per_channel(factor) + per_channel(bias - mean * factor)
    y = y if residual is None else y + residual.astype(y.dtype)
    y = (jnp.maximum(y, 0) if relu else y).astype(x.dtype)
    # With a residual, the sign of y decides where ReLU passes gradients; without, it follows from x.
    residuals = x, scale, bias, mask, mean, var, count, None if residual is None else y
    return (y, mean, var, count), residuals


def _backward(epsilon: float, axis_name: str | None, relu: bool, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    """The gradients of x, scale, bias and residual. Statistics have none: they only enter the running ones."""
    x, scale, bias, mask, mean, var, count, y = residuals
    dy = cotangents[0]
    deviation = lax.rsqrt(var + epsilon)
    factor = scale * deviation
    values = x.astype(scale.dtype)
    if relu:
        positive = values * per_channel(factor) + per_channel(bias - mean * factor) if y is None else y
        dy = jnp.where(positive > 0, dy, jnp.zeros((), dy.dtype))
    dz = dy.astype(scale.dtype)
    normalised = (values - per_channel(mean)) * per_channel(deviation)
    dbias, dscale = _sums(dz, dz * normalised)
    # Each device's loss depends on the whole batch's statistics.
    total_bias, total_scale = psum_over((dbias, dscale), axis_name)
    through = per_channel(total_bias / count) + normalised * per_channel(total_scale / count)
    dx = (dz - _masked(through, mask)) * per_channel(factor)
    return dx.astype(x.dtype), dscale, dbias, None, None if y is None else dy


_over_batch.defvjp(_forward, _backward)


def _shift(values: jax.Array, mask: jax.Array | None, axis_name: str | None) -> jax.Array:
    """A value of each channel, [channels], or the mean of the devices'; 0 if there is only padding."""
    some = 1.0 if mask is None else mask.any().astype(values.dtype)
    shift = values[0, 0, 0] if mask is None else values[jnp.argmax(mask), 0, 0] * some
    if axis_name is None:
        return shift
    total, devices = psum_over((shift, some), axis_name)
    return total / jnp.maximum(devices, 1)


def _sums(a: jax.Array, b: jax.Array, parts: int = 1) -> tuple[jax.Array, jax.Array]:
    """The sums of both over all axes but the last, in one pass; in two stages, `parts` sums first, if that fits."""
    zero, channels = jnp.zeros((), a.dtype), a.shape[-1]
    rows, rest = divmod(a.size // channels, parts)
    if rest or rows > MAX_ROWS:
        parts, rows = 1, a.size // channels
    columns = tuple(array.reshape(parts, rows, channels) for array in (a, b))
    first = lax.reduce(columns, (zero, zero), lambda x, y: (x[0] + y[0], x[1] + y[1]), (1,))
    return first[0].sum(0), first[1].sum(0)


def _masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    weights = image_weights(mask, x.dtype)
    return x if weights is None else x * weights
