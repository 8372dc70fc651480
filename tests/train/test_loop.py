"""One run from end to end: exact figures, and the same final parameters however often it was stopped."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet import models
from jresnet.cli.verify import runs_in, verified
from jresnet.config import Config
from jresnet.data.datasets import Split
from jresnet.data.mapped import MappedImages
from jresnet.errors import Diverged, InputError, Interrupted
from jresnet.parallel.devices import Devices
from jresnet.records import run_directory
from jresnet.records.run import Run
from jresnet.train import loop, trainer
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.evaluate import Evaluator, summarise
from jresnet.use.classifier import Classifier
from tests.support.runs import CONFIG, final_state, make_dataset, strip


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    chex.assert_trees_all_equal(final_state(one), final_state(other))
    assert strip(one) == strip(other)
    with np.load(one / "predictions.npz") as ours, np.load(other / "predictions.npz") as theirs:
        chex.assert_trees_all_equal(dict(ours), dict(theirs))


def saved(workdir: pathlib.Path) -> list[int]:
    """The steps of the checkpoints on disk."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.steps()


@pytest.fixture(scope="module", params=["resident", pytest.param("tfds", marks=pytest.mark.slow)])
def whole(request, tmp_path_factory):
    """An uninterrupted run that keeps every checkpoint: its configuration and directory."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    config = dataclasses.replace(CONFIG, input=request.param)
    loop.fit(config, make_dataset(), workdir, keep=None, checkpoint_seconds=0)
    return config, workdir


def rewind(source: pathlib.Path, target: pathlib.Path, step: int) -> None:
    """A run's directory as a kill right after the checkpoint of `step` would leave it; records of later epochs stay."""
    shutil.copytree(source, target)
    for name in ("result.json", "curves.png", "predictions.npz"):
        (target / name).unlink()
    for path in (target / "checkpoints").iterdir():
        if path.is_dir() and int(path.name) > step:
            shutil.rmtree(path)


def test_resume_from_every_saved_epoch_ends_in_the_same_bits(whole, tmp_path):
    config, source = whole
    assert saved(source) == [5, 10, 15]
    for step in (5, 10, 15):
        target = tmp_path / str(step)
        rewind(source, target, step)
        result = loop.fit(config, make_dataset(), target, keep=None)
        assert_same_run(source, target)
        recorded = json.loads((source / "result.json").read_text())
        assert result.test_loss == recorded["test_loss"] and result.test_accuracy == recorded["test_accuracy"]
        assert (result.resumed, recorded["resumed"]) == (True, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "ema_decay": 0.9, "mixup": 0.4, "cutmix": 1.0, "trivialaugment": True, "accumulate": 2},
        {"optimizer": "muon", "clip_norm": 1.0, "alternate_flip": True, "cutout": 3, "label_smoothing": 0.1},
        {"sam": 0.05, "randaugment": (2, 9), "schedule": "one-cycle", "warmup_epochs": 1.0},
    ],
)  # fmt: skip
def test_runs_with_ingredients_resume_in_the_same_bits(options, tmp_path):
    config = dataclasses.replace(CONFIG, **options)
    loop.fit(config, make_dataset(), tmp_path / "whole", keep=None, checkpoint_seconds=0)
    rewind(tmp_path / "whole", tmp_path / "resumed", 5)
    assert loop.fit(config, make_dataset(), tmp_path / "resumed", keep=None).resumed
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_a_run_that_is_given_more_epochs_ends_as_if_it_had_had_them_at_once(whole, tmp_path):
    config, source = whole
    short = dataclasses.replace(config, epochs=1)
    first = loop.fit(short, make_dataset(), tmp_path)
    loop.fit(config, make_dataset(), tmp_path)
    assert_same_run(source, tmp_path)
    run, result = run_directory.read_run(tmp_path), run_directory.read_result(tmp_path)
    assert (run.earlier_epochs, result.epochs) == ((1,), 3)
    assert run_directory.read_result(tmp_path / "earlier" / "1-epochs") == first
    assert [verified(path).partition(";")[0] for path in runs_in(tmp_path)] == ["finished, records sound"] * 2
    assert Classifier.load(tmp_path).classes == make_dataset().classes
    with pytest.raises(InputError, match=r"holds another run \(epochs 3, not 2\)"):
        loop.fit(dataclasses.replace(config, epochs=2), make_dataset(), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(InputError, match=r"--epochs 4: .* holds the run with 3 epochs, but no checkpoint of it"):
        loop.fit(dataclasses.replace(config, epochs=4), make_dataset(), tmp_path)
    assert run_directory.read_result(tmp_path) == result


def test_an_unfinished_run_may_end_after_fewer_epochs_than_planned(whole, tmp_path):
    config, source = whole
    rewind(source, tmp_path / "run", 10)
    record = json.loads((source / "config.json").read_text())
    record["config"]["epochs"] = 20_000
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"epochs 20000, not 1"):  # two are trained already
        loop.fit(dataclasses.replace(config, epochs=1), make_dataset(), tmp_path / "run")
    loop.fit(config, make_dataset(), tmp_path / "run")
    assert_same_run(source, tmp_path / "run")
    assert run_directory.read_run(tmp_path / "run").earlier_epochs == (20_000,)


