"""Accumulation, sharpness-aware minimisation and decay of kernels alone, against PyTorch in float64."""

import dataclasses
from collections import Counter
from functools import partial
from typing import ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet import models
from jresnet.config import Config
from jresnet.data.pipeline import take
from jresnet.errors import InputError
from jresnet.models import ResNet
from jresnet.models.layers import BatchNorm, Dropout, torch_conv
from jresnet.parallel.devices import Devices
from jresnet.train.gradients import sharpness_aware
from jresnet.train.layout import TREES, Layout, VectorLayout
from jresnet.train.loop import describe
from jresnet.train.optim import optimizer
from jresnet.train.signals import StopSignal
from jresnet.train.state import TrainState, create_train_state
from jresnet.train.step import Metrics, StepOptions, make_train_step
from jresnet.train.trainer import Trainer, make_train_program
from tests.support import runs
from tests.support.torch_twin import Case, assert_close, from_torch

CLASSES, SHAPE = 3, (4, 4, 3)
CONFIG = Config(learning_rate=0.1, momentum=0.9, weight_decay=0.1)


class Small(nn.Module):
    """A convolution, batch normalisation, ReLU and a linear layer, with what a step needs of `ResNet`."""

    frozen: tuple[int, ...] = ()
    axis_name: str | None = None
    rate: float = 0.0
    local_norm: ClassVar[bool] = False
    param_dtype: ClassVar = jnp.float64

    @nn.compact
    def __call__(self, images, *, train, mask=None):
        x = torch_conv(4, 3, dtype=jnp.float64, param_dtype=jnp.float64, name="conv1")(images)
        norm = BatchNorm(0 in self.frozen, axis_name=self.axis_name, param_dtype=jnp.float64, name="bn1")
        x = Dropout(self.rate, axis_name=self.axis_name)(norm(x, mask=mask, relu=True).mean((1, 2)))
        return nn.Dense(CLASSES, param_dtype=jnp.float64, name="linear")(x)


def draw(seed, images):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.normal(size=(images, *SHAPE)),
        "labels": rng.integers(CLASSES, size=images).astype(np.int32),
    }


class Twin:
    """The same network in PyTorch, with its loss of some of a batch's images."""

    def __init__(self):
        torch = self.torch = pytest.importorskip("torch")
        torch.manual_seed(0)
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4)
        self.linear = torch.nn.Linear(4, CLASSES)
        self.modules = torch.nn.ModuleDict({"conv1": self.conv1, "bn1": self.bn1, "linear": self.linear}).double()
        self.parameters = [*self.modules.parameters()]

    def loss(self, batch, reduction="mean", weight=None):
        torch = self.torch
        images = torch.tensor(batch["images"].transpose(0, 3, 1, 2))
        logits = self.linear(torch.relu(self.bn1(self.conv1(images))).mean((2, 3)))
        labels = torch.tensor(batch["labels"], dtype=torch.int64)
        return torch.nn.functional.cross_entropy(logits, labels, weight, reduction=reduction)

    def variables(self):
        return from_torch(self.modules.state_dict().items())

    def groups(self):
        """With weight decay on arrays of several axes alone."""
        kernels = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim == 1]
        return [{"params": kernels}, {"params": others, "weight_decay": 0.0}]

    def sgd(self, groups=None):
        return self.torch.optim.SGD(groups or self.parameters, 0.1, momentum=0.9, weight_decay=0.1)


def start(variables, config=CONFIG):
    """Optimizer and state of these variables; within `jax.enable_x64()`."""
    variables, tx = jax.tree.map(jnp.asarray, variables), optimizer(config, 3)
    return tx, TrainState(jnp.int32(0), **variables, opt_state=tx.init(variables["params"]), key=jax.random.key(0))


