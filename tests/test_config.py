"""The rule of every field of `Config`, and the number of steps per epoch."""

import dataclasses
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jresnet.config import Config
from jresnet.errors import InputError

NAN, INF = math.nan, math.inf

BAD = {
    "image_size": [(0, 32), (32, -1), (32, 2**14 + 1)],
    "resize": ["squash", ""],
    "background": [(-1, 0, 0), (0, 0, 256)],
    "test_from": ["train", "test"],
    "holdout_test": [-1, 2**31],
    "width": [0, -1, -42],
    "kernel_size": [0, -3, 2, 4, (3, 2), (3, -1)],
    "pool_size": [-1],
    "epochs": [0, -5],
    "batch_size": [0, -1],
    "validation": [-1],
    "crop_padding": [-4],
    "flip": [-0.1, 1.1, NAN, INF, 1e-38],
    "grayscale": [-0.1, 1.1, NAN, -INF, 1e-38],
    "dropout": [-0.1, 1.0, NAN, INF, 1 - 1e-9, 1e-38],
    "momentum": [-0.1, 1.0, NAN, INF, 1 - 1e-9, 1e-38],
    "blocks": [(), (0,), (2, 0, 2), (2, -1), (2, 599), (1,) * 11],
    "learning_rate": [0.0, -0.1, NAN, INF, -INF, 1e39, 1e-38, 2**31],
    "weight_decay": [-1e-9, NAN, INF, 1e39, 1e-38],
    "budget": [0, -5, 2**63],
    "warmup_epochs": [-0.5, 100.5, NAN, INF, 1e-38],
    "input": ["numpy", "", "AUTO"],
    "schedule": ["exponential"],
    "precision": ["float16"],
    "parallel": ["pjit"],
    "batch_norm": ["global"],
    "channel_multiple": [0, -8],
    "model": ["resnet19", "ResNet18", ""],
    "shortcut": ["identity", ""],
    "stem": ["cifar", ""],
    "epsilon": [0.0, -1e-5, NAN, INF, 1e39, 1e-38],
    "freeze": [(0,), (-1,), (11,)],
    "head_learning_rate": [0.0, -0.1, NAN, INF, 1e39, 1e-38, 2**31],
    "class_weights": ["none", ""],
    "keep_best": ["test", "train"],
    "randaugment": [(0, 9), (15, 9), (2, -1), (2, 31)],
    "cutout": [-1, 2**31],
    "mixup": [-0.1, NAN, INF, 1e39, 1e-38],
    "cutmix": [-0.1, NAN, INF, 1e39, 1e-38],
    "optimizer": ["adam", "SGD"],
    "muon_learning_rate": [0.0, -0.1, NAN, INF, 1e39, 1e-38, 2**31],
    "weight_decay_on": ["biases", ""],
    "label_smoothing": [-0.1, 1.0, NAN, INF, 1 - 1e-9, 1e-38],
    "ema_decay": [-0.1, 0.0, 1.0, 1.5, NAN, INF, 1 - 1e-9, 1e-38],
    "clip_norm": [0.0, -1.0, NAN, INF, 1e39, 1e-38],
    "accumulate": [0, -2],
    "sam": [-0.05, NAN, INF, 1e39, 1e-38],
    "test_after": ["after", "epoch", ""],
}

LIMITS = {
    "image_size": [None, (1, 1), (2**14, 2**14)],
    "resize": ["crop", "pad", "stretch"],
    "background": [(0, 0, 0), (255, 255, 255)],
    "test_from": [None, "validation"],
    "holdout_test": [0, 2**31 - 1],
    "width": [None, 1],
    "kernel_size": [None, 1, 7, (1, 7)],
    "pool_size": [None, 0, 1],
    "epochs": [1],
    "batch_size": [1],
    "validation": [0],
    "crop_padding": [0],
    "flip": [0, 1.0],
    "grayscale": [0.0, 1],
    "dropout": [None, 0.0, 1.2e-38, 0.999, 1 - 2**-24],
    "momentum": [0.0, 1.2e-38, 0.999, 1 - 2**-24],
    "blocks": [None, (1,), (3, 4, 6, 3), (600,), (1,) * 10],
    "learning_rate": [1.2e-38, 1e-12, 1e30, 3.4e38, 2**31 - 1],
    "weight_decay": [0.0, 1.2e-38, 3.4e38],
    "budget": [None, 1, 2**63 - 1],
    "warmup_epochs": [0, 100.0],
    "input": ["auto", "resident", "tfds"],
    "schedule": ["constant", "cosine", "linear", "step", "one-cycle"],
    "precision": ["float32", "bfloat16"],
    "parallel": ["auto", "jit", "pmap"],
    "batch_norm": ["synchronised", "local"],
    "channel_multiple": [1, 8],
    "model": ["resnet18", "resnet110", "wide_resnet28_10", "imagenet_resnet50"],
    "shortcut": [None, "projection", "padding"],
    "stem": [None, "small", "small-pool", "imagenet"],
    "epsilon": [None, 1.2e-38, 1e-3, 3.4e38],
    "freeze": [()],
    "head_learning_rate": [None, 1.2e-38, 3.4e38, 2**31 - 1],
    "class_weights": [None, "balanced"],
    "keep_best": [None, "validation"],
    "randaugment": [None, (1, 0), (14, 30)],
    "cutout": [0, 1, 2**31 - 1],
    "mixup": [0.0, 1.2e-38, 1e9],
    "cutmix": [0.0, 1.2e-38, 1e9],
    "optimizer": ["sgd", "adamw", "muon"],
    "muon_learning_rate": [1.2e-38, 3.4e38],
    "weight_decay_on": ["all", "kernels"],
    "label_smoothing": [0.0, 1.2e-38, 1 - 2**-24],
    "ema_decay": [None, 1.2e-38, 1 - 2**-24],
    "clip_norm": [None, 1.2e-38, 3.4e38],
    "accumulate": [1, 8],
    "sam": [0.0, 1.2e-38, 3.4e38],
    "test_after": ["epochs", "training", "never"],
}


