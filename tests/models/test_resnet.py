"""The network and its configuration: PyTorch's results with the same weights, budgets, refusals, dropout, dtypes."""

import dataclasses
import itertools
from functools import partial
from typing import get_args

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jresnet
from jresnet import models
from jresnet.config import Config, Model
from jresnet.errors import InputError
from jresnet.models import ResNet, summary
from jresnet.models.layers import BatchNorm, torch_conv
from tests.support.torch_twin import Case, assert_close, from_torch

SMALL = {"stage_sizes": (1, 1), "width": 4, "num_classes": 5}


def shapes_of(model, height=32, width=32):
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)


def initialise(model, images):
    return jax.jit(partial(model.init, train=False))(jax.random.key(0), images)


def test_the_default_network_is_resnet18():
    assert shapes_of(ResNet()) == shapes_of(models.resnet18())
    assert shapes_of(models.from_config(Config(), 10)) == shapes_of(models.resnet18())


@pytest.mark.parametrize("budget", [401, 4_000, 100_000, 4_815_939, 4_815_940, 4_815_941, 5_000_000])
def test_the_budget_is_inclusive_and_its_message_names_the_largest_width_that_fits(budget):
    counts = {width: closed_form(width) for width in range(1, 65)}
    fitting = [width for width, count in counts.items() if count <= budget]
    for width in (1, 2, 41, 42, 43, 64):
        config = Config(width=width, budget=budget)
        if counts[width] <= budget:
            assert models.check_network(config, 10, (32, 32)) == counts[width]
            continue
        with pytest.raises(InputError) as caught:
            models.check_network(config, 10, (32, 32))
        remedy = f"--width {max(fitting)} or less" if fitting else "fewer --blocks"
        assert str(caught.value) == (
            f"--width {width}: the network has {counts[width]:,} parameters, over the budget of {budget:,}: "
            f"choose {remedy}, or raise --budget"
        )


def closed_form(width):
    """Parameters of ResNet-18 with ten classes: kernels, shortcuts, two per normalised channel, the linear layer."""
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    kernels = 9 * (3 * width + sum(a * b + 3 * b * b for a, b in itertools.pairwise(widths)))
    shortcuts = sum(a * b for a, b in itertools.pairwise(widths[1:]))
    norms = 2 * (width + sum(4 * b for b in widths[1:]) + sum(widths[2:]))
    return kernels + shortcuts + norms + (widths[-1] + 1) * 10


def test_a_width_of_any_size_is_counted_or_refused():
    assert models.check_network(Config(width=2**31 - 1), 10, (32, 32)) == closed_form(2**31 - 1)
    with pytest.raises(InputError, match="choose --width 42 or less"):
        models.check_network(Config(width=2**31 - 1, budget=5_000_000), 10, (32, 32))


@pytest.mark.parametrize("name", models.VARIANTS)
def test_a_configuration_reaches_every_variant(name):
    config = Config(model=name)
    variant = models.VARIANTS[name]
    assert models.from_config(config, 7) == variant(num_classes=7)
    assert models.from_config(models.fill_defaults(config), 7) == variant(num_classes=7)
    changed = Config(model=name, width=32, blocks=(1, 1), kernel_size=(5, 3), pool_size=2, dropout=0.25)
    inside = variant().block_cls.preactivated
    assert models.fill_defaults(changed) == changed
    assert models.from_config(changed, 7) == variant(
        num_classes=7, width=32, stage_sizes=(1, 1), kernel_size=(5, 3), pool_size=2,
        **{"block_dropout" if inside else "dropout": 0.25},
    )  # fmt: skip


def test_the_names_of_the_variants_are_public():
    assert tuple(models.VARIANTS) == get_args(Model)
    for name, variant in models.VARIANTS.items():
        assert getattr(jresnet, name) is getattr(models, name) is variant
        assert isinstance(variant(), ResNet)