def steps(variables, batches, options, layout="trees", devices=None, config=CONFIG, network=None):
    """Variables and the steps' metrics after steps in float64, of `devices` that share each batch if given."""
    network = network or Small()
    with jax.enable_x64():
        tx, state = start(variables, config)
        chosen = VectorLayout(state, jnp.float64) if layout == "vector" else TREES
        axis = None if devices is None else "devices"
        step = make_train_step(network.clone(axis_name=axis), tx, axis, chosen, options)
        if axis:
            step = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=axis)
            batches = [jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), batch) for batch in batches]
        step, state, sums = jax.jit(step), chosen.pack(state), []
        for batch in batches:
            state, metrics = step(state, batch)
            sums.append(jax.device_get(metrics))
        return jax.device_get(chosen.unpack(state).variables), sums


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("layout", "devices"), [slow("trees", None), ("vector", None), slow("trees", 2)])
def test_sharpness_aware_minimisation_is_its_algorithm(layout, devices):
    """Foret et al. 2020, algorithm 1, around torch.optim.SGD; statistics and losses are those of the first pass."""
    twin, rho, batches, losses = Twin(), 0.3, [draw(seed, 8) for seed in range(3)], []
    sgd, before = twin.sgd(), twin.variables()
    for batch in batches:
        loss = twin.loss(batch)
        losses.append(loss.item() * 8)
        grads = twin.torch.autograd.grad(loss, twin.parameters)
        norm = sum((grad**2).sum() for grad in grads) ** 0.5
        buffers = {name: buffer.clone() for name, buffer in twin.modules.named_buffers()}
        with twin.torch.no_grad():
            for parameter, grad in zip(twin.parameters, grads, strict=True):
                parameter += rho * grad / norm
        uphill = twin.torch.autograd.grad(twin.loss(batch), twin.parameters)
        with twin.torch.no_grad():
            for parameter, grad, new in zip(twin.parameters, grads, uphill, strict=True):
                parameter -= rho * grad / norm
                parameter.grad = new
        twin.modules.load_state_dict(buffers, strict=False)
        sgd.step()
    found, sums = steps(before, batches, StepOptions(sam=rho), layout, devices)
    assert_close(found, twin.variables(), 1e-9)
    np.testing.assert_allclose([metrics.loss for metrics in sums], losses, rtol=2e-7)  # added up in float32


def test_gradients_that_are_all_zero_lead_nowhere():
    params = {"w": jnp.array([1.0, -2.0])}
    found = sharpness_aware(0.3, lambda moved: jax.tree.map(lambda a: 3 * a, moved), params, {"w": jnp.zeros(2)})
    np.testing.assert_array_equal(found["w"], [3.0, -6.0])


@pytest.mark.slow
def test_both_passes_have_the_same_dropout_masks():
    """Without a distance between them they are one; with other masks the gradients would be others."""
    batches, network = [draw(0, 8), draw(1, 8)], Small(rate=0.5)
    before = variables()
    plain, near, far = (steps(before, batches, StepOptions(sam=rho), network=network)[0] for rho in (0.0, 1e-9, 0.3))
    chex.assert_trees_all_close(near, plain, rtol=0, atol=1e-7)
    assert np.abs(far["params"]["linear"]["kernel"] - plain["params"]["linear"]["kernel"]).max() > 1e-3


def variables():
    """Those of `Small`, drawn."""
    rng = np.random.default_rng(1)
    params = {
        "conv1": {"kernel": rng.normal(size=(3, 3, 3, 4)) / 5},
        "bn1": {"scale": rng.uniform(1, 2, 4), "bias": rng.normal(size=4)},
        "linear": {"kernel": rng.normal(size=(4, CLASSES)), "bias": rng.normal(size=CLASSES)},
    }
    return {"params": params, "batch_stats": {"bn1": {"mean": rng.normal(size=4) / 5, "var": np.ones(4)}}}


def real(images, padded):
    """A mask for a batch of which so many images are padding at its end."""
    return np.arange(images) < images - padded


