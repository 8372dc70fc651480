"""Blocks that begin as their shortcuts: what `zero_init` changes, and what it does not."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet import models
from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.models import BasicBlock, Bottleneck, PreactBlock, ResNet
from jresnet.models.layers import BatchNorm, torch_conv
from jresnet.train.layout import resized

SHAPE = (8, 8, 3)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("block", "features"), [(BasicBlock, 4), (Bottleneck, 1)])
def test_a_block_without_a_shortcut_of_its_own_begins_as_relu(block, features):
    x = images(2, 3, 3, 4)
    module = block(features, conv=torch_conv, norm=BatchNorm, zero_init=True)
    y, _ = jax.jit(module.init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_the_last_scale_of_each_block_begins_at_zero_and_learns_at_once():
    """All other weights are those of a network without it, and so is their number."""
    config = Config(width=3, blocks=(1,), pool_size=None, zero_init=True)
    zeroed, plain = (models.from_config(dataclasses.replace(config, zero_init=given), 5) for given in (True, False))
    assert (zeroed.zero_init, plain.zero_init) == (True, False)
    assert models.parameter_count(zeroed, (8, 8)) == models.parameter_count(plain, (8, 8))
    init = jax.jit(lambda key: [model.init(key, images(1, *SHAPE), train=False)["params"] for model in (zeroed, plain)])
    found, usual = jax.device_get(init(jax.random.key(0)))
    last = found["layer1_0"]["bn2"]
    assert not last["scale"].any()
    last["scale"] = np.ones_like(last["scale"])
    chex.assert_trees_all_equal(found, usual)

    def loss(scale):
        last["scale"] = scale
        variables = {"params": found, "batch_stats": statistics}
        return jnp.sum(jnp.sin(zeroed.apply(variables, images(4, *SHAPE), train=True, mutable=["batch_stats"])[0]))

    statistics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), models.variable_shapes(zeroed, (8, 8))["batch_stats"])
    assert np.abs(jax.jit(jax.grad(loss))(jnp.zeros(3))).min() > 0


@pytest.mark.slow
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_padded_channels_compute_the_same_from_the_first_step(block):
    network = ResNet((1, 1), block, 5, 3, pool_size=None, zero_init=True)
    init = partial(network.init, train=False)
    variables = jax.jit(init)(jax.random.key(0), images(1, *SHAPE))
    wide = models.padded(network, 8)
    padded = resized(variables, models.variable_shapes(wide, SHAPE[:2]))
    x = images(4, *SHAPE)
    expected, found = (
        jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(own, x)[0]
        for model, own in ((network, variables), (wide, padded))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_preactivation_blocks_end_in_a_convolution():
    with pytest.raises(InputError, match=r"^--zero-init: leave it out for pre-activation networks"):
        models.from_config(Config(model="preact_resnet18", zero_init=True), 5)
    with pytest.raises(InputError, match=r"^zero_init: not for pre-activation networks, .*: leave it out"):
        models.variable_shapes(ResNet(block_cls=PreactBlock, zero_init=True), (32, 32))
