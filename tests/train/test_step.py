"""One step: PyTorch's training in float64, sums that add, masks that hide padding, and evaluation by definition."""

import dataclasses
from functools import partial
from operator import itemgetter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.config import Config
from jresnet.models import ResNet, from_config, resnet18
from jresnet.models.layers import Dropout
from jresnet.train.optim import optimizer
from jresnet.train.state import TrainState, create_train_state
from jresnet.train.step import Metrics, make_eval_step, make_train_step
from tests.support.torch_twin import Case, assert_close, from_torch

CONFIG = Config(width=3, blocks=(1,), pool_size=4, batch_size=8, learning_rate=0.05)
SHAPE = (8, 8, 3)
CLASSES = 5


def draw_batch(seed, images=8, shape=SHAPE, classes=CLASSES):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.normal(size=(images, *shape)).astype(np.float32),
        "labels": rng.integers(classes, size=images).astype(np.int32),
    }


def double(batch):
    return batch | {"images": batch["images"].astype(np.float64)}


def start(config=CONFIG, seed=0):
    """Network, optimizer and initial state."""
    model, tx = from_config(config, CLASSES), optimizer(config, 3)
    return model, tx, jax.jit(lambda seed: create_train_state(model, tx, seed, SHAPE))(seed)


def numbers(state):
    """The state fetched, its key as plain numbers."""
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope="module")
def trained():
    """The step, jitted, with its network and initial state."""
    model, tx, state = start()
    return jax.jit(make_train_step(model, tx)), model, state


