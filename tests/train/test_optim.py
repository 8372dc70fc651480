"""Optimizers and schedules against torch.optim and closed forms, and hyperparameters as data."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jresnet.config import Config
from jresnet.train.optim import optimizer, rates, schedule, shared_optimizer, with_rates

RUN = Config(epochs=4, learning_rate=0.05, weight_decay=5e-4)
STEPS = 5  # per epoch: 20 updates in all


def update_repeatedly(config, params, gradients):
    """Our parameters after one update per gradient, in float64."""
    tx = optimizer(config, STEPS)
    params = jnp.asarray(params)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


def torch_course(torch, config, sgd):
    """PyTorch's own scheduler of that name."""
    scheduler = torch.optim.lr_scheduler
    return {
        "constant": lambda: scheduler.ConstantLR(sgd, factor=1.0),
        "cosine": lambda: scheduler.CosineAnnealingLR(sgd, T_max=config.epochs * STEPS),
        "linear": lambda: scheduler.LinearLR(sgd, 1.0, 0.0, config.epochs * STEPS),
        "step": lambda: scheduler.MultiStepLR(sgd, [10, 15], gamma=0.1),
    }[config.schedule]()


@pytest.mark.parametrize("schedule_name", ["constant", "cosine", "linear", "step"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_twenty_updates_equal_torchs(schedule_name, nesterov, momentum):
    torch = pytest.importorskip("torch")
    config = dataclasses.replace(RUN, schedule=schedule_name, nesterov=nesterov, momentum=momentum)
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=7) * 10, rng.normal(size=(20, 7))
    theirs = torch.nn.Parameter(torch.tensor(start))
    sgd = torch.optim.SGD(
        [theirs], config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=nesterov
    )
    course = torch_course(torch, config, sgd)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        sgd.step()
        course.step()
    with jax.enable_x64():
        ours = update_repeatedly(config, start, gradients)
        assert ours.dtype == jnp.float64
        # optax computes this one course in float32.
        tolerance = 5e-8 if schedule_name == "linear" else 1e-9
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=tolerance)


def test_weight_decay_is_coupled_into_the_momentum():
    """One update is -lr (g + wd p), the second -lr (m (g + wd p) + g' + wd p'), by hand."""
    config = dataclasses.replace(RUN, learning_rate=0.5, weight_decay=0.25, momentum=0.5)
    first = 8 - 0.5 * (1 + 0.25 * 8)
    second = first - 0.5 * (0.5 * (1 + 0.25 * 8) + 2 + 0.25 * first)
    with jax.enable_x64():
        assert update_repeatedly(config, [8.0], [[1.0], [2.0]]) == pytest.approx([second], abs=1e-12)


def course(config, steps=STEPS):
    factors = schedule(config, steps)
    return np.array([float(factors(step)) for step in range(config.epochs * steps + 1)])


def test_constant_stays_at_its_peak():
    np.testing.assert_array_equal(course(RUN), 1)


def test_cosine_and_linear_fall_to_zero_at_the_end():
    progress = np.arange(21) / 20
    cosine = course(dataclasses.replace(RUN, schedule="cosine"))
    np.testing.assert_allclose(cosine, (1 + np.cos(np.pi * progress)) / 2, atol=1e-6)
    assert (cosine[0], cosine[10], cosine[20]) == pytest.approx((1, 0.5, 0), abs=1e-7)
    linear = course(dataclasses.replace(RUN, schedule="linear"))
    np.testing.assert_allclose(linear, 1 - progress, atol=1e-6)


@pytest.mark.parametrize(("epochs", "steps"), [(4, 5), (3, 7)])
def test_step_divides_by_ten_at_one_half_and_three_quarters(epochs, steps):
    total = epochs * steps
    factors = course(dataclasses.replace(RUN, epochs=epochs, schedule="step"), steps)
    half, three_quarters = total // 2, 3 * total // 4
    np.testing.assert_allclose(factors[:half], 1)
    np.testing.assert_allclose(factors[half:three_quarters], 0.1, rtol=1e-6)
    np.testing.assert_allclose(factors[three_quarters:], 0.01, rtol=1e-6)


@pytest.mark.parametrize("schedule_name", ["constant", "cosine", "linear", "step"])
def test_warmup_rises_from_zero_and_leaves_the_end_where_it_was(schedule_name):
    config = dataclasses.replace(RUN, schedule=schedule_name, warmup_epochs=0.8)
    factors = course(config)
    np.testing.assert_allclose(factors[:5], [0, 0.25, 0.5, 0.75, 1], atol=1e-7)
    progress = np.arange(17) / 16
    expected = {
        "constant": np.ones(17),
        "cosine": (1 + np.cos(np.pi * progress)) / 2,
        "linear": 1 - progress,
        "step": np.repeat([1, 0.1, 0.01], [6, 5, 6]),  # drops after 10 and 15 updates, warm-up included
    }[schedule_name]
    np.testing.assert_allclose(factors[4:], expected, atol=1e-6)


