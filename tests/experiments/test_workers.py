"""Several runs at once: who trains what, how workers share a device, what is left after a crash or a signal."""

import io
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import chex
import jax
import numpy as np
import pytest
import rich.console

from experiments import cross_validation, final, learning_rate, reproduce
from experiments.page import page
from experiments.study import progress, runs, single, sweep, worker, workers
from experiments.study.progress import Progress
from experiments.study.workers import Reply
from jresnet import cli
from jresnet.config import Config
from jresnet.errors import CannotWrite, Diverged, InputError, Interrupted, Lost
from tests.support.runs import final_state, strip
from tests.support.studies import TINY, five_classes, tiny_npz, tree

ROOT = pathlib.Path(__file__).parents[2]

# A worker without JAX: its runs are Python statements.
STAND_IN = """
import json, os, pathlib, pickle, sys, time
def reply(*words):
    print(json.dumps(words), flush=True)
def wait_for(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.01)
while True:
    try:
        run = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    exec(run)
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", STAND_IN))
    monkeypatch.chdir(tmp_path)


def test_a_worker_takes_the_next_run_when_it_is_done(stand_in):
    slow = "wait_for('last'); reply('trained')"
    quick = "reply('line', 'one epoch'); reply('trained')"
    last = "pathlib.Path('last').touch(); reply('elsewhere')"
    replies = list(workers.train([slow, quick, quick, last], 2))
    assert {(number, run) for number, run, _ in replies} == {(1, slow), (2, quick), (2, last)}
    of_second = [(run, reply) for number, run, reply in replies if number == 2]
    of_quick = [Reply("started"), Reply("line", "one epoch"), Reply("trained")]
    assert of_second == [(quick, reply) for reply in 2 * of_quick] + [
        (last, Reply("started")), (last, Reply("elsewhere")),
    ]  # fmt: skip
    assert [reply.kind for number, _, reply in replies if number == 1] == ["started", "trained"]


def test_no_more_workers_than_runs(stand_in):
    replies = list(workers.train(["reply('trained')"], 8))
    assert [(number, reply.kind) for number, _, reply in replies] == [(1, "started"), (1, "trained")]


def test_a_crashed_worker_is_named_and_the_other_goes_on(stand_in, capfd):
    killed = "print('about to', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    rest = ["wait_for('go'); reply('trained')", *["reply('trained')"] * 3]
    replies = []
    for number, run, reply in workers.train([killed, *rest], 2):
        replies.append((number, run, reply))
        if reply.kind == "Lost":
            pathlib.Path("go").touch()
    assert [reply for number, _, reply in replies if number == 1] == [
        Reply("started"), Reply("Lost", "worker 1 ended with SIGKILL: about to"),
    ]  # fmt: skip
    assert [run for number, run, reply in replies if number == 2 and reply.kind == "trained"] == rest
    assert capfd.readouterr() == ("", "[1] about to\n")


def test_runs_without_a_worker_are_not_trained(stand_in):
    replies = list(workers.train(["sys.exit('first\\nno device')"] * 2 + ["reply('trained')"], 2))
    lost = {reply.text for _, _, reply in replies if reply.kind == "Lost"}
    assert lost == {f"worker {number} ended with status 1: no device" for number in (1, 2)}
    assert len(replies) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_worker_through_its_stdin(stand_in, number):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    stopped = "sys.stdin.buffer.read(); reply('Interrupted', 'saved')"
    replies = []
    try:
        with pytest.raises(Interrupted) as caught:
            for _, run, reply in workers.train([stopped, stopped, "reply('trained')"], 2):
                replies.append(reply)
                assert run == stopped
                if len(replies) == 2:
                    os.kill(os.getpid(), number)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert caught.value.signal == number
    assert replies == [Reply("started")] * 2 + [Reply("Interrupted", "saved")] * 2


def test_workers_do_not_outlive_a_failing_study(stand_in):
    replies = workers.train(["pathlib.Path('pid').write_text(str(os.getpid())); reply('line', ''); time.sleep(60)"], 2)
    assert [next(replies)[2].kind, next(replies)[2].kind] == ["started", "line"]
    replies.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pathlib.Path("pid").read_text()), 0)


def test_workers_share_a_gpus_memory_unless_it_is_divided_already(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    shares = {n: float(workers.environment(n)["XLA_CLIENT_MEM_FRACTION"]) for n in (2, 3, 8)}
    assert shares == {n: pytest.approx(0.9 / n) for n in shares}
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.2")
    assert workers.environment(2) == os.environ | {"PYTHONPATH": workers.environment(2)["PYTHONPATH"]}
    # jaxlib raises ValueError if both names are set.
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.3")
    assert not workers.environment(2)["XLA_CLIENT_MEM_FRACTION"]


def test_what_is_said_of_the_device(monkeypatch, tmp_path):
    assert workers.sharing(2) == "2 processes share the CPU"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert f"no MPS daemon at {tmp_path}/control: nvidia-cuda-mps-control -d starts one" in workers.sharing(4)
    (tmp_path / "control").touch()
    assert workers.sharing(4).startswith(f"4 processes share one GPU; the MPS daemon of {tmp_path}/control ")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY")
    assert "/tmp/nvidia-mps/control" in workers.sharing(4)


@pytest.mark.parametrize("given", [None, "true"])
def test_the_study_itself_takes_no_memory_of_a_gpu(monkeypatch, given):
    name, seen = "XLA_PYTHON_CLIENT_PREALLOCATE", []
    monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(name, given)
    monkeypatch.setattr(jax, "local_device_count", lambda: seen.append(os.environ[name]) or 8)
    options = single.SingleOptions(seeds=2, processes=2)
    with pytest.raises(InputError, match=r"--processes 2: share one device, but 8 are visible: .* --parallel jit"):
        workers.check(options)
    assert seen == ["false"] and os.environ.get(name) == given
    workers.check(single.SingleOptions(seeds=2, processes=2, parallel="jit"))
    workers.check(single.SingleOptions())


PROGRAMS = {
    "final": lambda words: single.main("final", final.CONFIG, words),
    "learning_rate": lambda words: sweep.main(learning_rate.EXPERIMENT, words),
    "cross_validation": cross_validation.main,
    "reproduce": reproduce.main,
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--processes 0", "--processes 0: must be at least 1"),
        ("--processes two", "--processes two: must be a whole number"),
        (
            "--processes 2 --parallel pmap",
            "--processes 2: each process trains on one device: leave out --parallel pmap",
        ),
    ],
)
def test_bad_numbers_of_processes(tmp_path, monkeypatch, capsys, program, words, complaint):
    monkeypatch.chdir(tmp_path)
    assert PROGRAMS[program](["--seeds", "2", *words.split()] if program != "cross_validation" else words.split()) == 2
    assert capsys.readouterr() == ("", f"{complaint}\n")
    assert not tree(tmp_path)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--processes 3 --seeds 2", "--processes 3: must be at most --seeds 2, the number of runs"),
        (
            "--processes 2 --seeds 2 --num-processes 4 --process-id 0 --coordinator localhost:1234",
            "--processes 2: trains runs apart, but 4 processes train each run together: choose one of the two",
        ),
    ],
)
def test_bad_processes_of_a_single_experiment(tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    assert PROGRAMS["final"](words.split()) == 2
    assert capsys.readouterr() == ("", f"{complaint}\n")
    assert not tree(tmp_path)


def test_workers_train_a_shards_runs(monkeypatch, tmp_path, capsys):
    given = []

    def train(todo, processes):
        given.append((list(todo), processes))
        yield from ()

    monkeypatch.setattr(workers, "train", train)
    monkeypatch.setattr(reproduce, "load_dataset", lambda source, console: five_classes())
    monkeypatch.setattr(page, "write", lambda outcome, workdir: [])
    monkeypatch.chdir(tmp_path)
    words = ["--only", "final", "--seeds", "6", "--processes", "3"]
    for more in ([], ["--shard", "1/2"], ["--shard", "2/2"]):
        assert reproduce.main([*words, *more]) == 0
    (whole, first, second), counts = zip(*given, strict=True)
    assert counts == (3, 3, 3) and len(whole) == 6
    assert first == whole[::2] and second == whole[1::2]


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Three runs of seeds 0 to 2, and a function that sets what their workers reply."""
    config = Config(width=4, blocks=(1, 1), epochs=2)
    wanted = [runs.study_run("width", config, seed, five_classes(), tmp_path) for seed in range(3)]

    def reply(*kinds):
        given = [(1, run, Reply(kind, f"why {i}")) for i, (run, kind) in enumerate(zip(wanted, kinds, strict=True))]
        monkeypatch.setattr(workers, "train", lambda todo, processes: (item for item in given if item[1] in todo))

    return wanted, reply


