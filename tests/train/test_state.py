"""The initial state: a pure function of the seed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.config import Config
from jresnet.models import ResNet, from_config
from jresnet.train.optim import optimizer
from jresnet.train.state import create
from jresnet.train.step import make_train_step

CONFIG = Config(width=4, blocks=(1, 1), pool_size=2, batch_size=4)
SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def jitted_create():
    return jax.jit(lambda seed: create(from_config(CONFIG, 5), optimizer(CONFIG, 3), seed, SHAPE))


def values(state):
    """The state with its key as plain numbers."""
    return state.replace(key=jax.random.key_data(state.key))


def test_creation_is_a_pure_function_of_the_seed(jitted_create):
    chex.assert_trees_all_equal(values(jitted_create(3)), values(jitted_create(3)))
    outside = create(from_config(CONFIG, 5), optimizer(CONFIG, 3), 3, SHAPE)
    chex.assert_trees_all_close(values(jitted_create(3)), values(outside), rtol=1e-6)


def test_seeds_differ_in_every_random_array_and_in_the_key(jitted_create):
    first, second = (values(jitted_create(seed)) for seed in (0, 1))
    chex.assert_trees_all_equal(first.batch_stats, second.batch_stats)
    for (path, mine), theirs in zip(
        jax.tree_util.tree_leaves_with_path(first.params), jax.tree.leaves(second.params), strict=True
    ):
        drawn = path[-1].key == "kernel" or path[-2].key == "linear"
        assert np.array_equal(mine, theirs) != drawn, jax.tree_util.keystr(path)
    assert not np.array_equal(first.key, second.key)


def test_the_state_starts_at_nothing_done(jitted_create):
    state = jitted_create(0)
    assert (int(state.step), state.step.dtype) == (0, jnp.int32)
    assert set(state.variables) == {"params", "batch_stats"}
    momenta = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert [leaf.shape for leaf in momenta] == [leaf.shape for leaf in jax.tree.leaves(state.params)]
    assert not any(leaf.any() for leaf in momenta)


def test_the_shapes_are_known_without_computing(jitted_create):
    shapes = jax.eval_shape(jitted_create, 0)
    chex.assert_trees_all_equal_shapes_and_dtypes(values(jitted_create(0)), jax.eval_shape(values, shapes))


def test_float64_parameters_have_a_float64_optimizer():
    with jax.enable_x64():
        model = ResNet(stage_sizes=(1,), width=2, dtype=jnp.float64, param_dtype=jnp.float64)
        shapes = jax.eval_shape(lambda seed: create(model, optimizer(CONFIG, 3), seed, SHAPE), 0)
    floats = {leaf.dtype for leaf in jax.tree.leaves(shapes) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert floats == {jnp.dtype("float64")}


def test_the_key_never_changes(jitted_create):
    state = jitted_create(0)
    step = jax.jit(make_train_step(from_config(CONFIG, 5), optimizer(CONFIG, 3)))
    batch = {"images": jnp.ones((4, *SHAPE)), "labels": jnp.arange(4)}
    after = step(step(state, batch)[0], batch)[0]
    assert int(after.step) == 2
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))
