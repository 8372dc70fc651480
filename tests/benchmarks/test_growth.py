"""Growth of cost: exponents against closed forms, the record and --resume, and tiny real epochs."""

import json

import numpy as np
import pytest

from benchmarks import exponents, growth
from benchmarks.growth import Options

TINY = ["--axes", "images", "--images", "16", "40", "--base-width", "2", "--base-batch", "8", "--rounds", "2"]


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.0])
def test_an_exact_power_law_is_fitted_exactly(exponent):
    values = [3, 10, 11, 70]
    law = exponents.fit(values, [5.0 * value**exponent for value in values])
    assert law == pytest.approx({"exponent": exponent, "error": 0.0, "factor": 5.0}, abs=1e-7)


def test_the_fit_agrees_with_numpy():
    rng = np.random.default_rng(0)
    values = np.array([5, 10, 20, 50, 80])
    costs = values**1.2 * np.exp(rng.normal(0, 0.2, 5))
    (slope, intercept), covariance = np.polyfit(np.log(values), np.log(costs), 1, cov=True)
    law = exponents.fit(values.tolist(), costs.tolist())
    expected = {"exponent": slope, "error": covariance[0, 0] ** 0.5, "factor": np.exp(intercept)}
    assert law == pytest.approx(expected, rel=1e-9)


def test_two_points_have_no_error():
    law = exponents.fit([1, 2], [3.0, 12.0])
    assert law["exponent"] == pytest.approx(2.0) and law["error"] is None


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
def test_the_verdict_depends_on_the_exponents_error(exponent, error, judged):
    assert judged in exponents.verdict("seconds", {"exponent": exponent, "error": error}, 4)


def test_an_axis_varies_alone():
    points = growth.points("width", Options(widths=(32, 8), base_batch=128))
    sizes = [(point.value, point.width, point.images, point.batch, point.blocks) for point in points]
    assert sizes == [(8, 8, 1024, 128, 1), (32, 32, 1024, 128, 1)]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--images 5", "--images 5: an exponent needs two values"),
        ("--widths 8 8", "--widths 8 8: a value is given twice"),
        ("--batches 0 8", "--batches 0 8: must be at least 1"),
        ("--base-blocks 0", "--base-blocks 0: must be at least 1"),
        ("--blocks 1 151", "--blocks 151 151 151 151: must hold at most 600 blocks"),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--axes depth", "depth"),
        ("--resume", "--resume: continues the record in --output: add --output"),
        ("--device gpu", "--device gpu: JAX sees none here"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(capsys, words, complaint):
    assert growth.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and complaint in err and err.count("\n") == 1


@pytest.mark.slow
def test_real_epochs_interrupted_and_resumed(tmp_path, capsys, monkeypatch):
    path = tmp_path / "growth.json"
    measure, done = growth.measure, []

    def interrupted(point, entry, options):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(point.value)
        measure(point, entry, options)

    monkeypatch.setattr(growth, "measure", interrupted)
    assert growth.main([*TINY, "--output", str(path)]) == 130
    assert done == [16, 40, 40]
    before = json.loads(path.read_text())["points"]
    assert "--resume" in capsys.readouterr().err
    assert growth.main([*TINY, "--output", str(path)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert growth.main([*TINY, "--output", str(path), "--resume", "--base-width", "3"]) == 2
    assert "(base_width 2, not 3)" in capsys.readouterr().err

    monkeypatch.setattr(growth, "measure", measure)
    assert growth.main([*TINY, "--output", str(path), "--resume"]) == 0
    record = json.loads(path.read_text())
    points = [(point["value"], len(point["seconds"]), point["error"]) for point in record["points"]]
    assert points == [(16, 2, None), (40, 2, None)]
    for old, new in zip(before, record["points"], strict=True):
        assert new["seconds"][: len(old["seconds"])] == old["seconds"] and new["memory"] == old["memory"]
    # From 16 to 40 images the arguments grow by images, labels and plan: order, two offsets, flip and grayscale.
    small, large = (record["points"][i]["memory"] for i in (0, 1))
    assert large["arguments"] - small["arguments"] == 24 * (32 * 32 * 3 + 4 + 4 + 2 * 4 + 2)
    assert all(point["memory"]["temporary"] > 0 for point in record["points"])
    assert record["fits"]["images"]["flops"]["exponent"] == pytest.approx(1)
    out = capsys.readouterr().out
    assert "time in the images: exponent" in out and "memory in the images: exponent" in out
    assert "<svg" in path.with_suffix(".svg").read_text()


def test_an_interruption_names_the_command_that_continues_the_record(tmp_path, capsys, monkeypatch):
    def interrupted(point, entry, options):
        raise KeyboardInterrupt

    monkeypatch.setattr(growth, "measure", interrupted)
    words = [*TINY, "--output", str(tmp_path / "growth.json")]
    for arguments in (words, [*words, "--resume"]):
        assert growth.main(arguments) == 130
        again = f"go on with: python -m benchmarks.growth {' '.join(words)} --resume\n"
        assert capsys.readouterr().err.endswith(f"\ninterrupted; {again}")
    assert growth.main(TINY) == 130
    assert capsys.readouterr().err.endswith("\ninterrupted\n")


def test_a_failing_point_is_reported_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    path = tmp_path / "growth.json"

    def measure(point, entry, options):
        if point.value == 24:
            raise MemoryError("out of memory")
        entry["seconds"].append(float(point.value))
        entry |= {"memory": {"total": 1}, "flops": 1, "parameters": 1, "compile_seconds": 0.0}

    monkeypatch.setattr(growth, "measure", measure)
    assert growth.main([*TINY, "--images", "16", "24", "40", "--output", str(path)]) == 0
    assert "training images 24: failed: MemoryError: out of memory" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert [len(point["seconds"]) for point in record["points"]] == [2, 0, 2]
    assert record["fits"]["images"]["seconds"]["exponent"] == pytest.approx(1)
