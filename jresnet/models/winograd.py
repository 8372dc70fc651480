"""3x3 convolutions of stride 1 by minimal filtering (Winograd), and their gradients.

A tile of m x m outputs takes (m + 2)^2 products per pair of channels in place of 9 m^2: 4 times fewer for m = 4,
2.25 times for m = 2 (Lavin and Gray 2016, arXiv 1509.09308). Kernel and image are evaluated at m + 1 points and at
infinity, multiplied there by matrix products over the channels, and interpolated:

    outputs = A^T [(G kernel G^T) * (B^T tile B)] A

The gradients are the transposes of these three maps around two more matrix products. All arithmetic is in float32
or wider: maps in bfloat16 have errors of 0.7 % (m = 2) or 2.4 % (m = 4), where rounding the result has 0.17 %.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SIDE = 3
# Points of evaluation, by tile. In float32, those for m = 4 have an error of 6e-7 of the result's norm, where the
# textbook's (0, 1, -1, 2, -2) have 14e-7, and m = 2 and a direct convolution 2e-7 (84 channels).
POINTS: dict[int, tuple[float, ...]] = {4: (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2), 2: (0, 1, -1)}
# With fewer tiles, the products read more of the transformed kernel than of the images: smaller tiles are faster.
MIN_TILES = 64
# With fewer channels, the maps take longer than the products save; measured in benchmarks/LOG.md.
MIN_CHANNELS = 32


class Maps(NamedTuple):
    """The maps of one dimension: A^T [m, m + 2], G [m + 2, 3] and B^T [m + 2, m + 2]."""

    outputs: np.ndarray
    kernel: np.ndarray
    inputs: np.ndarray


@functools.cache
def maps(m: int) -> Maps:
    """The maps for tiles of m x m outputs, by the Toom-Cook construction on POINTS[m]."""
    points, size = np.array(POINTS[m], np.float64), m + SIDE - 1
    others = [np.delete(points, j) for j in range(size - 1)]
    scales = np.array([np.prod(point - other) for point, other in zip(points, others, strict=True)])
    kernel = np.vander(points, SIDE, increasing=True) / scales[:, None]
    inputs = np.zeros((size, size))
    for j, other in enumerate(others):
        inputs[j, : size - 1] = np.poly(other)[::-1]
    inputs[-1] = np.poly(points)[::-1]
    at_infinity = np.zeros((m, 1))
    at_infinity[-1] = 1
    return Maps(
        np.hstack([np.vander(points, m, increasing=True).T, at_infinity]),
        np.vstack([kernel, np.eye(SIDE)[-1]]),
        inputs,
    )


def tile(x_shape: Sequence[int], kernel_shape: Sequence[int], stride: int) -> int | None:
    """The tile's side m for a convolution; None if minimal filtering does not apply or does not pay.

    Args:
      x_shape: (batch, height, width, inputs).
      kernel_shape: (side, side, inputs, outputs).
      stride: of the convolution, in pixels.
    """
    batch, height, width, _ = x_shape
    if kernel_shape[0] != SIDE or stride != 1 or min(kernel_shape[2:]) < MIN_CHANNELS:
        return None
    fitting = [m for m in POINTS if height % m == width % m == 0]
    many = [m for m in fitting if batch * (height // m) * (width // m) >= MIN_TILES]
    return next(iter(many or fitting[-1:]), None)


def forward(x: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    """Convolve with one pixel of zero padding.

    Args:
      x: [batch, height, width, inputs], its sides multiples of m.
      kernel: [3, 3, inputs, outputs], of x's dtype.
      m: the tile's side.

    Returns:
      [batch, height, width, outputs], of x's dtype.
    """
    products = jnp.einsum("ptc,pco->pto", _images_in(_wide(x), m), _kernel_in(_wide(kernel), m))
    return _outputs(products, m, x.shape).astype(x.dtype)


def gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array, m: int) -> tuple[jax.Array, jax.Array]:
    """Gradients of x and the kernel, given dy, [batch, height, width, outputs]; other arguments as for `forward`.

    The images are transformed as in `forward`, so that the compiler shares the result between the two.
    """
    products = _outputs_back(_wide(dy), m)
    dx = jnp.einsum("pto,pco->ptc", products, _kernel_in(_wide(kernel), m))
    dk = jnp.einsum("ptc,pto->pco", _images_in(_wide(x), m), products)
    return _images_back(dx, m, x.shape).astype(x.dtype), _kernel_back(dk, m).astype(kernel.dtype)


def _wide(array: jax.Array) -> jax.Array:
    return array.astype(np.promote_types(array.dtype, np.float32))


def _combine(rows: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """For each row, the sum of the parts weighted by its entries."""
    # Hundreds of operations: JAX traces lax's in less than half the time of the same operators of arrays.
    return [
        functools.reduce(lax.add, [lax.mul(part, part.dtype.type(x)) for x, part in zip(row, parts, strict=True) if x])
        for row in rows
    ]


def _images_in(x: jax.Array, m: int) -> jax.Array:
    """[batch, height, width, channels] -> [points, tiles, channels]: B^T tile B of overlapping tiles."""
    height, width, channels = x.shape[1:]
    size, rows = m + SIDE - 1, maps(m).inputs
    bordered = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    down = jnp.stack(_combine(rows, [bordered[:, i : i + height - m + 1 : m] for i in range(size)]))
    both = jnp.stack(_combine(rows, [down[:, :, :, j : j + width - m + 1 : m] for j in range(size)]), 1)
    return both.reshape(size**2, -1, channels)


def _images_back(gradient: jax.Array, m: int, shape: Sequence[int]) -> jax.Array:
    """The transpose of `_images_in`; `shape` is that of x."""
    batch, height, width, channels = shape
    size, rows = m + SIDE - 1, maps(m).inputs.T
    tiles = gradient.reshape(size, size, batch, height // m, width // m, channels)
    down = jnp.stack(_overlap(_combine(rows, list(tiles)), axis=2), 3)
    both = jnp.stack(_overlap(_combine(rows, list(down)), axis=3), 4)
    return both.reshape(shape)


def _overlap(rows: Sequence[jax.Array], axis: int) -> list[jax.Array]:
    """Sum the overlap of neighbouring tiles along `axis`; a tile is one pixel larger than its outputs on each side."""
    first, *inner, last = rows
    inner[0] += _shift(last, 1, axis)
    inner[-1] += _shift(first, -1, axis)
    return inner


def _shift(x: jax.Array, by: int, axis: int) -> jax.Array:
    """x shifted by `by` entries along `axis`, filled with zeros."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)])


