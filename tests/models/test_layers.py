"""Convolution and batch normalisation: values, gradients and statistics against NumPy and PyTorch in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.models.layers import BatchNorm, torch_bias_init, torch_conv, torch_weight_init
from tests.support.numerics import assert_close, assert_uniform


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("strides", [1, 2])
def test_conv_equals_torch(kernel_size, strides):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(kernel_size).normal(size=(2, 8, 7, 3))
    theirs = torch.nn.Conv2d(3, 5, kernel_size, strides, padding=kernel_size // 2, bias=False, dtype=torch.float64)
    with jax.enable_x64():
        ours = torch_conv(5, kernel_size, strides, dtype=jnp.float64, param_dtype=jnp.float64)
        variables = ours.init(jax.random.key(0), jnp.asarray(x))
        assert list(variables["params"]) == ["kernel"]
        kernel = variables["params"]["kernel"]
        assert kernel.dtype == jnp.float64
        with torch.no_grad():
            theirs.weight.copy_(torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1)))
        assert_close(ours.apply(variables, jnp.asarray(x)), nhwc(theirs(nchw(x))), 1e-12)


def torch_norm(channels):
    """PyTorch's layer in float64 with random scale and bias, and the same as our variables."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(channels, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 2.0, generator=torch.manual_seed(0))
        theirs.bias.normal_(generator=torch.manual_seed(1))
    params = {"scale": theirs.weight.detach().numpy().copy(), "bias": theirs.bias.detach().numpy().copy()}
    return theirs, {"params": params, "batch_stats": {"mean": np.zeros(channels), "var": np.ones(channels)}}


def nchw(x):
    import torch

    return torch.tensor(x.transpose(0, 3, 1, 2))


def nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def norm_with_gradients(norm, variables, x, dy, mask=None):
    """Output, updated statistics, and gradients of sum(output * dy) by parameters and activations."""

    def forward(params, x):
        y, updates = norm.apply({**variables, "params": params}, x, mask=mask, mutable=["batch_stats"])
        return y, updates["batch_stats"]

    y, pullback, batch_stats = jax.vjp(forward, variables["params"], jnp.asarray(x), has_aux=True)
    return y, batch_stats, *pullback(jnp.asarray(dy))


# 12 values per channel, where the unbiased variance is 9 % above the biased one; and as in training.
@pytest.mark.parametrize("shape", [(3, 2, 2, 4), (8, 5, 6, 3)])
def test_batch_norm_equals_torch_over_several_updates(shape):
    theirs, variables = torch_norm(shape[-1])
    rng = np.random.default_rng(1)
    with jax.enable_x64():
        norm = BatchNorm(param_dtype=jnp.float64)
        for step in range(4):
            # A variance as small as epsilon in the second update shows where epsilon stands.
            x = rng.normal(step, 3e-3 if step == 1 else 2.0, size=shape)
            dy = rng.normal(size=shape)
            images = nchw(x).requires_grad_()
            theirs.zero_grad()
            output = theirs(images)
            output.backward(nchw(dy))
            y, variables["batch_stats"], d_params, dx = norm_with_gradients(norm, variables, x, dy)
            assert_close(y, nhwc(output), 1e-10)
            assert_close(dx, nhwc(images.grad), 1e-10)
            assert_close(d_params["scale"], theirs.weight.grad.numpy(), 1e-10)
            assert_close(d_params["bias"], theirs.bias.grad.numpy(), 1e-10)
            assert_close(variables["batch_stats"]["mean"], theirs.running_mean.numpy(), 1e-12)
            assert_close(variables["batch_stats"]["var"], theirs.running_var.numpy(), 1e-12)
        x = rng.normal(1.0, 2.0, size=shape)
        assert_close(
            norm.clone(use_running_average=True).apply(variables, jnp.asarray(x)), nhwc(theirs.eval()(nchw(x))), 1e-12
        )


def test_batch_norm_starts_as_torchs():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(3)
    variables = BatchNorm().init(jax.random.key(0), 7 + jnp.ones((2, 4, 4, 3)))
    np.testing.assert_array_equal(variables["params"]["scale"], theirs.weight.detach())
    np.testing.assert_array_equal(variables["params"]["bias"], theirs.bias.detach())
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], theirs.running_mean)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], theirs.running_var)
    chex.assert_trees_all_equal_dtypes(variables, jax.tree.map(lambda _: jnp.zeros((), jnp.float32), variables))


def test_a_masked_batch_counts_as_the_batch_without_its_padding():
    rng = np.random.default_rng(2)
    mask = np.array([True, False, True, True, False])
    x, dy = rng.normal(3.0, 2.0, size=(2, 5, 4, 3, 2))
    x[~mask] = 1e3  # would be noticed
    with jax.enable_x64():
        norm = BatchNorm(param_dtype=jnp.float64)
        variables = norm.init(jax.random.key(0), jnp.asarray(x))
        # The loss leaves padding out too: its outputs have no gradient.
        masked_dy = dy * mask[:, None, None, None]
        y, stats, d_params, dx = norm_with_gradients(norm, variables, x, masked_dy, jnp.asarray(mask))
        expected = norm_with_gradients(norm, variables, x[mask], dy[mask])
        assert_close((y[mask], stats, d_params, dx[mask]), expected, 1e-10)
        np.testing.assert_array_equal(dx[~mask], 0)


def test_a_mask_of_ones_changes_nothing():
    x, dy = np.random.default_rng(3).normal(3.0, 2.0, size=(2, 4, 3, 3, 2))
    with jax.enable_x64():
        norm = BatchNorm(param_dtype=jnp.float64)
        variables = norm.init(jax.random.key(0), jnp.asarray(x))
        masked = norm_with_gradients(norm, variables, x, dy, jnp.ones(4, bool))
        assert_close(masked, norm_with_gradients(norm, variables, x, dy), 1e-13)


def test_bfloat16_activations_have_float32_statistics():
    # 16 deviations from zero: in bfloat16, of 8 bits, mean and variance would be off in the third digit.
    x = jnp.asarray(np.random.default_rng(4).normal(16.0, 1.0, size=(64, 8, 8, 2)), jnp.bfloat16)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x)
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    stats, exact = updates["batch_stats"], np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((variables, stats))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(stats["mean"], 0.1 * exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * exact.var((0, 1, 2), ddof=1), rtol=1e-5)
    expected = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 3, 16, 128), (5, 5, 3, 64), (1, 1, 64, 128), (128, 100)])
def test_weights_start_as_torchs(shape):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    *area, inputs, outputs = shape
    layer = torch.nn.Conv2d(inputs, outputs, area, bias=False) if area else torch.nn.Linear(inputs, outputs)
    bound = 1 / np.sqrt(np.prod(area) * inputs)
    assert_uniform(layer.weight.detach().numpy(), bound * (1 + 1e-6))
    assert_uniform(torch_weight_init(jax.random.key(0), shape), bound * (1 + 1e-6))


def test_biases_start_as_torchs():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    bound = 1 / np.sqrt(64)
    assert_uniform(torch.nn.Linear(64, 5000).bias.detach().numpy(), bound * (1 + 1e-6))
    assert_uniform(torch_bias_init(64)(jax.random.key(0), (5000,)), bound * (1 + 1e-6))
