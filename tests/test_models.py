"""The network: published parameter counts, and PyTorch's network computed with the same weights."""

import dataclasses
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jresnet import models
from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.models import ResNet

SMALL = {"stage_sizes": (1, 1), "width": 4, "num_classes": 5}


def shapes_of(model, height=32, width=32):
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)


def initialise(model, images):
    return jax.jit(partial(model.init, train=False))(jax.random.key(0), images)


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("variant", "width", "count"),
    [
        (models.resnet18, 32, 2_797_610),
        (models.resnet18, 40, 4_368_690),
        (models.resnet18, 42, 4_815_940),
        (models.resnet18, 43, 5_047_737),
        (models.resnet18, 64, 11_173_962),
        (models.resnet18, 80, 17_454_170),
        (models.resnet34, 64, 21_282_122),
        (models.resnet50, 64, 23_520_842),
        (models.resnet101, 64, 42_512_970),
        (models.resnet152, 64, 58_156_618),
    ],
)
def test_published_parameter_counts(variant, width, count):
    assert size_of(shapes_of(variant(width=width))["params"]) == count


def test_the_default_network_is_resnet18():
    assert shapes_of(ResNet()) == shapes_of(models.resnet18())
    assert shapes_of(models.from_config(Config(), 10)) == shapes_of(models.resnet18())


@st.composite
def networks(draw):
    config = Config(
        width=draw(st.integers(1, 9)),
        blocks=tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))),
        kernel_size=draw(st.sampled_from([1, 3, 5])),
    )
    image_size = draw(st.tuples(*[st.sampled_from([28, 32, 33, 64])] * 2))
    pool_size = draw(st.integers(1, min(config.feature_map(image_size))))
    return dataclasses.replace(config, pool_size=pool_size), draw(st.integers(2, 100)), image_size


@settings(max_examples=25)
@given(networks())
def test_the_closed_form_counts_the_networks_parameters(network):
    config, num_classes, image_size = network
    model = models.from_config(config, num_classes)
    count = size_of(shapes_of(model, *image_size)["params"])
    assert config.parameter_count(num_classes, image_size) == count
    assert config.check_network(num_classes, image_size) == count
    images = jax.ShapeDtypeStruct((2, *image_size, 3), jnp.float32)
    logits = jax.eval_shape(partial(model.apply, train=False), shapes_of(model, *image_size), images)
    assert logits.shape == (2, num_classes)


