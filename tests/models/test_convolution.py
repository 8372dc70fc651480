"""The CPU's convolution: values and gradients of each algorithm against NumPy."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax

from jresnet.models import conv_for, winograd
from jresnet.models.convolution import NHWC_HWIO
from tests.support.numerics import assert_close, with_gradients

# Minimal filtering needs 32 input and output channels.
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
# More images than one chunk of the backward pass holds: the last chunk is smaller than the others.
CHUNKS = ODD | {"batch": 35}
MANY_CHUNKS = EVEN | {"batch": 150, "side": 5}
# Minimal filtering: large tiles, if there are enough of them, and small ones.
TILES_4 = EVEN | {"batch": 5, "height": 16, "width": 20, "inputs": 33, "outputs": 32, "stride": 1}
TILES_2 = TILES_4 | {"height": 6}
FEW_TILES = TILES_4 | {"batch": 1, "height": 4, "width": 8}


def conv(x, kernel, strides):
    """The CPU's convolution with symmetric padding."""
    padding = ((kernel.shape[0] // 2,) * 2,) * 2
    return conv_for("cpu")()(x, kernel, (strides, strides), padding, dimension_numbers=NHWC_HWIO)


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
        window = (
            slice(None),
            slice(row, row + stride * (dy.shape[1] - 1) + 1, stride),
            slice(column, column + stride * (dy.shape[2] - 1) + 1, stride),
        )
        y += padded[window] @ kernel[row, column]
        d_padded[window] += dy @ kernel[row, column].T
        d_kernel[row, column] = np.tensordot(padded[window], dy, ((0, 1, 2), (0, 1, 2)))
    return y, d_padded[:, pad : pad + x.shape[1], pad : pad + x.shape[2]], d_kernel


@settings(max_examples=3)
@given(conv_cases)
@example(EVEN)
@example(EVEN_5)
@example(EVEN_1)
@example(ODD)
@example(CHUNKS)
@example(MANY_CHUNKS)
@example(TILES_4)
@example(TILES_2)
@example(FEW_TILES)
def test_it_equals_the_naive_convolution(case):
    arrays = draw_conv(case)
    expected = naive_conv(*arrays, case["stride"])

    convolve = jax.jit(partial(conv, strides=case["stride"]))
    single = with_gradients(convolve, *(jnp.asarray(a, jnp.float32) for a in arrays))
    assert {a.dtype for a in single} == {jnp.dtype("float32")}
    assert_close(single, expected, 1e-5)
    with jax.enable_x64():
        assert_close(with_gradients(convolve, *map(jnp.asarray, arrays)), expected, 1e-12)


def others():
    """Arguments that the CPU's algorithms do not cover, by name: x, kernel, positional and keyword arguments."""
    x, kernel = jnp.ones((2, 8, 8, 32)).at[0, 1, 2].set(3), jnp.ones((3, 3, 32, 32)).at[0, 1].set(2)
    same = ((1, 1), (1, 1))
    flax = {"dimension_numbers": NHWC_HWIO}
    return {
        "dilated kernel": (x, kernel, (1, 1), same, {"rhs_dilation": (2, 2)} | flax),
        "dilated image": (x, kernel, (1, 1), same, {"lhs_dilation": (1, 2)} | flax),
        "groups": (x, kernel[:, :, :16], (1, 1), same, {"feature_group_count": 2} | flax),
        "batch groups": (x, kernel, (1, 1), same, {"batch_group_count": 2} | flax),
        "one-sided padding": (x, kernel, (2, 2), ((0, 1), (0, 1)), flax),
        "no padding": (x, kernel, (1, 1), ((0, 0), (0, 0)), flax),
        "named padding": (x, kernel, (2, 2), "SAME", flax),
        "two strides": (x, kernel, (1, 2), same, flax),
        "even kernel": (x, kernel[:2, :2], (1, 1), same, flax),
        "oblong kernel": (x, kernel[:1], (1, 1), ((0, 0), (0, 0)), flax),
        "other layout": (x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), same, {}),
        "given precision": (x, kernel, (1, 1), same, {"precision": lax.Precision.HIGHEST} | flax),
        "one dimension": (x[:, 0], kernel[0], (1,), ((1, 1),), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    }


@pytest.mark.parametrize("name", others())
def test_other_convolutions_are_those_of_lax(name):
    x, kernel, strides, padding, options = others()[name]
    traced = jax.make_jaxpr(partial(conv_for("cpu")(), window_strides=strides, padding=padding, **options))(x, kernel)
    plain = jax.make_jaxpr(partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options))
    assert str(traced) == str(plain(x, kernel))


def test_the_algorithm_depends_on_the_platform_and_compares_equal():
    assert conv_for("cpu") == conv_for("cpu") and hash(conv_for("cpu")) == hash(conv_for("cpu"))
    assert [conv_for(platform) for platform in ("gpu", "cuda", "rocm", "tpu")] == [None] * 4


def test_equal_layers_are_traced_once():
    x, kernel = jnp.ones((1, 4, 4, 32)), jnp.ones((3, 3, 32, 32))
    forward, backward = chex.assert_max_traces(winograd.forward, 1), chex.assert_max_traces(winograd.gradients, 1)
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "forward", forward)
        patch.setattr(winograd, "gradients", backward)
        jax.grad(lambda x: conv(conv(x, kernel, 1), kernel, 1).sum())(x)
    jax.clear_caches()


