"""Batch normalisation in one pass: against its definition in float64, against `BatchNorm`, and split over devices."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.models.layers import BatchNorm
from jresnet.models.one_pass import MAX_ROWS, PARTS, OnePassBatchNorm, norm_for

EPSILON = 1e-5
# Half the distance of neighbouring numbers, relative to them.
ROUNDING = 2.0**-8
# Sums in 16 parts; sums of a length that 16 does not divide; sums too long for parts.
SHAPES = {"parts": (4, 4, 4, 3), "odd": (5, 3, 3, 2), "long": (9, 64, 64, 2)}
SMALL = ("mean", "var", "unbiased", "dscale", "dbias")


class Inputs(NamedTuple):
    """What a layer takes, and the gradient of its output; float64 unless rounded."""

    x: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    residual: np.ndarray | None
    mask: np.ndarray | None
    dy: np.ndarray


class Outputs(NamedTuple):
    """Output, batch statistics, and the gradients of the sum of output * dy."""

    y: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    unbiased: np.ndarray
    dx: np.ndarray
    dscale: np.ndarray
    dbias: np.ndarray
    dresidual: np.ndarray | None


def draw(shape, residual=False, padding=(), seed=0):
    """Inputs exact in bfloat16; images in `padding` are far from all others, and have gradients too."""
    rng = np.random.default_rng(seed)

    x, more, dy = (rng.normal(mean, deviation, shape) for mean, deviation in ((3.0, 2.0), (0.0, 1.0), (0.0, 1.0)))
    mask = np.isin(np.arange(shape[0]), padding, invert=True)
    x[~mask] = 1000 + 100 * x[~mask]
    dy[~mask] /= 1000
    x, more, dy = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, more, dy))
    scale, bias = rng.uniform(0.5, 2.0, shape[-1:]), rng.normal(size=shape[-1:])
    return Inputs(x, scale, bias, more if residual else None, mask if len(padding) else None, dy)


def defined(inputs, relu):
    """The definition, and PyTorch's derivatives of it, in float64."""
    torch = pytest.importorskip("torch")
    x, scale, bias, residual = leaves = [None if a is None else torch.tensor(a, requires_grad=True) for a in inputs[:4]]
    real = x if inputs.mask is None else x[torch.tensor(inputs.mask)]
    mean = real.mean((0, 1, 2))
    var = ((real - mean) ** 2).mean((0, 1, 2))
    y = (x - mean) / torch.sqrt(var + EPSILON) * scale + bias
    y = y if residual is None else y + residual
    y = torch.relu(y) if relu else y
    (y * torch.tensor(inputs.dy)).sum().backward()
    unbiased = real.var((0, 1, 2), correction=1)
    dx, dscale, dbias, dresidual = (None if leaf is None else leaf.grad.numpy() for leaf in leaves)
    statistics = (a.detach().numpy() for a in (y, mean, var, unbiased))
    return Outputs(*statistics, dx, dscale, dbias, dresidual)


def computed(norm, inputs, relu, dtype, axis_name=None):
    """What the layer makes of the inputs, x and residual in `dtype`; with `axis_name` of their shares, [devices, ...].

    The running statistics start at 0 and 1.
    """
    param_dtype = jnp.dtype(norm.param_dtype)
    dtypes = (dtype, param_dtype, param_dtype, dtype, bool, dtype)
    arrays = [None if a is None else jnp.asarray(a, kind) for a, kind in zip(inputs, dtypes, strict=True)]
    start = {"mean": jnp.zeros_like(arrays[1]), "var": jnp.ones_like(arrays[1])}

    def forward(x, scale, bias, residual, mask):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": start}
        y, updates = norm.apply(variables, x, mask, residual, relu, mutable=["batch_stats"])
        return y, updates["batch_stats"]

    def measure(x, scale, bias, residual, mask, dy):
        y, pullback, updated = jax.vjp(lambda *a: forward(*a, mask), x, scale, bias, residual, has_aux=True)
        var = norm.over_batch(x, scale, bias, mask, residual, relu)[2]
        return y, updated, var, pullback(dy)

    norm = norm.clone(axis_name=axis_name)
    function = measure
    if axis_name is not None:
        axes = (0, None, None, None if inputs.residual is None else 0, None if inputs.mask is None else 0, 0)
        function = jax.vmap(measure, axes, axis_name=axis_name)
    y, updated, var, gradients = jax.jit(function)(*arrays)
    assert y.dtype == gradients[0].dtype == dtype
    assert {updated["mean"].dtype, updated["var"].dtype, gradients[1].dtype, gradients[2].dtype} == {param_dtype}
    mean, unbiased = updated["mean"] / (1 - norm.momentum), (updated["var"] - norm.momentum) / (1 - norm.momentum)
    found = Outputs(y, mean, var, unbiased, *gradients)
    return jax.tree.map(lambda a: np.asarray(a, np.float64), found)