@pytest.mark.parametrize(("layout", "devices"), [slow("trees", None), slow("vector", None), ("trees", 2)])
@pytest.mark.parametrize("weights", [slow(None), (0.25, 3.0, 1.5)])
def test_a_batch_in_parts_has_the_gradient_of_its_mean_loss(layout, devices, weights):
    """Part j of 3 has the images j, j + 3, ...; each is normalised by itself and moves the running statistics."""
    twin, losses = Twin(), []
    sgd, before = twin.sgd(), twin.variables()
    batches = [draw(seed, 12) | {"mask": real(12, padded)} for seed, padded in ((0, 0), (1, 5), (2, 9))]
    weight = None if weights is None else twin.torch.tensor(weights, dtype=twin.torch.double)
    for batch in batches:
        sgd.zero_grad()
        count = batch["mask"].sum()
        total = count if weights is None else np.take(weights, batch["labels"])[batch["mask"]].sum()
        losses.append(0.0)
        for part in range(3):
            chosen = np.flatnonzero(batch["mask"])[part::3]
            loss = twin.loss({name: array[chosen] for name, array in batch.items()}, "sum", weight) / total
            loss.backward()
            losses[-1] += loss.item() * count
        sgd.step()
    options = StepOptions(accumulate=3, class_weights=weights)
    found, sums = steps(before, batches, options, layout, devices)
    assert_close(found, twin.variables(), 1e-9)
    np.testing.assert_allclose([metrics.loss for metrics in sums], losses, rtol=2e-7)
    assert [int(metrics.images) for metrics in sums] == [12, 7, 3]


@pytest.mark.slow
def test_correct_images_are_counted_in_all_parts_and_dropout_depends_on_the_image_alone():
    """One step of one batch, whose accuracy does not depend on the parts without normalisation by them."""
    network, batch = Small(frozen=(0,)), draw(0, 12)
    counts = [
        int(steps(variables(), [batch], StepOptions(accumulate=k), network=network)[1][0].correct) for k in (1, 4)
    ]
    assert counts[0] == counts[1] and 0 < counts[0] < 12
    dropping = Small(rate=0.5)
    alone, *shared = (
        steps(variables(), [batch], StepOptions(accumulate=2), devices=devices, network=dropping)[0]
        for devices in (None, 2, 3)
    )
    for found in shared:
        chex.assert_trees_all_close(found, alone, rtol=0, atol=1e-12)
    same = draw(0, 6)
    twice = {name: np.repeat(array, 2, axis=0) for name, array in same.items()}
    kernels = [
        steps(variables(), [data], StepOptions(accumulate=k), network=dropping)[0]["params"]["linear"]["kernel"]
        for data, k in ((same, 1), (twice, 2))
    ]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4, "both parts had the same masks"


@pytest.mark.parametrize(
    ("optimizer_name", "layout"),
    [slow("sgd", "trees"), slow("sgd", "vector"), slow("adamw", "trees"), ("adamw", "vector")],
)
def test_kernels_alone_decay_as_in_torchs_groups(optimizer_name, layout):
    twin, batches = Twin(), [draw(seed, 8) for seed in range(3)]
    make = {"sgd": twin.sgd, "adamw": partial(twin.torch.optim.AdamW, lr=0.1, weight_decay=0.1)}[optimizer_name]
    tx = make(twin.groups())
    twin.torch.nn.init.uniform_(twin.bn1.bias, 1, 2)  # so that its decay would show
    before = twin.variables()
    for batch in batches:
        tx.zero_grad()
        twin.loss(batch).backward()
        tx.step()
    config = dataclasses.replace(CONFIG, optimizer=optimizer_name)
    found = steps(before, batches, StepOptions(kernel_decay=True), layout, config=config)[0]
    assert_close(found, twin.variables(), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
@pytest.mark.parametrize(("platform", "multiple"), [("cpu", 8), ("gpu", 1), ("gpu", 8)])
def test_padded_channels_decay_and_climb_as_if_they_were_not_there(optimizer_name, platform, multiple):
    """The whole network through the training program, with every option of a step at once."""
    case, options = Case((1, 1), 3, 2, (8, 8), width=3), StepOptions(kernel_decay=True, sam=0.1)
    config = dataclasses.replace(CONFIG, optimizer=optimizer_name, clip_norm=0.5)
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.normal(size=(3, 6, 8, 8, 3)),
        "labels": rng.integers(7, size=(3, 6)).astype(np.int32),
    }
    with jax.enable_x64():
        tx, state = start(from_torch(case.theirs().state_dict().items()), config)
        found = []
        for where, channels in (("cpu", 1), (platform, multiple)):
            program = make_train_program(case.ours(jnp.float64), tx, take, where, None, channels, None, options)
            found.append(jax.jit(program)(state, Metrics.zero(), arrays, jnp.int32(0), jnp.int32(3)))
        expected, (padded, _) = found[0][0], found[1]
        found = jax.device_get((padded.variables, padded.opt_state))
    chex.assert_trees_all_close(found, jax.device_get((expected.variables, expected.opt_state)), rtol=0, atol=1e-8)


