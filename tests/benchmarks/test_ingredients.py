"""The cost of ingredients: every option is among them, and each is compared with the default round by round."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import ingredients, jax_step
from benchmarks.ingredients import CHANGES, INGREDIENTS
from benchmarks.timing import Case, Rival
from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Split
from jresnet.data.pipeline import make_input
from jresnet.parallel.devices import Devices
from jresnet.train import trainer

# Options that are no ingredients: the report varies them, or its recipe has them.
REPORTED = {
    "crop_padding", "flip", "grayscale", "epochs", "batch_size", "learning_rate", "momentum", "nesterov",
    "weight_decay", "muon_learning_rate", "init_from", "freeze", "head_learning_rate", "class_weights", "keep_best",
    "test_after", "validation", "input",
}  # fmt: skip


def test_every_option_of_augmentation_and_training_is_an_ingredient():
    own = {field.name for field in dataclasses.fields(Config)}
    others = [kind for kind in Config.__bases__ if kind.GROUP in ("network", "devices")]
    other = {field.name for kind in others for field in dataclasses.fields(kind)}
    source = {field.name for field in dataclasses.fields(Config().source)}
    changed = {name for changes in INGREDIENTS.values() for name in changes}
    assert own - other - source - REPORTED == changed - REPORTED - {"zero_init"}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_one_and_keeps_to_the_rules(name):
    default = Config(epochs=1, width=42, batch_size=128)
    assert dataclasses.replace(default, **CHANGES[name]) != default


@pytest.fixture
def built(monkeypatch):
    """Rivals that cost nothing; what each was built with."""
    seen = []

    def fake(case, images, changes=None):
        seen.append((case.batch_size, images, changes))
        return Rival(lambda steps: None)

    monkeypatch.setattr(ingredients, "jax_rival", fake)
    return seen


def test_each_is_alternated_with_the_default_and_recorded_with_its_cost(built, tmp_path, capsys):
    path = tmp_path / "record.json"
    options = ("--batches", "4", "6", "--changes", "sam", "wrn-40-2", "--rounds", "3", "--steps", "2")
    assert ingredients.main([*options, "--output", str(path)]) == 0
    assert built == [
        (batch, 16 * batch, changes) for batch in (4, 6) for changes in (None, CHANGES["sam"], CHANGES["wrn-40-2"])
    ]
    record = json.loads(path.read_text())
    assert [case["batch_size"] for case in record["cases"]] == [4, 6]
    rivals = record["cases"][0]["rivals"]
    assert list(rivals) == ["default", "sam", "wrn-40-2"]
    ratios = sorted(a / b for a, b in zip(rivals["sam"]["seconds"], rivals["default"]["seconds"], strict=True))
    assert rivals["sam"]["cost"]["median"] == pytest.approx(ratios[1])
    assert rivals["wrn-40-2"]["changes"]["blocks"] == [6, 6, 6]
    out = capsys.readouterr().out
    assert "width 42, batch 6, float32" in out and "sam" in out


def test_an_unknown_change_is_refused_in_one_line(built, capsys):
    assert ingredients.main(["--changes", "sharpness"]) == 2
    error = capsys.readouterr().err
    assert "--changes sharpness: choose from label-smoothing, cutout, " in error and error.count("\n") == 1
    assert built == []


def test_the_benchmarks_step_is_that_of_a_run():
    """The same program object, so that whatever a run's step does is what is timed."""
    changes = {"blocks": (1,), "class_weights": "balanced", "epochs": 3}
    case = Case(2, 4, "float32", "cpu")
    step = jax_step.training_step(case, images=40, seed=5, changes=changes)
    config = dataclasses.replace(
        Config(width=2, batch_size=4, learning_rate=0.01, parallel="jit", input="resident"), **changes
    )
    split = jax_step.pool(40)
    devices = Devices(config, jax.devices()[:1])
    model = models.from_config(config, 10)
    fed = make_input(Split(split.images, split.labels), config, 5, jax_step.STATISTICS, devices)
    program, create = trainer.run_programs(config, 5, model, split.labels, (32, 32, 3), fed, devices)
    assert step.program(None) is program(None)
    options = program.keywords["options"]
    counts = np.bincount(split.labels, minlength=10)
    np.testing.assert_allclose(options.class_weights, 40 / (10 * counts), rtol=1e-12)
    assert jax.eval_shape(step.create) == jax.eval_shape(create)


@pytest.mark.slow
def test_every_change_runs_in_small(tmp_path):
    path = tmp_path / "record.json"
    options = ("--width", "2", "--batches", "4", "--changes", *INGREDIENTS, "--rounds", "1", "--steps", "1")
    assert ingredients.main([*options, "--output", str(path)]) == 0
    rivals = json.loads(path.read_text())["cases"][0]["rivals"]
    assert {name: rival["error"] for name, rival in rivals.items()} == dict.fromkeys(rivals)
