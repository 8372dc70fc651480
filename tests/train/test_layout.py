"""How the training program computes, not what: layouts of the state, padded channels and loops of fixed length."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jresnet import models
from jresnet.config import Config
from jresnet.data.pipeline import take
from jresnet.errors import InputError
from jresnet.models import BasicBlock, Bottleneck, PreactBlock, ResNet
from jresnet.parallel.devices import Devices
from jresnet.train import pace
from jresnet.train.layout import Layout, VectorLayout, resized
from jresnet.train.loop import describe
from jresnet.train.optim import optimizer
from jresnet.train.signals import StopSignal
from jresnet.train.state import TrainState, create_train_state
from jresnet.train.step import Metrics, make_train_step
from jresnet.train.trainer import Trainer, make_train_program
from tests.support.runs import CONFIG, Silent, make_dataset

CLASSES, IMAGES, SHAPE = 3, 4, (8, 8, 3)
PLAIN = Config(learning_rate=0.05, epochs=4)
ELABORATE = dataclasses.replace(PLAIN, nesterov=True, schedule="cosine", warmup_epochs=0.5, weight_decay=0.01)
NETWORKS = {
    "resnet18": ResNet(stage_sizes=(1, 1), width=3, num_classes=CLASSES, pool_size=2),
    "bottleneck": ResNet(stage_sizes=(1,), width=2, num_classes=CLASSES, block_cls=Bottleneck, pool_size=4),
    "preactivation": ResNet(
        stage_sizes=(1,),
        width=4,
        stem_width=3,
        pool_size=None,
        num_classes=CLASSES,
        block_cls=PreactBlock,
        final_norm=True,
    ),
    "squeeze": ResNet(stage_sizes=(1,), width=4, num_classes=CLASSES, squeeze=2, pool_size=None),
}


def double(network):
    return network.clone(dtype=jnp.float64, param_dtype=jnp.float64)


def start(network, config=PLAIN):
    """Optimizer and a state with random parameters; initialising it is a program that would take longer to compile."""
    tx = optimizer(config, 3)
    shapes = jax.eval_shape(lambda: create_train_state(network, tx, 0, SHAPE))
    rng = np.random.default_rng(0)

    def drawn(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        return jnp.asarray(rng.normal(len(leaf.shape) == 1, fan_in**-0.5, leaf.shape), leaf.dtype)

    params = jax.tree.map(drawn, shapes.params)
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes.batch_stats)
    return tx, TrainState(jnp.int32(0), params, stats, tx.init(params), jax.random.key(0))


def batches(count, dtype=np.float32, mask=False):
    """`count` batches as arrays for `take`."""
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.normal(size=(count, IMAGES, *SHAPE)).astype(dtype),
        "labels": rng.integers(CLASSES, size=(count, IMAGES)).astype(np.int32),
    }
    return arrays | ({"mask": np.arange(count * IMAGES).reshape(count, IMAGES) % 3 > 0} if mask else {})


def numbers(tree):
    """The tree fetched, keys as plain numbers."""

    def number(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    return jax.device_get(jax.tree.map(number, tree))


def train(network, config=PLAIN, calls=((0, 3),), platform="cpu", arrays=None, **options):
    """(state, metrics) after calls of the training program for these steps."""
    tx, state = start(network, config)
    program = jax.jit(make_train_program(network, tx, take, platform, **options))
    arrays = batches(3, network.dtype) if arrays is None else arrays
    metrics = Metrics.zero()
    for first, last in calls:
        state, metrics = program(state, metrics, arrays, jnp.int32(first), jnp.int32(last))
    return numbers((state, metrics))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param("resnet18", PLAIN, marks=pytest.mark.slow),
        pytest.param("preactivation", ELABORATE, marks=pytest.mark.slow),
        ("squeeze", PLAIN),
        ("squeeze", ELABORATE),
    ],
)
def test_a_packed_state_unpacks_to_the_same_bits(name, config):
    state = start(NETWORKS[name], config)[1]
    rng = np.random.default_rng(1)
    # Every array different from every other, momenta too, which start at zero.
    filled = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, state
    )
    layout = VectorLayout(state, jnp.bfloat16)
    packed = layout.pack(filled)
    again = layout.unpack(packed)
    chex.assert_trees_all_equal(numbers(again), numbers(filled))
    chex.assert_trees_all_equal_shapes_and_dtypes(numbers(again), numbers(filled))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    vectors = [leaf for leaf in jax.tree.leaves(packed) if leaf.size >= count]
    assert [vector.shape for vector in vectors] == [(count,)] * 2  # parameters and momenta
    # What the network gets: kernels in the dtype of its arithmetic, everything else as it is.
    rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.ndim == 4 else a, filled.params)
    chex.assert_trees_all_equal(layout.params(packed.params), rounded)
    chex.assert_trees_all_equal(layout.gradients(filled.params), packed.params.vector)


@pytest.mark.parametrize(
    ("name", "config", "mask"),
    [
        ("resnet18", ELABORATE, False),
        pytest.param("preactivation", PLAIN, True, marks=pytest.mark.slow),
        pytest.param("squeeze", ELABORATE, False, marks=pytest.mark.slow),
    ],
)
def test_gpus_train_to_the_same_parameters(name, config, mask):
    """Their program, run on the CPU in float64: vectors, plain convolutions."""
    with jax.enable_x64():
        network = double(NETWORKS[name])
        arrays = batches(4, np.float64, mask=mask)
        before = numbers(start(network)[1])
        (state, sums), (theirs, their_sums) = (
            train(network, config, ((0, 3), (3, 4)), platform, arrays) for platform in ("cpu", "gpu")
        )
    assert {leaf.dtype for leaf in jax.tree.leaves(theirs.params)} == {np.dtype("float64")}
    chex.assert_trees_all_close(theirs, state, rtol=0, atol=1e-10)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-4, before.variables, state.variables)
    assert all(jax.tree.leaves(moved)), "a program that does nothing would pass"
    assert sums[1:] == their_sums[1:] and sums.images == (10 if mask else 16)
    np.testing.assert_allclose(their_sums.loss, sums.loss, rtol=2e-7)  # added up in float32


def measured(network, params, stats, batch):
    """Logits in both modes, gradients and updated statistics."""

    def loss(params):
        variables = {"params": params, "batch_stats": stats}
        logits, updates = network.apply(variables, batch["images"], train=True, mutable=["batch_stats"])
        # Every logit has a gradient of its own.
        return jnp.sum(jnp.sin(logits + batch["labels"][:, None])), (logits, updates["batch_stats"])

    (_, (logits, updated)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    evaluated = network.apply({"params": params, "batch_stats": updated}, batch["images"], train=False)
    return (logits, evaluated), gradients, updated


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_network_is_padded_and_made_for_the_platform(platform, dtype, monkeypatch):
    """Equal results do not show it."""
    seen = []

    def watched(network, tx, axis_name, layout, _):
        seen.append((network, type(layout)))
        return make_train_step(network, tx, axis_name, layout)

    monkeypatch.setattr("jresnet.train.trainer.make_train_step", watched)
    network = NETWORKS["squeeze"].clone(dtype=dtype)
    tx, state = start(network)
    program = make_train_program(network, tx, take, platform, channel_multiple=8)
    found = jax.eval_shape(program, state, Metrics.zero(), batches(2), jnp.int32(0), jnp.int32(2))
    chex.assert_trees_all_equal_shapes_and_dtypes(found[0], jax.eval_shape(lambda: state))
    (trained, layout), norm = seen[-1], models.norm_for(platform, dtype)
    assert (trained.width, trained.norm_cls) == (8, norm)
    assert layout is (VectorLayout if platform == "gpu" else Layout)
    assert trained.conv_general_dilated_cls == models.conv_for(platform)


def shortcut_at_once(network):
    """Whether the first block has a shortcut, by its parameters."""
    images = jnp.zeros((1, *SHAPE))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=False))
    return "shortcut_conv" in shapes["params"]["layer1_0"]


def check_padded(block, width, multiple, stem_width, stages):
    options = {"pool_size": None} if block is not PreactBlock else {"pool_size": 2, "final_norm": width % 2 == 0}
    with jax.enable_x64():
        network = double(
            ResNet(stages, block, CLASSES, width, stem_width=stem_width, squeeze=2 if stem_width else None, **options)
        )
        wide = models.padded(network, multiple)
        assert (wide.width % multiple, wide.width - network.width < multiple) == (0, True)
        if shortcut_at_once(wide) != shortcut_at_once(network):
            return  # refused, see below
        state = start(network)[1]
        images = jnp.zeros((1, *SHAPE))
        shapes = jax.eval_shape(lambda: wide.init(jax.random.key(0), images, train=False))
        batch = {name: array[0] for name, array in batches(1, np.float64).items()}
        batch["labels"] = batch["labels"].astype(np.float64)
        params, stats = resized((state.params, state.batch_stats), (shapes["params"], shapes["batch_stats"]))
        expected = jax.jit(measured, static_argnums=0)(network, state.params, state.batch_stats, batch)
        found = jax.jit(measured, static_argnums=0)(wide, params, stats, batch)
        logits, gradients, updated = found[0], *resized(found[1:], expected[1:])
        # Put back among zeros they are all there was.
        chex.assert_trees_all_equal(resized(gradients, found[1]), found[1])
    chex.assert_trees_all_close((logits, gradients, updated), expected, rtol=0, atol=1e-10)
    assert all(np.abs(gradient).max() > 0 for gradient in jax.tree.leaves(expected[1]))


DRAWN = {
    "block": st.sampled_from([BasicBlock, Bottleneck, PreactBlock]),
    "width": st.integers(1, 7),
    "multiple": st.integers(2, 8),
    "stem_width": st.sampled_from([None, 2, 5]),
    "stages": st.sampled_from([(1,), (1, 1)]),
}


@pytest.mark.parametrize(
    ("block", "width", "multiple", "stem_width", "stages"),
    [(BasicBlock, 3, 8, None, (1, 1)), pytest.param(PreactBlock, 3, 4, 5, (1,), marks=pytest.mark.slow)],
)
def test_padded_channels_change_neither_function_nor_gradients(block, width, multiple, stem_width, stages):
    check_padded(block, width, multiple, stem_width, stages)


@pytest.mark.slow
@settings(max_examples=15)
@given(**DRAWN)
def test_no_width_is_padded_otherwise(block, width, multiple, stem_width, stages):
    check_padded(block, width, multiple, stem_width, stages)


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("resnet18", "gpu"),
        pytest.param("bottleneck", "cpu", marks=pytest.mark.slow),
        pytest.param("preactivation", "gpu", marks=pytest.mark.slow),
        pytest.param("squeeze", "cpu", marks=pytest.mark.slow),
    ],
)
def test_padded_channels_train_to_the_same_state(name, platform):
    with jax.enable_x64():
        network = double(NETWORKS[name]).clone(width=3)
        arrays = batches(4, np.float64)
        ways = [train(network, ELABORATE, ((0, 4),), platform, arrays, channel_multiple=m) for m in (1, 8)]
    (state, sums), (padded, padded_sums) = ways
    chex.assert_trees_all_equal_shapes_and_dtypes(padded, state)
    chex.assert_trees_all_close(padded, state, rtol=0, atol=1e-10)
    assert padded_sums[1:] == sums[1:]
    np.testing.assert_allclose(padded_sums.loss, sums.loss, rtol=2e-7)  # added up in float32


@pytest.mark.parametrize(("width", "multiple"), [(16, 24), (12, 8), (15, 16), (8, 8), (40, 8)])
def test_a_first_shortcut_that_padding_would_add_or_drop_is_refused(width, multiple):
    """The wide networks' stems have 16 channels, whatever the width of the first stage."""
    config = Config(model="wide_resnet16_8", width=width, blocks=(1,), dropout=0.0, channel_multiple=multiple)
    plain = models.from_config(dataclasses.replace(config, channel_multiple=1), 10)
    if shortcut_at_once(plain) == shortcut_at_once(models.padded(plain, multiple)):
        models.from_config(config, 10)
    else:
        assert width in (12, 15)
        with pytest.raises(InputError, match=rf"^--channel-multiple {multiple}: would change the first block's short"):
            models.from_config(config, 10)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "resnet20"},
        {"dropout": 0.1},
        {"model": "preact_resnet18", "dropout": 0.1},
        {"optimizer": "muon", "width": 42},
    ],
    ids=str,
)
def test_networks_that_padding_would_change_are_refused(options):
    config = Config(channel_multiple=8, **options)
    with pytest.raises(InputError, match=r"^--channel-multiple 8: (needs|must divide) .* choose 1$"):
        models.from_config(config, 10)
    models.from_config(dataclasses.replace(config, channel_multiple=1), 10)