def test_a_run_may_consist_of_warmup_alone():
    factors = course(dataclasses.replace(RUN, warmup_epochs=4.0, schedule="cosine"))
    np.testing.assert_allclose(factors[:20], np.arange(20) / 20, atol=1e-6)


def test_learning_rate_and_weight_decay_are_data():
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}

    def program(config):
        tx = optimizer(config, STEPS)
        state = tx.init(params)
        return state, str(jax.make_jaxpr(tx.update)(params, state, params))

    state, plain = program(RUN)
    other_state, other = program(dataclasses.replace(RUN, learning_rate=0.3, weight_decay=0.0))
    assert plain == other
    assert program(dataclasses.replace(RUN, momentum=0.8))[1] != plain
    assert jax.tree.structure(state) == jax.tree.structure(other_state)
    differing = sorted(
        (float(mine), float(theirs))
        for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(other_state), strict=True)
        if not np.array_equal(mine, theirs)
    )
    np.testing.assert_allclose(differing, [(5e-4, 0.0), (0.05, 0.3)], rtol=1e-6)


def test_a_program_follows_the_learning_rate_in_its_state():
    params = {"w": jnp.ones((2, 3))}
    update = jax.jit(optimizer(RUN, STEPS).update)
    tenfold = optimizer(dataclasses.replace(RUN, learning_rate=0.5), STEPS)
    small, large = (update(params, tx.init(params), params)[0]["w"] for tx in (optimizer(RUN, STEPS), tenfold))
    np.testing.assert_allclose(large, 10 * small, rtol=1e-6)
    np.testing.assert_allclose(small, -0.05 * (1 + 5e-4), rtol=1e-6)


def test_the_rate_of_the_linear_layer_is_given_for_its_optimizer_alone():
    for config, rate in ((Config(), 0.1), (Config(head_learning_rate=0.1), None)):
        state = optimizer(config, 1).init({"linear": jnp.zeros(1)})
        with pytest.raises(ValueError, match="rate of the linear layer must be given exactly"):
            with_rates(state, 0.1, 0.0, rate)


def cosine(**options):
    return dataclasses.replace(RUN, schedule="cosine", **options)


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(4, 5, 1.0), (3, 7, 0.5), (10, 1, 9.5), (2, 9, 0.1)])
def test_one_cycle_is_torchs_in_every_step(epochs, steps, warmup):
    torch = pytest.importorskip("torch")
    config = dataclasses.replace(RUN, epochs=epochs, schedule="one-cycle", warmup_epochs=warmup)
    sgd, rates = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0, momentum=0.9), []
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        sgd, 1.0, total_steps=epochs * steps, pct_start=warmup / epochs, anneal_strategy="linear"
    )
    for _ in range(epochs * steps):
        rates.append(theirs.get_last_lr()[0])
        sgd.step()
        if len(rates) < epochs * steps:
            theirs.step()
    found = course(config, steps)[:-1]
    np.testing.assert_allclose(found, rates, rtol=2e-6)
    assert rates[-1] == pytest.approx(4e-6)
    if warmup == 1.0:
        assert (found[0], found[4]) == pytest.approx((0.04, 1))


@pytest.mark.parametrize("momentum", [0.9, pytest.param(0.5, marks=pytest.mark.slow)])
def test_adamw_is_torchs(momentum):
    """Gradients from 1e-9 to 1, so that the epsilon of 1e-8 counts."""
    torch = pytest.importorskip("torch")
    config = cosine(optimizer="adamw", momentum=momentum, weight_decay=0.1)
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=7) * 10, rng.normal(size=(20, 7)) * np.logspace(-9, 0, 7)
    theirs = torch.nn.Parameter(torch.tensor(start))
    adamw = torch.optim.AdamW([theirs], config.learning_rate, (momentum, 0.999), 1e-8, weight_decay=0.1)
    scheduler = torch_course(torch, config, adamw)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        adamw.step()
        scheduler.step()
    with jax.enable_x64():
        ours = update_repeatedly(config, start, gradients)
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("optimizer_name", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_gradients_are_clipped_by_the_norm_over_all_parameters_before_weight_decay(optimizer_name):
    """As by torch.nn.utils.clip_grad_norm_, whose norm is 1e-6 larger."""
    torch = pytest.importorskip("torch")
    config = cosine(optimizer=optimizer_name, weight_decay=0.1, clip_norm=1.5)
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 2)), rng.normal(size=4)]
    # Norms of about 0.3 and 3: half of the updates are clipped.
    gradients = [[rng.normal(size=a.shape) * 10 ** -(step % 2) for a in start] for step in range(20)]
    theirs = [torch.nn.Parameter(torch.tensor(array)) for array in start]
    make = {"sgd": partial(torch.optim.SGD, momentum=0.9), "adamw": torch.optim.AdamW}[optimizer_name]
    tx = make(theirs, config.learning_rate, weight_decay=0.1)
    scheduler, clipped = torch_course(torch, config, tx), []
    for step in gradients:
        for parameter, gradient in zip(theirs, step, strict=True):
            parameter.grad = torch.tensor(gradient)
        clipped.append(torch.nn.utils.clip_grad_norm_(theirs, 1.5).item() > 1.5)
        tx.step()
        scheduler.step()
    assert sum(clipped) == 10
    with jax.enable_x64():
        ours = update_trees(config, start, gradients)
    for mine, array in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, array.detach().numpy(), rtol=0, atol=1e-6)