@pytest.mark.parametrize(
    ("kinds", "error", "message"),
    [
        ("Diverged trained Diverged", Diverged, "2 runs diverged, {0}: why 0; {2}: why 2"),
        ("Diverged Lost trained", Lost, "1 run not finished, {1}: why 1; go on with: again"),
        ("Interrupted trained trained", Lost, "1 run not finished, {0}: why 0; go on with: again"),
        ("Lost InputError Diverged", InputError, "1 run refused, {1}: why 1"),
        ("CannotWrite Lost trained", CannotWrite, "1 run not written, {0}: why 0"),
    ],
)
def test_failures_are_raised_at_the_end(three, capsys, kinds, error, message):
    wanted, reply = three
    reply(*kinds.split())
    study = Progress(cli.make_console(), 2)
    study.train(wanted, {"width": wanted})
    out = capsys.readouterr().out
    with pytest.raises(error) as caught:
        study.raise_failures("again")
    assert str(caught.value) == message.format(*(run.directory for run in wanted))
    for i, (run, kind) in enumerate(zip(wanted, kinds.split(), strict=True)):
        assert (f"{run.directory}: why {i}" in out) == (kind != "trained")
    study.train(wanted, {"width": wanted})
    assert len(study.failed) == sum(kind != "trained" for kind in kinds.split())