def test_from_config_reads_every_field():
    config = Config(width=3, blocks=(1, 2), kernel_size=5, pool_size=2, dropout=0.25, precision="bfloat16")
    assert models.from_config(config, 7, "devices") == ResNet(
        stage_sizes=(1, 2), num_classes=7, width=3, kernel_size=5, pool_size=2, dropout=0.25,
        dtype=jnp.dtype("bfloat16"), axis_name="devices",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A network both libraries build."""

    blocks: tuple[int, ...]
    kernel_size: int
    pool_size: int
    image_size: tuple[int, int]
    width: int = 4
    num_classes: int = 7

    def ours(self, dtype):
        return ResNet(
            stage_sizes=self.blocks, width=self.width, kernel_size=self.kernel_size, pool_size=self.pool_size,
            num_classes=self.num_classes, dtype=dtype, param_dtype=dtype,
        )  # fmt: skip

    def theirs(self):
        torch = pytest.importorskip("torch")
        from benchmarks import torch_resnet

        torch.manual_seed(0)
        network = torch_resnet.ResNet(
            self.width, self.blocks, self.kernel_size, self.pool_size, self.num_classes, self.image_size
        ).double()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 2.0)
                    module.bias.normal_()
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2.0)
        return network


CASES = [
    Case((2, 2, 2, 2), 3, 4, (32, 32)),
    Case((2, 2, 2, 2), 5, 2, (28, 28)),
    Case((1, 1, 1), 5, 4, (28, 28)),
    Case((1, 1, 1), 3, 2, (32, 32)),
    Case((2, 1), 3, 3, (21, 14)),
]

LEAVES = {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")}


def from_torch(tensors):
    """PyTorch's named tensors (parameters, buffers or gradients) in the places and layouts of our variables."""
    found = {}
    for name, tensor in tensors:
        *path, leaf = name.split(".")
        values = tensor.detach().numpy()
        if leaf == "num_batches_tracked":
            continue
        if path == ["linear"]:
            entry = ("params", "linear", "kernel" if leaf == "weight" else "bias")
            values = values.T if leaf == "weight" else values
        elif path[-1].startswith("conv") or path[-2:] == ["shortcut", "0"]:
            entry, values = ("params", *our_path(path), "kernel"), values.transpose(2, 3, 1, 0)
        else:
            collection, leaf = LEAVES.get(leaf, ("params", "scale" if leaf == "weight" else "bias"))
            entry = (collection, *our_path(path), leaf)
        *inner, last = entry
        node = found
        for key in inner:
            node = node.setdefault(key, {})
        node[last] = values.copy()
    return found


def our_path(path):
    """layer1.0.conv1 -> layer1_0, conv1; layer2.0.shortcut.1 -> layer2_0, shortcut_bn."""
    if len(path) == 1:
        return path
    stage, block, *module = path
    module = {"0": "shortcut_conv", "1": "shortcut_bn"}[module[1]] if len(module) == 2 else module[0]
    return [f"{stage}_{block}", module]


def assert_close(found, expected, relative):
    """The same tree, every entry within `relative` times its array's largest value."""
    chex.assert_trees_all_equal_shapes(found, expected)
    for (path, have), want in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        error = np.abs(np.asarray(have, np.float64) - want).max()
        assert error <= relative * np.abs(want).max(), f"{jax.tree_util.keystr(path)}: off by {error}"


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


def naive_bottleneck(x, variables, stride):
    """He et al. (2015), figure 5 right, by definition: evaluation mode, on one image, [height, width, channels]."""
    params, stats = variables["params"], variables["batch_stats"]

    def conv(x, name, stride=1):
        kernel = params[name]["kernel"]
        pad = kernel.shape[0] // 2
        padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        rows, columns = range(0, x.shape[0], stride), range(0, x.shape[1], stride)
        side = kernel.shape[0]
        return np.array([[np.tensordot(padded[r : r + side, c : c + side], kernel, 3) for c in columns] for r in rows])

    def norm(x, name):
        shifted = (x - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + 1e-5)
        return shifted * params[name]["scale"] + params[name]["bias"]

    y = np.maximum(norm(conv(x, "conv1"), "bn1"), 0)
    y = np.maximum(norm(conv(y, "conv2", stride), "bn2"), 0)
    y = norm(conv(y, "conv3"), "bn3")
    return np.maximum(y + norm(conv(x, "shortcut_conv", stride), "shortcut_bn"), 0)


@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_equals_its_definition(stride):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 6, 5, 3))
    with jax.enable_x64():
        types = {"param_dtype": jnp.float64}
        block = models.Bottleneck(
            2, stride, partial(models.Conv, dtype=jnp.float64, **types), partial(models.BatchNorm, **types)
        )
        variables = block.init(jax.random.key(0), jnp.asarray(images), train=False)
        variables = jax.tree.map(lambda a: rng.normal(size=a.shape) ** 2 + 0.1, variables)
        found = block.apply(variables, jnp.asarray(images), train=False)
        assert found.shape == (2, -(-6 // stride), -(-5 // stride), 8)
        assert_close(found, np.stack([naive_bottleneck(image, variables, stride) for image in images]), 1e-12)


def test_logits_are_not_softmaxed():
    model = ResNet(**SMALL)
    images = jnp.ones((3, 8, 8, 3))
    variables = initialise(model, images)
    bias = jnp.arange(-2.0, 3.0)
    linear = {"kernel": jnp.zeros_like(variables["params"]["linear"]["kernel"]), "bias": bias}
    variables = {**variables, "params": variables["params"] | {"linear": linear}}
    np.testing.assert_array_equal(model.apply(variables, images, train=False), np.tile(bias, (3, 1)))


@pytest.mark.parametrize("image_size", [(8, 32), (32, 8), (8, 8)])
def test_a_pool_larger_than_the_map_is_refused(image_size):
    with pytest.raises(InputError, match=r"pool_size 5: exceeds the last feature map, .*4"):
        shapes_of(ResNet(**SMALL, pool_size=5), *image_size)
    with pytest.raises(InputError, match=r"--pool-size 5: exceeds the last feature map, .*4"):
        Config(blocks=(1, 1), pool_size=5).check_network(10, image_size)
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
    return isinstance(module, models.Conv | models.BasicBlock) and method == "__call__"