class TorchTwin:
    """The same network under torch.optim.SGD, in float64."""

    def __init__(self, case, config):
        import torch

        self.torch, self.case, self.network = torch, case, case.theirs().train()
        self.sgd = torch.optim.SGD(
            self.network.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def variables(self):
        return from_torch(self.network.state_dict().items())

    def step(self, batch):
        """Loss summed over images, and correct images, of one training step."""
        labels = self.torch.tensor(batch["labels"], dtype=self.torch.int64)
        logits = self.network(self.torch.tensor(batch["images"].transpose(0, 3, 1, 2)))
        loss = self.torch.nn.functional.cross_entropy(logits, labels)
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        return loss.item() * len(labels), int((logits.argmax(1) == labels).sum())


@pytest.mark.parametrize(
    ("case", "padding"),
    [pytest.param(Case((1, 1), 3, 2, (8, 8)), 0, marks=pytest.mark.slow), (Case((2,), 5, 3, (7, 6), width=3), 3)],
    ids=str,
)
def test_five_steps_equal_torchs(case, padding):
    """PyTorch sees the real images only; where there is padding, our mask must hide it."""
    pytest.importorskip("torch")
    config = Config(learning_rate=0.05, momentum=0.9, weight_decay=5e-4)
    twin = TorchTwin(case, config)
    with jax.enable_x64():
        tx = optimizer(config, 3)
        variables = jax.tree.map(jnp.asarray, twin.variables())
        state = TrainState(jnp.int32(0), **variables, opt_state=tx.init(variables["params"]), key=jax.random.key(0))
        step = jax.jit(make_train_step(case.ours(jnp.float64), tx))
        for number in range(5):
            real = double(draw_batch(number, 6, (*case.image_size, 3), case.num_classes))
            state, sums = step(state, padded(real, padding))
            loss, correct = twin.step(real)
            assert (int(sums.correct), int(sums.images), int(sums.bad_step)) == (correct, 6, -1)
            np.testing.assert_allclose(sums.loss, loss, rtol=2e-7)  # added up in float32
        found = jax.device_get(state.variables)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float64")}
        assert int(state.step) == 5
        assert_close(found, twin.variables(), 1e-9)


def padded(batch, images):
    """The batch followed by other, larger images under a false mask; as it is for 0 images."""
    if images == 0:
        return batch
    more = draw_batch(99, images, batch["images"].shape[1:], int(batch["labels"].max()) + 1)
    return {
        "images": np.concatenate([batch["images"], 10 * more["images"].astype(batch["images"].dtype)]),
        "labels": np.concatenate([batch["labels"], more["labels"]]),
        "mask": np.arange(len(batch["labels"]) + images) < len(batch["labels"]),
    }


def test_devices_that_share_a_batch_take_the_step_of_the_whole_batch():
    """Under vmap's axis; each share holds another number of real images, and alone there are none but those."""
    mask = np.arange(12) % 5 > 0
    batch = double(draw_batch(0, 12))
    real = {name: values[mask] for name, values in batch.items()}
    with jax.enable_x64():
        model = ResNet(stage_sizes=(1,), width=3, num_classes=CLASSES, dtype=jnp.float64, param_dtype=jnp.float64)
        tx = optimizer(CONFIG, 3)
        state = jax.jit(lambda: create_train_state(model, tx, 0, SHAPE))()
        alone, sums = jax.jit(make_train_step(model, tx))(state, real)
        mapped = make_train_step(model.clone(axis_name="devices"), tx, "devices")
        shares = jax.tree.map(lambda a: a.reshape(4, 3, *a.shape[1:]), batch | {"mask": mask})
        together, shared_sums = jax.jit(jax.vmap(mapped, in_axes=(None, 0), axis_name="devices"))(state, shares)
        assert int(sums.images) == 9
        expected, found = (numbers(alone), jax.device_get(sums)), (numbers(together), jax.device_get(shared_sums))
    for device in range(4):
        (mine, mine_sums), (whole, whole_sums) = jax.tree.map(itemgetter(device), found), expected
        chex.assert_trees_all_close(mine, whole, rtol=0, atol=1e-12)
        assert mine_sums[1:] == whole_sums[1:]
        np.testing.assert_allclose(mine_sums.loss, whole_sums.loss, rtol=2e-7)


def test_local_norm_is_torchs_data_parallel():
    """Each share through PyTorch's network by itself, one loss, and the buffers that the first share left."""
    torch = pytest.importorskip("torch")
    case, config = Case((1, 1), 3, 2, (8, 8)), Config(learning_rate=0.05, momentum=0.9, weight_decay=5e-4)
    twin = TorchTwin(case, config)
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)  # the last device has padding alone
    with jax.enable_x64():
        tx = optimizer(config, 3)
        variables = jax.tree.map(jnp.asarray, twin.variables())
        state = TrainState(jnp.int32(0), **variables, opt_state=tx.init(variables["params"]), key=jax.random.key(0))
        model = case.ours(jnp.float64).clone(local_norm=True, axis_name="devices")
        step = jax.jit(jax.vmap(make_train_step(model, tx, "devices"), in_axes=(None, 0), axis_name="devices"))
        for number in range(4):
            batch = double(draw_batch(number, 12, (*case.image_size, 3), case.num_classes))
            shares = jax.tree.map(lambda a: a.reshape(4, 3, *a.shape[1:]), batch)
            states, _ = step(state, shares | {"mask": mask})
            chex.assert_trees_all_equal(*(jax.tree.map(itemgetter(device), numbers(states)) for device in range(4)))
            state = jax.tree.map(itemgetter(0), states)
            loss = 0.0
            for device in range(3):
                images = torch.tensor(shares["images"][device][mask[device]].transpose(0, 3, 1, 2))
                labels = torch.tensor(shares["labels"][device][mask[device]], dtype=torch.int64)
                loss += torch.nn.functional.cross_entropy(twin.network(images), labels, reduction="sum") / mask.sum()
                if device == 0:
                    buffers = {name: buffer.clone() for name, buffer in twin.network.named_buffers()}
            twin.sgd.zero_grad()
            loss.backward()
            twin.sgd.step()
            twin.network.load_state_dict(buffers, strict=False)
        assert_close(jax.device_get(state.variables), twin.variables(), 1e-9)


@pytest.mark.slow
def test_a_device_with_padding_alone_takes_no_part_at_full_depth():
    """In float32, where activations that nothing normalises would overflow."""
    model = resnet18(num_classes=CLASSES, width=4, pool_size=1, axis_name="devices", local_norm=True)
    tx = optimizer(CONFIG, 3)
    state = jax.jit(lambda: create_train_state(model.clone(axis_name=None), tx, 0, SHAPE))()
    step = jax.vmap(make_train_step(model, tx, "devices"), in_axes=(None, 0), axis_name="devices")
    shares = jax.tree.map(lambda a: a.reshape(4, 2, *a.shape[1:]), draw_batch(0) | {"mask": np.arange(8) < 6})
    step = jax.jit(step)
    found, sums = step(state, shares)
    shares["images"][3] *= 100
    other, _ = step(state, shares)
    assert int(sums.images[0]) == 6 and np.isfinite(sums.loss).all()
    chex.assert_tree_all_finite(found.variables)
    chex.assert_trees_all_equal(numbers(found).variables, numbers(other).variables)


