"""A faster `lax.conv_general_dilated` for training on CPUs.

XLA:CPU rewrites convolutions into the canonical form that its fast kernels need in a program's entry computation
only. Inside a loop (`lax.scan`, `lax.fori_loop`), the gradients that JAX derives for plain convolutions are therefore
about 30 times slower. The gradients here are written as canonical convolutions. In addition, 3x3 convolutions
of stride 1 with enough channels use minimal filtering (`winograd`), and 1x1 convolutions are matrix products.

As a `jax.custom_vjp`, this form supports reverse mode only; plain convolutions support `jax.jvp` as well.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jresnet.models import winograd

Pair = tuple[jax.Array, jax.Array]
"""Images and kernel, or their gradients."""

NHWC_HWIO = ("NHWC", "HWIO", "NHWC")

# XLA:CPU takes 15 to 25 % less time for a backward pass in chunks of this many images than in one
# (width 42, 32 to 128 images); more chunks than this only lengthen compilation.
CHUNK_IMAGES = 16
MAX_CHUNKS = 8


def conv_for(platform: str) -> Callable[[], Callable[..., jax.Array]] | None:
    """The `conv_general_dilated_cls` of `ResNet` that trains fastest on a platform ("cpu", "gpu", "tpu").

    Returns:
      A function without arguments that returns `conv_general_dilated` on "cpu"; None, plain `lax`, elsewhere.
    """
    return _cpu_conv_cls if platform == "cpu" else None


# A module-level function, so that networks that use it compare equal and share compiled programs.
def _cpu_conv_cls() -> Callable[..., jax.Array]:
    return conv_general_dilated


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None, rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None, **options: Any,
) -> jax.Array:  # fmt: skip
    """`lax.conv_general_dilated`, faster on CPUs for the convolutions of a ResNet.

    These are 2-D convolutions of NHWC images by square kernels of odd side, with (side - 1) / 2 pixels of zero padding
    on every border, equal strides, no dilation, and no other options, such as groups. `lax` computes all others.
    """
    side, strides = rhs.shape[0], set(window_strides)
    defaults = {"feature_group_count": 1, "batch_group_count": 1}
    covered = (
        lhs.ndim == 4
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC_HWIO)
        and rhs.shape[1] == side
        and side % 2 == 1
        and not isinstance(padding, str)
        and {*map(tuple, padding)} == {(side // 2, side // 2)}
        and len(strides) == 1
        and {*(lhs_dilation or ()), *(rhs_dilation or ())} <= {1}
        and all(value == defaults.get(name) for name, value in options.items())
    )
    if covered:
        output: jax.Array = _convolve(lhs, rhs, strides.pop())
        return output
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, **options
    )


# This and its gradient are jitted so that equal layers are traced once.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), outputs]."""
    if kernel.shape[0] == 1:
        return jnp.einsum("nhwi,io->nhwo", x[:, ::stride, ::stride], kernel[0, 0])
    tile = winograd.tile(x.shape, kernel.shape, stride)
    if tile is not None:
        return winograd.forward(x, kernel, tile)
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=NHWC_HWIO)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Pair]:
    return _convolve(x, kernel, stride), (x, kernel)


@partial(jax.jit, static_argnums=0)
def _backward(stride: int, residuals: Pair, dy: jax.Array) -> Pair:
    x, kernel = residuals
    if kernel.shape[0] == 1:
        return _pointwise_gradients(x, kernel, stride, dy)
    tile = winograd.tile(x.shape, kernel.shape, stride)
    if tile is not None:
        return winograd.gradients(x, kernel, dy, tile)
    size = max(CHUNK_IMAGES, -(-x.shape[0] // MAX_CHUNKS))
    dx, dk = [], jnp.zeros((), np.promote_types(kernel.dtype, np.float32))
    for start in range(0, x.shape[0], size):
        x_chunk, dy_chunk = x[start : start + size], dy[start : start + size]
        dx.append(_input_gradient(x_chunk.shape, kernel, stride, dy_chunk))
        dk += _kernel_gradient(x_chunk, kernel.shape, stride, dy_chunk).astype(dk.dtype)
    return jnp.concatenate(dx), dk.astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)


def _pointwise_gradients(x: jax.Array, kernel: jax.Array, stride: int, dy: jax.Array) -> Pair:
    dx = jnp.einsum("nhwo,io->nhwi", dy, kernel[0, 0])
    if stride > 1:
        gaps = [
            (0, size - (stride * (n - 1) + 1), stride - 1) for size, n in zip(x.shape[1:3], dy.shape[1:3], strict=True)
        ]
        dx = lax.pad(dx, jnp.zeros((), dx.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))
    return dx, jnp.einsum("nhwi,nhwo->io", x[:, ::stride, ::stride], dy)[None, None]


def _input_gradient(x_shape: Sequence[int], kernel: jax.Array, stride: int, dy: jax.Array) -> jax.Array:
    """Convolve dy, dilated by the stride, with the kernel rotated by 180 degrees and its channels swapped."""
    side = kernel.shape[0]
    low = side - 1 - side // 2
    pads = [
        (low, size + side - 2 - stride * (n - 1) - low) for size, n in zip(x_shape[1:3], dy.shape[1:3], strict=True)
    ]
    rotated = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return lax.conv_general_dilated(
        dy, rotated, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=NHWC_HWIO
    )


def _kernel_gradient(x: jax.Array, kernel_shape: Sequence[int], stride: int, dy: jax.Array) -> jax.Array:
    """Convolve x with dy, batch and channels swapped."""
    side = kernel_shape[0]
    low = side // 2
    pads = [
        (low, side - 1 + stride * (n - 1) + 1 - size - low) for size, n in zip(x.shape[1:3], dy.shape[1:3], strict=True)
    ]
    dk = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), pads,
        rhs_dilation=(stride, stride), dimension_numbers=NHWC_HWIO,
    )  # fmt: skip
    return dk.transpose(1, 2, 0, 3)
