"""Timing rivals whose times are known, records, and what the throughput benchmark reports."""

import importlib.util
import json
import os
import pathlib
import sys

import numpy as np
import pytest

from benchmarks import records, throughput, timing
from benchmarks.timing import Case, Rival, compared, contest, summary
from jresnet.errors import CannotWrite


class FakeMachine:
    """A clock moved by work alone: a call takes steps x the rival's price x the round's drift."""

    def __init__(self, prices, compile_seconds=0.0, drift=(1.0,)):
        self.now, self.calls = 0.0, []
        self.prices, self.compile_seconds, self.drift = prices, compile_seconds, drift

    def builders(self):
        return {name: lambda name=name: Rival(lambda steps: self.work(name, steps)) for name in self.prices}

    def work(self, name, steps):
        turn = sum(1 for called, _ in self.calls if called == name)
        self.calls.append((name, steps))
        self.now += self.compile_seconds if turn == 0 else 0.0
        self.now += steps * self.prices[name] * self.drift[turn % len(self.drift)]

    def clock(self):
        return self.now


def test_order_rotates_each_round_after_the_warmup():
    machine = FakeMachine({"a": 1.0, "b": 2.0, "c": 3.0})
    contest(machine.builders(), 4, rounds=4, clock=machine.clock)
    assert "".join(name for name, _ in machine.calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {steps for _, steps in machine.calls} == {4}


def test_seconds_are_per_step_and_exclude_compilation():
    machine = FakeMachine({"a": 0.25, "b": 2.0}, compile_seconds=10.0)
    timings = contest(machine.builders(), 4, rounds=3, clock=machine.clock)
    assert timings["a"].seconds == [0.25] * 3
    assert timings["b"].seconds == [2.0] * 3
    assert timings["a"].first_seconds == 11.0
    assert timings["a"].compile_seconds == 10.0


def test_ratio_is_paired_so_that_drift_cancels():
    machine = FakeMachine({"fast": 1.0, "slow": 1.5}, drift=(1.0, 7.0, 2.0, 30.0))
    timings = contest(machine.builders(), 2, rounds=7, clock=machine.clock)
    assert len(set(timings["fast"].seconds)) > 1
    speed = compared(timings["fast"].seconds, timings["slow"].seconds)
    assert [speed[name] for name in ("median", "low", "high", "n")] == pytest.approx([1.5, 1.5, 1.5, 7])
    assert compared(timings["slow"].seconds, timings["fast"].seconds)["median"] == pytest.approx(1 / 1.5)


def test_ratio_is_the_median_of_ratios_not_the_ratio_of_medians():
    assert compared([1.0, 2.0, 4.0], [3.0, 2.0, 2.0])["median"] == 1.0
    assert compared([1.0, 2.0], [4.0, 4.0, 100.0])["n"] == 2
    assert compared([], [1.0]) is None


def test_summary_agrees_with_numpy():
    sample = [0.9, 0.1, 0.5, 0.7, 0.2, 0.4]
    found = summary(sample)
    low, median, high = np.percentile(sample, [25, 50, 75])
    assert (found.low, found.median, found.high) == pytest.approx((low, median, high))
    assert (found.min, found.n) == (0.1, 6)
    assert summary([3.0]) == timing.Summary(3.0, 3.0, 3.0, 3.0, 1)
    with pytest.raises(ValueError, match="empty"):
        summary([])


def test_a_failing_rival_drops_out_and_the_others_go_on():
    machine = FakeMachine({"a": 1.0, "b": 1.0})

    def dies(steps):
        machine.work("b", steps)
        if len([name for name, _ in machine.calls if name == "b"]) == 3:
            raise MemoryError("out of memory\nwith a long trace")

    timings = contest(machine.builders() | {"b": lambda: Rival(dies)}, 1, rounds=5, clock=machine.clock)
    assert timings["a"].seconds == [1.0] * 5
    assert timings["b"].seconds == [1.0]
    assert timings["b"].error == "MemoryError: out of memory"
    assert [name for name, _ in machine.calls].count("b") == 3


def test_a_rival_that_cannot_be_built_is_recorded_and_the_others_are_closed():
    closed = []

    def absent():
        raise ModuleNotFoundError("No module named 'torch'")

    present = Rival(lambda steps: None, lambda: closed.append("here"))
    timings = contest({"here": lambda: present, "absent": absent}, 1, 2)
    assert list(timings) == ["here", "absent"]
    assert len(timings["here"].seconds) == 2
    assert timings["absent"].error == "ModuleNotFoundError: No module named 'torch'"
    assert timings["absent"].seconds == []
    assert timings["absent"].compile_seconds is None
    assert closed == ["here"]


def test_environment_is_json_and_names_the_machine(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    record = json.loads(json.dumps(records.environment("cpu")))
    assert record["versions"]["numpy"] == np.__version__
    assert record["variables"]["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert record["device"]
    assert record["cores"] >= 1
    known = np._core._multiarray_umath.__cpu_features__
    if pathlib.Path("/proc/cpuinfo").exists() and "AVX2" in known:
        assert ("avx2" in record["cpu_instructions"]) is known["AVX2"]
        assert ("avx512f" in record["cpu_instructions"]) is known["AVX512F"]
    assert record["date"].endswith("+00:00")


def test_write_record_keeps_the_old_file_when_it_cannot_write_the_new(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "record.json"
    records.write_record(path, {"a": 1})
    with pytest.raises(TypeError):
        records.write_record(path, {"a": object()})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CannotWrite, match=r"record\.json: cannot be written \(No space left"):
        records.write_record(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["record.json"]


@pytest.fixture
def fake_rivals(monkeypatch):
    """Rivals that cost nothing; eager fails at batch 64."""

    def steps(case, modes):
        def build(name):
            if name == "torch eager" and case.batch_size == 64:
                raise MemoryError("out of memory")
            return Rival(lambda steps: None)

        return {name: (lambda name=name: build(name)) for name in ["jax", *(f"torch {mode}" for mode in modes)]}

    def matmuls(precision, device, modes):
        names = ("jax", "torch") if modes else ("jax",)
        return {name: (lambda name=name: Rival(lambda steps: None)) for name in names}

    monkeypatch.setattr(throughput, "step_rivals", steps)
    monkeypatch.setattr(throughput, "matmul_rivals", matmuls)


def run_throughput(tmp_path, *options):
    path = tmp_path / "record.json"
    status = throughput.main([*options, "--output", str(path)])
    return status, json.loads(path.read_text())


def test_throughput_records_every_case_and_reports_failures(fake_rivals, tmp_path, capsys):
    status, record = run_throughput(tmp_path, "--batches", "32", "64", "--rounds", "3", "--rivals", "eager", "compile")
    assert status == 0
    small, large = record["cases"]
    assert (small["width"], small["batch_size"], small["precision"]) == (42, 32, "float32")
    assert [len(rival["seconds"]) for rival in small["rivals"].values()] == [3, 3, 3]
    assert small["speed_of_jax_over"]["torch eager"]["n"] == 3
    jax = small["rivals"]["jax"]
    median = np.median(jax["seconds"])
    assert jax["images_per_second"] == pytest.approx(32 / median)
    assert jax["flops_per_second"] == pytest.approx(32 * 3 * 479.2e6 / median, rel=1e-3)
    peak = max(rival["flops_per_second"] for rival in record["ceilings"][0]["rivals"].values())
    assert jax["share_of_ceiling"] == pytest.approx(jax["flops_per_second"] / peak)
    assert large["rivals"]["torch eager"]["error"] == "MemoryError: out of memory"
    assert large["speed_of_jax_over"]["torch eager"] is None
    assert large["speed_of_jax_over"]["torch compile"]["n"] == 3
    assert record["environment"]["versions"]["jax"]
    assert "MemoryError: out of memory" in capsys.readouterr().out


def test_throughput_times_the_library_alone_without_torch(monkeypatch, tmp_path, capsys):
    """Neither the ceiling nor a case loads PyTorch, and nothing complains where it is missing."""
    monkeypatch.setitem(throughput.MATMUL_SIDE, "cpu", 16)
    monkeypatch.setattr(throughput, "jax_rival", lambda case: Rival(lambda steps: None))
    monkeypatch.setitem(sys.modules, "benchmarks.torch_resnet", None)  # an import fails
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    status, record = run_throughput(tmp_path, "--rivals", "none", "--batches", "32", "--rounds", "1")
    assert status == 0
    assert list(record["ceilings"][0]["rivals"]) == list(record["cases"][0]["rivals"]) == ["jax"]
    assert record["ceilings"][0]["rivals"]["jax"]["error"] is None
    assert record["cases"][0]["speed_of_jax_over"] == {}
    assert "torch" not in capsys.readouterr().err.lower()


def test_throughput_keeps_finished_cases_when_interrupted(fake_rivals, tmp_path, monkeypatch):
    measured = throughput.measure_case

    def interrupted(case, ceiling, options):
        if case.batch_size == 64:
            raise KeyboardInterrupt
        return measured(case, ceiling, options)

    monkeypatch.setattr(throughput, "measure_case", interrupted)
    status, record = run_throughput(tmp_path, "--rounds", "1")
    assert status == 130
    assert [case["batch_size"] for case in record["cases"]] == [32]


def test_cases_are_the_grid():
    options = throughput.Options(widths=(42, 64), batches=(32,), precisions=("float32", "bfloat16"))
    assert options.cases() == [
        Case(width, 32, precision, "cpu") for precision in ("float32", "bfloat16") for width in (42, 64)
    ]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--widths", "42", "x"], "--widths"),
        (["--widths", "0"], "--widths 0: must be at least 1"),
        (["--batches"], "--batches: give at least one value"),
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--rivals", "eager", "eager"], "--rivals eager eager: a value is given twice"),
        (["--rivals", "none", "eager"], "--rivals none eager: give none alone"),
        (["--rivals", "eager", "graph"], "--rivals eager graph: graph is a CUDA graph: add --device gpu"),
        (["--device", "tpu"], "tpu"),
        (["--nope"], "--nope"),
        (["--output", os.devnull + "/record.json"], "cannot write"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(options, complaint, capsys):
    assert throughput.main(options) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert complaint in captured.err
    assert captured.out == ""


def test_ceiling_products_are_a_chain_of_the_named_precision(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(throughput.MATMUL_SIDE, "cpu", 64)
    timings = contest(throughput.matmul_rivals("bfloat16", "cpu", ["eager"]), steps=2, rounds=1)
    assert [result.error for result in timings.values()] == [None, None]
    assert timings["jax"].steps == 2
