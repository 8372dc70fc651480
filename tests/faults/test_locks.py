"""Two processes in one directory: exactly one works there, the other is told who does, and the dead hold nothing."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jresnet.errors import CannotWrite, InUse
from jresnet.records import run_directory
from jresnet.records.epoch import METRICS
from jresnet.records.lock import hold, is_held
from jresnet.train import loop
from tests.support.runs import CONFIG, make_dataset
from tests.support.studies import TINY, tiny_npz

ROOT = pathlib.Path(__file__).parents[2]

# For each directory on stdin: tries to hold it, says so, and lets go when the next line comes.
CONTENDER = """
import pathlib, sys
from jresnet.errors import InUse
from jresnet.records.lock import hold
for line in sys.stdin:
    try:
        with hold(pathlib.Path(line.strip())):
            print("won", flush=True)
            sys.stdin.readline()
    except InUse as error:
        print(error, flush=True)
        sys.stdin.readline()
    print("done", flush=True)
"""


def contender():
    return subprocess.Popen(
        [sys.executable, "-c", CONTENDER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def tell(processes, line):
    for process in processes:
        process.stdin.write(f"{line}\n")


@pytest.mark.parametrize("pairs", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_of_pairs_exactly_one_wins_each_time(tmp_path, pairs):
    with contender() as one, contender() as other:
        pair = (one, other)
        winners = set()
        for number in range(pairs):
            directory = tmp_path / str(number)
            tell(pair[:: 1 if number % 2 else -1], directory)
            said = [process.stdout.readline().strip() for process in pair]
            assert sorted(line == "won" for line in said) == [False, True]
            winner = said.index("won")
            winners.add(winner)
            holder = f"process {pair[winner].pid} on {socket.gethostname()}"
            assert said[1 - winner] == (
                f"--workdir {directory}: {holder} works there: wait until it is done, or choose another directory"
            )
            tell(pair, "")
            assert [process.stdout.readline() for process in pair] == ["done\n"] * 2
        for process in pair:
            process.stdin.close()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    with contender() as process:
        tell([process], tmp_path / "run")
        assert process.stdout.readline() == "won\n" and is_held(tmp_path / "run")
        with pytest.raises(InUse), hold(tmp_path / "run"):
            pass
        process.kill()
        process.wait()
    assert not is_held(tmp_path / "run")
    with hold(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "lock").read_text()) == {
            "process": os.getpid(), "host": socket.gethostname(),
        }  # fmt: skip


def test_threads_of_one_process_exclude_each_other(tmp_path):
    outcomes = []
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        try:
            with hold(tmp_path):
                outcomes.append("won")
                time.sleep(1)
        except InUse:
            outcomes.append("refused")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 3 + ["won"]


def test_a_child_process_does_not_inherit_the_lock(tmp_path):
    with hold(tmp_path):
        child = subprocess.Popen(["sleep", "60"])
    try:
        assert not is_held(tmp_path)
    finally:
        child.kill()
        child.wait()


def test_studies_share_a_directory_that_a_run_would_hold_alone(tmp_path):
    with hold(tmp_path, shared=True), hold(tmp_path, shared=True):
        with pytest.raises(InUse), hold(tmp_path):
            pass
        assert not is_held(tmp_path)
    with hold(tmp_path), pytest.raises(InUse), hold(tmp_path, shared=True):
        pass


def test_a_strange_lock_file_names_nobody(tmp_path):
    for content in (b"", b"{", b"[" * 100_000, b"7", b'{"process": "x"}'):
        with hold(tmp_path):
            (tmp_path / "lock").write_bytes(content)
            with pytest.raises(InUse, match="another process works there"), hold(tmp_path):
                pass


def test_a_lock_that_cannot_be_written_names_its_path(tmp_path):
    (tmp_path / "lock").symlink_to("/dev/full")
    with pytest.raises(CannotWrite, match=f"^{tmp_path}/lock: cannot be written"), hold(tmp_path):
        pass


def test_a_lock_that_is_free_names_nobody(tmp_path):
    with hold(tmp_path):
        assert (tmp_path / "lock").read_bytes()
    with hold(tmp_path, shared=True), pytest.raises(InUse, match="another process works there"), hold(tmp_path):
        pass


@pytest.mark.parametrize("what", ["removed", "renamed", "replaced"])
def test_a_directory_that_goes_away_is_noticed(tmp_path, what):
    path = tmp_path / "run"
    with hold(path) as lock:
        lock.check()
        if what == "removed":
            (path / "lock").unlink()
            path.rmdir()
        else:
            path.rename(tmp_path / "elsewhere")
        if what == "replaced":
            with hold(path):
                pass
        with pytest.raises(CannotWrite, match="was removed, renamed or replaced"):
            lock.check()


def test_a_second_fit_is_refused_and_the_first_goes_on(tmp_path):
    refusals = []

    class Console:
        """Stands for the console of a run, which tries to start the same run again after its first epoch."""

        is_interactive = is_jupyter = False

        def print(self, *_, **__):
            with pytest.raises(InUse) as caught:
                loop.fit(CONFIG, make_dataset(), tmp_path)
            refusals.append(str(caught.value))

    result = loop.fit(CONFIG, make_dataset(), tmp_path, console=Console())
    assert len(refusals) == 3 and f"process {os.getpid()} on" in refusals[0]
    assert run_directory.read_result(tmp_path) == result
    assert not is_held(tmp_path)


def program(name, workdir, *words):
    """A tiny experiment of some seconds as a process of its own."""
    command = [sys.executable, "-m", f"experiments.{name}", *TINY, "--epochs", "150", "--workdir", str(workdir), *words]
    return subprocess.Popen(
        command, cwd=workdir.parent, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


PAIRS = {
    "the same run at once": (0.0, ("final",), ("final",)),
    "the same run half a second later": (0.5, ("final",), ("final",)),
    "the same run two seconds later": (2.0, ("final",), ("final",)),
    "another configuration": (0.2, ("final",), ("final", "--learning-rate", "0.02")),
    "another seed": (0.0, ("final",), ("final", "--first-seed", "1")),
    "resumed twice at once": (0.0, ("final", "--resume"), ("final", "--resume")),
    "resumed twice": (1.0, ("final", "--resume"), ("final", "--resume")),
    "several seeds twice": (0.3, ("final", "--seeds", "2"), ("final", "--seeds", "2")),
    "one seed and several": (0.3, ("final",), ("final", "--seeds", "2")),
    "a run and a sweep": (0.0, ("final",), ("grayscale",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PAIRS)
def test_of_two_programs_exactly_one_wins(tmp_path, kind):
    tiny_npz(tmp_path / "tiny.npz")
    apart, *commands = PAIRS[kind]
    if "resumed" in kind:  # something to resume
        first = program("final", tmp_path / "run")
        metrics = tmp_path / "run" / METRICS
        while first.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 5):
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        first.communicate()
        assert first.returncode == 143
    with contextlib.ExitStack() as stack:
        processes = []
        for name, *words in commands:
            processes.append(stack.enter_context(program(name, tmp_path / "run", *words)))
            time.sleep(apart)
        output = [process.communicate() for process in processes]
    statuses = [process.returncode for process in processes]
    assert sorted(statuses) == [0, 2], output
    loser = output[statuses.index(2)][1]
    assert loser.count("\n") == 1 and "Traceback" not in loser
    reasons = ("works there", "already holds this run", "holds another run", "holds runs of a single experiment")
    assert any(reason in loser for reason in reasons)
    for path in (tmp_path / "run").rglob("result.json"):
        run_directory.read_result(path.parent)