@pytest.mark.parametrize("case", [EVEN, EVEN_1, TILES_4])
def test_gradients_in_a_loop_equal_those_outside(case):
    x, kernel, dy = (jnp.asarray(a, jnp.float32) for a in draw_conv(case))

    def gradients(x, kernel):
        return with_gradients(partial(conv, strides=case["stride"]), x, kernel, dy)[1:]

    def descend(carry):
        return jax.tree.map(lambda value, gradient: value - 0.01 * gradient, carry, gradients(*carry))

    looped = jax.jit(lambda n, carry: lax.fori_loop(0, n, lambda _, carry: descend(carry), carry))(3, (x, kernel))
    unrolled = descend(descend(descend((x, kernel))))
    assert_close(looped, unrolled, 1e-6)
    assert np.abs(looped[1] - kernel).max() > 0.01


@pytest.mark.parametrize("case", [EVEN, CHUNKS, TILES_4, TILES_2])
def test_bfloat16_keeps_its_dtype(case):
    rounded = [jnp.asarray(a, jnp.bfloat16) for a in draw_conv(case)]
    arrays = with_gradients(partial(conv, strides=case["stride"]), *rounded)
    assert {a.dtype for a in arrays} == {jnp.dtype("bfloat16")}
    expected = naive_conv(*(np.asarray(a, np.float64) for a in rounded), case["stride"])
    for ours, naive in zip(arrays, expected, strict=True):
        # Rounding the results gives 0.0017; computing the maps in bfloat16 would give 0.006 to 0.024.
        assert np.linalg.norm(np.asarray(ours, np.float64) - naive) < 2**-8 * np.linalg.norm(naive)


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
        # 63 tiles of 4 x 4 are too few, whatever the number of tiles of 2 x 2.
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
def test_the_rule_for_tiles_requires_channels(inputs, outputs, expected):
    assert winograd.tile((64, 32, 32, inputs), (3, 3, inputs, outputs), 1) == expected


@pytest.mark.slow
def test_large_tiles_lose_little_in_float32():
    x, kernel, dy = draw_conv(TILES_4 | {"inputs": 84, "outputs": 84})
    single = [np.asarray(a, np.float64) for a in winograd_of(*(jnp.asarray(a, jnp.float32) for a in (x, kernel, dy)))]
    with jax.enable_x64():
        double = [np.asarray(a) for a in winograd_of(*map(jnp.asarray, (x, kernel, dy)))]
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(single, double, strict=True)]
    assert max(errors) < 1e-6, errors


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_with_x64_narrower_numbers_are_computed_as_without(dtype):
    """Python's numbers in the code then count as float64."""
    arrays = [jnp.asarray(a, dtype) for a in draw_conv(TILES_4)]
    expected = winograd_of(*arrays)
    with jax.enable_x64():
        found = winograd_of(*arrays)
    chex.assert_trees_all_equal_dtypes(found, expected)
    chex.assert_trees_all_equal(found, expected)


def winograd_of(x, kernel, dy):
    return winograd.forward(x, kernel, 4), *winograd.gradients(x, kernel, dy, 4)
