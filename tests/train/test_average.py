"""Averages of the weights: the closed form in every layout, the same bits on resume, and what is evaluated."""

import dataclasses
import shutil
from operator import itemgetter

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jresnet.config import Config
from jresnet.data.pipeline import take
from jresnet.errors import Diverged, InputError
from jresnet.models import ResNet
from jresnet.parallel.devices import Devices
from jresnet.records import run_directory
from jresnet.train import initial, loop
from jresnet.train.average import share
from jresnet.train.checkpoint import Checkpoints, Meta
from jresnet.train.layout import TREES, VectorLayout
from jresnet.train.optim import optimizer
from jresnet.train.state import TrainState, create_train_state
from jresnet.train.step import Metrics, StepOptions, make_train_step
from jresnet.train.trainer import Trainer, make_train_program
from jresnet.use.classifier import Classifier
from tests.support.runs import CONFIG, final_state, make_dataset, strip

SHAPE, CLASSES = (4, 4, 3), 3
PLAIN = Config(learning_rate=0.1)


class Layers:
    """Two layers and a statistic of the batch with the interface of `ResNet` that a step needs: compiled at once."""

    local_norm, param_dtype = False, None  # which class weights alone read

    def __init__(self, frozen=(), axis_name=None):
        self.frozen, self.axis_name = frozen, axis_name

    def apply(self, variables, images, **_):
        params, stats = variables["params"], variables["batch_stats"]
        rows = images.reshape(len(images), -1)
        mean = rows.mean(0) if self.axis_name is None else lax.pmean(rows.mean(0), self.axis_name)
        updated = {"conv1": {"mean": 0.9 * stats["conv1"]["mean"] + 0.1 * mean}}
        return jnp.sin(rows @ params["conv1"]["kernel"]) @ params["linear"]["kernel"], {"batch_stats": updated}


def start(dtype):
    """Optimizer and initial state of `Layers`; -0.0 and a number below the smallest normal one among the weights."""
    rng, tx = np.random.default_rng(0), optimizer(PLAIN, 3)
    drawn = {"conv1": rng.normal(size=(48, 4)), "linear": rng.normal(size=(4, CLASSES))}
    drawn["conv1"][0, :2] = -0.0, 1e-42
    params = {name: {"kernel": jnp.asarray(kernel, dtype)} for name, kernel in drawn.items()}
    stats = {"conv1": {"mean": jnp.asarray(rng.normal(size=48), dtype)}}
    state = TrainState(jnp.int32(0), params, stats, tx.init(params), jax.random.key(0))
    return tx, state.replace(average=jax.tree.map(jnp.copy, state.raw))


def draw(dtype, steps, images=4, shape=SHAPE):
    rng = np.random.default_rng(1)
    return {
        "images": rng.normal(size=(steps, images, *shape)).astype(dtype),
        "labels": rng.integers(CLASSES, size=(steps, images)).astype(np.int32),
    }


def closed_form(course, decay):
    """The average of trees after each of t updates, weighed by decay ** (t - their number)."""
    weights = decay ** np.arange(len(course) - 1, -1, -1.0)
    return jax.tree.map(lambda *leaves: np.average(np.stack(leaves), axis=0, weights=weights), *course)


