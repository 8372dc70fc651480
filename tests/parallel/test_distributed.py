"""Several real processes on the loopback: they meet, train as one would, and none hangs when another is gone."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jresnet
from jresnet.errors import InputError, Lost
from jresnet.parallel import distributed
from jresnet.parallel.distributed import ProcessOptions, num_processes_and_id
from jresnet.records import run_directory
from tests.support.studies import TINY, tiny_npz

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 120  # seconds that no test should come near
SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": "node[1-4]",
}  # fmt: skip
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5"}
ORTE = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "3"}


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ({}, {}, (1, 0)),
        ({}, SLURM, (4, 2)),
        # Within sbatch, outside srun: nobody has started eight of it.
        ({}, {name: value for name, value in SLURM.items() if "STEP" not in name}, (1, 0)),
        ({}, OPEN_MPI | ORTE, (8, 5)),
        ({"coordinator": "node1:1234"}, OPEN_MPI, (8, 5)),
        ({"coordinator": "node1:1234", "num_processes": 4}, KUBERNETES, (4, 3)),
        ({}, KUBERNETES, (1, 0)),
        ({"coordinator": "node1:1234", "num_processes": 4, "process_id": 0}, SLURM | KUBERNETES, (4, 0)),
        ({"num_processes": 1}, SLURM, (1, 0)),
        # An array job's tasks are studies' shards, not one run's processes.
        ({}, SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, (1, 0)),
    ],
)
def test_the_place_is_the_options_or_the_launchers(options, environment, expected):
    assert num_processes_and_id(ProcessOptions(**options), environment) == expected


@pytest.mark.parametrize(
    ("options", "environment", "complaint"),
    [
        ({"num_processes": 2, "process_id": 0}, {}, "--num-processes 2: needs --coordinator HOST:PORT"),
        ({}, OPEN_MPI, "--num-processes 8: needs --coordinator HOST:PORT"),
        ({"num_processes": 2, "coordinator": "a:1"}, {}, "--num-processes 2: needs --process-id"),
        ({"num_processes": 2, "coordinator": "a:1", "process_id": 2}, {}, "--process-id 2: must lie from 0 to 1"),
        ({"num_processes": 2, "coordinator": "a:1", "process_id": -1}, {}, "--process-id -1: must lie from 0 to 1"),
        ({"num_processes": 2, "coordinator": "a:1"}, KUBERNETES, "--process-id 3: must lie from 0 to 1"),
        ({"process_id": 1}, {}, "--process-id 1: must lie from 0 to 0, as --num-processes is 1"),
        ({"coordinator": "a:1"}, {}, "--coordinator a:1: needs --num-processes"),
        ({"num_processes": 2, "coordinator": "node1", "process_id": 0}, {}, "--coordinator node1: must be HOST:PORT"),
        (
            {"num_processes": 2, "coordinator": "a:99999", "process_id": 0},
            {},
            "--coordinator a:99999: must be HOST:PORT",
        ),
        ({"num_processes": 0}, {}, "--num-processes 0: must be at least 1"),
        ({"join_seconds": 0}, {}, "--join-seconds 0: must be at least 1"),
    ],
)
def test_an_impossible_place_is_refused_in_a_line(options, environment, complaint):
    with pytest.raises(InputError) as caught:
        num_processes_and_id(ProcessOptions(**options), environment)
    assert str(caught.value).startswith(complaint) and "\n" not in str(caught.value)


def test_a_process_alone_agrees_with_itself():
    assert distributed.process_max((1.5, 0)) == [1.5, 0]
    assert distributed.require_equal({"--width": 42}, {"jax": "0.10.2"}) == []


def test_versions_that_differ_are_warned_of_and_options_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    other = [{"--width": 42}, {"jax": "0.10.1", "numpy": "2.4.6"}]
    monkeypatch.setattr(distributed, "_exchange", lambda record: [record, other])
    (warning,) = distributed.require_equal({"--width": 42}, {"jax": "0.10.2", "numpy": "2.4.6"})
    assert warning.startswith("process 1 has jax 0.10.1, process 0 0.10.2:")
    with pytest.raises(InputError, match="process 1: --width is 42, but 64 in process 0: give all"):
        distributed.require_equal({"--width": 64}, {})


def test_only_errors_of_collectives_among_several_mean_that_another_is_gone(monkeypatch):
    gone = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:428\nmore")
    for processes, error, expected in ((2, gone, Lost), (1, gone, ValueError), (2, KeyError("x"), KeyError)):
        monkeypatch.setattr(jax, "process_count", lambda processes=processes: processes)
        with pytest.raises(expected) as caught, distributed.lost_peers():
            raise error
        assert type(caught.value) is expected
        assert expected is not Lost or "\n" not in str(caught.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a tiny data set, that processes are started in."""
    tiny_npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def begin(*each, count=2, indices=None):
    """Start processes of one run, `each` with words of its own; returns them."""
    coordinator = f"127.0.0.1:{free_port()}"
    words = [sys.executable, "-m", "experiments.final", *TINY, "--workdir", "two", "--coordinator", coordinator]
    return [
        subprocess.Popen(
            [*words, "--num-processes", str(count), "--process-id", str(index), *more],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index, more in zip(indices or range(count), each, strict=True)
    ]  # fmt: skip


def end(processes):
    """[(status, stdout, stderr)] of processes that end by themselves."""
    try:
        return [(process.wait(PATIENCE), *process.communicate()) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def trained_for(epochs):
    """Wait until so many epochs are recorded."""
    path, deadline = pathlib.Path("two/metrics.jsonl"), time.monotonic() + PATIENCE
    while not path.exists() or path.read_text().count("\n") < epochs:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def config_of(directory):
    return run_directory.read_run(pathlib.Path(directory)).config


def metrics(directory):
    return [json.loads(line) for line in pathlib.Path(directory, "metrics.jsonl").read_text().splitlines()]


def plain(stderr):
    """What a process itself said, without the lines of Gloo's connections and of JAX's own log."""
    return [line for line in stderr.splitlines() if line.startswith(("process ", "127.0.0.1:", "interrupted"))]


@pytest.mark.slow
def test_two_processes_train_what_one_does(here):
    found = end(begin([], []))
    assert [status for status, _, _ in found] == [0, 0], found
    jresnet.fit(config_of("two"), jresnet.load_dataset("npz:tiny.npz"), here / "one")
    for ours, theirs in zip(metrics("two"), metrics("one"), strict=True):
        for name in ours:
            if name.endswith(("loss", "accuracy", "batch_mean", "rate", "epoch")):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    two, one = (jresnet.Classifier.load(here / name).variables for name in ("two", "one"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), two, one)
    predictions = [np.load(here / name / "predictions.npz")["test_predictions"] for name in ("two", "one")]
    np.testing.assert_array_equal(*predictions)
    # One of them writes and speaks.
    assert len(list((here / "two").glob("events.*"))) == 1 and len(metrics("two")) == 2
    assert found[0][1].count("Epoch ") == 2 and "Epoch " not in found[1][1]
    assert json.loads((here / "two" / "result.json").read_text())["device"].endswith("2 devices")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resident", "tfds"])
def test_two_processes_of_two_devices_each_train_what_one_does(here, monkeypatch, kind):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    found = end(begin(*[["--input", kind]] * 2))
    assert [status for status, _, _ in found] == [0, 0], found
    assert json.loads((here / "two" / "result.json").read_text())["device"].endswith("4 devices")
    jresnet.fit(config_of("two"), jresnet.load_dataset("npz:tiny.npz"), here / "one")
    for ours, theirs in zip(metrics("two"), metrics("one"), strict=True):
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name


@pytest.mark.slow
def test_a_signal_to_one_stops_both_at_one_step_and_one_alone_goes_on(here):
    words = ["--epochs", "40", "--learning-rate", "0.002"]  # with 0.05, rounding grows to a percent over 120 steps
    processes = begin(words, words)
    trained_for(2)
    processes[1].send_signal(signal.SIGTERM)
    found = end(processes)
    assert [status for status, _, _ in found] == [143, 143], found
    places = {line.split(";")[0] for _, _, stderr in found for line in plain(stderr)}
    assert len(places) == 1 and places.pop().startswith("interrupted after epoch ")
    before = metrics("two")
    assert 2 <= len(before) < 40
    (alone,) = end(begin([*words, "--resume"], count=1))
    assert alone[0] == 0, alone
    assert [line["epoch"] for line in metrics("two")] == list(range(40)) and metrics("two")[: len(before)] == before
    # As if nothing had happened.
    jresnet.fit(config_of("two"), jresnet.load_dataset("npz:tiny.npz"), here / "one")
    for name in ("train_loss", "test_loss"):
        assert metrics("two")[-1][name] == pytest.approx(metrics("one")[-1][name], rel=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_stops_the_other_and_leaves_a_checkpoint(here, victim):
    processes = begin(*[["--epochs", "200"]] * 2)
    trained_for(2)
    processes[victim].kill()
    killed = time.monotonic()
    survivor = end([processes[1 - victim]])[0]
    assert time.monotonic() - killed < 60
    # 3 where the process noticed by itself; SIGABRT where JAX's runtime was faster, whose witness then speaks.
    assert survivor[0] in (3, -signal.SIGABRT), survivor
    assert any("start all processes again with --resume" in line for line in plain(survivor[2])), survivor
    processes[victim].communicate()
    last = max(int(path.name) for path in (here / "two" / "checkpoints").glob("[0-9]*") if path.name.isdigit())
    (alone,) = end(begin(["--epochs", "200", "--resume"], count=1))
    assert alone[0] == 0 and [line["epoch"] for line in metrics("two")] == list(range(200))
    # It went on from the checkpoint: only epochs after that one were trained, and said, again.
    assert alone[1].count("Epoch ") <= 200 - last // 3 + 1


@pytest.mark.slow
def test_two_processes_stream_their_parts_of_every_batch(here):
    found = end(begin(*[["--input", "tfds"]] * 2))
    assert [status for status, _, _ in found] == [0, 0], found
    jresnet.fit(config_of("two"), jresnet.load_dataset("npz:tiny.npz"), here / "one")
    for name in ("train_loss", "test_loss"):
        assert metrics("two")[-1][name] == pytest.approx(metrics("one")[-1][name], rel=1e-5), name


def test_a_port_in_use_is_said(here, capsys):
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        options = ProcessOptions(coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=0)
        with pytest.raises(InputError, match=f"port {port} cannot be used here .*: choose another"):
            distributed.initialize(options)


@pytest.mark.slow
def test_processes_with_different_options_stop_before_training(here):
    found = end(begin(["--learning-rate", "0.05"], ["--learning-rate", "0.5"]))
    for status, stdout, stderr in found:
        assert status == 2 and "Epoch" not in stdout
        assert "process 1: --learning-rate is 0.5, but 0.05 in process 0: give all" in stderr
    assert not (here / "two").exists()


@pytest.mark.parametrize(("index", "complaint"), [(0, "not all processes connected"), (1, "cannot be reached")])
def test_a_process_waits_for_others_no_longer_than_it_was_told(here, index, complaint):
    ((status, _, stderr),) = end(begin(["--join-seconds", "1"], indices=[index]))
    assert status == 2, stderr
    (line,) = plain(stderr)
    assert complaint in line and "within 1 seconds" in line
    assert not (here / "two").exists()
