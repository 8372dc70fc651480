"""Growing cost: exponents against closed forms, the record and how it is gone on with, and tiny real epochs."""

import json

import numpy as np
import pytest

from benchmarks import exponents, growth
from benchmarks.growth import Options

TINY = [
    *("--axes", "images", "--images", "16", "40", "--base-width", "2", "--base-batch", "8", "--rounds", "2"),
]


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.0])
def test_a_power_law_is_found_exactly(exponent):
    values = [3, 10, 11, 70]
    found = exponents.fit(values, [5.0 * value**exponent for value in values])
    assert found == pytest.approx((exponent, 0.0, 5.0), abs=1e-7)


def test_the_fit_is_numpys():
    rng = np.random.default_rng(0)
    values = np.array([5, 10, 20, 50, 80])
    costs = values**1.2 * np.exp(rng.normal(0, 0.2, 5))
    (slope, intercept), covariance = np.polyfit(np.log(values), np.log(costs), 1, cov=True)
    found = exponents.fit(values.tolist(), costs.tolist())
    assert found == pytest.approx((slope, covariance[0, 0] ** 0.5, np.exp(intercept)), rel=1e-9)


def test_two_points_have_no_error():
    assert exponents.fit([1, 2], [3.0, 12.0])[:2] == (pytest.approx(2.0), None)


def entry(value, *seconds):
    return {"axis": "images", "value": value, "seconds": list(seconds), "memory": {"total": 7}, "flops": value**2}


def test_time_is_the_median_over_rounds_and_single_rounds_show_the_spread():
    found = exponents.fits([entry(1, 1.0, 1.0, 1.0), entry(4, 2.0, 4.0, 64.0)])
    assert found["seconds"]["exponent"] == pytest.approx(1.0)
    assert found["seconds"]["by_round"] == pytest.approx([0.5, 3.0])
    assert found["memory"]["exponent"] == 0 and found["flops"]["exponent"] == pytest.approx(2.0)
    assert exponents.fits([entry(1, 1.0)]) == {}


@pytest.mark.parametrize(
    ("exponent", "error", "judged"),
    [
        # With 4 points the one-sided 5 % quantile of Student's t is 2.920.
        (1.00, 0.01, ": at most linear"),
        (1.02, 0.01, ": at most linear"),
        (1.03, 0.01, ": SUPER-LINEAR"),
        (1.00, 0.04, ": too uncertain"),
        (0.50, 0.10, ": at most linear"),
        (2.00, 0.10, ": SUPER-LINEAR"),
        (1.00, None, ": not judged"),
    ],
)
def test_the_verdict_is_by_the_exponents_error(exponent, error, judged):
    assert judged in exponents.verdict("seconds", {"exponent": exponent, "error": error}, 4)


def test_an_axis_varies_alone():
    found = growth.points("width", Options(widths=(32, 8), base_batch=128))
    assert [(p.value, p.width, p.images, p.batch, p.blocks) for p in found] == [
        (8, 8, 1024, 128, 1),
        (32, 32, 1024, 128, 1),
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--images 5", "--images 5: an exponent needs two values"),
        ("--widths 8 8", "--widths 8 8: a value is given twice"),
        ("--batches 0 8", "--batches 0 8: must be at least 1"),
        ("--base-blocks 0", "--base-blocks 0: must be at least 1"),
        ("--blocks 1 1000", "--blocks 1000 1000 1000 1000: must hold below 1000"),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--axes depth", "depth"),
        ("--resume", "--resume: goes on with the record in --output: name it"),
        ("--device gpu", "--device gpu: JAX sees none here"),
    ],
)
def test_unusable_options_are_refused_in_a_line(capsys, words, complaint):
    assert growth.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and complaint in err and err.count("\n") == 1


@pytest.mark.slow
def test_real_epochs_stopped_and_gone_on_with(tmp_path, capsys, monkeypatch):
    path = tmp_path / "growth.json"
    measure, done = growth.measure, []

    def stopped(point, found, options):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(point.value)
        measure(point, found, options)

    monkeypatch.setattr(growth, "measure", stopped)
    assert growth.main([*TINY, "--output", str(path)]) == 130
    assert done == [16, 40, 40]
    before = json.loads(path.read_text())["points"]
    assert "--resume" in capsys.readouterr().err
    assert growth.main([*TINY, "--output", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert growth.main([*TINY, "--output", str(path), "--resume", "--base-width", "3"]) == 2
    assert "(base_width 2, not 3)" in capsys.readouterr().err

    monkeypatch.setattr(growth, "measure", measure)
    assert growth.main([*TINY, "--output", str(path), "--resume"]) == 0
    record = json.loads(path.read_text())
    assert [(one["value"], len(one["seconds"]), one["error"]) for one in record["points"]] == [
        (16, 2, None),
        (40, 2, None),
    ]
    for old, new in zip(before, record["points"], strict=True):
        assert new["seconds"][: len(old["seconds"])] == old["seconds"] and new["memory"] == old["memory"]
    # Between 16 and 40 images the program's arguments grow by the images, their labels and their plan: order,
    # two offsets, flip and grayscale.
    small, large = (record["points"][i]["memory"] for i in (0, 1))
    assert large["arguments"] - small["arguments"] == 24 * (32 * 32 * 3 + 4 + 4 + 2 * 4 + 2)
    assert all(one["memory"]["temporary"] > 0 for one in record["points"])
    assert record["fits"]["images"]["flops"]["exponent"] == pytest.approx(1)
    out = capsys.readouterr().out
    assert "time in the images: exponent" in out and "memory in the images: exponent" in out
    assert "<svg" in path.with_suffix(".svg").read_text()


def test_a_point_that_fails_says_how_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    path = tmp_path / "growth.json"

    def measure(point, found, options):
        if point.value == 24:
            raise MemoryError("out of memory")
        found["seconds"].append(float(point.value))
        found |= {"memory": {"total": 1}, "flops": 1, "parameters": 1, "compile_seconds": 0.0}

    monkeypatch.setattr(growth, "measure", measure)
    assert growth.main([*TINY, "--images", "16", "24", "40", "--output", str(path)]) == 0
    assert "training images 24: failed: MemoryError: out of memory" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert [len(one["seconds"]) for one in record["points"]] == [2, 0, 2]
    assert record["fits"]["images"]["seconds"]["exponent"] == pytest.approx(1)
