"""Convolution: values and gradients of every way of working it out against NumPy and JAX's own in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax

from jresnet.models import winograd
from jresnet.models.convolution import NHWC_HWIO, conv2d
from tests.support.numerics import assert_close, with_gradients

# Minimal filtering begins at 32 channels on both sides.
CHANNELS = st.integers(1, 4) | st.just(32)
conv_cases = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "height": st.integers(1, 12),
        "width": st.integers(1, 12),
        "inputs": CHANNELS,
        "outputs": CHANNELS,
        "side": st.sampled_from([1, 3, 5]),
        "stride": st.sampled_from([1, 2]),
        "seed": st.integers(0, 2**32 - 1),
    }
)
EVEN = {"batch": 2, "height": 8, "width": 6, "inputs": 3, "outputs": 4, "side": 3, "stride": 2, "seed": 0}
EVEN_5 = EVEN | {"side": 5}
EVEN_1 = EVEN | {"side": 1}
ODD = EVEN | {"height": 7, "width": 5}
# More images than the backward pass takes at once: the last piece is smaller than the others.
PIECES = ODD | {"batch": 35}
MANY_PIECES = EVEN | {"batch": 150, "side": 5}
# Minimal filtering: large tiles, where there are enough of them, and small ones.
TILES_4 = EVEN | {"batch": 5, "height": 16, "width": 20, "inputs": 33, "outputs": 32, "stride": 1}
TILES_2 = TILES_4 | {"height": 6}
FEW_TILES = TILES_4 | {"batch": 1, "height": 4, "width": 8}


def draw_conv(case):
    """Images, kernel and the gradient of the output, all float64."""
    rng = np.random.default_rng(case["seed"])
    x = rng.normal(size=(case["batch"], case["height"], case["width"], case["inputs"]))
    kernel = rng.normal(size=(case["side"], case["side"], case["inputs"], case["outputs"]))
    rows, columns = (-(-size // case["stride"]) for size in x.shape[1:3])
    return x, kernel, rng.normal(size=(case["batch"], rows, columns, case["outputs"]))


def naive_conv(x, kernel, dy, stride):
    """Output, gradient of the images, gradient of the kernel: one tap of the kernel after another."""
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y, d_padded, d_kernel = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(kernel)
    for row, column in np.ndindex(kernel.shape[:2]):
        seen = (
            slice(None),
            slice(row, row + stride * (dy.shape[1] - 1) + 1, stride),
            slice(column, column + stride * (dy.shape[2] - 1) + 1, stride),
        )
        y += padded[seen] @ kernel[row, column]
        d_padded[seen] += dy @ kernel[row, column].T
        d_kernel[row, column] = np.tensordot(padded[seen], dy, ((0, 1, 2), (0, 1, 2)))
    return y, d_padded[:, pad : pad + x.shape[1], pad : pad + x.shape[2]], d_kernel


@settings(max_examples=12)
@given(conv_cases)
@example(EVEN)
@example(EVEN_5)
@example(EVEN_1)
@example(ODD)
@example(PIECES)
@example(MANY_PIECES)
@example(TILES_4)
@example(TILES_2)
@example(FEW_TILES)
def test_conv2d_equals_the_naive_convolution(case):
    arrays = draw_conv(case)
    expected = naive_conv(*arrays, case["stride"])

    @jax.jit
    def conv(x, kernel):
        return conv2d(x, kernel, case["stride"])

    single = with_gradients(conv, *(jnp.asarray(a, jnp.float32) for a in arrays))
    assert {a.dtype for a in single} == {jnp.dtype("float32")}
    assert_close(single, expected, 1e-5)
    with jax.enable_x64():
        assert_close(with_gradients(conv, *map(jnp.asarray, arrays)), expected, 1e-12)


@pytest.mark.parametrize("case", [EVEN, EVEN_5, EVEN_1, ODD, TILES_4, TILES_2])
def test_conv2d_gradient_is_jaxs_own(case):
    x, kernel, dy = draw_conv(case)
    pad = case["side"] // 2

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (case["stride"],) * 2, ((pad, pad), (pad, pad)), dimension_numbers=NHWC_HWIO
        )

    with jax.enable_x64():
        arrays = tuple(map(jnp.asarray, (x, kernel, dy)))
        ours = with_gradients(lambda x, kernel: conv2d(x, kernel, case["stride"]), *arrays)
        assert_close(ours, with_gradients(plain, *arrays), 1e-12)


@pytest.mark.parametrize("case", [EVEN, EVEN_1, TILES_4])
def test_conv2d_gradient_in_a_loop_equals_the_one_outside(case):
    x, kernel, dy = (jnp.asarray(a, jnp.float32) for a in draw_conv(case))

    def gradients(x, kernel):
        return with_gradients(lambda x, kernel: conv2d(x, kernel, case["stride"]), x, kernel, dy)[1:]

    def descend(carry):
        return jax.tree.map(lambda value, gradient: value - 0.01 * gradient, carry, gradients(*carry))

    looped = jax.jit(lambda n, carry: lax.fori_loop(0, n, lambda _, carry: descend(carry), carry))(3, (x, kernel))
    unrolled = descend(descend(descend((x, kernel))))
    assert_close(looped, unrolled, 1e-6)
    assert np.abs(looped[1] - kernel).max() > 0.01


@pytest.mark.parametrize("case", [EVEN, PIECES, TILES_4, TILES_2])
def test_conv2d_in_bfloat16_keeps_its_dtype(case):
    rounded = [jnp.asarray(a, jnp.bfloat16) for a in draw_conv(case)]
    found = with_gradients(lambda x, kernel: conv2d(x, kernel, case["stride"]), *rounded)
    assert {a.dtype for a in found} == {jnp.dtype("bfloat16")}
    expected = naive_conv(*(np.asarray(a, np.float64) for a in rounded), case["stride"])
    for one, other in zip(found, expected, strict=True):
        # Rounding the results makes 0.0017; maps worked out in bfloat16 would err by 0.006 to 0.024.
        assert np.linalg.norm(np.asarray(one, np.float64) - other) < 2**-8 * np.linalg.norm(other)


@pytest.mark.parametrize("m", winograd.POINTS)
def test_the_maps_are_a_filter_of_three_taps(m):
    outputs, kernel, inputs = winograd.maps(m)
    rng = np.random.default_rng(m)
    taps, signal = rng.normal(size=3), rng.normal(size=m + 2)
    expected = np.correlate(signal, taps, "valid")
    np.testing.assert_allclose(outputs @ ((kernel @ taps) * (inputs @ signal)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("x_shape", "side", "stride", "expected"),
    [
        ((1, 32, 32, 40), 3, 1, 4),
        ((64, 4, 4, 40), 3, 1, 4),
        # 63 tiles of 4 x 4 are too few, however many of 2 x 2 there are.
        ((63, 4, 4, 40), 3, 1, 2),
        ((1, 4, 4, 40), 3, 1, 2),
        ((64, 6, 4, 40), 3, 1, 2),
        ((64, 7, 4, 40), 3, 1, None),
        ((64, 32, 32, 40), 3, 2, None),
        ((64, 32, 32, 40), 5, 1, None),
        ((64, 32, 32, 40), 1, 1, None),
    ],
)
def test_the_rule_for_tiles(x_shape, side, stride, expected):
    assert winograd.tile(x_shape, (side, side, 40, 32), stride) == expected


@pytest.mark.parametrize(("inputs", "outputs", "expected"), [(32, 32, 4), (31, 64, None), (64, 31, None)])
def test_the_rule_for_tiles_asks_for_channels(inputs, outputs, expected):
    assert winograd.tile((64, 32, 32, inputs), (3, 3, inputs, outputs), 1) == expected


def test_large_tiles_lose_little_in_float32():
    x, kernel, dy = draw_conv(TILES_4 | {"inputs": 84, "outputs": 84})
    found = [np.asarray(a, np.float64) for a in winograd_of(*(jnp.asarray(a, jnp.float32) for a in (x, kernel, dy)))]
    with jax.enable_x64():
        expected = [np.asarray(a) for a in winograd_of(*map(jnp.asarray, (x, kernel, dy)))]
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) < 1e-6, errors


def winograd_of(x, kernel, dy):
    return winograd.forward(x, kernel, 4), *winograd.gradients(x, kernel, dy, 4)
