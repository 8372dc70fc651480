"""The one convolution of all networks, and the rule by which it is worked out.

On CPUs a 3x3 convolution of stride 1 with even sides and at least 32 channels is worked out by minimal
filtering (`winograd`), in float32 at least; a 1x1 convolution is a matrix product everywhere; all else is XLA's
convolution, on CPUs with gradients written as convolutions in the layout of the forward one. Other backends have
XLA's convolution and the gradients that JAX derives from it. Every way is the same function.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jresnet.models import winograd

NHWC_HWIO = ("NHWC", "HWIO", "NHWC")

# On CPUs XLA takes 15 to 25 % less time for a backward pass in pieces of this many images than in one
# (width 42, 32 to 128 images); more than so many pieces would only lengthen compilation.
PIECE_IMAGES = 16
MOST_PIECES = 8


# Jitted, as the gradients are, for the trace to be kept: a network has many convolutions of few shapes.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve with (side - 1) / 2 pixels of zero padding on every border, as torch.nn.Conv2d(padding=side // 2).

    The padding is symmetric for every stride, where "SAME" would pad an even image on one side only.
    Reverse mode only, as for every `jax.custom_vjp`.

    Args:
      x: [batch, height, width, inputs].
      kernel: [side, side, inputs, outputs], side odd.
      stride: step of the kernel along both sides of the image, in pixels.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), outputs], of x's dtype.
    """
    tile = winograd.tile(x.shape, kernel.shape, stride)
    direct = partial(_convolve, stride=stride)
    if tile is None:
        return direct(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=partial(winograd.forward, m=tile), default=direct)


def _convolve(x, kernel, stride):
    if kernel.shape[0] == 1:
        return jnp.einsum("nhwi,io->nhwo", x[:, ::stride, ::stride], kernel[0, 0])
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=NHWC_HWIO)


def _conv2d_forward(x, kernel, stride):
    return conv2d(x, kernel, stride), (x, kernel)


@partial(jax.jit, static_argnums=0)
def _conv2d_backward(stride, residuals, dy):
    def derived(x, kernel, dy):
        return jax.vjp(partial(_convolve, stride=stride), x, kernel)[1](dy)

    return lax.platform_dependent(*residuals, dy, cpu=partial(_cpu_gradients, stride), default=derived)


def _cpu_gradients(stride, x, kernel, dy):
    """Gradients of x and the kernel.

    XLA brings convolutions into the layout it is fast at in a program's entry computation only: in a loop's
    body the gradients JAX derives fall to an emitter about 30 times slower. Hence none of them here.
    """
    if kernel.shape[0] == 1:
        return _pointwise_gradients(x, kernel, stride, dy)
    tile = winograd.tile(x.shape, kernel.shape, stride)
    if tile is not None:
        return winograd.gradients(x, kernel, dy, tile)
    size = max(PIECE_IMAGES, -(-x.shape[0] // MOST_PIECES))
    dx, dk = [], jnp.zeros((), jnp.promote_types(kernel.dtype, jnp.float32))
    for start in range(0, x.shape[0], size):
        x_piece, dy_piece = x[start : start + size], dy[start : start + size]
        dx.append(_input_gradient(x_piece.shape, kernel, stride, dy_piece))
        dk += _kernel_gradient(x_piece, kernel.shape, stride, dy_piece)
    return jnp.concatenate(dx), dk.astype(kernel.dtype)


def _pointwise_gradients(x, kernel, stride, dy):
    dx = jnp.einsum("nhwo,io->nhwi", dy, kernel[0, 0])
    if stride > 1:
        gaps = [
            (0, size - (stride * (n - 1) + 1), stride - 1) for size, n in zip(x.shape[1:3], dy.shape[1:3], strict=True)
        ]
        dx = lax.pad(dx, jnp.zeros((), dx.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))
    return dx, jnp.einsum("nhwi,nhwo->io", x[:, ::stride, ::stride], dy)[None, None]


def _input_gradient(x_shape, kernel, stride, dy):
    """dy, spread out by the stride, convolved with the kernel turned by 180 degrees and its channels swapped."""
    side = kernel.shape[0]
    low = side - 1 - side // 2
    pads = [
        (low, size + side - 2 - stride * (n - 1) - low) for size, n in zip(x_shape[1:3], dy.shape[1:3], strict=True)
    ]
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return lax.conv_general_dilated(
        dy, turned, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=NHWC_HWIO
    )


def _kernel_gradient(x, kernel_shape, stride, dy):
    """x convolved with dy, batch and channels having changed places."""
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


conv2d.defvjp(_conv2d_forward, _conv2d_backward)