def test_filled_in_defaults_are_the_networks_own():
    default = models.fill_defaults(Config())
    assert (default.width, default.blocks, default.pool_size, default.dropout) == (64, (2, 2, 2, 2), 4, 0)
    assert default.kernel_size == 3
    wide = models.fill_defaults(Config(model="wide_resnet16_8"))
    assert (wide.width, wide.blocks, wide.pool_size, wide.dropout) == (128, (2, 2, 2), None, 0.3)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # As in the records of versions that had no such options.
        (Config(shortcut="projection", stem="small", epsilon=1e-5), {}),
        (Config(model="resnet20", shortcut="padding", pool_size=0), {"pool_size": None}),
        (Config(model="resnet20", shortcut="projection"), {"shortcut": "projection"}),
        (Config(stem="small-pool", pool_size=0), {"stem": "small-pool", "pool_size": 0}),
        (Config(epsilon=1e-3), {"epsilon": 1e-3}),
    ],
)
def test_filled_in_options_name_what_is_not_the_networks_own(config, expected):
    filled = models.fill_defaults(config)
    own = models.fill_defaults(Config(model=config.model))
    assert (own.shortcut, own.stem, own.epsilon) == (None, None, None)
    assert filled == dataclasses.replace(own, **expected)
    assert models.from_config(filled, 7) == models.from_config(config, 7)


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (ResNet(), (32, 32), (4, 4)),
        (ResNet(), (28, 28), (4, 4)),
        (ResNet(), (33, 8), (5, 1)),
        (ResNet(stage_sizes=(1,)), (7, 5), (7, 5)),
        (ResNet(stage_sizes=(1, 1, 1)), (5, 1), (2, 1)),
        (models.imagenet_resnet18(), (224, 225), (7, 8)),
        (models.imagenet_resnet18(), (45, 32), (2, 1)),
        (ResNet(stem="small-pool"), (32, 32), (2, 2)),
        (ResNet(stem="small-pool", stage_sizes=(1, 1, 1)), (33, 5), (5, 1)),
    ],
)
def test_the_last_feature_map(model, size, expected):
    assert model.feature_map(size) == expected
    pooled = summary.layers(model.clone(width=2, pool_size=1), size)[-2]
    assert (pooled.kind, pooled.output[:2]) == ("average pooling", expected)


def test_pooling_may_be_as_large_as_the_feature_map_and_no_larger():
    models.check_network(Config(pool_size=4), 10, (32, 32))
    with pytest.raises(InputError) as caught:
        models.check_network(Config(pool_size=5), 10, (32, 32))
    message = str(caught.value)
    assert message.startswith("--pool-size 5: ") and "4 x 4" in message and "choose at most 4" in message
    with pytest.raises(InputError, match=r"5 x 1.*choose at most 1"):
        models.check_network(Config(pool_size=2), 10, (33, 8))


def test_from_config_reads_every_field():
    config = Config(
        width=3,
        blocks=(1, 2),
        kernel_size=5,
        pool_size=2,
        dropout=0.25,
        precision="bfloat16",
        batch_norm="local",
        shortcut="padding",
        stem="small-pool",
        epsilon=1e-3,
    )
    assert models.from_config(config, 7) == ResNet(
        stage_sizes=(1, 2), num_classes=7, width=3, kernel_size=5, pool_size=2, dropout=0.25,
        dtype=jnp.dtype("bfloat16"), local_norm=True, shortcut="padding", stem="small-pool", epsilon=1e-3,
    )  # fmt: skip


