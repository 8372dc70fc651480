"""A step that treats parts apart: frozen stages keep every bit, the head has its rate, classes have their weights."""

import dataclasses
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.config import Config
from jresnet.data.pipeline import take
from jresnet.errors import InputError
from jresnet.models import Bottleneck, PreactBlock, ResNet, from_config, variable_shapes
from jresnet.train.freeze import frozen_parts
from jresnet.train.layout import TREES, VectorLayout
from jresnet.train.optim import optimizer, shared_optimizer
from jresnet.train.state import TrainState, create_train_state
from jresnet.train.step import Metrics, StepOptions, balanced_weights, make_train_step
from jresnet.train.trainer import make_train_program

SHAPE, CLASSES = (4, 4, 3), 3
CONFIG = Config(learning_rate=0.05, head_learning_rate=0.4, schedule="cosine", nesterov=True, epochs=2)
NETWORK = ResNet(stage_sizes=(1, 1), width=3, num_classes=CLASSES, pool_size=2)
WEIGHTS = (0.25, 3.0, 1.5)
PADDED = {"channel_multiple": 8, "options": StepOptions(class_weights=WEIGHTS)}


def draw(dtype, *shape):
    """Arrays of batches: images, labels and a mask that leaves out some of them."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.normal(size=(*shape, *SHAPE)).astype(dtype),
        "labels": rng.integers(CLASSES, size=shape).astype(np.int32),
        "mask": np.arange(np.prod(shape)).reshape(shape) % 5 > 0,
    }


def start(network, config, seed=0):
    """Optimizer, and a state of which every number differs from every other, as after training."""
    tx, rng = optimizer(config, 3), np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: create_train_state(network, tx, 0, SHAPE))
    drawn = {
        name: jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), leaf.dtype), part)
        for name, part in shapes.variables.items()
    }
    state = TrainState(jnp.int32(0), **drawn, opt_state=tx.init(drawn["params"]), key=jax.random.key(0))
    return tx, state


def bits(tree):
    """Every array as bytes, by its part of the network."""
    return {part: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays)] for part, arrays in tree.items()}


def assert_kept(before, after, parts):
    """Exactly these parts have the bits that they had, in parameters and statistics."""
    for name in ("params", "batch_stats"):
        old, new = bits(before[name]), bits(after[name])
        assert {part for part in old if old[part] == new[part]} == {part for part in old if part in parts}
        changed = [a == b for part in old if part not in parts for a, b in zip(old[part], new[part], strict=True)]
        assert not any(changed), "an array of a part that trains stayed"


@pytest.mark.parametrize(
    ("platform", "stages", "frozen", "parts", "options"),
    [
        ("gpu", 1, (0,), {"conv1", "bn1"}, {"channel_multiple": 4}),
        pytest.param("gpu", 2, (0, 1), {"conv1", "bn1", "layer1_0"}, PADDED, marks=pytest.mark.slow),
        pytest.param("cpu", 2, (0, 1), {"conv1", "bn1", "layer1_0"}, PADDED, marks=pytest.mark.slow),
        pytest.param("cpu", 2, (1,), {"layer1_0"}, {}, marks=pytest.mark.slow),
        pytest.param("gpu", 2, (2,), {"layer2_0"}, {}, marks=pytest.mark.slow),
        pytest.param("gpu", 2, (0, 1, 2), {"conv1", "bn1", "layer1_0", "layer2_0"}, {}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_frozen_stages_keep_every_bit_through_the_training_program(platform, stages, frozen, parts, options, dtype):
    """In both layouts of the state; zeros below 0 and numbers below the smallest normal one stay as they are, too."""
    network = NETWORK.clone(stage_sizes=(1,) * stages, frozen=frozen, dtype=dtype)
    tx, state = start(network, CONFIG)
    odd = jnp.array([[[[-0.0, 1e-42, 0.3]]]], jnp.float32)
    if 0 in frozen:
        kernel = state.params["conv1"]["kernel"]
        state = state.replace(params=state.params | {"conv1": {"kernel": kernel.at[:1, :1, :1].set(odd)}})
    before = jax.device_get(state.variables)
    program = jax.jit(make_train_program(network, tx, take, platform, **options))
    state, metrics = program(state, Metrics.zero(), draw(np.float32, 3, 4), jnp.int32(0), jnp.int32(3))
    assert int(metrics.images) == 9 and int(metrics.bad_step) == -1
    assert_kept(before, jax.device_get(state.variables), parts)


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True])
def test_frozen_stages_keep_every_bit_on_several_devices(local):
    network = NETWORK.clone(frozen=(0, 1), axis_name="devices", local_norm=local)
    tx, state = start(network.clone(axis_name=None), CONFIG)
    step = make_train_step(network, tx, "devices", options=StepOptions(class_weights=WEIGHTS))
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name="devices"))
    states, _ = mapped(state, draw(np.float32, 4, 2))
    for device in range(4):
        after = jax.device_get(jax.tree.map(itemgetter(device), states.variables))
        assert_kept(jax.device_get(state.variables), after, {"conv1", "bn1", "layer1_0"})


def convolutions(frozen, layout):
    """Convolutions in a step, of both directions: a frozen beginning has them in one direction only."""
    network = NETWORK.clone(frozen=frozen)
    tx, state = start(network, CONFIG)
    chosen = VectorLayout(state, jnp.float32) if layout == "vector" else TREES
    step = make_train_step(network, tx, layout=chosen)
    batch = {name: array[0] for name, array in draw(np.float32, 1, 4).items()}
    return str(jax.make_jaxpr(step)(chosen.pack(state), batch)).count(" conv_general_dilated[")


@pytest.mark.parametrize("layout", ["vector", pytest.param("trees", marks=pytest.mark.slow)])
def test_nothing_is_differentiated_before_the_first_stage_that_trains(layout):
    """Stem 1, stage one 2, stage two 3 convolutions; each that trains has two gradients, the images have none."""
    assert convolutions((), layout) == 6 + 2 * 6 - 1
    assert convolutions((0,), layout) == 6 + 2 * 5 - 1
    assert convolutions((0, 1), layout) == 6 + 2 * 3 - 2  # two convolutions of stage two see frozen activations
    assert convolutions((0, 1, 2), layout) == 6
    assert convolutions((1,), layout) == 6 + 2 * 6 - 1 - 2  # through the stage, but not to its kernels


@pytest.mark.parametrize("block", [Bottleneck, PreactBlock])
def test_every_parameter_but_the_end_belongs_to_a_stage(block):
    final = block is PreactBlock
    network = ResNet(stage_sizes=(2, 1), width=4, block_cls=block, pool_size=None, squeeze=2, final_norm=final)
    parts = {*variable_shapes(network, (8, 8))["params"]}
    stages = [frozen_parts(parts, {stage}) for stage in range(3)]
    assert set.union(*stages) == parts - {"linear", "bn"} and sum(map(len, stages)) == len(set.union(*stages))
    assert stages[1:] == [{"layer1_0", "layer1_1"}, {"layer2_0"}] and "se" in stages[0]


def test_frozen_stages_are_those_of_the_network_and_need_weights():
    config = Config(init_from="run", freeze=(2, 0, 2), blocks=(1, 1))
    assert config.freeze == (0, 2) and from_config(config, 5).frozen == (0, 2)
    with pytest.raises(InputError, match=r"^--freeze 3: must be 0, the stem, or numbers of stages, of which .* 2$"):
        from_config(dataclasses.replace(config, freeze=(3,)), 5)
    for stages in ((-1,), (11,)):
        with pytest.raises(InputError, match=r"^--freeze -?1+: must be 0, the stem, or numbers"):
            Config(init_from="run", freeze=stages)
    with pytest.raises(InputError, match=r"^--freeze 0: must come with --init-from"):
        Config(freeze=(0,))
    for rate in (0.0, -1.0, float("inf"), float("nan"), 1e39):
        with pytest.raises(InputError, match=r"^--head-learning-rate \S+: must "):
            Config(head_learning_rate=rate)


class Linear:
    """Two linear layers and ReLU with the interface of `ResNet` that a step needs: compiled at once."""

    frozen, local_norm = (), False

    def __init__(self, param_dtype=jnp.float64):
        self.param_dtype = param_dtype

    def apply(self, variables, images, **_):
        params = variables["params"]
        hidden = jax.nn.relu(images.reshape(len(images), -1) @ params["conv1"]["kernel"])
        return hidden @ params["linear"]["kernel"] + params["linear"]["bias"][None], {"batch_stats": {}}


def linear_params():
    rng = np.random.default_rng(1)
    shapes = {"conv1": {"kernel": (48, 5)}, "linear": {"bias": (CLASSES,), "kernel": (5, CLASSES)}}
    return jax.tree.map(lambda shape: rng.normal(size=shape) / 5, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def torch_course(torch, config, batches, weights):
    """The losses of PyTorch's own training by these batches, and its parameters after it."""
    theirs = jax.tree.map(lambda array: torch.nn.Parameter(torch.tensor(array)), linear_params())
    head, rates = theirs["linear"], (config.learning_rate, config.head_learning_rate or config.learning_rate)
    groups = [{"params": [theirs["conv1"]["kernel"]], "lr": rates[0]}, {"params": [*head.values()], "lr": rates[1]}]
    sgd = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4, nesterov=config.nesterov)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=config.epochs * 3)
    criterion = torch.nn.CrossEntropyLoss(weight=None if weights is None else torch.tensor(weights, dtype=torch.double))
    losses = []
    for batch in batches:
        images, labels = (torch.tensor(batch[name][batch["mask"]]) for name in ("images", "labels"))
        hidden = torch.relu(images.reshape(len(images), -1) @ theirs["conv1"]["kernel"])
        loss = criterion(hidden @ head["kernel"] + head["bias"], labels.long())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        course.step()
        losses.append(loss.item())
    return losses, jax.tree.map(lambda parameter: parameter.detach().numpy(), theirs)