@pytest.mark.slow
def test_a_run_that_stops_on_the_way_to_more_epochs_has_lost_nothing(whole, tmp_path, monkeypatch):
    config, source = whole
    short = dataclasses.replace(config, epochs=1)
    loop.fit(short, make_dataset(), tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_directory, "write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(config, make_dataset(), tmp_path)
    monkeypatch.undo()
    assert loop.fit(short, make_dataset(), tmp_path).epochs == 1
    for epochs in (2, 3):
        loop.fit(dataclasses.replace(config, epochs=epochs), make_dataset(), tmp_path)
    assert run_directory.read_run(tmp_path).earlier_epochs == (1, 2)
    assert_same_run(source, tmp_path)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step"])
def test_a_run_whose_rates_depend_on_its_epochs_is_not_given_more(tmp_path, schedule):
    config = dataclasses.replace(CONFIG, epochs=1, schedule=schedule)
    dataset = make_dataset()
    run_directory.create(tmp_path, loop.describe(config, dataset, dataset.sha256, 0, "train"))
    with pytest.raises(InputError, match=rf"--epochs 2: the run was to have 1, and its {schedule} schedule depends"):
        loop.fit(dataclasses.replace(config, epochs=2), dataset, tmp_path)
    with pytest.raises(InputError, match=r"epochs 1, not 2; .*seed 0, not 1"):
        loop.fit(dataclasses.replace(config, epochs=2, schedule="constant"), dataset, tmp_path, seed=1)


@pytest.mark.parametrize(("least", "expected"), [(0, [1, 2, 3, 4, 5, 6]), (20, [1, 3, 5, 6]), (math.inf, [1, 6])])
def test_the_first_epoch_the_last_and_those_so_many_seconds_apart_are_saved(tmp_path, monkeypatch, least, expected):
    train_epoch = trainer.Trainer.train_epoch

    def in_ten_seconds(self, epoch, log, signal):
        train_epoch(self, epoch, log, signal)
        self.seconds = 10.0

    monkeypatch.setattr(trainer.Trainer, "train_epoch", in_ten_seconds)
    loop.fit(dataclasses.replace(CONFIG, epochs=6), make_dataset(), tmp_path, keep=None, checkpoint_seconds=least)
    assert saved(tmp_path) == [5 * epochs for epochs in expected]
    assert [line["epoch"] for line in strip(tmp_path)] == list(range(6))


def test_a_signal_during_an_evaluation_saves_the_epoch_and_resume_ends_in_the_same_bits(whole, tmp_path, monkeypatch):
    config, source = whole
    advance = loop.RunLog.advance

    def stop(self, step_in_epoch, epoch, stage):
        advance(self, step_in_epoch, epoch, stage)
        if (epoch, stage) == (1, "test"):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.RunLog, "advance", stop)
    with pytest.raises(Interrupted, match="after epoch 1, step 5 of 5; the state is saved"):
        loop.fit(config, make_dataset(), tmp_path, checkpoint_seconds=math.inf)
    assert saved(tmp_path) == [5, 10] and strip(tmp_path) == strip(source)[:1]
    monkeypatch.undo()
    loop.fit(config, make_dataset(), tmp_path)
    assert_same_run(source, tmp_path)