CASES = [
    pytest.param(Case((2, 2, 2, 2), 3, 4, (32, 32)), marks=pytest.mark.slow),  # resnet18, as in test_parity.py
    pytest.param(Case((1, 1, 1, 1), 5, 2, (28, 28)), marks=pytest.mark.slow),  # four pooled cells
    pytest.param(Case((1, 1, 1), 5, 4, (28, 28)), marks=pytest.mark.slow),  # a pooling that leaves cells over
    Case((2, 1), 3, 3, (21, 14)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_network_equals_torchs(case):
    theirs = case.theirs()
    import torch

    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, *case.image_size, 3))
    labels = rng.integers(case.num_classes, size=6)
    torch_images = torch.tensor(images.transpose(0, 3, 1, 2))
    start = from_torch(theirs.state_dict().items())

    expected = theirs.eval()(torch_images).detach().numpy()
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), start)
    model = case.ours(jnp.float32)
    chex.assert_trees_all_equal_shapes_and_dtypes(single, dict(shapes_of(model, *case.image_size)))
    logits = jax.jit(partial(model.apply, train=False))(single, jnp.asarray(images, jnp.float32))
    assert_close(logits, expected, 1e-5)

    with jax.enable_x64():
        model = case.ours(jnp.float64)
        double = jax.tree.map(jnp.asarray, start)
        assert_close(jax.jit(partial(model.apply, train=False))(double, jnp.asarray(images)), expected, 1e-10)

        def mean_loss(params):
            logits, updates = model.apply(
                {**double, "params": params}, jnp.asarray(images), train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))
            return losses.mean(), (logits, updates["batch_stats"])

        (loss, (logits, batch_stats)), gradients = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(
            double["params"]
        )
        torch_logits = theirs.train()(torch_images)
        torch_loss = torch.nn.functional.cross_entropy(torch_logits, torch.tensor(labels))
        torch_loss.backward()
        assert_close(logits, torch_logits.detach().numpy(), 1e-10)
        assert_close(loss, torch_loss.detach().numpy(), 1e-10)
        torch_gradients = from_torch(((name, p.grad) for name, p in theirs.named_parameters()))
        assert_close(gradients, torch_gradients["params"], 1e-10)
        assert_close(batch_stats, from_torch(theirs.state_dict().items())["batch_stats"], 1e-10)


def naive_bottleneck(x, variables, strides):
    """He et al. (2015), figure 5 right, by definition: evaluation mode, on one image, [height, width, channels]."""
    params, stats = variables["params"], variables["batch_stats"]

    def conv(x, name, strides=1):
        kernel = params[name]["kernel"]
        pad = kernel.shape[0] // 2
        padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        rows, columns = range(0, x.shape[0], strides), range(0, x.shape[1], strides)
        side = kernel.shape[0]
        return np.array([[np.tensordot(padded[r : r + side, c : c + side], kernel, 3) for c in columns] for r in rows])

    def norm(x, name):
        shifted = (x - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + 1e-5)
        return shifted * params[name]["scale"] + params[name]["bias"]

    y = np.maximum(norm(conv(x, "conv1"), "bn1"), 0)
    y = np.maximum(norm(conv(y, "conv2", strides), "bn2"), 0)
    y = norm(conv(y, "conv3"), "bn3")
    return np.maximum(y + norm(conv(x, "shortcut_conv", strides), "shortcut_bn"), 0)


