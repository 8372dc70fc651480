"""The named variants: published parameter counts, and PyTorch's own building of them with the same weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jresnet import models, torch_weights
from jresnet.errors import InputError


@pytest.mark.parametrize(
    ("variant", "options", "side", "count"),
    [
        (models.preact_resnet18, {}, 32, 11_171_146),
        (models.resnet20, {}, 32, 269_722),
        (models.resnet20, {"shortcut": "projection"}, 32, 272_474),
        (models.resnet32, {}, 32, 464_154),
        (models.resnet44, {}, 32, 658_586),
        (models.resnet56, {}, 32, 853_018),
        (models.resnet110, {}, 32, 1_727_962),
        (models.wide_resnet28_10, {}, 32, 36_479_194),
        (models.wide_resnet16_8, {}, 32, 10_961_370),
        (models.resnet_se443, {}, 32, 4_697_742),
        (models.imagenet_resnet18, {}, 224, 11_689_512),
        (models.imagenet_resnet50, {}, 224, 25_557_032),
    ],
)
def test_published_parameter_counts(variant, options, side, count):
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    params = jax.eval_shape(partial(variant(**options).init, train=False), jax.random.key(0), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def torch_network(model, inputs):
    """`model` built in PyTorch from its description, with random weights and statistics, in float64."""
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional
    preactivated = model.block is models.PreactBlock

    def conv(inputs, outputs, side, stride=1):
        return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, outputs, side, stride):
            super().__init__()
            self.stride, self.missing = stride, outputs - inputs
            self.conv1, self.conv2 = conv(inputs, outputs, side, stride), conv(outputs, outputs, side)
            self.bn1, self.bn2 = nn.BatchNorm2d(inputs if preactivated else outputs), nn.BatchNorm2d(outputs)
            self.same = stride == 1 and inputs == outputs
            if not self.same and model.shortcut == "projection":
                norm = [] if preactivated else [nn.BatchNorm2d(outputs)]
                self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), *norm)

        def skip(self, x):
            if self.same:
                return x
            if model.shortcut == "projection":
                return self.shortcut(x)
            low = self.missing // 2
            return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, low, self.missing - low))

        def forward(self, x):
            if preactivated:
                active = functional.relu(self.bn1(x))
                y = self.conv2(functional.relu(self.bn2(self.conv1(active))))
                return y + (x if self.same else self.skip(active))
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            return functional.relu(y + self.skip(x))

    class Squeeze(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.fc1 = nn.Linear(channels, channels // model.squeeze)
            self.fc2 = nn.Linear(channels // model.squeeze, channels)

        def forward(self, x):
            weights = torch.sigmoid(self.fc2(functional.relu(self.fc1(x.mean((2, 3))))))
            return x * weights[:, :, None, None]

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            features = model.stem_width or model.width
            large = model.stem == "imagenet"
            self.conv1 = conv(3, features, 7 if large else model.kernel_sizes[0], 2 if large else 1)
            if not preactivated:
                self.bn1 = nn.BatchNorm2d(features)
            self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
            if model.squeeze:
                self.se = Squeeze(features)
            for stage, depth in enumerate(model.stage_sizes):
                outputs, blocks = model.width * 2**stage, []
                for index in range(depth):
                    stride = 2 if stage and not index else 1
                    blocks.append(Block(features, outputs, model.kernel_sizes[stage], stride))
                    features = outputs
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            if model.final_norm:
                self.bn = nn.BatchNorm2d(features)
            self.linear = nn.Linear(features, model.num_classes)

        def forward(self, x):
            x = self.conv1(x)
            x = x if preactivated else functional.relu(self.bn1(x))
            x = self.pool(x)
            x = self.se(x) if model.squeeze else x
            for stage in range(len(model.stage_sizes)):
                x = getattr(self, f"layer{stage + 1}")(x)
            x = functional.relu(self.bn(x)) if model.final_norm else x
            return self.linear(x.mean((2, 3)))

    torch.manual_seed(0)
    network = Network().double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return network, torch.tensor(inputs.transpose(0, 3, 1, 2))


# Each variant at a few channels: what sets it apart from the others is kept.
VARIANTS = {
    "preact": (partial(models.preact_resnet18, width=3, pool_size=None), 16),
    "option A": (partial(models.resnet20, width=4), 16),
    "option A, odd": (partial(models.resnet20, stage_sizes=(1, 2), width=3), 9),
    "option B": (partial(models.resnet20, width=4, shortcut="projection"), 16),
    "wide": (partial(models.wide_resnet16_8, width=6, stem_width=4, block_dropout=0.0), 12),
    "squeeze": (partial(models.resnet_se443, width=8, squeeze=4), 12),
    "imagenet": (partial(models.imagenet_resnet18, width=4), 45),
    "kernels by stage": (partial(models.ResNet, stage_sizes=(1, 1), kernel_size=(5, 3), width=4, pool_size=None), 12),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_network_loss_gradients_and_statistics_equal_torchs(name):
    variant, side = VARIANTS[name]
    with jax.enable_x64():
        model = variant(num_classes=7, dtype=jnp.float64, param_dtype=jnp.float64)
        rng = np.random.default_rng(0)
        images, labels = rng.normal(size=(5, side, side, 3)), rng.integers(7, size=5)
        theirs, torch_images = torch_network(model, images)
        import torch

        variables = torch_weights.from_state_dict(theirs.state_dict(), model, (side, side))
        logits = jax.jit(partial(model.apply, train=False))(variables, images)
        close(logits, theirs.eval()(torch_images).detach().numpy())

        def mean_loss(params):
            logits, updates = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))
            return losses.mean(), updates["batch_stats"]

        (loss, batch_stats), gradients = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(variables["params"])
        torch_loss = torch.nn.functional.cross_entropy(theirs.train()(torch_images), torch.tensor(labels))
        torch_loss.backward()
        close(loss, torch_loss.item())
        buffers = {name: value.numpy() for name, value in theirs.named_buffers()}
        slopes = {name: value.grad.numpy() for name, value in theirs.named_parameters()}
        found = torch_weights.to_state_dict(
            {"params": gradients, "batch_stats": batch_stats}, model, "kuangliu", (side, side)
        )
        for name, expected in (buffers | slopes).items():
            if not name.endswith("num_batches_tracked"):
                close(found[name], expected, name)


def close(found, expected, name=""):
    """Within 1e-10 of the largest entry expected; gradients that cancel to nothing, within 1e-13."""
    expected = np.asarray(expected)
    bound = max(1e-10 * np.abs(expected).max(), 1e-13)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=name)


def test_block_dropout_acts_in_training_only():
    small = partial(models.wide_resnet16_8, stage_sizes=(1,), width=4, stem_width=4)
    model = small(block_dropout=0.5)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
    plain = small(block_dropout=0.0)
    np.testing.assert_array_equal(
        model.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )

    @jax.jit
    def logits(key):
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    assert np.abs(logits(jax.random.key(1)) - logits(jax.random.key(2))).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": (3, 3)}, "give one number, or one for each of 4 stages"),
        ({"kernel_size": (3, 3, 3, 4)}, "must be odd"),
        ({"stem": "cifar"}, "stem cifar: must be one of"),
        ({"shortcut": "A"}, "shortcut A: one of"),
        ({"block_dropout": 0.1}, "only PreactBlock"),
        ({"final_norm": True}, "only PreactBlock"),
        ({"squeeze": 65}, "squeeze 65: exceeds the stem's channels"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        models.resnet18(**options)
