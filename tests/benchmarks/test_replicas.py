"""Replicas side by side: every way against each run alone, gain by its definition, wrong ways that are never timed."""

import contextlib
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import replica_ways, replicas
from benchmarks.jax_step import pool
from benchmarks.replica_ways import RATES, WAYS, Apart, Replicas, blocked
from benchmarks.timing import Case, Rival, Timing
from jresnet import models
from jresnet.config import Config
from jresnet.data.pipeline import Gather, epoch_plan
from jresnet.models.convolution import NHWC_HWIO, conv_general_dilated
from jresnet.train.optim import optimizer, with_rates
from jresnet.train.state import create
from jresnet.train.step import make_train_step

# A strided and a plain block, a projection: every convolution of the report's network.
SMALL = partial(models.resnet18, width=2, stage_sizes=(1, 1))
CASE = Case(2, 4, "float32", "cpu")
IMAGES, FIRSTS = 8, (0, 4, 0)  # an epoch of two batches of 4, and the first of them again
TINY = ["--device", "cpu", "--width", "2", "--batch", "4", "--counts", "2", "--rounds", "2", "--steps", "2"]


def double():
    return SMALL(dtype=jnp.float64, param_dtype=jnp.float64)


@pytest.fixture
def float64():
    """Float64 in every thread, where JAX's own context manager would reach this one alone."""
    with in_float64():
        yield


@contextlib.contextmanager
def in_float64():
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def alone():
    """Each run's start and end, as `trained_alone`; the third is the first at eight tenths of its learning rate."""
    with in_float64():
        return trained_alone([(0, RATES[0]), (1, RATES[1]), (0, 0.8 * RATES[0])])


def trained_alone(runs):
    """The variables of each (seed, learning rate) before and after a plain loop over the batches at FIRSTS."""
    config, split, model = Config(width=2, batch_size=4), pool(IMAGES), double()
    tx = optimizer(config, IMAGES // 4)
    init, step = jax.jit(lambda seed: create(model, tx, seed, (32, 32, 3))), jax.jit(make_train_step(model, tx))
    data = (jnp.asarray(split.images), jnp.asarray(split.labels), np.full(3, 0.5), np.full(3, 0.25))

    def train(seed, rate):
        start = init(seed)
        state = start.replace(opt_state=with_rates(start.opt_state, rate, config.weight_decay))
        plan = epoch_plan(seed, 0, IMAGES, config.crop_padding, config.flip, config.grayscale)
        for first in FIRSTS:
            part = jax.tree.map(lambda a, first=first: a[None, first : first + 4], plan)
            state, _ = step(state, Gather(config.crop_padding)((data, part, None), 0))
        return jax.device_get((start.variables, state.variables))

    return [train(*run) for run in runs]


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_every_way_comes_to_what_each_replica_comes_to_alone(name, alone, float64):
    way = WAYS[name](Replicas(CASE, 2, IMAGES, double()))
    way.train(2)
    way.train(len(FIRSTS) - 2)
    found = jax.device_get(way.variables())
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(found))
    for ours, (start, end) in zip(found, alone, strict=False):
        assert replica_ways.difference(ours, end, start) < 1e-9
    assert replica_ways.difference(found[1], alone[0][1], alone[0][0]) > 0.5


def test_difference_sees_a_learning_rate_of_eight_tenths(alone):
    (start, end), _, (_, slower) = alone
    assert replica_ways.difference(slower, end, start) == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize(("side", "stride"), [(1, 2), (3, 1), (3, 2), (5, 2)])
def test_the_product_of_patches_is_the_convolution(float64, side, stride):
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(2, 7, 6, 3))), jnp.asarray(rng.normal(size=(side, side, 3, 4)))

    def value_and_gradients(convolve):
        out, back = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
        return out, *back(jnp.cos(out))

    def conv2d(x, kernel, stride):
        padding = ((side // 2, side // 2),) * 2
        return conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=NHWC_HWIO)

    both = (replica_ways.convolve_by_product, conv2d)
    found, expected = jax.jit(lambda: tuple(map(value_and_gradients, both)))()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11)


def test_every_way_is_offered():
    assert list(WAYS) == ["in turn", *replicas.NAMES]


def test_difference_is_relative_to_the_way_training_went():
    start, alone = {"a": np.zeros(2), "b": np.ones(1)}, {"a": np.array([3.0, 4.0]), "b": np.array([1.5])}
    assert replica_ways.difference(alone, alone, start) == 0
    assert replica_ways.difference(start, alone, start) == 1
    assert replica_ways.difference({"a": np.array([3.0, 4.5]), "b": alone["b"]}, alone, start) == pytest.approx(0.1)