def error(actual, expected, rounding=0.0):
    """Largest difference relative to the largest expected entry, beyond what rounding each entry explains."""
    return np.max(np.abs(actual - expected) - rounding * np.abs(expected)) / np.abs(expected).max()


@pytest.mark.parametrize("padding", [(), (1, 3), (0,)], ids=str)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_bfloat16_activations_within_one_rounding_of_the_definition(relu, residual, padding):
    for shape in ("parts", "odd") if relu else ("parts",):
        check(draw(SHAPES[shape], residual, padding), relu)


def test_long_sums_are_as_exact():
    assert np.prod(SHAPES["long"][:3]) > PARTS * MAX_ROWS
    # XLA adds up these in one long row on CPUs.
    check(draw(SHAPES["long"], True, (3,)), True, 1e-4)


def check(inputs, relu, tolerance=1e-6):
    expected, found = defined(inputs, relu), computed(OnePassBatchNorm(), inputs, relu, jnp.bfloat16)
    real = np.ones(len(inputs.x), bool) if inputs.mask is None else inputs.mask
    errors = {name: error(getattr(found, name), getattr(expected, name)) for name in SMALL}
    for images in (real, ~real) if inputs.mask is not None else (real,):
        for name in ("y", "dx"):
            part = error(getattr(found, name)[images], getattr(expected, name)[images], ROUNDING)
            errors[name] = max(errors.get(name, 0), part)
    assert {name: value for name, value in errors.items() if value > tolerance} == {}
    if inputs.residual is not None:
        np.testing.assert_array_equal(found.dresidual, expected.dresidual)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nothing_cancels_a_thousand_deviations_from_zero(dtype):
    """In bfloat16, whose neighbours are 4 apart there, after rounding; sums of x^2 would lose the variance to 1e-1."""
    rng = np.random.default_rng(5)
    deviation = np.array([1.0, 1.0, 20.0, 1e-3])
    x = rng.normal(1000 * deviation * [1, -1, 1, 1], deviation, (8, 8, 8, 4))
    x = np.asarray(jnp.asarray(x, dtype), np.float64)
    inputs = draw(x.shape)._replace(x=x)
    found = computed(OnePassBatchNorm(), inputs, False, dtype)
    np.testing.assert_allclose(found.mean, x.mean((0, 1, 2)), rtol=2e-7)
    # The running one starts at 1: smaller ones drown.
    np.testing.assert_allclose(found.var, x.var((0, 1, 2)), rtol=2e-6)
    np.testing.assert_allclose(found.unbiased, x.var((0, 1, 2), ddof=1), rtol=2e-6, atol=1e-6)
    normalised = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON)
    # Deviations are small differences of float32 numbers as large as 1000 of them.
    np.testing.assert_allclose(found.y, normalised * inputs.scale + inputs.bias, rtol=ROUNDING, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 3.0, -1000.3])
def test_a_constant_channel_has_no_variance(value):
    inputs = draw((4, 4, 4, 2))
    inputs.x[..., 1] = np.float64(jnp.bfloat16(value))
    found = computed(OnePassBatchNorm(), inputs, True, jnp.bfloat16)
    assert found.var[1] == 0 and found.var[0] > 0 and found.mean[1] == pytest.approx(inputs.x[0, 0, 0, 1], rel=1e-6)
    np.testing.assert_allclose(found.y[..., 1], max(inputs.bias[1], 0), rtol=ROUNDING, atol=0.05)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(found))


