"""SGD against torch.optim.SGD, schedules against their closed forms, and hyperparameters as data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jresnet.config import Config
from jresnet.train.optim import optimizer, schedule, with_rates

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