@pytest.mark.slow
def test_frozen_parts_neither_move_nor_count():
    """The stem stays in every bit; the linear layer takes the step that it takes on the stem's features, by hand."""
    batch, before = draw(0, 8), variables()
    config = dataclasses.replace(CONFIG, clip_norm=0.2, momentum=0.0)
    options = StepOptions(sam=0.5, kernel_decay=True)
    found = steps(before, [batch], options, config=config, network=Small(frozen=(0,)))[0]
    for part in ("conv1", "bn1"):
        chex.assert_trees_all_equal(found["params"][part], before["params"][part])
    chex.assert_trees_all_equal(found["batch_stats"], before["batch_stats"])

    with jax.enable_x64():
        _, kept = Small(frozen=(0,)).apply(
            before, batch["images"], train=True, capture_intermediates=lambda module, _: module.name == "bn1"
        )
    features = np.asarray(kept["intermediates"]["bn1"]["__call__"][0]).mean((1, 2))
    kernel, bias = before["params"]["linear"]["kernel"], before["params"]["linear"]["bias"]

    def gradients(kernel, bias):
        logits = features @ kernel + bias
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        errors = (chances - np.eye(CLASSES)[batch["labels"]]) / 8
        return features.T @ errors, errors.sum(0)

    def norm(*arrays):
        return sum((array**2).sum() for array in arrays) ** 0.5

    first = gradients(kernel, bias)
    up = [0.5 * gradient / norm(*first) for gradient in first]
    second = gradients(kernel + up[0], bias + up[1])
    clipped = [0.2 * gradient / norm(*second) for gradient in second]
    assert norm(*second) > 0.2
    linear = found["params"]["linear"]
    np.testing.assert_allclose(linear["kernel"], kernel - 0.1 * (clipped[0] + 0.1 * kernel), rtol=0, atol=1e-9)
    np.testing.assert_allclose(linear["bias"], bias - 0.1 * clipped[1], rtol=0, atol=1e-9)


def test_the_options_of_a_step_are_those_of_the_configuration(monkeypatch):
    """And Muon, which needs matrices, has no vector on a GPU."""
    labels = np.array([0, 1], np.int32)
    assert StepOptions.of(Config(), labels, 2) == StepOptions()
    given = Config(weight_decay_on="kernels", sam=0.1, optimizer="sgd"), Config(accumulate=4, optimizer="muon")
    assert StepOptions.of(given[0], labels, 2) == StepOptions(kernel_decay=True, sam=0.1)
    assert StepOptions.of(given[1], labels, 2) == StepOptions(accumulate=4, elementwise=False)
    assert StepOptions.of(Config(optimizer="adamw", clip_norm=1.0), labels, 2) == StepOptions()
    seen = []

    def watched(network, tx, axis_name, layout, options):
        seen.append(type(layout))
        return make_train_step(network, tx, axis_name, layout, options)

    monkeypatch.setattr("jresnet.train.trainer.make_train_step", watched)
    network = ResNet(stage_sizes=(1,), width=2, num_classes=CLASSES, pool_size=4)
    tx = optimizer(given[1], 3)
    state = jax.eval_shape(lambda: create_train_state(network, tx, 0, SHAPE))
    arrays = {"images": jnp.zeros((1, 4, *SHAPE)), "labels": jnp.zeros((1, 4), jnp.int32)}
    options = StepOptions(accumulate=2, elementwise=False)
    program = make_train_program(network, tx, take, "gpu", options=options)
    after = jax.eval_shape(program, state, Metrics.zero(), arrays, jnp.int32(0), jnp.int32(1))[0]
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert seen == [Layout]