@pytest.mark.parametrize(
    ("layout", "decay"),
    [
        ("trees", 0.9999),
        ("vector", 0.5),
        pytest.param("vector", 0.9999, marks=pytest.mark.slow),
        pytest.param("trees", 0.5, marks=pytest.mark.slow),
        pytest.param("devices", 0.9, marks=pytest.mark.slow),
    ],
)
def test_averages_are_the_closed_form(layout, decay):
    """Of parameters and statistics; the initial ones, which no update made, have no part in it."""
    with jax.enable_x64():
        tx, state = start(np.float64)
        chosen = VectorLayout(state, jnp.float32) if layout == "vector" else TREES
        axis = "devices" if layout == "devices" else None
        step = make_train_step(Layers(axis_name=axis), tx, axis, chosen, StepOptions(ema_decay=decay))
        batches = draw(np.float64, 6)
        if axis:
            step = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=axis)
            batches = jax.tree.map(lambda a: a.reshape(6, 2, 2, *a.shape[2:]), batches)
        step, course = jax.jit(step), []
        state = chosen.pack(state)
        for number in range(6):
            state, _ = step(state, jax.tree.map(itemgetter(number), batches))
            plain = jax.device_get(chosen.unpack(state).replace(key=None))
            course.append(plain.raw)
            chex.assert_trees_all_close(plain.variables, closed_form(course, decay), rtol=0, atol=1e-13)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-3, plain.raw, plain.variables)
    assert all(jax.tree.leaves(moved)), "averages that are the latest weights would pass"


@pytest.mark.parametrize("decay", [1e-30, 0.5, 0.999, 0.9999999])
def test_shares_are_exact_from_the_first_update_to_the_last(decay):
    for updates in (1, 2, 1000, 10**6, 2**31 - 1):
        expected = np.float64(1 - decay) / -np.expm1(updates * np.log(np.float64(decay)))
        np.testing.assert_allclose(share(decay, jnp.int32(updates), jnp.float32), expected, rtol=1e-6)
    assert float(share(decay, jnp.int32(1), jnp.float32)) == pytest.approx(1, abs=5e-7)