@pytest.mark.parametrize("norm", [BatchNorm, OnePassBatchNorm])
def test_of_padding_alone_the_variance_is_1(norm):
    found = computed(norm(), draw((3, 4, 4, 2), True, (0, 1, 2)), True, jnp.bfloat16)
    np.testing.assert_array_equal(found.mean, 0)
    np.testing.assert_array_equal(found.var, 1)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("relu", "residual", "padding"),
    [(False, False, ()), (True, False, ()), (True, True, ()), (True, True, (0, 2)), (False, False, (0, 2))],
)
def test_in_float64_it_is_batch_norm(relu, residual, padding):
    inputs = draw((5, 4, 4, 3), residual, padding)
    inputs.dy[list(padding)] *= 1000
    with jax.enable_x64():
        one, two = (
            computed(norm(param_dtype=jnp.float64), inputs, relu, jnp.float64) for norm in (OnePassBatchNorm, BatchNorm)
        )
    for name, mine in one._asdict().items():
        assert mine is None or error(mine, getattr(two, name)) < 1e-12, name


class Stack(nn.Module):
    """Two layers, the second with the input as residual, and a convolution between them."""

    norm: type[BatchNorm]

    @nn.compact
    def __call__(self, x):
        norm = partial(self.norm, param_dtype=jnp.float64)
        y = nn.Conv(3, (3, 3), dtype=jnp.float64, param_dtype=jnp.float64)(norm(name="first")(x, relu=True))
        return norm(name="second")(y, residual=x, relu=True)


def test_in_float64_a_stack_has_the_gradients_of_batch_norms():
    x = np.random.default_rng(6).normal(2.0, 1.5, (4, 5, 4, 3))

    def measure(norm):
        stack = Stack(norm)
        variables = Stack(BatchNorm).init(jax.random.key(0), x)

        def loss(params, x):
            y, updates = stack.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return jnp.mean(jnp.sin(y)), updates

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables["params"], x)

    with jax.enable_x64():
        for mine, theirs in zip(*(jax.tree.leaves(measure(n)) for n in (OnePassBatchNorm, BatchNorm)), strict=True):
            # The convolution's bias has no influence: the second layer takes it away.
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("devices", "padding"), [(2, ()), (4, ()), (4, (0, 6, 7)), (2, (0, 1, 2, 3, 5))], ids=str
)  # fmt: skip
def test_devices_that_share_a_batch_normalise_it_as_a_whole(devices, padding):
    """Under vmap's axis; in the last two cases a device has padding alone."""
    whole = draw((8, 3, 4, 2), True, padding)
    split = {name: getattr(whole, name) for name in ("x", "residual", "mask", "dy")}
    split = {name: None if a is None else a.reshape(devices, -1, *a.shape[1:]) for name, a in split.items()}
    with jax.enable_x64():
        norm = OnePassBatchNorm(param_dtype=jnp.float64)
        expected = computed(norm, whole, True, jnp.float64)
        found = computed(norm, whole._replace(**split), True, jnp.float64, "devices")
    for name in ("y", "dx", "dresidual"):
        mine = getattr(found, name)
        assert error(mine.reshape(whole.x.shape), getattr(expected, name)) < 1e-12, name
    for name in ("mean", "var", "unbiased"):
        np.testing.assert_array_equal(getattr(found, name), getattr(found, name)[:1].repeat(devices, 0))
        assert error(getattr(found, name)[0], getattr(expected, name)) < 1e-12, name
    for name in ("dscale", "dbias"):
        assert error(getattr(found, name).sum(0), getattr(expected, name)) < 1e-12, name


def test_it_is_for_bfloat16_on_gpus():
    assert norm_for("gpu", jnp.bfloat16) is OnePassBatchNorm
    assert {norm_for("gpu", jnp.float32), norm_for("gpu", jnp.float64), norm_for("cpu", jnp.bfloat16)} == {BatchNorm}