@pytest.mark.parametrize("batch_norm", ["synchronised", "local"])
@pytest.mark.parametrize(("devices", "accumulate"), [(1, 4), (2, 3), (3, 2), (4, 1), (1, 1)])
def test_the_fewest_images_normalised_together_in_any_part(devices, accumulate, batch_norm):
    """Counted image by image, of last batches padded to a multiple of devices x parts, see `plan.batches_of`."""
    config = dataclasses.replace(runs.CONFIG, batch_size=12, accumulate=accumulate, batch_norm=batch_norm)
    for last in range(accumulate, 13):
        share = (last + -last % (devices * accumulate)) // devices
        places = [divmod(image, share) for image in range(last)]
        together = [(batch_norm == "local" and device, place % accumulate) for device, place in places]
        assert models.smallest_batch(config, 24 + last, devices) == min(Counter(together).values())


@pytest.mark.parametrize(
    ("accumulate", "devices", "images", "message"),
    [
        (5, 1, 64, "5: does not divide a --batch-size of 12 on 1 device: choose another of either"),
        (4, 2, 64, "4: does not divide a --batch-size of 12 on 2 devices: choose another of either"),
        (24, 1, 64, "24: does not divide a --batch-size of 12 on 1 device: choose another of either"),
        (6, 1, 64, "6: is more than the last batch has images, 4 of 64: choose at most 4, or another --batch-size"),
        (4, 1, 64, None),
        (6, 2, 72, None),
    ],
)
def test_every_part_of_every_batch_has_images(accumulate, devices, images, message):
    config = dataclasses.replace(runs.CONFIG, batch_size=12, accumulate=accumulate)
    check = partial(models.check_training, config, runs.make_dataset(train=images), devices)
    if message is None:
        check()
        return
    with pytest.raises(InputError, match=f"^--accumulate {message}$"):
        check()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["resident", "tfds"])
def test_a_run_in_parts_sees_every_image_once(source):
    """The last batch of 5 images is padded to 8, for 4 parts."""
    config = dataclasses.replace(runs.CONFIG, batch_size=12, accumulate=4, input=source, dropout=0.0)
    dataset, devices = runs.make_dataset(train=17), Devices(config)
    trainer = Trainer(describe(config, dataset, dataset.sha256, 0, "test"), dataset.train, devices)
    *_, tail = trainer.source.epoch(0, 0, lambda left: left)
    np.testing.assert_array_equal(trainer.source.get_batch(tail.arrays, jnp.int32(0))["mask"], real(8, 3))
    trainer.start()
    trainer.train_epoch(0, runs.Silent(), StopSignal())
    assert (trainer.step, int(trainer.metrics.images)) == (2, 17) and np.isfinite(trainer.epoch_metrics()[0])


@pytest.mark.slow
def test_a_batch_in_parts_takes_less_memory():
    network = ResNet(stage_sizes=(1,), width=8, num_classes=CLASSES, pool_size=None)
    tx = optimizer(CONFIG, 3)
    state = jax.eval_shape(lambda: create_train_state(network, tx, 0, (16, 16, 3)))
    arrays = {"images": jnp.zeros((1, 64, 16, 16, 3)), "labels": jnp.zeros((1, 64), jnp.int32)}
    bytes_needed = []
    for parts in (1, 8):
        program = make_train_program(network, tx, take, "cpu", options=StepOptions(accumulate=parts))
        compiled = jax.jit(program).lower(state, Metrics.zero(), arrays, jnp.int32(0), jnp.int32(1)).compile()
        bytes_needed.append(compiled.memory_analysis().temp_size_in_bytes)
    assert bytes_needed[1] < bytes_needed[0] / 3, bytes_needed