def test_sums_add_and_the_earlier_bad_step_wins():
    def sums(*values):
        return Metrics(jnp.float32(values[0]), *map(jnp.int32, values[1:]))

    for first, second, expected in ((-1, -1, -1), (3, -1, 3), (-1, 5, 5), (3, 5, 3), (0, 4, 0)):
        found = sums(1.5, 2, 8, first) + sums(2.25, 3, 4, second)
        assert tuple(map(float, found)) == (3.75, 5, 12, expected)
    some = sums(1.5, 2, 8, 3)
    for found in (Metrics.zero() + some, some + Metrics.zero()):
        chex.assert_trees_all_equal(found, some)
        chex.assert_trees_all_equal_dtypes(found, some)


def test_the_step_is_pure(trained):
    step, model, state = trained
    batch = draw_batch(0)
    before, images = numbers(state), batch["images"].copy()
    after, sums = step(state, batch)
    again, same_sums = step(state, batch)
    chex.assert_trees_all_equal(numbers(after), numbers(again))
    chex.assert_trees_all_equal(sums, same_sums)
    chex.assert_trees_all_equal(numbers(state), before)
    np.testing.assert_array_equal(batch["images"], images)
    assert not jax.make_jaxpr(make_train_step(model, optimizer(CONFIG, 3)))(state, batch).effects
    same = jax.tree.map(np.array_equal, after.variables, before.variables)
    assert not any(jax.tree.leaves(same)), "a step that does nothing would pass"


def with_nan(state, batch):
    batch["images"][2, 3, 4, 1] = np.nan
    return state, batch


def with_overflow(state, batch):
    """One finite logit so far above the others that the loss exceeds float32."""
    linear = state.params["linear"]
    linear = linear | {"bias": jnp.where(jnp.arange(CLASSES) == batch["labels"][0], -3e38, 3e38)}
    return state.replace(params=state.params | {"linear": linear}), batch


@pytest.mark.parametrize("spoil", [with_nan, with_overflow])
def test_a_loss_that_is_not_finite_reports_its_step(trained, spoil):
    step, _, state = trained
    state = state.replace(step=jnp.int32(7))
    good = step(state, draw_batch(0))[1]
    bad = step(*spoil(state, draw_batch(0)))[1]
    assert (int(good.bad_step), int(bad.bad_step)) == (-1, 7)
    assert np.isfinite(good.loss) and not np.isfinite(bad.loss)
    assert int((Metrics.zero() + good + bad).bad_step) == 7


def test_dropout_masks_differ_by_step_and_repeat_at_the_same_step():
    losses = {}
    for rate in (0.0, 0.5):
        model, tx, state = start(dataclasses.replace(CONFIG, dropout=rate))
        step = jax.jit(make_train_step(model, tx))
        losses[rate] = [
            float(step(state.replace(step=jnp.int32(number)), draw_batch(0))[1].loss) for number in (0, 1, 2, 0)
        ]
    assert len(set(losses[0.0])) == 1
    assert len(set(losses[0.5])) == 3 and losses[0.5][3] == losses[0.5][0]


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_an_images_dropout_mask_is_the_same_on_any_number_of_devices(devices):
    images, rngs = jnp.ones((8, 4, 4, 3)), {"dropout": jax.random.key(0)}
    whole = Dropout(0.5).apply({}, images, rngs=rngs)
    assert set(np.unique(whole)) == {0, 2} and len(np.unique(whole, axis=0)) == 8
    share = jax.vmap(lambda share: Dropout(0.5, "devices").apply({}, share, rngs=rngs), axis_name="devices")
    np.testing.assert_array_equal(share(images.reshape(devices, -1, 4, 4, 3)).reshape(images.shape), whole)