def test_differences_are_held_to_a_tolerance_each():
    first, second = replicas.TOLERANCES
    assert replicas.agrees([first, second]) and not replicas.agrees([second, second])
    assert not replicas.agrees([first, 1.0]) and not replicas.agrees([float("nan"), 0.0])


def test_calls_begin_again_where_the_rest_of_the_epoch_is_too_short():
    place = replica_ways.places(5)
    assert [place(steps) for steps in (2, 3, 2, 2, 2, 5, 1)] == [0, 2, 0, 2, 0, 0, 0]


def test_gain_is_speed_over_one_after_another_paired_within_rounds():
    in_turn, way = Timing(2, seconds=[2.0, 8.0, 4.0]), Timing(2, seconds=[1.0, 4.0, 2.0])
    found = replicas.entry(64, way, in_turn)
    assert found["gain"] == {"median": 2.0, "low": 2.0, "high": 2.0, "min": 2.0, "n": 3}
    assert found["images_per_second"] == 64 / 2.0
    assert replicas.entry(64, in_turn, in_turn)["gain"]["median"] == 1.0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--counts 0", "--counts 0: must be at least 1"),
        ("--counts 2 2", "--counts 2 2: a value is given twice"),
        ("--width 0", "--width 0: must be at least 1"),
        ("--batch 0", "--batch 0: must be at least 1"),
        ("--batch 9000", "--batch 9000: must be at most 8192 for 2 steps per call"),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--ways", "--ways: give at least one value"),
        ("--ways streams", "--ways streams: must be"),
        ("--device gpu", "--device gpu: JAX sees none here"),
    ],
)
def test_unusable_options_are_refused_in_a_line(capsys, words, complaint):
    assert replicas.main([*TINY, *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(complaint) and err.count("\n") == 1


@pytest.fixture
def small(monkeypatch):
    """The benchmark on a network that compiles in no time."""
    monkeypatch.setattr(replicas, "Replicas", partial(Replicas, images=4 * IMAGES, model=SMALL()))
    monkeypatch.setattr(replicas, "jax_rival", lambda case: Rival(str(case.batch_size), lambda steps: None))


@pytest.mark.slow
def test_ways_are_checked_and_timed(small, tmp_path, capsys):
    path = tmp_path / "replicas.json"
    assert replicas.main([*TINY, "--ways", "threads", "unrolled", "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    (case,) = record["cases"]
    assert list(case["rivals"]) == ["in turn", "threads", "unrolled", "ceiling"]
    for name, rival in case["rivals"].items():
        assert rival["error"] is None and len(rival["seconds"]) == 2 and rival["gain"]["n"] == 2
        assert name == "ceiling" or replicas.agrees(rival["differences"])
    assert record["environment"]["versions"]["jax"] and record["tolerances"] == list(replicas.TOLERANCES)
    assert "over in turn" in capsys.readouterr().out


@pytest.mark.slow
def test_what_trains_otherwise_is_not_timed_and_what_fails_leaves_the_others(small, monkeypatch, tmp_path, capsys):
    def other_rates(together):
        with monkeypatch.context() as patched:
            patched.setattr(replica_ways, "RATES", RATES[::-1])
            return Apart(together, blocked)

    def too_large(together):
        raise MemoryError("out of memory")

    path = tmp_path / "replicas.json"
    words = [*TINY, "--ways", "dispatched", "vmap", "--output", str(path)]
    monkeypatch.setitem(WAYS, "vmap", too_large)
    assert replicas.main(words) == 0
    found = json.loads(path.read_text())["cases"][0]["rivals"]
    assert found["vmap"]["error"] == "MemoryError: out of memory" and found["vmap"]["seconds"] == []
    assert "width 2, 2 at once: vmap failed: MemoryError: out of memory\n" in capsys.readouterr().out

    monkeypatch.setitem(WAYS, "vmap", other_rates)
    assert replicas.main(words) == 1
    found = json.loads(path.read_text())["cases"][0]["rivals"]
    assert found["vmap"]["differences"][0] > 0.5 and found["vmap"]["seconds"] == []
    assert len(found["in turn"]["seconds"]) == len(found["dispatched"]["seconds"]) == 2
    assert "vmap failed: RuntimeError: differs from replicas alone by" in capsys.readouterr().out
