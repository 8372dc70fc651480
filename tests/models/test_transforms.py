"""Transformations that training does not use: forward mode, second derivatives, per-example gradients."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jresnet import models

NETWORKS = {
    "bottleneck": partial(models.resnet50, stage_sizes=(1,)),
    "preactivated": partial(models.wide_resnet16_8, stage_sizes=(1,), stem_width=2, block_dropout=0.0, squeeze=2),
}
close = partial(chex.assert_trees_all_close, rtol=1e-9, atol=1e-11)


def draw_like(tree, rng):
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), tree)


@pytest.fixture(scope="module", params=["preactivated", pytest.param("bottleneck", marks=pytest.mark.slow)])
def problem(request):
    """The loss of training, a function of params and images in float64, and three values: params, a tangent, images."""
    with jax.enable_x64():
        rng = np.random.default_rng(0)
        model = NETWORKS[request.param](width=3, num_classes=4, pool_size=2, dtype=jnp.float64, param_dtype=jnp.float64)
        images, labels = jnp.asarray(rng.normal(size=(3, 6, 6, 3))), jnp.asarray([0, 3, 1])
        variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
        params = draw_like(variables["params"], rng)
        tangent = draw_like(variables["params"], rng)

        def loss(params, images, labels=labels, train=True):
            logits, _ = model.apply(variables | {"params": params}, images, train=train, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.tree_util.Partial(loss), params, tangent, images


def dot(first, second):
    return sum(jnp.vdot(*pair) for pair in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def shifted(params, tangent, step):
    return jax.tree.map(lambda value, direction: value + step * direction, params, tangent)


@pytest.mark.slow
def test_forward_mode_and_second_derivatives(problem):
    """Against reverse mode, and against finite differences of the gradient."""
    loss, params, tangent, images = problem

    def gradient(params):
        return jax.grad(loss)(params, images)

    @jax.jit
    def derivatives(params, tangent):
        slopes, curved = jax.jvp(gradient, (params,), (tangent,))
        forward = jax.jvp(lambda params: loss(params, images), (params,), (tangent,))[1]
        linear = jax.linearize(lambda params: loss(params, images), params)[1](tangent)
        reverse = jax.grad(lambda params: dot(gradient(params), tangent))(params)
        return (forward, linear, curved), (dot(slopes, tangent), dot(slopes, tangent), reverse)

    with jax.enable_x64():
        (forward, linear, curved), expected = derivatives(params, tangent)
        close((forward, linear, curved), expected)
        step = 1e-5
        after, before = (jax.jit(gradient)(shifted(params, tangent, sign * step)) for sign in (1, -1))
        difference = jax.tree.map(lambda after, before: (after - before) / (2 * step), after, before)
        chex.assert_trees_all_close(curved, difference, rtol=1e-4, atol=1e-6)


def test_gradients_per_example_equal_a_loop_over_examples(problem):
    loss, params, _, images = problem
    gradient = jax.jit(jax.grad(lambda params, image, label: loss(params, image[None], label[None], train=False)))
    with jax.enable_x64():
        labels = jnp.asarray([2, 0, 1])
        together = jax.jit(jax.vmap(gradient, (None, 0, 0)))(params, images, labels)
        one_by_one = [gradient(params, image, label) for image, label in zip(images, labels, strict=True)]
        close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one))


def test_the_cpus_convolution_computes_the_same_network():
    """With enough channels for minimal filtering; its gradients too can be taken by example."""
    plain = models.resnet50(stage_sizes=(1, 1), width=32, num_classes=4, pool_size=2)
    fast = plain.clone(conv_general_dilated_cls=models.conv_for("cpu"))
    assert fast == plain.clone(conv_general_dilated_cls=models.conv_for("cpu")) and fast != plain
    images, labels = jax.random.normal(jax.random.key(1), (3, 8, 8, 3)), jnp.array([0, 3, 1])

    @partial(jax.jit, static_argnums=0)
    def gradients(model, variables):
        def loss(params, image, label):
            logits = model.apply(variables | {"params": params}, image[None], train=False)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label[None]).mean()

        return jax.vmap(jax.grad(loss), (None, 0, 0))(variables["params"], images, labels)

    variables = jax.jit(partial(plain.init, train=False))(jax.random.key(0), images)
    chex.assert_trees_all_equal(jax.jit(partial(fast.init, train=False))(jax.random.key(0), images), variables)
    expected = gradients(plain, variables)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    chex.assert_trees_all_close(gradients(fast, variables), expected, rtol=1e-4, atol=1e-5 * scale)
    with pytest.raises(TypeError, match="can't apply forward-mode"):
        jax.jvp(partial(fast.apply, train=False), (variables, images), (variables, images))
