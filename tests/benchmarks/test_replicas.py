"""Replicas at once: the vmapped step against each run alone, gain by its definition, and wrong training never timed."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import jax_step, replicas
from benchmarks.replicas import RATES, Replicas, difference
from benchmarks.timing import Case, Rival, Timing
from jresnet import models
from jresnet.config import Config

CASE = Case(2, 4, "float32", "cpu")
TINY = ["--device", "cpu", "--width", "2", "--batch", "4", "--counts", "2", "--rounds", "2", "--steps", "2"]


def use_network(monkeypatch, **options):
    """Train two blocks, a plain and a strided one with projection: every convolution of the report's network."""
    network = models.resnet18(width=2, stage_sizes=(1, 1), **options)
    monkeypatch.setattr(jax_step.models, "from_config", lambda config, num_classes: network)
    monkeypatch.setattr(replicas, "training_step", partial(jax_step.training_step, images=12))


@pytest.fixture
def small(monkeypatch):
    use_network(monkeypatch)
    monkeypatch.setattr(replicas, "jax_rival", lambda case: Rival(lambda steps: None))


@pytest.fixture
def small64(monkeypatch):
    """A float64 network on the float32 input, whose promotion is meant; the crop supports 32-bit indices only."""
    jax.config.update("jax_enable_x64", True)
    monkeypatch.setattr(jax_step, "Config", partial(Config, crop_padding=0))
    try:
        use_network(monkeypatch, dtype=jnp.float64, param_dtype=jnp.float64)
        with jax.numpy_dtype_promotion("standard"):
            yield
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.slow
def test_vmapped_replicas_reach_what_each_reaches_alone(small64, monkeypatch):
    in_turn, together = Replicas(CASE, 2, together=False), Replicas(CASE, 2, together=True)
    start = in_turn.variables()
    # Of an epoch of 3 steps the first 2; the third is too short for the second call, which starts again.
    for way in (in_turn, together):
        way.train(2)
        way.train(2)
    alone, found = in_turn.variables(), together.variables()
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(found))
    for i in range(2):
        assert difference(found[i], alone[i], start[i]) < 1e-9
    assert difference(found[1], alone[0], start[0]) > 0.5

    # One step from equal weights is proportional to the learning rate.
    usual = Replicas(CASE, 1, together=False)
    monkeypatch.setattr(replicas, "RATES", (0.8 * RATES[0],))
    slower = Replicas(CASE, 1, together=False)
    usual.train(1)
    slower.train(1)
    assert difference(slower.variables()[0], usual.variables()[0], start[0]) == pytest.approx(0.2)


def test_difference_is_relative_to_the_distance_trained():
    start, alone = {"a": np.zeros(2), "b": np.ones(1)}, {"a": np.array([3.0, 4.0]), "b": np.array([1.5])}
    assert difference(alone, alone, start) == 0
    assert difference(start, alone, start) == 1
    assert difference({"a": np.array([3.0, 4.5]), "b": alone["b"]}, alone, start) == pytest.approx(0.1)


def test_each_difference_has_its_own_tolerance():
    first, second = replicas.TOLERANCES
    assert replicas.agrees([first, second]) and not replicas.agrees([second, second])
    assert not replicas.agrees([first, 1.0]) and not replicas.agrees([float("nan"), 0.0])


def test_gain_is_speed_over_one_after_another_paired_within_rounds(monkeypatch):
    timings = {"in turn": Timing(2, seconds=[2.0, 8.0, 4.0]), "vmap": Timing(2, seconds=[1.0, 4.0, 2.0])}
    monkeypatch.setattr(replicas.timing, "contest", lambda builders, steps, rounds: timings)
    found = replicas.measure(2, 2, replicas.Options(device="cpu"))["rivals"]
    assert found["vmap"]["gain"] == {"median": 2.0, "low": 2.0, "high": 2.0, "min": 2.0, "n": 3}
    assert found["vmap"]["images_per_second"] == 64 / 2.0
    assert found["in turn"]["gain"]["median"] == 1.0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--counts 0", "--counts 0: must be at least 1"),
        ("--counts 2 2", "--counts 2 2: a value is given twice"),
        ("--counts", "--counts: give at least one value"),
        ("--width 0", "--width 0: must be at least 1"),
        ("--batch 0", "--batch 0: must be at least 1"),
        ("--batch 9000", "--batch 9000: must be at most 8192 for 2 steps per call"),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--device gpu", "--device gpu: JAX sees none here"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(capsys, words, complaint):
    assert replicas.main([*TINY, *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(complaint) and err.count("\n") == 1


@pytest.mark.slow
def test_vmapped_replicas_are_checked_and_timed(small, tmp_path, capsys):
    path = tmp_path / "replicas.json"
    assert replicas.main([*TINY, "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    (case,) = record["cases"]
    assert list(case["rivals"]) == ["in turn", "vmap", "ceiling"]
    for rival in case["rivals"].values():
        assert rival["error"] is None and len(rival["seconds"]) == 2 and rival["gain"]["n"] == 2
    assert replicas.agrees(case["rivals"]["vmap"]["differences"])
    assert record["environment"]["versions"]["jax"] and record["tolerances"] == list(replicas.TOLERANCES)
    assert "over in turn" in capsys.readouterr().out


@pytest.mark.slow
def test_replicas_that_train_differently_are_not_timed(small, monkeypatch, tmp_path, capsys):
    class OtherRates(Replicas):
        def __init__(self, case, count, together):
            with monkeypatch.context() as patched:
                patched.setattr(replicas, "RATES", RATES[::-1] if together else RATES)
                super().__init__(case, count, together)

    monkeypatch.setattr(replicas, "Replicas", OtherRates)
    path = tmp_path / "replicas.json"
    assert replicas.main([*TINY, "--output", str(path)]) == 1
    found = json.loads(path.read_text())["cases"][0]["rivals"]
    assert found["vmap"]["differences"][0] > 0.5 and found["vmap"]["seconds"] == []
    assert len(found["in turn"]["seconds"]) == 2
    assert "vmap failed: RuntimeError: differs from replicas alone by" in capsys.readouterr().out


def test_replicas_that_fail_leave_the_others(monkeypatch, tmp_path, capsys):
    def too_large(case, count):
        raise MemoryError("out of memory")

    class Idle:
        def __init__(self, case, count, together):
            self.train = lambda steps: None

    monkeypatch.setattr(replicas, "check", too_large)
    monkeypatch.setattr(replicas, "Replicas", Idle)
    monkeypatch.setattr(replicas, "jax_rival", lambda case: Rival(lambda steps: None))
    path = tmp_path / "replicas.json"
    assert replicas.main([*TINY, "--output", str(path)]) == 0
    found = json.loads(path.read_text())["cases"][0]["rivals"]
    assert found["vmap"]["error"] == "MemoryError: out of memory" and found["vmap"]["seconds"] == []
    assert len(found["in turn"]["seconds"]) == len(found["ceiling"]["seconds"]) == 2
    assert "width 2, 2 at once: vmap failed: MemoryError: out of memory\n" in capsys.readouterr().out