@pytest.mark.parametrize("layout", [pytest.param("trees", marks=pytest.mark.slow), "vector"])
def test_frozen_parts_keep_every_bit_in_the_averages(layout):
    tx, state = start(np.float32)
    chosen = VectorLayout(state, jnp.float32) if layout == "vector" else TREES
    step = jax.jit(make_train_step(Layers(frozen=(0,)), tx, None, chosen, StepOptions(ema_decay=0.9)))
    packed = chosen.pack(state)
    for number in range(3):
        packed, _ = step(packed, jax.tree.map(itemgetter(number), draw(np.float32, 3)))
    found = chosen.unpack(packed)
    for name, part in (("params", "conv1"), ("batch_stats", "conv1")):
        before, after = (jax.tree.leaves(tree[name][part]) for tree in (state.raw, found.average))
        assert [np.asarray(a).tobytes() for a in before] == [np.asarray(a).tobytes() for a in after]
    assert not np.array_equal(found.average["params"]["linear"]["kernel"], state.params["linear"]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_training_program_averages_a_padded_network(platform):
    """Three calls beside one: the averages are those of the parameters after each call, and have their shapes."""
    network, decay = ResNet(stage_sizes=(1, 1), width=3, num_classes=CLASSES, pool_size=2), 0.8
    with jax.enable_x64():
        network = network.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        tx, shape = optimizer(PLAIN, 3), (8, 8, 3)
        state = jax.jit(lambda: create_train_state(network, tx, 0, shape, averages=True))()
        chex.assert_trees_all_equal(state.average, state.raw)
        options = StepOptions(ema_decay=decay)
        program = jax.jit(make_train_program(network, tx, take, platform, channel_multiple=8, options=options))
        arrays, course, one_by_one = draw(np.float64, 3, shape=shape), [], state
        for number in range(3):
            one_by_one, _ = program(one_by_one, Metrics.zero(), arrays, jnp.int32(number), jnp.int32(number + 1))
            course.append(jax.device_get(one_by_one.raw))
        at_once, _ = program(state, Metrics.zero(), arrays, jnp.int32(0), jnp.int32(3))
    chex.assert_trees_all_close(jax.device_get(at_once.average), closed_form(course, decay), rtol=0, atol=1e-10)
    chex.assert_trees_all_equal_shapes_and_dtypes(at_once.average, at_once.raw)


def test_a_packed_state_has_its_averages_in_one_vector():
    _, state = start(np.float32)
    state = state.replace(average=jax.tree.map(lambda leaf: leaf + 1, state.average))
    layout = VectorLayout(state, jnp.bfloat16)
    packed = layout.pack(state)
    assert packed.average["params"].shape == packed.params.vector.shape == (48 * 4 + 4 * CLASSES,)
    again = layout.unpack(packed)
    chex.assert_trees_all_equal(again.replace(key=None), state.replace(key=None))


def test_a_state_without_averages_is_the_tree_that_it_was(tmp_path):
    """Its checkpoints are those of versions that had none, and are restored."""

    class Before(flax.struct.PyTreeNode):
        step: jax.Array
        params: dict
        batch_stats: dict
        opt_state: tuple
        key: jax.Array

    _, averaged = start(np.float32)
    state = averaged.replace(average=None)
    before = Before(**{field.name: getattr(state, field.name) for field in dataclasses.fields(Before)})
    paths = [[path for path, _ in jax.tree.leaves_with_path(tree)] for tree in (before, state)]
    assert paths[0] == paths[1]
    shapes = jax.eval_shape(lambda: state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, before, Meta())
        checkpoints.save(2, state, Meta())
        for step in (1, 2):
            restored, _ = checkpoints.restore(step, shapes)
            chex.assert_trees_all_equal(restored.replace(key=None), state.replace(key=None))
            assert restored.variables == restored.raw
        metadata = [(tmp_path / str(step) / "state" / "_METADATA").read_text() for step in (1, 2)]
    assert metadata[0] == metadata[1]


def test_a_step_and_its_state_agree_on_averages():
    tx, state = start(np.float32)
    batch = jax.tree.map(itemgetter(0), draw(np.float32, 1))
    for options, given in ((StepOptions(), state), (StepOptions(ema_decay=0.5), state.replace(average=None))):
        with pytest.raises(AssertionError, match="averages exactly where its steps have an ema_decay"):
            jax.eval_shape(make_train_step(Layers(), tx, options=options), given, batch)


AVERAGED = dataclasses.replace(CONFIG, epochs=2, ema_decay=0.8, blocks=(1,), width=2, pool_size=8, dropout=0.0)


def make_trainer(config):
    dataset = make_dataset()
    return Trainer(loop.describe(config, dataset, dataset.sha256, 0, "test"), dataset.train, Devices(config))


def test_averages_are_what_is_restored_and_started_from(tmp_path):
    trainer = make_trainer(AVERAGED)
    trainer.start()
    raw = jax.device_get(trainer.state.raw)
    chex.assert_trees_all_equal(trainer.state.average, raw)  # before the first update
    average = jax.tree.map(lambda leaf: leaf + 0.5, raw)
    trainer.state = trainer.state.replace(average=jax.device_put(average))
    run_directory.create(tmp_path / "run", trainer.run)
    with Checkpoints(tmp_path / "run" / "checkpoints", runs=trainer.run.fingerprints) as checkpoints:
        trainer.save(checkpoints)
    classifier = Classifier.load(tmp_path / "run")
    chex.assert_trees_all_equal(jax.device_get(classifier.variables), average)
    config = dataclasses.replace(AVERAGED, init_from=str(tmp_path / "run"))
    begun = initial.read(config, tmp_path / "other")
    assert begun.record.sha256 == initial.digest(average) != initial.digest(raw)
    trainer.start(initial.starting_weights(begun, trainer.shapes[0].variables, make_dataset().classes))
    for found in (trainer.state.raw, trainer.state.average):
        chex.assert_trees_all_equal(jax.device_get(found), average)
    trainer.check_finite()
    trainer.state = trainer.state.replace(average=jax.tree.map(lambda leaf: leaf * np.float32(np.nan), average))
    with pytest.raises(Diverged, match="a parameter or running statistic is not finite"):
        trainer.check_finite()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with averages that has kept every checkpoint: its directory and result."""
    workdir = tmp_path_factory.mktemp("averaged") / "run"
    return workdir, loop.fit(AVERAGED, make_dataset(), workdir, keep=None, checkpoint_seconds=0)


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bits_and_keeps_its_decay(run, tmp_path):
    source, _ = run
    target = tmp_path / "run"
    shutil.copytree(source, target)
    (target / "result.json").unlink()
    shutil.rmtree(target / "checkpoints" / "10")
    for decay in (0.9, None):
        with pytest.raises(InputError, match=rf"ema_decay 0.8, not {decay}"):
            loop.fit(dataclasses.replace(AVERAGED, ema_decay=decay), make_dataset(), target)
    loop.fit(AVERAGED, make_dataset(), target)
    chex.assert_trees_all_equal(final_state(target), final_state(source))
    assert strip(target) == strip(source)


@pytest.mark.slow
def test_averages_are_what_is_evaluated(run):
    workdir, result = run
    state, test = final_state(workdir)[1][0], make_dataset().test
    classifier = Classifier.load(workdir)
    chex.assert_trees_all_equal(jax.device_get(classifier.variables), jax.device_get(state["average"]))
    assert not np.array_equal(state["average"]["params"]["linear"]["kernel"], state["params"]["linear"]["kernel"])
    probabilities = classifier.predict(test.images)
    assert np.mean(probabilities.argmax(1) == test.labels) == pytest.approx(result.test_accuracy)
    own = probabilities[np.arange(len(test)), test.labels]
    assert -np.log(own).mean() == pytest.approx(result.test_loss, rel=1e-5)


@pytest.mark.slow
def test_averaged_statistics_are_those_of_the_averaged_parameters_to_first_order():
    """Beside statistics computed anew with these parameters; the latest ones, of the latest parameters, are not.

    The median of sixteen seeds, as the course of one depends on its last bits.
    """
    images, batch, updates = 96, 16, 300
    x = jnp.asarray(make_dataset(images).train.images, jnp.float32) / 60 - 100 / 60
    labels = jnp.asarray(np.random.default_rng(5).integers(3, size=images), jnp.int32)
    rng = np.random.default_rng(0)

    def batches(steps):
        epochs = [rng.permutation(images) for _ in range(-(-steps * batch // images))]
        return np.concatenate(epochs)[: steps * batch].reshape(steps, batch).astype(np.int32)

    network, tx = ResNet(stage_sizes=(1,), width=4, num_classes=3, pool_size=8), optimizer(PLAIN, 6)
    step = make_train_step(network, tx, options=StepOptions(ema_decay=0.98))

    def train(rows, seed):
        state = create_train_state(network, tx, seed, (8, 8, 3), averages=True)
        return lax.scan(
            lambda state, row: (step(state, {"images": x[row], "labels": labels[row]})[0], None), state, rows
        )[0]

    def anew(params, stats, rows):
        def body(carry, row):
            stats, total = carry
            variables = {"params": params, "batch_stats": stats}
            stats = network.apply(variables, x[row], train=True, mutable=["batch_stats"])[1]["batch_stats"]
            return (stats, jax.tree.map(jnp.add, total, stats)), None

        (_, total), _ = lax.scan(body, (stats, jax.tree.map(jnp.zeros_like, stats)), rows)
        return jax.tree.map(lambda leaf: leaf / len(rows), total)

    state = jax.jit(jax.vmap(train, in_axes=(None, 0)))(batches(updates), jnp.arange(16))
    average = state.average["params"], state.average["batch_stats"]
    exact = jax.jit(jax.vmap(anew, in_axes=(0, 0, None)))(*average, batches(3000))

    def distance(stats):
        pairs = zip(jax.tree.leaves(stats), jax.tree.leaves(exact), strict=True)
        roots = [np.sqrt(np.mean((found - right) ** 2, -1)) / np.abs(right).mean(-1) for found, right in pairs]
        return np.median(np.mean(roots, 0))

    averaged, latest = distance(state.average["batch_stats"]), distance(state.batch_stats)
    assert averaged < 0.08 and averaged < latest / 4, (averaged, latest)
