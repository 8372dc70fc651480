"""Every field's rule, and counts checked against the network itself or by brute force."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jresnet import models
from jresnet.config import Config
from jresnet.errors import InputError

NAN, INF = math.nan, math.inf

BAD = {
    "width": [0, -1, -42],
    "kernel_size": [0, -3, 2, 4],
    "pool_size": [0, -1],
    "epochs": [0, -5],
    "batch_size": [0, -1],
    "validation": [-1],
    "crop_padding": [-4],
    "flip": [-0.1, 1.1, NAN, INF],
    "grayscale": [-0.1, 1.1, NAN, -INF],
    "dropout": [-0.1, 1.0, NAN, INF],
    "momentum": [-0.1, 1.0, NAN, INF],
    "blocks": [(), (0,), (2, 0, 2), (2, -1)],
    "learning_rate": [0.0, -0.1, NAN, INF, -INF],
    "weight_decay": [-1e-9, NAN, INF],
    "budget": [0, -5],
    "warmup_epochs": [-0.5, 100.5, NAN, INF],
    "input": ["numpy", "", "AUTO"],
    "schedule": ["exponential"],
    "precision": ["float16"],
    "parallel": ["pjit"],
}

EDGES = {
    "width": [1],
    "kernel_size": [1, 7],
    "pool_size": [1],
    "epochs": [1],
    "batch_size": [1],
    "validation": [0],
    "crop_padding": [0],
    "flip": [0, 1.0],
    "grayscale": [0.0, 1],
    "dropout": [0.0, 0.999],
    "momentum": [0.0, 0.999],
    "blocks": [(1,), (3, 4, 6, 3)],
    "learning_rate": [1e-12, 1e30],
    "weight_decay": [0.0],
    "budget": [None, 1],
    "warmup_epochs": [0, 100.0],
    "input": ["auto", "resident", "tfds"],
    "schedule": ["constant", "cosine", "linear", "step"],
    "precision": ["float32", "bfloat16"],
    "parallel": ["auto", "jit", "pmap"],
}


def each(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), each(BAD))
def test_a_broken_rule_is_one_line_with_option_value_and_rule(name, value):
    with pytest.raises(InputError) as caught:
        Config(**{name: value})
    message = str(caught.value)
    assert "\n" not in message
    shown = " ".join(map(str, value)) if name == "blocks" else str(value)
    option, _, rule = message.partition(": ")
    assert option == f"--{name.replace('_', '-')} {shown}".rstrip()
    assert rule.startswith("must ") and len(rule.split()) > 2
    with pytest.raises(InputError):
        dataclasses.replace(Config(), **{name: value})


@pytest.mark.parametrize(("name", "value"), each(EDGES))
def test_the_edge_of_a_rule_is_accepted(name, value):
    assert getattr(Config(**{name: value}), name) == value


def test_every_field_with_a_rule_is_tried():
    free = {"dataset", "data_dir", "nesterov"}
    assert set(BAD) == set(EDGES) == {field.name for field in dataclasses.fields(Config)} - free


def test_nesterov_needs_momentum():
    with pytest.raises(InputError, match=r"--momentum 0\.0: must be above 0 with --nesterov"):
        Config(nesterov=True, momentum=0.0)
    assert Config(nesterov=True, momentum=0.5).nesterov


def test_warmup_may_last_as_long_as_the_run_and_no_longer():
    assert Config(epochs=3, warmup_epochs=3).warmup_epochs == 3
    with pytest.raises(InputError, match=r"--warmup-epochs 3\.5: must lie between 0 and --epochs"):
        Config(epochs=3, warmup_epochs=3.5)


def test_frozen():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 1  # type: ignore[misc]
    assert config == Config() and hash(config) == hash(Config())


@pytest.mark.parametrize(("width", "count"), [(42, 4_815_940), (64, 11_173_962)])
def test_the_reports_parameter_counts(width, count):
    config = Config(width=width)
    assert config.parameter_count(10, (32, 32)) == count
    assert config.check_network(10, (32, 32)) == count


SHAPES = [
    ({"width": 3, "blocks": (1,), "pool_size": 2}, 4, (7, 5), 3),
    ({"width": 2, "blocks": (1, 2), "kernel_size": 5, "pool_size": 1}, 2, (9, 4), 3),
    ({"width": 5, "blocks": (2, 1, 3), "kernel_size": 1, "pool_size": 3}, 7, (28, 33), 1),
    ({"width": 1, "blocks": (1, 1, 1, 1), "pool_size": 1}, 3, (8, 8), 3),
    ({"width": 2, "blocks": (1, 1, 1, 1, 1), "kernel_size": 7, "pool_size": 2}, 10, (64, 33), 3),
]


@pytest.mark.parametrize(("changes", "classes", "size", "channels"), SHAPES)
def test_the_closed_form_counts_the_networks_own_parameters(changes, classes, size, channels):
    config = Config(**changes)
    images = jnp.zeros((1, *size, channels))
    variables = jax.eval_shape(
        lambda key: models.from_config(config, classes).init(key, images, train=False), jax.random.key(0)
    )
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert config.parameter_count(classes, size, channels) == count


@pytest.mark.parametrize(
    ("blocks", "size", "expected"),
    [
        ((2, 2, 2, 2), (32, 32), (4, 4)),
        ((2, 2, 2, 2), (28, 28), (4, 4)),
        ((2, 2, 2, 2), (33, 8), (5, 1)),
        ((1,), (7, 5), (7, 5)),
        ((1, 1, 1), (5, 1), (2, 1)),
    ],
)
def test_each_later_stage_halves_the_feature_map_rounding_up(blocks, size, expected):
    assert Config(blocks=blocks).feature_map(size) == expected


@pytest.mark.parametrize(
    ("images", "batch", "steps"), [(50_000, 32, 1563), (50_000, 64, 782), (64, 64, 1), (65, 64, 2), (1, 64, 1)]
)
def test_the_last_smaller_batch_is_a_step(images, batch, steps):
    assert Config(batch_size=batch).steps_per_epoch(images) == steps


@pytest.mark.parametrize("budget", [401, 4_000, 100_000, 4_815_939, 4_815_940, 4_815_941, 5_000_000])
def test_the_budget_is_inclusive_and_its_message_names_the_largest_width_that_fits(budget):
    counts = {width: Config(width=width).parameter_count(10, (32, 32)) for width in range(1, 65)}
    fitting = [width for width, count in counts.items() if count <= budget]
    for width in (1, 2, 7, 41, 42, 43, 64):
        config = Config(width=width, budget=budget)
        if counts[width] <= budget:
            assert config.check_network(10, (32, 32)) == counts[width]
            continue
        with pytest.raises(InputError) as caught:
            config.check_network(10, (32, 32))
        remedy = f"--width {max(fitting)} or less" if fitting else "fewer --blocks"
        assert str(caught.value) == (
            f"--width {width}: the network has {counts[width]:,} parameters, over the budget of {budget:,}: "
            f"choose {remedy}, or raise --budget"
        )


def test_pooling_may_be_as_large_as_the_feature_map_and_no_larger():
    Config(pool_size=4).check_network(10, (32, 32))
    with pytest.raises(InputError) as caught:
        Config(pool_size=5).check_network(10, (32, 32))
    message = str(caught.value)
    assert message.startswith("--pool-size 5: ") and "4 x 4" in message and "choose at most 4" in message
    with pytest.raises(InputError, match=r"5 x 1.*choose at most 1"):
        Config(pool_size=2).check_network(10, (33, 8))


def integers(*valid):
    """Integers about where the rules change, and beyond any machine's word."""
    return st.sampled_from(valid) | st.integers(-2, 70) | st.integers(-(10**25), 10**25)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1)