def update_trees(config, params, gradients):
    """Parameters after one update per tree of gradients, in float64, by a shared optimizer with these rates as data."""
    tx = shared_optimizer(config, STEPS)
    params = jax.tree.map(jnp.asarray, params)
    state, update = with_rates(tx.init(params), *rates(config)), jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(jax.tree.map(jnp.asarray, gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


class JordansMuon:
    """Muon of one kernel in float64 as https://kellerjordan.github.io/posts/muon/ describes it.

    With Nesterov momentum, gradient and momentum have the weights of Nadam, as in optax (Dozat 2016).
    """

    def __init__(self, kernel, momentum, nesterov):
        self.kernel, self.momentum, self.nesterov = kernel, momentum, nesterov
        self.buffer, self.steps = np.zeros_like(kernel), 0

    def update(self, gradient, rate, decay):
        beta = self.momentum
        self.buffer, self.steps = beta * self.buffer + gradient, self.steps + 1
        direction = self.buffer
        if self.nesterov:
            ahead = (1 - beta) / (1 - beta ** (self.steps + 1)) * beta * self.buffer
            direction = ahead + (1 - beta) / (1 - beta**self.steps) * gradient
        # PyTorch's kernels are [outputs, inputs, height, width].
        matrix = direction.transpose(3, 2, 0, 1).reshape(direction.shape[3], -1)
        scale = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
        height, width, inputs, outputs = direction.shape
        step = newton_schulz(matrix).reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)
        self.kernel = (1 - rate * decay) * self.kernel - rate * scale * step


def newton_schulz(matrix):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    x = x.T if len(matrix) > len(matrix.T) else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > len(matrix.T) else x


@pytest.mark.parametrize("nesterov", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_muon_moves_kernels_of_convolutions_and_sgd_the_rest(nesterov):
    """Of a wide kernel and of one with more outputs than inputs x 9, whose updates are larger."""
    config = cosine(
        optimizer="muon", nesterov=nesterov, weight_decay=0.1, muon_learning_rate=0.3, head_learning_rate=0.2
    )
    rng = np.random.default_rng(0)
    shapes = {
        "conv1": {"kernel": (3, 3, 1, 11)},
        "layer": {"conv1": {"kernel": (3, 3, 4, 6)}, "bn1": {"scale": (6,)}},
        "linear": {"kernel": (6, 5), "bias": (5,)},
    }
    start, *gradients = (
        jax.tree.map(lambda shape: rng.normal(size=shape), shapes, is_leaf=lambda a: isinstance(a, tuple))
        for _ in range(6)
    )
    with jax.enable_x64():
        found = update_trees(config, start, gradients)
        sgd = dataclasses.replace(config, optimizer="sgd", muon_learning_rate=Config.muon_learning_rate)
        plain = update_trees(sgd, start, gradients)
    for path in (("conv1", "kernel"), ("layer", "conv1", "kernel")):
        muon = JordansMuon(leaf(start, path), 0.9, nesterov)
        for step, gradient in enumerate(gradients):
            muon.update(leaf(gradient, path), 0.3 * (1 + np.cos(np.pi * step / 20)) / 2, 0.1)
        np.testing.assert_allclose(leaf(found, path), muon.kernel, rtol=0, atol=1e-6)
    for path in (("layer", "bn1", "scale"), ("linear", "kernel"), ("linear", "bias")):
        np.testing.assert_array_equal(leaf(found, path), leaf(plain, path))


def leaf(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def test_the_rate_of_muon_is_data_and_given_for_its_optimizer_alone():
    config = dataclasses.replace(RUN, optimizer="muon")
    tx = shared_optimizer(config, 1)
    assert tx is shared_optimizer(dataclasses.replace(config, muon_learning_rate=0.5, learning_rate=0.1), 1)
    assert tx is not shared_optimizer(dataclasses.replace(config, clip_norm=1.0), 1)
    assert rates(config) == (0.05, 5e-4, None, 0.02) and rates(RUN) == (0.05, 5e-4, None, None)
    for other, rate in ((config, None), (RUN, 0.1)):
        with pytest.raises(ValueError, match="rate of Muon must be given exactly"):
            with_rates(optimizer(other, 1).init({"linear": jnp.zeros(1)}), 0.1, 0.0, None, rate)
