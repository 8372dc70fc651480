"""The input benchmark: rates and shares by definition on known times, and both real inputs at a tiny size."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import input_pipeline
from benchmarks.input_pipeline import DEVICE_MEMORY, GATHER, INPUT, TF_DATA
from benchmarks.timing import Timing
from jresnet.records.tables import Table

TINY = "--width 2 --batches 8 --images 20 --train-batches 8 --train-images 20 --rounds 2".split()  # noqa: SIM905


def timing_of(*seconds):
    return Timing(1, first_seconds=9.0, seconds=list(seconds))


def test_the_share_of_the_ceiling_is_paired_within_rounds():
    times = {TF_DATA: timing_of(2.0, 8.0, 4.0), GATHER: timing_of(0.5, 2.0, 1.0)}
    found = input_pipeline.evaluate(50, 1000, times, ["share_of_ceiling"])
    assert found["share_of_ceiling"] == {"median": 0.25, "low": 0.25, "high": 0.25, "min": 0.25, "n": 3}
    assert found["rivals"][TF_DATA]["images_per_second"] == 250
    assert found["rivals"][GATHER]["images_per_second"] == 1000
    assert found["rivals"][TF_DATA]["seconds_per_batch"] == pytest.approx(0.2)


def test_the_inputs_share_and_the_speed_of_the_fed_step_are_relative_to_device_memory():
    times = {DEVICE_MEMORY: timing_of(1.0, 4.0), TF_DATA: timing_of(1.25, 5.0), INPUT: timing_of(0.03, 0.12)}
    found = input_pipeline.evaluate(10, 100, times, ["speed_of_fed_step", "input_share"])
    assert found["input_share"]["median"] == pytest.approx(0.03)
    assert found["speed_of_fed_step"]["median"] == pytest.approx(0.8)
    assert found["rivals"][DEVICE_MEMORY]["images_per_second"] == pytest.approx(40)


def test_a_failed_rival_has_no_ratio_and_its_error_is_shown():
    failed = Timing(1, error="RuntimeError: no memory")
    times = {DEVICE_MEMORY: failed, INPUT: timing_of(0.1)}
    found = input_pipeline.evaluate(10, 100, times, ["speed_of_fed_step", "input_share"])
    assert found["input_share"] is None and found["speed_of_fed_step"] is None
    lines = Table(input_pipeline.columns("", ""), input_pipeline.rows([found], {INPUT: "input_share"})).cells
    assert lines[0] == ["10", DEVICE_MEMORY, "failed", "RuntimeError: no memory", ""]
    assert lines[1] == ["10", INPUT, "10.000", "1,000", ""]


def test_draining_sums_every_number_and_keeps_the_last_images():
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(6, 4, 5)).astype(np.float32), rng.integers(0, 10, (6, 4))
    arrays = {"images": jnp.asarray(images), "labels": jnp.asarray(labels)}
    program = jax.jit(input_pipeline.drain_program(lambda arrays, i: jax.tree.map(lambda a: a[i], arrays)))
    last, total = program(jnp.float32(7), arrays, 1, 5)
    assert float(total) == pytest.approx(7 + images[1:5].sum(dtype=np.float64) + labels[1:5].sum(), abs=1e-4)
    np.testing.assert_array_equal(last, images[4])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--batches 0", "--batches 0: must be at least 1"),
        ("--batches 4 4", "--batches 4 4: a value is given twice"),
        ("--batches 32", "--batches 32: more than the 20 images of an epoch"),
        ("--train-batches 4 21", "--train-batches 21: more than the 20 images of an epoch"),
        ("--train-images 0", "--train-images 0: must be at least 1"),
        ("--images 0", "--images 0: must be at least 1"),
        ("--width 0", "--width 0: must be at least 1"),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--device gpu", "--device gpu: JAX sees none here"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(capsys, words, complaint):
    assert input_pipeline.main([*TINY, *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(complaint) and err.count("\n") == 1


@pytest.mark.slow
def test_both_real_inputs(tmp_path, capsys):
    path = tmp_path / "input.json"
    assert input_pipeline.main([*TINY, "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["tensorflow"] and record["environment"]["versions"]["jax"]
    for case, names in (
        (record["alone"][0], [TF_DATA, GATHER]),
        (record["training"][0], [DEVICE_MEMORY, TF_DATA, INPUT]),
    ):
        assert list(case["rivals"]) == names
        for rival in case["rivals"].values():
            assert rival["error"] is None and len(rival["seconds"]) == 2 and rival["images_per_second"] > 0
    assert record["alone"][0]["share_of_ceiling"]["n"] == record["training"][0]["input_share"]["n"] == 2
    out = capsys.readouterr().out
    assert "images/s" in out and input_pipeline.WITHOUT_TENSORFLOW not in out


@pytest.mark.slow
def test_without_tensorflow_its_part_is_left_out_with_a_notice(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name))
    path = tmp_path / "input.json"
    assert input_pipeline.main([*TINY, "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["alone"] == [] and record["tensorflow"] is None
    assert list(record["training"][0]["rivals"]) == [DEVICE_MEMORY, INPUT]
    assert record["training"][0]["input_share"]["n"] == 2
    assert capsys.readouterr().out.count(input_pipeline.WITHOUT_TENSORFLOW) == 1