ANYTHING = {
    **{name: integers(1, 2, 3, 32) for name in ("width", "kernel_size", "pool_size", "epochs", "batch_size")},
    **{name: integers(0, 4, 5000) for name in ("validation", "crop_padding")},
    **{
        name: NUMBERS
        for name in ("flip", "grayscale", "dropout", "momentum", "learning_rate", "weight_decay", "warmup_epochs")
    },
    "budget": st.none() | integers(0, 5_000_000),
    "blocks": st.lists(st.integers(-1, 9), max_size=6).map(tuple),
}
VALID = {name: st.sampled_from(values) for name, values in EDGES.items()} | {
    "width": st.integers(1, 300),
    "pool_size": st.integers(1, 9),
    "budget": st.none() | st.integers(0, 20_000_000),
    "nesterov": st.booleans(),
}


# Some values from anywhere among valid ones: with every value from anywhere, nearly all would be refused at once.
@st.composite
def values(draw):
    strange = draw(st.sets(st.sampled_from(sorted(ANYTHING)), max_size=2))
    return {name: draw(ANYTHING[name] if name in strange else VALID[name]) for name in ANYTHING | VALID}


@given(values(), st.integers(2, 1000), st.tuples(st.integers(1, 300), st.integers(1, 300)))
@example({"width": 10**20, "budget": 5_000_000}, 10, (32, 32))
@example({"kernel_size": 10**20 + 1, "budget": 10**30}, 10, (32, 32))
def test_whatever_is_accepted_has_a_network_or_a_refusal(values, classes, size):
    try:
        config = Config(**values)
    except InputError as error:
        assert "\n" not in str(error)
        return
    try:
        count = config.check_network(classes, size)
    except InputError as error:
        assert "\n" not in str(error) and ": " in str(error)
        too_large = config.pool_size > min(config.feature_map(size))
        assert too_large or config.parameter_count(classes, size) > config.budget
    else:
        assert count > classes
        assert config.budget is None or count <= config.budget
        assert config.pool_size <= min(config.feature_map(size))