def test_a_studys_lines_name_the_worker(three, monkeypatch, capsys):
    wanted, _ = three
    given = [
        (2, wanted[0], Reply("started")),
        (2, wanted[0], Reply("line", "[Epoch] 0")),
        (2, wanted[0], Reply("elsewhere")),
    ]
    monkeypatch.setattr(workers, "train", lambda todo, processes: (item for item in given))
    Progress(cli.make_console(), 2).train(wanted, {"width": wanted})
    assert capsys.readouterr().out.splitlines() == [
        "2 processes share the CPU",
        f"[2] {progress.title(wanted[0])}",
        "[2] [Epoch] 0",
        f"[2] {progress.ELSEWHERE}",
    ]


@pytest.mark.parametrize(
    ("happens", "reply"),
    [
        (True, Reply("trained")),
        (False, Reply("elsewhere")),
        (Diverged("not finite"), Reply("Diverged", "not finite")),
        (InputError("no number"), Reply("InputError", "no number")),
        (CannotWrite("no space"), Reply("CannotWrite", "no space")),
        (Interrupted("saved", 15), Reply("Interrupted", "saved")),
    ],
)
def test_what_a_worker_replies(monkeypatch, happens, reply):
    sent = []

    def train(run, console):
        console.print("Epoch 0, " + "x" * 200, soft_wrap=True)
        if isinstance(happens, Exception):
            raise happens
        return happens

    monkeypatch.setattr(runs, "train", train)
    assert worker.train(None, rich.console.Console(file=worker.Lines(sent.append), color_system=None)) == reply
    assert sent == [Reply("line", "Epoch 0, " + "x" * 200)]


def test_a_worker_without_a_study_interrupts_its_training(monkeypatch):
    signals, done, stop = [], threading.Event(), threading.Event()
    monkeypatch.setattr(worker, "POLL", 0.001)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x80\x04")))  # the study was killed while it sent
    monkeypatch.setattr(
        os, "kill", lambda pid, number: (signals.append((pid, number)), len(signals) == 3 and done.set())
    )
    given = worker.queue.SimpleQueue()
    worker.listen(given, stop, done)
    assert given.get() is None and stop.is_set()
    assert signals == [(os.getpid(), signal.SIGTERM)] * 3


# With real workers. Networks are tiny; what takes time is that every worker imports JAX and compiles.
SWEEP = [*TINY[:7], "--batch-size", "12", "--pool-size", "4"]


def start(program, words, here):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", program, *words],
        cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def made(place):
    """Of every run below a directory, by its path: what the clock does not decide."""
    return {
        str(path.parent.relative_to(place)): (
            strip(path.parent),
            {name: array.tobytes() for name, array in np.load(path.parent / "predictions.npz").items()},
            json.loads((path.parent / "config.json").read_text()),
            (path.parent / "config.json").read_bytes(),
        )
        for path in place.rglob("result.json")
    }


def assert_equal_runs(place, other):
    found, expected = made(place), made(other)
    assert found == expected and found
    for path in found:
        chex.assert_trees_all_equal(final_state(place / path), final_state(other / path))