def test_muon_trains_networks_that_need_no_padding():
    models.from_config(Config(channel_multiple=8, optimizer="muon", width=48), 10)


def in_calls_of(steps, total=14):
    return [(first, min(first + steps, total)) for first in range(0, total, steps)]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "lengths"), [(jnp.bfloat16, (2, 7)), (jnp.float32, (1, 2, 7))])
def test_loops_of_any_length_and_of_fixed_ones_give_the_same_bits(dtype, lengths):
    network = ResNet(stage_sizes=(1,), width=3, num_classes=CLASSES, pool_size=4, dtype=dtype)
    tx, state = start(network, ELABORATE)
    arrays = batches(14)

    def trained(steps, program):
        found = state, Metrics.zero()
        for first, last in in_calls_of(steps):
            found = program(*found, arrays, jnp.int32(first), jnp.int32(last))
        return numbers(found)

    any_length = jax.jit(make_train_program(network, tx, take, "gpu"))
    expected = trained(1, any_length)
    assert expected[0].step == 14 and expected[1].images == 14 * IMAGES
    for steps in lengths:
        chex.assert_trees_all_equal(trained(steps, any_length), expected)
        fixed = jax.jit(make_train_program(network, tx, take, "gpu", steps=steps))
        chex.assert_trees_all_equal(trained(steps, fixed), expected)


