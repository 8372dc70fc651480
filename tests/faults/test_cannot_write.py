"""Where a file cannot be written: one line, status 4, and with room again the same bits as if nothing had happened."""

import json
import os
import pathlib
import pwd
import subprocess
import sys
import time

import numpy as np
import pytest

from jresnet.data import cache
from jresnet.errors import CannotWrite
from jresnet.records import files, run_directory
from jresnet.train import loop
from tests.support.runs import CONFIG, final_state, make_dataset, strip

ROOT = pathlib.Path(__file__).parents[2]
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
MOUNT = "mkdir disk; mount -t tmpfs -o size={size}k tmpfs disk"


def run(folder, command, **environment):
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True
    )


@pytest.fixture
def small_disks(tmp_path):
    """A folder in which `NAMESPACE` may mount file systems."""
    script = MOUNT.format(size=4)
    if run(tmp_path, [*NAMESPACE, "sh", "-c", script]).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    (tmp_path / "disk").rmdir()
    return tmp_path


SIZES = [4, 80, 180, 330, 8, 12, 24, 36, 48, 60, 100, 120, 140, 160, 200, 220, 240, 260, 280, 300, 320, 350, 370, 390]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_to_the_same_bits(small_disks):
    """The disk fills at every kind of file: the records, the checkpoint in the background, the events, the figure."""
    program = [sys.executable, "-m", "tests.support.small_disk", str(small_disks), *map(str, SIZES)]
    done = run(small_disks, [*NAMESPACE, *program])
    used, *outcomes = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0 and len(outcomes) == len(SIZES), done.stderr
    assert "Traceback" not in done.stderr
    for outcome in outcomes:
        line, status = outcome["errors"], outcome["status"]
        assert (status, line.count("\n")) in ((4, 1), (0, 0)), outcome
        assert status == 4 or outcome["size"] > 0.8 * used["used"]
        if status == 4:
            assert f"{small_disks}/{outcome['size']}/run" in line and "No space left on device" in line
            assert "--resume" in line or "config.json" in line
        assert (outcome["again"], outcome["same"], outcome["left"]) == (0, True, [])
        assert outcome["later"].count("\n") <= 1 and "Traceback" not in outcome["later"]


PROGRAM = "-m experiments.final --dataset synthetic --train-images 64 --test-images 32 --width 2 --blocks 1 --epochs 2"


@pytest.mark.slow
@pytest.mark.parametrize("size", [6, 70, 150, 250])
def test_a_program_on_a_full_disk_says_one_line(small_disks, size):
    script = f"{MOUNT.format(size=size)}; {sys.executable} {PROGRAM} --pool-size 8 --workdir disk/run"
    done = run(small_disks, [*NAMESPACE, "sh", "-c", script])
    assert done.returncode == 4 and done.stderr.count("\n") == 1 and "Traceback" not in done.stdout, done.stderr


@pytest.mark.slow
def test_a_cache_without_room_costs_time_only(small_disks):
    script = f"{MOUNT.format(size=8)}; {sys.executable} {PROGRAM} --pool-size 8 --workdir run"
    places = {"JAX_COMPILATION_CACHE_DIR": "disk/xla", "XDG_CACHE_HOME": "disk/user"}
    done = run(small_disks, [*NAMESPACE, "sh", "-c", script], **places, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert all("cache" in line for line in done.stderr.splitlines()), done.stderr


@pytest.fixture
def no_home(monkeypatch):
    """A user without a home directory, as in a container that runs under a number only."""

    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    files._writable.cache_clear()
    yield monkeypatch
    files._writable.cache_clear()


def test_without_a_home_nothing_is_cached_which_is_said_once(no_home, caplog):
    assert [files.cache_directory() for _ in range(3)] == [None] * 3
    cache.store("images", {"a": np.zeros(3)})
    assert cache.load("images") is None
    (line,) = caplog.messages
    assert line == "compiled programs and decoded images are not cached: no home directory is known"


def test_a_cache_directory_that_cannot_be_made_is_left_out(no_home, tmp_path, caplog):
    (tmp_path / "file").touch()
    no_home.setenv("HOME", str(tmp_path / "file"))
    assert files.cache_directory() is None
    (line,) = caplog.messages
    assert str(tmp_path / "file") in line and "cannot be written" in line
    no_home.setenv("HOME", str(tmp_path))
    assert files.cache_directory() == tmp_path / ".cache" / "jresnet" and files.cache_directory().is_dir()
    assert not list(files.cache_directory().iterdir()) and len(caplog.messages) == 1


@pytest.mark.slow
def test_a_program_without_a_home_says_so_once(tmp_path):
    place = {"HOME": "/proc/nobody", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    program = ["env", "-u", "JAX_COMPILATION_CACHE_DIR", sys.executable, *PROGRAM.split(), "--pool-size", "8"]
    done = run(tmp_path, [*program, "--workdir", "run"], **place)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "are not cached: /proc/nobody" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["verify", str(ROOT / "experiments" / "results")]])
def test_a_full_output_is_one_line(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jresnet", *words], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 4
    assert done.stderr == "the output cannot be written (No space left on device): make room where it goes\n"


SLOW = [pytest.param(what, marks=pytest.mark.slow) for what in ("renamed", "replaced")]


class Saboteur:
    """Stands for a run's console: does something to its directory after the first epoch."""

    is_interactive = is_jupyter = False

    def __init__(self, act):
        self._act = act

    def print(self, *_, **__):
        if self._act:
            act, self._act = self._act, None
            act()


@pytest.mark.parametrize("what", ["removed", "read-only log", *SLOW])
def test_a_directory_that_goes_away_during_a_run(tmp_path, what):
    workdir, away = tmp_path / "run", tmp_path / "away"

    def act():
        while not (workdir / "checkpoints" / "5").exists():  # written in the background
            time.sleep(0.01)
        if what == "read-only log":
            (workdir / "metrics.jsonl").rename(workdir / "metrics")
            (workdir / "metrics.jsonl").mkdir()
        else:
            workdir.rename(away)
        if what == "replaced":
            loop.fit(CONFIG, make_dataset(), workdir, seed=1)

    with pytest.raises(CannotWrite) as caught:
        loop.fit(CONFIG, make_dataset(), workdir, console=Saboteur(act))
    message = str(caught.value)
    assert message.startswith(str(workdir)) and "\n" not in message
    if what == "replaced":
        assert run_directory.read_result(workdir).seed == 1, "the other run is complete"
    elif what == "read-only log":
        assert "metrics.jsonl: cannot be written (Is a directory)" in message and "checkpoint of update 5" in message
        (workdir / "metrics.jsonl").rmdir()
        (workdir / "metrics").rename(workdir / "metrics.jsonl")
        away = workdir
    else:
        assert not workdir.exists() or not list(workdir.iterdir()), "nothing is written where the directory was"
    loop.fit(CONFIG, make_dataset(), away)
    loop.fit(CONFIG, make_dataset(), tmp_path / "whole")
    assert strip(away) == strip(tmp_path / "whole")
    assert str(final_state(away)) == str(final_state(tmp_path / "whole"))