@pytest.mark.slow
def test_a_study_of_two_processes_equals_one_made_alone(tmp_path, monkeypatch, capsys):
    """With --follow, so that the second stage needs what the first decided."""
    monkeypatch.chdir(tmp_path)
    words = ["--quick", "--follow", "--only", "learning_rate", "batch_size", "--seeds", "1", "--epochs", "1"]
    assert reproduce.main([*words, "--workdir", "alone"]) == 0
    alone = capsys.readouterr().out
    assert reproduce.main([*words, "--workdir", "together", "--processes", "2"]) == 0
    together, err = capsys.readouterr()
    assert err == "" and {"[1]", "[2]"} < set(together.split())
    assert_equal_runs(tmp_path / "together", tmp_path / "alone")
    assert len(made(tmp_path / "alone")) >= 5
    assert [line for line in together.splitlines() if "undecided" in line] == [
        line for line in alone.splitlines() if "undecided" in line
    ]


@pytest.mark.slow
def test_seeds_trained_by_two_processes_equal_those_made_alone(tmp_path, monkeypatch, capsys):
    tiny_npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    assert single.main("final", final.CONFIG, [*TINY, "--seeds", "3", "--workdir", "alone"]) == 0
    capsys.readouterr()
    assert single.main("final", final.CONFIG, [*TINY, "--seeds", "3", "--workdir", "together", "--processes", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and re.search(r"final +3 +3 +0 +0 +0", out)
    assert_equal_runs(tmp_path / "together", tmp_path / "alone")
    for seed in range(3):
        kept = [sorted(os.listdir(tmp_path / place / f"seed-{seed}/checkpoints")) for place in ("alone", "together")]
        assert kept[0] == kept[1]


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_after_a_signal_the_workers_have_saved_their_runs(tmp_path, monkeypatch, number, status):
    tiny_npz(tmp_path / "tiny.npz")
    words = [*SWEEP, "--epochs", "80"]
    with start("experiments.learning_rate", [*words, "--workdir", "w", "--processes", "2"], tmp_path) as process:
        deadline = threading.Timer(150, process.kill)
        deadline.start()
        for line in process.stdout:  # worker 2 may be anywhere: it started at the same time
            if line.startswith("[1] Epoch 2,"):
                break
        found = children(process.pid)
        process.send_signal(number)
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait() == status, err
        deadline.cancel()
    assert len(found) == 2
    until = time.monotonic() + 60
    while any(map(alive, found)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, found)), "workers do not outlive their study"
    assert not list(tmp_path.glob("w/runs/*rate0.01-*/seed-0/result.json")), "the signal came too late"
    command = "python -m experiments.learning_rate " + shlex.join(
        [*words, "--workdir", "w", "--processes", "2", "--resume"]
    )
    if number != signal.SIGKILL:
        assert err == f"interrupted; the state of every run is saved; go on with: {command}\n"
        assert re.search(r"rate0\.01-\S+/seed-0: interrupted after epoch \d+, step \d of \d; the state is saved\n", out)

    again = start("experiments.learning_rate", shlex.split(command)[3:], tmp_path)
    out, err = again.communicate(timeout=170)
    assert (again.returncode, err) == (0, "")
    epochs = [line for line in out.splitlines() if line.startswith("[1] Epoch")]
    assert int(re.match(r"\[1\] Epoch (\d+)", epochs[0])[1]) >= 2, "it resumed, and did not start over"
    monkeypatch.chdir(tmp_path)
    assert sweep.main(learning_rate.EXPERIMENT, [*words, "--workdir", "alone"]) == 0
    assert_equal_runs(tmp_path / "w", tmp_path / "alone")


@pytest.mark.slow
def test_a_killed_worker_ends_the_study_with_3_after_all_other_runs(tmp_path, monkeypatch):
    tiny_npz(tmp_path / "tiny.npz")
    words = [*SWEEP, "--epochs", "40"]
    with start("experiments.learning_rate", [*words, "--workdir", "w", "--processes", "2"], tmp_path) as process:
        for line in process.stdout:
            if line.startswith("[1] Epoch 2,"):
                break
        os.kill(children(process.pid)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=170)
    assert process.returncode == 3
    assert re.fullmatch(
        r"1 run not finished, w/runs/\S+/seed-0: worker 1 ended with SIGKILL: it printed no error; "
        r"go on with: python -m experiments\.learning_rate .* --resume\n",
        err,
    )
    assert len(made(tmp_path / "w")) == 2 and "w/table.md" in out
    again = start("experiments.learning_rate", shlex.split(err.partition("go on with: ")[2])[3:], tmp_path)
    out, err = again.communicate(timeout=170)
    assert (again.returncode, err) == (0, "") and len(made(tmp_path / "w")) == 3
    monkeypatch.chdir(tmp_path)
    assert sweep.main(learning_rate.EXPERIMENT, [*words, "--workdir", "alone"]) == 0
    assert_equal_runs(tmp_path / "w", tmp_path / "alone")