def make_trainer():
    """A run of 16 steps an epoch, on a CPU that it takes for a GPU."""
    config = dataclasses.replace(CONFIG, width=2, blocks=(1,), dropout=0.0, batch_size=4)
    dataset, devices = make_dataset(train=64), Devices(config)
    devices.platform = "gpu"
    return Trainer(describe(config, dataset, dataset.sha256, 0, "test"), dataset.train, devices)


@pytest.fixture(scope="module")
def idle():
    """A trainer whose calls are only pretended."""
    return make_trainer()


def pretend(trainer, epoch, seconds_per_step):
    """Lengths of the calls, by epoch, of so many steps each that take so long."""
    trainer.images, trainer._steps_per_call, trainer._fixed_steps = epoch * 4 + 3, 1, None
    lengths = []
    for _ in range(12):
        lengths.append([])
        while sum(lengths[-1]) < epoch:
            steps = min(epoch - sum(lengths[-1]), trainer._steps_per_call)
            if any(lengths[:1]):  # `train_epoch` does not count the very first one
                trainer._choose_steps(steps, steps * seconds_per_step)
            lengths[-1].append(steps)
    return lengths


@given(epoch=st.integers(1, 2000), rate=st.floats(0.6, 20_000))
def test_on_a_gpu_the_length_of_calls_settles_to_an_even_part_of_the_epoch(idle, epoch, rate):
    """`rate` in steps per second."""
    last, *others = reversed(pretend(idle, epoch, 1 / rate))
    fixed = idle._fixed_steps
    assert last == others[0] == others[1]
    assert sum(last) == epoch and set(last[:-1]) <= {last[0]}
    if fixed is None:
        assert epoch == 1 or last[0] == 1
    else:
        calls, rest = divmod(epoch, fixed)
        assert last == [fixed] * calls + [rest] * (rest > 0)
        assert rest < calls
    # As near to a second as even parts come.
    wanted = min(max(1, rate * pace.CALL_SECONDS), epoch)
    assert last[0] <= wanted + 1e-6 and last[0] > wanted / 2 - 1
    kept = idle._fixed_steps, idle._steps_per_call
    if fixed is not None:
        for seconds in (1e-4, 10.0):
            idle._choose_steps(idle._steps_per_call, seconds)
            assert (idle._fixed_steps, idle._steps_per_call) == kept


