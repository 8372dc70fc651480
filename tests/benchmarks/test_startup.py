"""The time from a command to its first training step."""

import json

import pytest

from benchmarks import startup

TINY = ("--rounds", "1", "--width", "2", "--batch", "8")


@pytest.mark.slow  # a command
def test_a_start_leaves_the_compiled_step_in_the_cache(tmp_path):
    """So it has reached that, and a second start finds it."""
    options = startup.Options(width=2, batch=8)
    assert startup.seconds_to_first_step(options, tmp_path) > 0
    assert [*(tmp_path / "jresnet/xla").glob("jit_program-*")]


@pytest.mark.slow  # two commands
def test_both_starts_are_timed(tmp_path, capsys):
    record = tmp_path / "record.json"
    assert startup.main([*TINY, "--output", str(record)]) == 0
    cold, warm = json.loads(record.read_text())["starts"]
    assert (cold["start"], warm["start"]) == startup.STARTS
    assert all(len(start["seconds"]) == start["summary"]["n"] == 1 for start in (cold, warm))
    assert "cold" in capsys.readouterr().out


def test_a_run_that_ends_before_its_first_step_is_no_measurement(tmp_path, capfd):
    record = tmp_path / "record.json"
    assert startup.main([*TINY, "--dataset", f"npz:{tmp_path}/absent.npz", "--output", str(record)]) == 2
    own, ours = capfd.readouterr().err.strip().splitlines()
    assert "absent.npz" in own and "ended with status 2 before its first step" in ours
    assert not record.exists()
