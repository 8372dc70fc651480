"""A run whose files were damaged, edited or mixed up: refused or healed in one line, never believed."""

import dataclasses
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jresnet.cli.commands import main
from jresnet.errors import InputError, Interrupted
from jresnet.parallel import devices
from jresnet.records import run_directory
from jresnet.records.epoch import read_metrics
from jresnet.records.files import json_bytes
from jresnet.records.lock import hold
from jresnet.train import loop, trainer
from jresnet.train.checkpoint import DAMAGED
from jresnet.use.classifier import Classifier
from tests.faults.test_checkpoint_damage import cut, erase, flip, remove
from tests.support.runs import CONFIG, final_state, make_dataset, strip
from tests.support.studies import TINY, tiny_npz, tree

ROOT = pathlib.Path(__file__).parents[2]
SHORT = dataclasses.replace(CONFIG, epochs=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    loop.fit(SHORT, make_dataset(), workdir)
    return workdir


def edit(path, old, new):
    text = path.read_text()
    assert re.search(old, text)
    path.write_text(re.sub(old, new, text, count=1))


def save_garbage(path):
    np.savez(path, test_predictions=np.zeros(37, np.int32), test_confidences=np.ones(37, np.float32))


EDITS = {
    "better accuracy": lambda run: edit(run / "result.json", r'"test_accuracy": [\d.]+', '"test_accuracy": 0.99'),
    "garbage predictions": lambda run: save_garbage(run / "predictions.npz"),
    "no predictions": lambda run: (run / "predictions.npz").unlink(),
    "another epoch": lambda run: edit(run / "metrics.jsonl", r'"train_loss": [\d.]+', '"train_loss": 0.5'),
    "another configuration": lambda run: edit(run / "config.json", '"weight_decay": 0.0005', '"weight_decay": 0.0006'),
    "no sums": lambda run: (run / "sha256sums.txt").unlink(),
    "sums without predictions": lambda run: edit(run / "sha256sums.txt", r"\w+  predictions.npz\n", ""),
    "no configuration": lambda run: (run / "config.json").unlink(),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_finished_run_that_was_edited_is_refused_wherever_it_is_read(finished, tmp_path, name, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    EDITS[name](run)
    before = tree(run)
    with pytest.raises(InputError) as caught:
        loop.fit(SHORT, make_dataset(), run)
    assert str(run) in str(caught.value) and any(word in str(caught.value) for word in ("restore", "choose", "repeat"))
    assert "\n" not in str(caught.value) and tree(run) == before
    assert main(["verify", str(tmp_path)]) == 2
    assert "1 of 1 runs" in capsys.readouterr().err


def test_the_result_of_another_run_beside_new_sums_is_refused(finished, tmp_path):
    """As two runs at once in one directory left it."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    other = json.loads((run / "result.json").read_text())
    other["config"]["learning_rate"] = 0.04
    history = read_metrics(run / "metrics.jsonl")
    run_directory.finish(run, other, history)
    with pytest.raises(InputError, match=r"contradicts the other records \(learning_rate 0.04, not 0.05\)"):
        run_directory.read_result(run)
    edit(run / "metrics.jsonl", r"(?s)^.*\n(?=.+\n$)", "")
    other["config"]["learning_rate"] = 0.05
    with pytest.raises(InputError, match="line 1: is of epoch 1, not 0"):
        run_directory.finish(run, other, history)
    (run / "metrics.jsonl").write_bytes(json_bytes(history[0], indent=None))
    with pytest.raises(InputError, match="was changed while the run trained"):
        run_directory.finish(run, other, history)


def test_verify_says_what_is_sound_and_what_is_not(finished, tmp_path, capsys):
    for name in ("sound", "trained", "damaged"):
        shutil.copytree(finished, tmp_path / name)
    (tmp_path / "copy").mkdir()
    for name in ("result.json", "metrics.jsonl", "sha256sums.txt"):
        shutil.copy(finished / name, tmp_path / "copy")
    with hold(tmp_path / "trained"):
        assert main(["verify", str(tmp_path)]) == 0
    lines = dict(line.removeprefix(f"{tmp_path}/").split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines == {
        "copy": "copy of a result, sound",
        "damaged": "finished, records sound; 2 checkpoints sound",
        "sound": "finished, records sound; 2 checkpoints sound",
        "trained": "training in progress: not checked",
    }
    for data in (tmp_path / "damaged" / "checkpoints" / "5").rglob("d/*"):
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    assert main(["verify", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"1 of 4 runs in {tmp_path} are damaged, the first: {tmp_path}/damaged/checkpoints/5")
    assert output.err.count("\n") == 1 and "sound: finished, records sound" in output.out
    edit(tmp_path / "copy" / "result.json", r'"test_loss": \d', '"test_loss": 9')
    assert main(["verify", str(tmp_path / "copy")]) == 2
    assert "test_loss is 9" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "absent")]) == 2
    assert "there is no run in it" in capsys.readouterr().err


def interrupted(workdir, config=CONFIG, stop_in=2):
    """A run that was stopped in an epoch, after its first step or a few."""
    train_epoch = loop.Trainer.train_epoch

    def stop(self, epoch, log, signals):
        if epoch == stop_in:
            os.kill(os.getpid(), signal.SIGTERM)
        train_epoch(self, epoch, log, signals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "train_epoch", stop)
        with pytest.raises(Interrupted):
            loop.fit(config, make_dataset(), workdir, keep=None, checkpoint_seconds=0)


def test_a_run_goes_on_from_the_newest_sound_checkpoint(tmp_path, caplog):
    run = tmp_path / "run"
    interrupted(run)
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in [path for path in newest.rglob("d/*") if path.is_file()]:
        path.write_bytes(b"damaged")
    assert Classifier.load(run).classes == ("left", "middle", "right")
    loop.fit(CONFIG, make_dataset(), run, keep=None)
    assert not newest.exists() and (run / DAMAGED / f"{newest.name}-1").is_dir()
    assert sum("going on from an older one" in line for line in caplog.messages) == 2
    loop.fit(CONFIG, make_dataset(), tmp_path / "whole")
    assert strip(run) == strip(tmp_path / "whole")
    assert str(final_state(run)) == str(final_state(tmp_path / "whole"))


def test_verify_compares_the_log_of_an_unfinished_run_with_its_checkpoints(tmp_path, capsys):
    interrupted(tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    assert "not finished, records readable; 3 checkpoints sound" in capsys.readouterr().out
    edit(tmp_path / "metrics.jsonl", r'"train_loss": [\d.]+', '"train_loss": 0.5')
    assert main(["verify", str(tmp_path)]) == 2
    assert "does not begin with the epochs of checkpoint" in capsys.readouterr().err


def test_checkpoints_of_another_run_are_not_used(tmp_path):
    interrupted(tmp_path / "one")
    interrupted(tmp_path / "other", dataclasses.replace(CONFIG, learning_rate=0.04))
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "one" / "checkpoints")
    with pytest.raises(InputError, match="is that of another run; no older one is sound: restore one from a copy"):
        loop.fit(CONFIG, make_dataset(), tmp_path / "one")
    with pytest.raises(InputError, match="is that of another run"):
        Classifier.load(tmp_path / "one")


@pytest.mark.slow
def test_a_run_that_is_resumed_on_other_devices_or_cores_says_so(tmp_path, caplog, monkeypatch):
    interrupted(tmp_path / "run")
    cores = devices.cpu_cores()
    monkeypatch.setattr(devices, "cpu_cores", lambda: cores + 1)
    result = loop.fit(dataclasses.replace(CONFIG, parallel="pmap"), make_dataset(), tmp_path / "run")
    assert caplog.messages == [
        f"resumed with form pmap, not jit, threads {cores + 1}, not {cores}: "
        "sums may round otherwise, and the last bits differ"
    ]
    assert result.execution == dataclasses.replace(result.execution, form="pmap", devices=1, threads=cores + 1)


@pytest.mark.slow
def test_a_resumed_run_compiles_nothing_that_a_fresh_one_has_compiled(tmp_path, monkeypatch):
    """Nothing is added to the cache on disk by a process that begins with nothing in memory."""

    def forget():
        jax.clear_caches()
        for cached in (trainer.train_program, trainer.init_program):
            cached.cache_clear()
        compilation_cache.reset_cache()

    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        forget()
        interrupted(tmp_path / "run", SHORT, stop_in=1)
        compiled = {path.name for path in (tmp_path / "xla").glob("*-cache")}
        forget()
        loop.fit(SHORT, make_dataset(), tmp_path / "run")
        assert {path.name for path in (tmp_path / "xla").glob("*-cache")} == compiled
        assert any("program" in name for name in compiled)
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
        forget()


def resume(workdir):
    """Continue the tiny run in a process of its own."""
    command = [sys.executable, "-m", "experiments.final", *TINY, "--workdir", "run", "--resume"]
    return subprocess.run(
        command, cwd=workdir.parent, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


@pytest.mark.slow
def test_20_damages_end_to_end(tmp_path):
    rng = random.Random(0)
    tiny_npz(tmp_path / "tiny.npz")
    assert resume(tmp_path / "run").returncode == 0
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "run", whole)
    for name in ("result.json", "predictions.npz", "curves.png", "sha256sums.txt"):
        (tmp_path / "run" / name).unlink()
    shutil.move(tmp_path / "run", tmp_path / "unfinished")
    healed = 0
    for number in range(20):
        workdir = tmp_path / str(number) / "run"
        shutil.copytree(tmp_path / "unfinished", workdir)
        shutil.copy(tmp_path / "tiny.npz", workdir.parent)
        names = ("checkpoints", "metrics.jsonl") if number % 4 else ("config.json", "metrics.jsonl")
        files = [
            path
            for path in sorted(workdir.rglob("*"))
            if path.is_file() and path.relative_to(workdir).parts[0] in names
        ]
        rng.choice([flip, flip, cut, remove, erase])(rng, rng.choice(files), files)
        done = resume(workdir)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert done.returncode in (0, 2), done.stderr
        if done.returncode == 2:
            assert done.stderr.count("\n") == 1 and str(workdir.name) in done.stderr
            continue
        healed += 1
        assert all("checkpoints" in line or "metrics.jsonl" in line for line in done.stderr.splitlines())
        assert strip(workdir) == strip(whole)
        ours, theirs = (Classifier.load(path).variables for path in (workdir, whole))
        chex.assert_trees_all_equal(ours, theirs)
        run_directory.read_result(workdir)
    assert healed >= 10


@pytest.mark.slow
def test_whole_numbers_for_rates_are_the_same_run(tmp_path):
    config = dataclasses.replace(SHORT, flip=0, warmup_epochs=1, grayscale=1)
    assert [type(value) for value in (config.flip, config.warmup_epochs)] == [float, float]
    result = loop.fit(config, make_dataset(), tmp_path)
    assert loop.fit(dataclasses.replace(config, flip=0.0), make_dataset(), tmp_path) == result
    Classifier.load(tmp_path)
    assert main(["verify", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [0, 0, 1],
        pytest.param([0], marks=pytest.mark.slow),
        pytest.param([1, 0], marks=pytest.mark.slow),
        pytest.param([1], marks=pytest.mark.slow),
    ],
)
def test_edited_epochs_never_reach_the_result(tmp_path, lines, caplog):
    """Deleted, emptied, doubled and shuffled lines of metrics.jsonl."""
    interrupted(tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    assert len(whole) == 2
    path.write_bytes(b"".join(whole[line] for line in lines))
    result = loop.fit(CONFIG, make_dataset(), tmp_path)
    assert result.epochs == 3 and path.read_bytes().splitlines(keepends=True)[:2] == whole
    assert len(caplog.messages) == 1 and "kept as metrics.jsonl.damaged-1" in caplog.messages[0]
    assert math.isclose(result.seconds, sum(record["seconds"] for record in read_metrics(path)))