@pytest.mark.parametrize("layout", ["trees", "vector", "devices"])
@pytest.mark.parametrize(
    ("head", "weights"),
    [
        (0.4, WEIGHTS),
        pytest.param(0.4, None, marks=pytest.mark.slow),
        pytest.param(None, WEIGHTS, marks=pytest.mark.slow),
    ],
)
def test_the_heads_rate_and_the_classes_weights_are_torchs(layout, head, weights):
    torch = pytest.importorskip("torch")
    config = dataclasses.replace(CONFIG, head_learning_rate=head)
    batches = [jax.tree.map(itemgetter(step), draw(np.float64, 6, 8)) for step in range(6)]
    losses, expected = torch_course(torch, config, batches, weights)
    with jax.enable_x64():
        tx, params = optimizer(config, 3), jax.tree.map(jnp.asarray, linear_params())
        state = TrainState(jnp.int32(0), params, {}, tx.init(params), jax.random.key(0))
        chosen = VectorLayout(state, jnp.float64) if layout == "vector" else TREES
        axis = "devices" if layout == "devices" else None
        step = make_train_step(Linear(), tx, axis, chosen, StepOptions(class_weights=weights))
        if axis:  # four devices, each with two images of every batch
            step = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=axis)
            batches = [jax.tree.map(lambda a: a.reshape(4, 2, *a.shape[1:]), batch) for batch in batches]
        step, state, found = jax.jit(step), chosen.pack(state), []
        for batch in batches:
            state, metrics = step(state, batch)
            found.append(float(metrics.loss) / int(metrics.images))
        np.testing.assert_allclose(found, losses, rtol=1e-6)  # added up in float32
        for ours, theirs in zip(jax.tree.leaves(chosen.unpack(state).params), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_the_heads_rate_is_data():
    """One optimizer, so one compiled program, serves all rates; without one for the head it is another."""
    shared = partial(shared_optimizer, steps_per_epoch=3)
    assert shared(CONFIG) is shared(dataclasses.replace(CONFIG, head_learning_rate=0.01, learning_rate=0.3))
    assert shared(CONFIG) is not shared(dataclasses.replace(CONFIG, head_learning_rate=None))


def test_balanced_weights_give_every_class_the_same_share():
    labels = np.array([0, 2, 2, 1, 2, 2, 0], np.int32)
    weights = np.array(balanced_weights(labels, 3))
    np.testing.assert_allclose(weights, [7 / 6, 7 / 3, 7 / 12], rtol=1e-15)
    np.testing.assert_allclose(np.bincount(labels, weights[labels]), 7 / 3, rtol=1e-15)


@pytest.mark.parametrize("weights", [WEIGHTS, pytest.param(None, marks=pytest.mark.slow)])
def test_padding_does_not_enter_the_loss_whatever_it_holds(weights):
    batch, found = jax.tree.map(itemgetter(0), draw(np.float32, 1, 4)), []
    tx, params = optimizer(CONFIG, 3), jax.tree.map(np.float32, linear_params())
    state = TrainState(jnp.int32(0), params, {}, tx.init(params), jax.random.key(0))
    step = jax.jit(make_train_step(Linear(jnp.float32), tx, options=StepOptions(class_weights=weights)))
    for padding in (0.0, np.inf):
        images = np.where(batch["mask"][:, None, None, None], batch["images"], np.float32(padding))
        found.append(float(step(state, batch | {"images": images})[1].loss))
    assert np.isfinite(found[0]) and found[0] == found[1]
