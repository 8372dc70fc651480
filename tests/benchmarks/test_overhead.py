"""The benchmark of what an epoch costs beside its steps: sums by definition, and a tiny run."""

import json

import pytest

from benchmarks import overhead
from jresnet.train import loop, trainer


def test_times_are_per_call_and_per_epoch_without_the_first():
    watch = overhead.Stopwatch()
    watch.ends, watch.training = [9.0, 10.0, 12.0, 13.0], [8.0, 0.5, 0.5, 0.5]
    watch.parts = {"checkpoint": [5.0, 0.75], "log": [5.0, 0.25, 0.5, 0.75]}
    checkpoint, log, beside = watch.rows()
    assert (checkpoint["call"]["median"], checkpoint["call"]["n"], checkpoint["epoch"]) == (0.75, 1, 0.25)
    assert (log["call"]["median"], log["epoch"]) == (0.5, 0.5)
    assert beside["part"] == overhead.BESIDE and beside["call"]["n"] == 3
    assert beside["epoch"] == pytest.approx((0.5 + 1.5 + 0.5) / 3)


@pytest.mark.slow
def test_a_tiny_run_is_timed_and_the_library_left_as_it_was(tmp_path, capsys):
    functions = (trainer.make_train_step, trainer.Trainer.train_epoch, loop.evaluate)
    words = "--width 2 --images 60 --test-images 10 --batch 24 --rounds 2 --epoch-seconds 0.01".split()  # noqa: SIM905
    assert overhead.main([*words, "--below", str(tmp_path), "--output", str(tmp_path / "record.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    calls = {row["part"]: row["call"]["n"] for row in record["parts"]}
    # Of the three epochs the first is not timed; it and the last are saved.
    assert calls == {overhead.TRAINING: 2, overhead.BESIDE: 2} | dict.fromkeys(overhead.PARTS, 2) | {"checkpoint": 1}
    assert str(tmp_path) not in json.dumps(record) and [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert overhead.BESIDE in capsys.readouterr().out
    assert functions == (trainer.make_train_step, trainer.Trainer.train_epoch, loop.evaluate)


def test_a_missing_directory_is_refused(tmp_path, capsys):
    assert overhead.main(["--below", str(tmp_path / "absent")]) == 2
    assert "is not a directory" in capsys.readouterr().err