# Options that others must come with.
NEEDED = {"muon_learning_rate": {"optimizer": "muon"}, "schedule": {"warmup_epochs": 1.0}}


def each(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), each(BAD))
def test_an_invalid_value_is_refused_with_option_value_and_rule_on_one_line(name, value):
    with pytest.raises(InputError) as caught:
        Config(**{name: value})
    message = str(caught.value)
    assert "\n" not in message
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    option, _, rule = message.partition(": ")
    assert option == f"--{name.replace('_', '-')} {shown}".rstrip()
    assert rule.startswith("must ") and len(rule.split()) > 2
    with pytest.raises(InputError):
        dataclasses.replace(Config(), **{name: value})


@pytest.mark.parametrize(("name", "value"), each(LIMITS))
def test_the_limits_of_a_rule_are_valid(name, value):
    assert getattr(Config(**{name: value}, **NEEDED.get(name, {})), name) == value


def test_every_field_with_a_rule_is_tested():
    switches = {field.name for field in dataclasses.fields(Config) if field.type is bool}
    free = {"dataset", "data_dir", "init_from", *switches}
    assert set(BAD) == set(LIMITS) == {field.name for field in dataclasses.fields(Config)} - free


def test_nesterov_needs_momentum():
    with pytest.raises(InputError, match=r"--momentum 0\.0: must be above 0 with --nesterov"):
        Config(nesterov=True, momentum=0.0)
    assert Config(nesterov=True, momentum=0.5).nesterov


def test_warmup_is_at_most_as_long_as_the_run():
    assert Config(epochs=3, warmup_epochs=3).warmup_epochs == 3
    with pytest.raises(InputError, match=r"--warmup-epochs 3\.5: must lie between 0 and --epochs"):
        Config(epochs=3, warmup_epochs=3.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 0.3, "alternate_flip": True}, "--flip 0.3: must be 0.5 with --alternate-flip"),
        ({"trivialaugment": True, "randaugment": (2, 9)}, "--randaugment 2 9: leave it out, or --trivialaugment"),
        ({"mixup": 0.2, "class_weights": "balanced"}, "--mixup 0.2: leave it out with --class-weights"),
        ({"cutmix": 1.0, "class_weights": "balanced"}, "--cutmix 1.0: leave it out with --class-weights"),
        ({"mixup": 0.2, "batch_size": 1}, "--mixup 0.2: needs a second image in the batch"),
        ({"cutmix": 1.0, "batch_size": 1}, "--cutmix 1.0: needs a second image in the batch"),
        ({"mixup": 0.2, "sam": 0.05}, "--mixup 0.2: cannot be combined with --sam: leave out one of them"),
        ({"cutmix": 1.0, "sam": 0.05}, "--cutmix 1.0: cannot be combined with --sam"),
        ({"accumulate": 2, "sam": 0.05}, "--accumulate 2: cannot be combined with --sam"),
        ({"optimizer": "adamw", "sam": 0.05}, "--optimizer adamw: cannot be combined with --sam"),
        ({"muon_learning_rate": 0.1}, "--muon-learning-rate 0.1: must come with --optimizer muon"),
        ({"zero_init": True, "init_from": "runs/a"}, "--zero-init: leave it out with --init-from"),
        ({"optimizer": "adamw", "nesterov": True}, "--optimizer adamw: must be sgd or muon with --nesterov"),
        (
            {"schedule": "one-cycle"},
            "--warmup-epochs 0.0: must be above 0 and below --epochs with --schedule one-cycle",
        ),
        ({"schedule": "one-cycle", "epochs": 3, "warmup_epochs": 3}, "--warmup-epochs 3.0: must be above 0 and below"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Config(**options)


@pytest.mark.parametrize(
    ("images", "batch", "steps"), [(50_000, 32, 1563), (50_000, 64, 782), (64, 64, 1), (65, 64, 2), (1, 64, 1)]
)
def test_a_smaller_last_batch_is_a_step(images, batch, steps):
    assert Config(batch_size=batch).steps_per_epoch(images) == steps


def integers(*valid):
    """Integers near the limits of the rules, and some that exceed 64 bits."""
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
VALID = {name: st.sampled_from(values) for name, values in LIMITS.items()} | {
    "width": st.integers(1, 300),
    "pool_size": st.integers(1, 9),
    "budget": st.none() | st.integers(0, 20_000_000),
    "nesterov": st.booleans(),
}


# At most two arbitrary values: with only arbitrary values nearly every example would fail at the first rule.
@st.composite
def values(draw):
    arbitrary = draw(st.sets(st.sampled_from(sorted(ANYTHING)), max_size=2))
    return {name: draw(ANYTHING[name] if name in arbitrary else VALID[name]) for name in ANYTHING | VALID}


@given(values())
@example({"width": 10**20})
@example({"kernel_size": (3, 10**20 + 1)})
def test_any_values_are_accepted_or_refused_in_one_line(values):
    try:
        Config(**values)
    except InputError as error:
        assert "\n" not in str(error) and ": " in str(error)