def test_bfloat16_keeps_a_float32_state():
    losses = {}
    for precision in ("float32", "bfloat16"):
        model, tx, state = start(dataclasses.replace(CONFIG, precision=precision))
        step = jax.jit(make_train_step(model, tx))
        after, sums = step(step(state, draw_batch(0))[0], draw_batch(1))
        chex.assert_trees_all_equal_shapes_and_dtypes(numbers(after), numbers(state))
        floats = {leaf.dtype for leaf in jax.tree.leaves(after) if jnp.issubdtype(leaf.dtype, jnp.floating)}
        assert floats == {jnp.dtype("float32")}
        assert sums.loss.dtype == jnp.float32
        losses[precision] = float(sums.loss) / 8
    assert 0 < abs(losses["bfloat16"] - losses["float32"]) < 0.05


def test_evaluation_is_cross_entropy_and_argmax_of_every_image(trained):
    _, model, state = trained
    rng = np.random.default_rng(0)
    stats = jax.tree.map(lambda a: rng.uniform(0.5, 2.0, a.shape).astype(np.float32), state.batch_stats)
    batch = draw_batch(3, 30)
    apply = jax.jit(partial(model.apply, train=False))
    variables = {"params": state.params, "batch_stats": stats}
    linear = state.params["linear"]
    # Without this the network finds every image in the same class.
    linear = linear | {"bias": linear["bias"] - apply(variables, batch["images"]).mean(0)}
    variables["params"] = state.params | {"linear": jax.tree.map(lambda a: 30 * a, linear)}
    losses, predictions = jax.jit(make_eval_step(model))(variables, batch["images"], batch["labels"])

    logits = np.asarray(apply(variables, batch["images"]), np.float64)
    top = logits.max(-1)
    expected = top + np.log(np.exp(logits - top[:, None]).sum(-1)) - logits[np.arange(30), batch["labels"]]
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predictions, logits.argmax(-1))
    assert (losses.dtype, predictions.dtype) == (jnp.float32, jnp.int32)
    assert len(set(predictions.tolist())) > 1, "a constant would pass"

    part = jax.jit(make_eval_step(model))(variables, batch["images"][:7], batch["labels"][:7])
    np.testing.assert_allclose(part[0], losses[:7], rtol=1e-5, atol=1e-6)


STATE_CONFIG = Config(width=4, blocks=(1, 1), pool_size=2, batch_size=4)


@pytest.fixture(scope="module")
def jitted_create():
    return jax.jit(
        lambda seed: create_train_state(from_config(STATE_CONFIG, 5), optimizer(STATE_CONFIG, 3), seed, SHAPE)
    )


def numbers_of(state):
    """The state with its key as plain numbers."""
    return state.replace(key=jax.random.key_data(state.key))


def test_creation_is_a_pure_function_of_the_seed(jitted_create):
    chex.assert_trees_all_equal(numbers_of(jitted_create(3)), numbers_of(jitted_create(3)))
    outside = create_train_state(from_config(STATE_CONFIG, 5), optimizer(STATE_CONFIG, 3), 3, SHAPE)
    chex.assert_trees_all_close(numbers_of(jitted_create(3)), numbers_of(outside), rtol=1e-6)


def test_seeds_differ_in_every_random_array_and_in_the_key(jitted_create):
    first, second = (numbers_of(jitted_create(seed)) for seed in (0, 1))
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
    chex.assert_trees_all_equal_shapes_and_dtypes(numbers_of(jitted_create(0)), jax.eval_shape(numbers_of, shapes))


def test_float64_parameters_have_a_float64_optimizer():
    with jax.enable_x64():
        model = ResNet(stage_sizes=(1,), width=2, dtype=jnp.float64, param_dtype=jnp.float64)
        shapes = jax.eval_shape(lambda seed: create_train_state(model, optimizer(STATE_CONFIG, 3), seed, SHAPE), 0)
    floats = {leaf.dtype for leaf in jax.tree.leaves(shapes) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert floats == {jnp.dtype("float64")}


def test_the_key_never_changes(jitted_create):
    state = jitted_create(0)
    step = jax.jit(make_train_step(from_config(STATE_CONFIG, 5), optimizer(STATE_CONFIG, 3)))
    batch = {"images": jnp.ones((4, *SHAPE)), "labels": jnp.arange(4)}
    after = step(step(state, batch)[0], batch)[0]
    assert int(after.step) == 2
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))