@pytest.mark.parametrize(
    "stop_at", [1, 7, 15, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_signal_at_any_step_saves_and_resume_ends_in_the_same_bits(whole, tmp_path, monkeypatch, stop_at):
    config, source = whole
    monkeypatch.setattr("jresnet.train.pace.CALL_SECONDS", 0.0)
    monkeypatch.setattr("jresnet.data.pipeline.STREAMED_IMAGES", 16)
    synchronise, train = trainer.Trainer.synchronise, trainer.Trainer.train_epoch
    calls, training = [], False

    def stop(self, received, seconds=0.0):
        calls.append(training)
        if sum(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return synchronise(self, received, seconds)

    def train_epoch(*arguments):
        nonlocal training
        training = True
        train(*arguments)
        training = False

    monkeypatch.setattr(trainer.Trainer, "synchronise", stop)
    monkeypatch.setattr(trainer.Trainer, "train_epoch", train_epoch)
    with pytest.raises(Interrupted, match="the state is saved") as caught:
        loop.fit(config, make_dataset(), tmp_path / "run")
    assert caught.value.signal == signal.SIGTERM
    assert sum(calls) == stop_at
    assert not (tmp_path / "run" / "result.json").exists()
    monkeypatch.undo()
    # Records of epochs that the checkpoint does not have, as a kill leaves them, are dropped and made again.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as metrics:
        metrics.writelines(json.dumps({"epoch": epoch}) + "\n" for epoch in range((stop_at - 1) // 5, 3))
    loop.fit(config, make_dataset(), tmp_path / "run")
    assert_same_run(source, tmp_path / "run")


def test_x64_changes_neither_a_run_nor_its_predictions(whole, tmp_path):
    """JAX would draw other random numbers with it."""
    config, source = whole
    images = make_dataset().test.images
    expected = Classifier.load(source).predict(images)
    with jax.enable_x64():
        loop.fit(config, make_dataset(), tmp_path / "run")
        np.testing.assert_array_equal(Classifier.load(tmp_path / "run").predict(images), expected)
    assert_same_run(source, tmp_path / "run")


def test_seeds_go_up_to_32_bits(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1)
    for seed in (2**31 - 1, 2**31, 2**32 - 1):
        assert loop.fit(config, make_dataset(), tmp_path / str(seed), seed=seed).seed == seed
    states = [final_state(tmp_path / str(seed)) for seed in (2**31 - 1, 2**31, 2**32 - 1)]
    first, second, third = (np.asarray(jax.tree.leaves(state)[-1]) for state in states)
    assert not np.array_equal(first, second) and not np.array_equal(second, third)
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match=f"seed {seed}: must lie from 0 to 2\\*\\*32 - 1"):
            loop.fit(config, make_dataset(), tmp_path / "refused", seed=seed)


KILLED = """
    import pathlib, sys
    sys.path[:0] = [{root!r}]
    from tests.support import runs
    from jresnet.train import loop
    import dataclasses
    config = dataclasses.replace(runs.CONFIG, epochs=400)
    loop.fit(config, runs.make_dataset(), pathlib.Path({workdir!r}), keep=3, checkpoint_seconds={seconds!r})
"""


@pytest.mark.parametrize("seconds", [pytest.param(0.0, marks=pytest.mark.slow), 1e9])
def test_kill_9_loses_at_most_the_work_since_the_last_checkpoint(tmp_path, seconds, monkeypatch):
    root = pathlib.Path(__file__).parents[2]
    killed = tmp_path / "killed"
    script = textwrap.dedent(KILLED.format(root=str(root), workdir=str(killed), seconds=seconds))
    metrics = killed / "metrics.jsonl"
    deadline = time.monotonic() + 120
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as process:
        while time.monotonic() < deadline and process.poll() is None:
            written = any(path.name.isdigit() for path in (killed / "checkpoints").glob("*"))
            if written and metrics.exists() and metrics.read_bytes().count(b"\n") >= 6:
                break
            time.sleep(0.02)
        process.kill()
        complaint = process.stderr.read().decode()
    recorded = metrics.read_bytes().count(b"\n")
    assert 6 <= recorded < 400, complaint
    if seconds:
        assert saved(killed) == [5], "the records of later epochs are beyond the checkpoint"
    else:
        # The checkpoint of the epoch before is on disk before the next epoch is recorded.
        assert saved(killed)[-1] >= 5 * (recorded - 1)
    # The killed run, as if it had been one of fewer epochs.
    epochs = recorded + 2
    monkeypatch.setattr(Run, "fingerprint", run_directory.read_run(killed).fingerprint)
    config = dataclasses.replace(CONFIG, epochs=epochs)
    run = json.loads((killed / "config.json").read_text())
    run["config"]["epochs"] = epochs
    (killed / "config.json").write_text(json.dumps(run))
    loop.fit(config, make_dataset(), killed, keep=3)
    loop.fit(config, make_dataset(), tmp_path / "whole")
    assert_same_run(killed, tmp_path / "whole")


def test_two_runs_agree_to_the_last_bit_and_another_seed_differs(whole, tmp_path):
    config, source = whole
    loop.fit(config, make_dataset(), tmp_path / "again")
    assert_same_run(source, tmp_path / "again")
    loop.fit(config, make_dataset(), tmp_path / "other", seed=1)
    assert strip(tmp_path / "other") != strip(source)


def test_images_in_a_file_train_the_same_run(whole, tmp_path):
    config, source = whole
    dataset = make_dataset()
    (tmp_path / "images").write_bytes(dataset.test.images.tobytes() + dataset.train.images.tobytes())
    tests, images = len(dataset.test), len(dataset.test) + len(dataset.train)
    mapped = MappedImages(tmp_path / "images", (images, 8, 8, 3))
    train, test = mapped.select(slice(tests, None)), mapped.select(slice(tests))
    splits = {"train": Split(train, dataset.train.labels), "test": Split(test, dataset.test.labels)}
    loop.fit(config, dataclasses.replace(dataset, **splits), tmp_path / "run")
    assert_same_run(tmp_path / "run", source)


def test_a_finished_run_is_returned_and_not_repeated(whole):
    config, source = whole
    before = (source / "metrics.jsonl").read_bytes()
    result = loop.fit(config, make_dataset(), source)
    assert (source / "metrics.jsonl").read_bytes() == before
    assert json.loads(json.dumps(result.to_json())) == json.loads((source / "result.json").read_text())


def test_metrics_count_every_image_once(whole):
    config, source = whole
    last = strip(source)[-1]
    result = json.loads((source / "result.json").read_text())
    assert result["test_accuracy"] == last["test_accuracy"]
    assert (last["test_accuracy"] * 37).is_integer() and (last["train_accuracy"] * 72).is_integer()
    _, (state, _) = final_state(source)
    dataset = make_dataset()
    mean, std = dataset.channel_statistics
    images = (dataset.test.images.astype(np.float64) / 255 - np.asarray(mean)) / np.asarray(std)
    variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
    logits = np.asarray(
        models.from_config(config, 3).apply(variables, images.astype(np.float32), train=False), np.float64
    )
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(37), dataset.test.labels]
    correct = logits.argmax(-1) == dataset.test.labels
    assert last["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert last["test_accuracy"] == correct.mean()
    batches = [correct[start : start + 16].mean() for start in (0, 16, 32)]
    assert last["test_accuracy_batch_mean"] == pytest.approx(np.mean(batches), rel=1e-12)


def test_the_mean_over_batches_is_the_reports():
    correct = np.zeros(10_000, bool)
    correct[:9110] = True
    loss, accuracy, batch_mean = summarise(np.zeros(10_000), correct, 32)
    assert (loss, accuracy) == (0, 0.911)
    # 312 full batches and one of 16: its images weigh twice as much.
    assert batch_mean == pytest.approx((284 + 22 / 32) / 313, rel=1e-12)


def test_validation_images_are_held_out_evaluated_and_recorded(tmp_path):
    config = dataclasses.replace(CONFIG, validation=12, epochs=1)
    result = loop.fit(config, make_dataset(), tmp_path)
    assert result.dataset["train"] == 60 and result.dataset["validation"] == 12
    assert result.dataset["sha256"] == make_dataset().sha256
    assert (result.validation_accuracy * 12).is_integer()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["validation_loss"] == result.validation_loss


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = dataclasses.replace(CONFIG, learning_rate=1e30, warmup_epochs=3)
    workdir = tmp_path / "run"
    with pytest.raises(Diverged, match=r"epoch 0, step [0-4] \(update [0-4]\): lower --learning-rate"):
        loop.fit(config, make_dataset(), workdir)
    assert not (workdir / "result.json").exists()
    assert saved(workdir) == []


@pytest.mark.parametrize("seconds", [0, math.inf])
def test_parameters_that_are_not_finite_are_never_saved(tmp_path, monkeypatch, seconds):
    calls = []
    train_epoch = trainer.Trainer.train_epoch

    def poisoned(self, epoch, log, signal):
        train_epoch(self, epoch, log, signal)
        calls.append(epoch)
        if epoch == 1:
            bad = jax.tree.map(lambda leaf: leaf * jnp.nan, self.state.params)
            self.state = self.state.replace(params=bad)

    monkeypatch.setattr(trainer.Trainer, "train_epoch", poisoned)
    with pytest.raises(Diverged, match=r"epoch 1, step 4 \(update 9\)"):
        loop.fit(CONFIG, make_dataset(), tmp_path, checkpoint_seconds=seconds)
    assert calls == [0, 1]
    assert saved(tmp_path) == [5]
    assert len(strip(tmp_path)) == 1


def test_refusals_write_nothing(tmp_path):
    workdir = tmp_path / "run"
    for changes, complaint in (
        ({"pool_size": 5}, "--pool-size 5: exceeds"),
        ({"budget": 100}, "over the budget of 100"),
        ({"validation": 72}, "--validation 72"),
    ):
        with pytest.raises(InputError, match=complaint):
            loop.fit(dataclasses.replace(CONFIG, **changes), make_dataset(), workdir)
    with pytest.raises(InputError, match="seed -1"):
        loop.fit(CONFIG, make_dataset(), workdir, seed=-1)
    assert not workdir.exists()


def test_another_run_in_the_directory_is_refused_and_left_alone(whole):
    config, source = whole
    before = {path: path.read_bytes() for path in source.iterdir() if path.is_file()}
    for run in ({"seed": 7}, {"config": dataclasses.replace(config, width=5)}, {"dataset": make_dataset(train=75)}):
        arguments = {"config": config, "dataset": make_dataset(), "seed": 0} | run
        with pytest.raises(InputError, match="holds another run"):
            loop.fit(arguments["config"], arguments["dataset"], source, seed=arguments["seed"])
    assert {path: path.read_bytes() for path in source.iterdir() if path.is_file()} == before


def test_one_compilation_serves_all_epochs(tmp_path, monkeypatch):
    traces = []
    make = trainer.make_train_step
    trainer.train_program.cache_clear()

    def counted(*arguments):
        step = make(*arguments)
        return lambda state, batch: (traces.append(batch["labels"].shape), step(state, batch))[1]

    monkeypatch.setattr(trainer, "make_train_step", counted)
    loop.fit(CONFIG, make_dataset(), tmp_path)
    assert sorted(set(traces)) == [(8,), (16,)]
    assert len(traces) <= 4, "each shape is traced once, and once more where JAX checks the loop's carry"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["resident", "tfds"])
def test_runs_of_equal_shape_share_compiled_programs(tmp_path, source):
    """Rate, decay, seed, flips, gray, validation images and channel statistics change; nothing compiles again."""
    compiled = []

    def listen(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details)

    first = dataclasses.replace(CONFIG, input=source, validation=12, epochs=2, width=3)
    other = dataclasses.replace(first, learning_rate=0.02, weight_decay=1e-3, flip=0.1, grayscale=0.9, epochs=2)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        loop.fit(first, make_dataset(), tmp_path / "first")
        assert compiled, "the listener hears compilations"
        compiled.clear()
        loop.fit(other, make_dataset(), tmp_path / "other", seed=3)
        assert compiled == []
        loop.fit(dataclasses.replace(other, width=2), make_dataset(), tmp_path / "another width")
        assert compiled, "another network needs its own programs"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    rates = [final_state(tmp_path / run)[1][0]["opt_state"][0]["hyperparams"] for run in ("first", "other")]
    assert [(float(r["learning_rate"]), float(r["weight_decay"])) for r in rates] == [
        (np.float32(0.05), np.float32(5e-4)), (np.float32(0.02), np.float32(1e-3)),
    ]  # fmt: skip
    means = [json.loads((tmp_path / run / "config.json").read_text())["mean"] for run in ("first", "other")]
    assert means[0] != means[1], "the runs' channel statistics differ"


def test_predictions_of_the_test_images_are_written(whole):
    _, source = whole
    with np.load(source / "predictions.npz", allow_pickle=False) as archive:
        predictions, confidences = archive["test_predictions"], archive["test_confidences"]
        assert {*archive} == {"test_predictions", "test_confidences", "test_labels"}
        np.testing.assert_array_equal(archive["test_labels"], make_dataset().test.labels)
    assert (predictions.dtype, confidences.dtype) == (np.int32, np.float32)
    assert np.mean(predictions == make_dataset().test.labels) == strip(source)[-1]["test_accuracy"]
    probabilities = Classifier.load(source).predict(make_dataset().test.images)
    np.testing.assert_array_equal(predictions, probabilities.argmax(1))
    np.testing.assert_allclose(confidences, probabilities.max(1), rtol=1e-5)


def edited(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_a_finished_runs_records_match_their_checksums(whole, tmp_path):
    _, source = whole
    run_directory.read_result(source)
    assert subprocess.run(["sha256sum", "-c", "--quiet", run_directory.SUMS], cwd=source).returncode == 0
    for name in ("config.json", "metrics.jsonl", "result.json", "predictions.npz", run_directory.SUMS):
        for change in (lambda data: data[:-2], edited, None):
            target = tmp_path / "copy"
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoints"))
            if change is None:
                (target / name).unlink()
            else:
                (target / name).write_bytes(change((target / name).read_bytes()))
            with pytest.raises(InputError, match=r"restore it|repeat the run") as caught:
                run_directory.read_result(target)
            assert "\n" not in str(caught.value)
            shutil.rmtree(target)


def test_without_test_images_there_are_no_test_metrics(tmp_path):
    dataset = dataclasses.replace(make_dataset(validation=12), test=make_dataset(test=0).test)
    result = loop.fit(dataclasses.replace(CONFIG, epochs=1), dataset, tmp_path)
    assert result.validation_accuracy is not None and result.test_accuracy is None
    recorded = [json.loads((tmp_path / name).read_text()) for name in ("metrics.jsonl", "result.json")]
    assert not any(key.startswith("test_") for record in recorded for key in record)
    assert not (tmp_path / "predictions.npz").exists()
    run_directory.read_result(tmp_path)


@pytest.fixture(scope="module")
def tested_once(whole, tmp_path_factory):
    """The run of `whole` with validation images, whose test images are evaluated after training, kept step by step."""
    workdir = tmp_path_factory.mktemp("tested-once") / "run"
    config = dataclasses.replace(whole[0], test_after="training", keep_best="validation")
    result = loop.fit(config, make_dataset(validation=12), workdir, keep=None, checkpoint_seconds=0)
    return config, workdir, result


def test_test_images_are_evaluated_once_after_training_and_nothing_else_changes(whole, tested_once):
    _, workdir, result = tested_once
    lines, expected = strip(workdir), strip(whole[1])
    for line in lines[:-1]:
        assert not any(name.startswith("test_") for name in line) and 0 <= line["validation_accuracy"] <= 1
    figures = {name: value for name, value in lines[-1].items() if not name.startswith("validation_")}
    assert figures == expected[-1]
    chex.assert_trees_all_equal(final_state(workdir), final_state(whole[1]))
    recorded = run_directory.read_result(workdir)
    assert recorded.test_accuracy == expected[-1]["test_accuracy"] and (workdir / "predictions.npz").exists()
    # Of the best epoch test figures are known only if it is the last.
    assert (result.best_test_accuracy is None) == (result.best_epoch != 2)
    assert [verified(path).partition(";")[0] for path in runs_in(workdir)] == ["finished, records sound"]


@pytest.mark.parametrize("step", [pytest.param(10, marks=pytest.mark.slow), 15])
def test_a_resumed_run_evaluates_its_test_images_once(tested_once, tmp_path, monkeypatch, step):
    config, source, _ = tested_once
    rewind(source, tmp_path / "run", step)
    shutil.rmtree(tmp_path / "run" / "best")
    dataset, seen, evaluate = make_dataset(validation=12), [], Evaluator.__call__

    def counted(self, variables, split, *arguments):
        seen.append(split is dataset.test)
        return evaluate(self, variables, split, *arguments)

    monkeypatch.setattr(Evaluator, "__call__", counted)
    loop.fit(config, dataset, tmp_path / "run")
    assert seen[-1] and sum(seen) == 1
    assert_same_run(source, tmp_path / "run")


def test_a_record_that_says_otherwise_is_found(tested_once):
    _, workdir, result = tested_once
    lines = strip(workdir)
    lines = [line | {"seconds": result.seconds / len(lines)} for line in lines]
    assert run_directory.contradictions(result.to_json(), lines) == []
    lines[1]["test_loss"] = 1.0
    found = run_directory.contradictions(result.to_json(), lines)
    assert found == ["test_after is training, metrics.jsonl has test figures of epoch 1"]
    never = result.to_json() | {"config": result.config | {"test_after": "never"}}
    del lines[1]["test_loss"]
    found = run_directory.contradictions(never, lines)
    assert found == ["test_after is never, metrics.jsonl has test figures of epoch 2"]


def test_when_test_images_are_seen_does_not_change_within_a_run(tested_once):
    config, workdir, _ = tested_once
    with pytest.raises(InputError, match=r"holds another run \(test_after training, not epochs\)"):
        loop.fit(dataclasses.replace(config, test_after="epochs"), make_dataset(validation=12), workdir)


def test_test_images_are_not_evaluated_a_second_time_after_more_epochs(tested_once):
    config, workdir, _ = tested_once
    message = r"--epochs 4: .* holds the run with 3 epochs, whose test images have been evaluated \(--test-after "
    with pytest.raises(InputError, match=message):
        loop.fit(dataclasses.replace(config, epochs=4), make_dataset(validation=12), workdir)


@pytest.mark.parametrize(("test_after", "expected"), [("epochs", "vt vt"), ("training", "v vt"), ("never", "v v")])
def test_the_splits_that_are_evaluated_after_each_of_two_epochs(test_after, expected):
    dataset = make_dataset(validation=12)

    class Evaluated:
        run = types.SimpleNamespace(config=dataclasses.replace(CONFIG, epochs=2, test_after=test_after))
        state = types.SimpleNamespace(variables=None)

        def evaluator(self, _, split, after_call):
            return split

    found = [loop.evaluate(Evaluated(), dataset, epoch, None, None, None) for epoch in (0, 1)]
    assert " ".join("".join(name[0] for name in splits) for splits in found) == expected
    assert all(split is getattr(dataset, name) for splits in found for name, split in splits.items())


def test_without_validation_images_the_test_images_are_evaluated(tmp_path):
    with pytest.raises(InputError, match=r"^--test-after never: there are no validation images: hold some out"):
        loop.fit(dataclasses.replace(CONFIG, test_after="never"), make_dataset(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_whose_test_images_are_never_evaluated_has_the_records_of_one_without(tmp_path):
    config, dataset = dataclasses.replace(CONFIG, epochs=1, test_after="never"), make_dataset(validation=12)
    results = [
        loop.fit(config, data, tmp_path / name)
        for name, data in (("with", dataset), ("without", dataclasses.replace(dataset, test=make_dataset(test=0).test)))
    ]
    assert results[0].test_accuracy is None and results[0].validation_accuracy == results[1].validation_accuracy
    assert strip(tmp_path / "with") == strip(tmp_path / "without")
    assert not (tmp_path / "with" / "predictions.npz").exists()
    assert [verified(path).partition(";")[0] for path in runs_in(tmp_path / "with")] == ["finished, records sound"]


def test_devices_refuse_a_batch_that_does_not_divide(monkeypatch):
    for name in ("device_count", "local_device_count"):
        monkeypatch.setattr(jax, name, lambda: 3)
    with pytest.raises(InputError, match="--batch-size 16: does not divide among 3 devices: choose 15 or 18"):
        Devices(dataclasses.replace(CONFIG, parallel="auto"))


@pytest.mark.parametrize("options", [{"model": "imagenet_resnet18"}, {"stem": "small-pool", "pool_size": 1}])
def test_a_network_that_cannot_be_deterministic_on_a_gpu_is_refused(tmp_path, monkeypatch, options):
    monkeypatch.setattr(loop, "Devices", lambda config: types.SimpleNamespace(platform="gpu"))
    config = Config(**options, deterministic=True)
    with pytest.raises(InputError, match=r"--deterministic: max pooling has no .*: choose another --model"):
        loop.fit(config, make_dataset(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