def _kernel_in(kernel: jax.Array, m: int) -> jax.Array:
    """[3, 3, inputs, outputs] -> [points, inputs, outputs]: G kernel G^T."""
    both = jnp.asarray(np.kron(maps(m).kernel, maps(m).kernel), kernel.dtype)
    return (both @ kernel.reshape(SIDE**2, -1)).reshape(-1, *kernel.shape[2:])


def _kernel_back(gradient: jax.Array, m: int) -> jax.Array:
    """The transpose of `_kernel_in`."""
    both = jnp.asarray(np.kron(maps(m).kernel, maps(m).kernel).T, gradient.dtype)
    return (both @ gradient.reshape(len(gradient), -1)).reshape(SIDE, SIDE, *gradient.shape[1:])


def _outputs(products: jax.Array, m: int, x_shape: Sequence[int]) -> jax.Array:
    """[points, tiles, outputs] -> [batch, height, width, outputs]: A^T products A."""
    batch, height, width, _ = x_shape
    size, rows = m + SIDE - 1, maps(m).outputs
    tiles = products.reshape(size, size, batch, height // m, width // m, -1)
    down = jnp.stack(_combine(rows, list(tiles)), 3)
    return jnp.stack(_combine(rows, list(down)), 4).reshape(batch, height, width, -1)


def _outputs_back(dy: jax.Array, m: int) -> jax.Array:
    """The transpose of `_outputs`."""
    batch, height, width, outputs = dy.shape
    size, rows = m + SIDE - 1, maps(m).outputs.T
    tiles = dy.reshape(batch, height // m, m, width, outputs)
    down = jnp.stack(_combine(rows, [tiles[:, :, i] for i in range(m)]))
    down = down.reshape(size, batch, height // m, width // m, m, outputs)
    return jnp.stack(_combine(rows, [down[:, :, :, :, j] for j in range(m)]), 1).reshape(size**2, -1, outputs)