@pytest.mark.parametrize("strides", [1, 2])
def test_bottleneck_equals_its_definition(strides):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 6, 5, 3))
    with jax.enable_x64():
        types = {"param_dtype": jnp.float64}
        block = models.Bottleneck(
            features=2, strides=strides, conv=partial(torch_conv, dtype=jnp.float64, **types),
            norm=partial(BatchNorm, use_running_average=True, **types),
        )  # fmt: skip
        variables = block.init(jax.random.key(0), jnp.asarray(images))
        variables = jax.tree.map(lambda a: rng.normal(size=a.shape) ** 2 + 0.1, variables)
        outputs = block.apply(variables, jnp.asarray(images))
        assert outputs.shape == (2, -(-6 // strides), -(-5 // strides), 8)
        assert_close(outputs, np.stack([naive_bottleneck(image, variables, strides) for image in images]), 1e-12)


def test_logits_are_not_softmaxed():
    model = ResNet(**SMALL)
    images = jnp.ones((3, 8, 8, 3))
    variables = initialise(model, images)
    bias = jnp.arange(-2.0, 3.0)
    linear = {"kernel": jnp.zeros_like(variables["params"]["linear"]["kernel"]), "bias": bias}
    variables = {**variables, "params": variables["params"] | {"linear": linear}}
    np.testing.assert_array_equal(model.apply(variables, images, train=False), np.tile(bias, (3, 1)))


@pytest.mark.parametrize(
    ("images", "mask", "message"),
    [
        (jnp.ones((8, 8, 3)), None, r"images must be \[batch, height, width, channels\]"),
        (jnp.ones((2, 8, 8, 3), jnp.uint8), None, "images must be floating point"),
        (jnp.ones((2, 8, 8, 3)), jnp.ones(3, bool), r"mask must be \[batch\]"),
        (jnp.ones((2, 8, 8, 3)), jnp.ones((2, 1), bool), r"mask must be \[batch\]"),
        (jnp.ones((2, 8, 8, 3)), jnp.ones(2), "mask must be bool"),
    ],
)
def test_images_and_masks_of_another_kind_are_refused(images, mask, message):
    with pytest.raises(AssertionError, match=message):
        jax.eval_shape(partial(ResNet(**SMALL).init, train=False), jax.random.key(0), images, mask=mask)


@pytest.mark.parametrize("image_size", [(8, 32), (32, 8), (8, 8)])
def test_a_pool_larger_than_the_map_is_refused(image_size):
    with pytest.raises(InputError, match=r"pool_size 5: exceeds the last feature map, .*4"):
        shapes_of(ResNet(**SMALL, pool_size=5), *image_size)
    with pytest.raises(InputError, match=r"--pool-size 5: exceeds the last feature map, .*4"):
        models.check_network(Config(blocks=(1, 1), pool_size=5), 10, image_size)
    assert shapes_of(ResNet(**SMALL, pool_size=4), *image_size)


def test_dropout_acts_in_training_only():
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    plain, dropping = ResNet(**SMALL), ResNet(**SMALL, dropout=0.5)
    variables = initialise(plain, images)

    @jax.jit
    def dropped_logits(key):
        rngs = {"dropout": jax.random.key(key)}
        return dropping.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    np.testing.assert_array_equal(
        dropping.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )
    np.testing.assert_array_equal(dropped_logits(2), dropped_logits(2))
    assert np.abs(dropped_logits(2) - dropped_logits(3)).max() > 1e-3
    # Dropout keeps the expected logits: over 300 masks their mean comes to within 5 standard errors.
    samples = np.stack([dropped_logits(key) for key in range(300)])
    expected = plain.apply(variables, images, train=True, mutable=["batch_stats"])[0]
    assert (np.abs(samples.mean(0) - expected) < 5 * samples.std(0, ddof=1) / np.sqrt(len(samples))).all()


def test_bfloat16_arithmetic_keeps_float32_parameters_statistics_and_logits():
    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    model = ResNet(**SMALL, dtype=jnp.bfloat16)
    variables = initialise(model, images)
    logits, updates = model.apply(
        variables, images, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=is_conv_or_block
    )
    assert logits.dtype == jnp.float32
    assert {a.dtype for a in jax.tree.leaves((variables, updates["batch_stats"]))} == {jnp.dtype("float32")}
    activations = jax.tree.leaves(updates["intermediates"])
    assert len(activations) == 8  # 6 convolutions and 2 blocks
    assert {a.dtype for a in activations} == {jnp.dtype("bfloat16")}
    exact = ResNet(**SMALL).apply(variables, images, train=True, mutable=["batch_stats"])[0]
    assert 0 < np.abs(logits - exact).max() < 0.05


def is_conv_or_block(module: nn.Module, method: str) -> bool:
    return isinstance(module, nn.Conv | models.BasicBlock) and method == "__call__"