def test_on_a_cpu_the_length_of_calls_follows_the_clock(idle, monkeypatch):
    monkeypatch.setattr(idle, "_fixes", False)
    assert pretend(idle, 1000, 0.01)[-1] == [100] * 10
    idle._choose_steps(100, 10.0)
    assert (idle._fixed_steps, idle._steps_per_call) == (None, 10)


def test_a_run_in_calls_of_fixed_length_ends_in_the_bits_of_any_length(monkeypatch):
    def run(steps, seconds):
        """In calls of so many steps, or with None as its clock decides."""
        monkeypatch.setattr(pace, "CALL_SECONDS", seconds)
        run = make_trainer()
        if steps is not None:
            run._fixed_steps = run._steps_per_call = steps
        run.start()
        epochs = []
        for epoch in range(2):
            run.train_epoch(epoch, Silent(), StopSignal())
            epochs.append(run.epoch_metrics())
        return numbers(run.state), epochs, {key[0] for key in run._compiled}

    # Never as long as this: calls of one step.
    *expected, lengths = run(None, 0.0)
    assert lengths == {None} and expected[0].step == 32
    for steps, seconds, compiled in ((5, 0.0, {None, 5}), (None, 1e9, {None, 16})):
        *found, lengths = run(steps, seconds)
        assert lengths == compiled
        chex.assert_trees_all_equal(found[0], expected[0])
        assert found[1] == expected[1]
