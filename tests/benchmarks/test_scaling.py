"""The scaling benchmark: efficiency by definition on known times, and the real step on one and several devices."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import scaling
from benchmarks.scaling import Options
from benchmarks.timing import Timing

ROOT = pathlib.Path(__file__).parents[2]
TINY = ["--device", "cpu", "--width", "2", "--share", "8", "--batch", "8", "--rounds", "2", "--steps", "2"]


def timing(*seconds):
    return Timing(3, first_seconds=9.0, seconds=list(seconds))


@pytest.mark.parametrize(
    ("kind", "seconds", "efficiency"),
    [
        # Each device has its own batch: the time of one device is perfect, twice that is half.
        ("weak", 1.0, 1.0), ("weak", 2.0, 0.5), ("weak", 4.0, 0.25),
        # Four devices share one batch: a quarter of the time is perfect, the time of one device is a quarter.
        ("strong", 0.25, 1.0), ("strong", 1.0, 0.25),
    ],
)  # fmt: skip
def test_efficiency_is_speed_over_that_of_as_many_single_devices(kind, seconds, efficiency):
    options = Options(share=32, batch=64)
    found = scaling.entry(kind, 4, timing(seconds, seconds), timing(1.0, 1.0), options)
    assert found["efficiency"]["median"] == pytest.approx(efficiency)
    assert found["batch_size"] == (128 if kind == "weak" else 64)
    assert found["images_per_second"] == pytest.approx(found["batch_size"] / seconds)


def test_efficiency_is_paired_within_rounds():
    drift = scaling.entry("weak", 2, timing(1.0, 4.0, 2.0), timing(0.5, 2.0, 1.0), Options())
    assert drift["efficiency"] == {"median": 0.5, "low": 0.5, "high": 0.5, "min": 0.5, "n": 3}


def test_counts_are_powers_of_two_and_all_devices():
    assert Options().counts_of(8) == [1, 2, 4, 8]
    assert Options(batch=252).counts_of(6) == [1, 2, 4, 6]
    assert Options(counts=(4,)).counts_of(8) == [1, 4]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--counts 2", "--counts 2: must be at most 1, the number of devices"),
        ("--counts 0", "--counts 0: must be at least 1"),
        ("--counts 1 1", "--counts 1 1: a value is given twice"),
        ("--batch 0", "--batch 0: must be at least 1"),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--device gpu --emulate 2", "--emulate 2: only CPU devices can be emulated"),
        ("--device gpu", "--device gpu: JAX sees none here"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(capsys, words, complaint):
    assert scaling.main([*TINY, *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(complaint) and err.count("\n") == 1


def test_the_note_says_that_emulated_devices_share_cores():
    said = scaling.note(Options(device="cpu", emulate=8), 8)
    assert said.startswith("8 emulated devices share ") and "no arithmetic" in said
    assert "share" not in scaling.note(Options(), 8)


@pytest.mark.slow
def test_the_real_step_on_emulated_devices(tmp_path):
    path = tmp_path / "scaling.json"
    words = [sys.executable, "-m", "benchmarks.scaling", *TINY, "--emulate", "2", "--output", path]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    cases = [(case["kind"], case["form"], case["devices"], case["error"]) for case in record["cases"]]
    forms = [("jit", 1), ("pmap 1", 1), ("pmap 2", 2)]
    assert cases == [(kind, form, devices, None) for kind in ("weak", "strong") for form, devices in forms]
    assert all(len(case["seconds"]) == 2 and case["images_per_second"] > 0 for case in record["cases"])
    assert all(case["efficiency"]["median"] == 1 for case in record["cases"] if case["form"] == "pmap 1")
    assert record["environment"]["versions"]["jax"] and "<svg" in path.with_suffix(".svg").read_text()
    assert "images/s" in done.stdout
