"""Runs that start from weights: which network and head they get, what they record, and that all of it resumes."""

import dataclasses
import json
import pathlib
import shutil
import types
from functools import partial

import chex
import jax
import numpy as np
import pytest

import jresnet
from jresnet import models
from jresnet.cli.verify import verified
from jresnet.config import Config
from jresnet.data import synthetic
from jresnet.data.datasets import Dataset, Split
from jresnet.errors import InputError
from jresnet.models import torch_weights
from jresnet.parallel.devices import Devices
from jresnet.records import run_directory
from jresnet.records.epoch import best_epoch, read_metrics
from jresnet.train import best, initial, loop
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.initial import Initial
from jresnet.train.restore import restore
from jresnet.train.trainer import Trainer
from jresnet.use.classifier import store
from tests.support.runs import CONFIG, final_state, make_dataset, strip

SIZE = (8, 8)
# One shape of batches and one of evaluations, as compiling takes longest.
CONFIG = dataclasses.replace(CONFIG, blocks=(1,), batch_size=15, dropout=0.0)
TUNED = dataclasses.replace(
    CONFIG, init_from="weights", freeze=(0,), head_learning_rate=0.2, class_weights="balanced",
    validation=15, keep_best="validation", learning_rate=0.02,
)  # fmt: skip


def unbalanced():
    """Classes of 32, 16 and 12 training images: with equal ones all weights would be 1."""
    dataset = make_dataset(train=96, test=15)
    labels = dataset.train.labels
    rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c, count in enumerate((32, 16, 12))]))
    return dataclasses.replace(dataset, train=Split(dataset.train.images[rows], labels[rows]))


DATA = unbalanced()


def drawn(classes, seed):
    """Variables of the network as after training: none at its initial value."""
    shapes, rng = models.variable_shapes(models.from_config(CONFIG, classes), SIZE), np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.4, leaf.shape).astype(leaf.dtype), shapes)


def write_source(directory, classes, seed=0):
    """A directory of weights; returns the variables in it."""
    variables = drawn(len(classes), seed)
    store(directory, CONFIG, variables, classes, SIZE, (0.5,) * 3, (0.25,) * 3)
    return variables


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A directory of weights for other classes than the data's, and its variables."""
    directory = tmp_path_factory.mktemp("source") / "weights"
    return directory, write_source(directory, ("a", "b", "c"))


def fit(workdir, source, config=TUNED, **options):
    config = dataclasses.replace(config, init_from=str(source))
    return loop.fit(config, DATA, workdir, keep=None, **options)


@pytest.fixture(scope="module")
def tuned(source, tmp_path_factory):
    """The directory of a run with every option, which kept all its checkpoints; and what `on_epoch` was given."""
    workdir, seen = tmp_path_factory.mktemp("tuned") / "run", []
    fit(workdir, source[0], checkpoint_seconds=0, on_epoch=seen.append)
    return workdir, seen


def rewind(tuned, target, step):
    """The run as a kill after the checkpoint of `step` leaves it, but for the best one, which is of the end."""
    shutil.copytree(tuned, target)
    for name in ("result.json", "predictions.npz"):
        (target / name).unlink()
    for path in (target / "checkpoints").iterdir():
        if path.is_dir() and int(path.name) > step:
            shutil.rmtree(path)


def assert_same(one, other):
    chex.assert_trees_all_equal(final_state(one), final_state(other))
    assert strip(one) == strip(other)
    chex.assert_trees_all_equal(restore(one / "best").variables, restore(other / "best").variables)
    results = [json.loads((path / "result.json").read_text()) for path in (one, other)]
    figures = [
        {k: v for k, v in result.items() if k.startswith(("best_", "test_", "validation_"))} for result in results
    ]
    assert figures[0] == figures[1] and "best_epoch" in figures[0]


def test_frozen_stages_and_their_statistics_are_those_of_the_weights(source, tuned):
    weights, found = source[1], restore(tuned[0]).variables
    for name in ("conv1", "bn1"):
        for kind in weights:
            if name in weights[kind]:
                chex.assert_trees_all_equal(weights[kind][name], jax.device_get(found[kind][name]))
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), weights["params"]["layer1_0"], found["params"]["layer1_0"]
    )
    assert all(jax.tree.leaves(moved)) and not np.array_equal(
        weights["params"]["linear"]["bias"], found["params"]["linear"]["bias"]
    )


def test_the_heads_rate_and_the_classes_weights_reach_the_training(tuned):
    with Checkpoints(tuned[0] / "checkpoints", read_only=True) as checkpoints:
        (state, _), _ = checkpoints.restore(3)
    rates = jax.device_get(state["opt_state"][0]["hyperparams"])
    expected = {"learning_rate": 0.02, "weight_decay": 5e-4, "head_learning_rate": 0.2}
    assert rates == {name: np.float32(rate) for name, rate in expected.items()}
    run = run_directory.read_run(tuned[0])
    trainer = Trainer(run, DATA.hold_out(15, 0).train, Devices(run.config))  # of 24, 12 and 9 images
    assert trainer.program.keywords["options"].class_weights == (45 / 72, 45 / 36, 45 / 27)


@pytest.mark.slow
def test_the_classes_weights_change_the_loss(source, tuned, tmp_path):
    fit(tmp_path, source[0], dataclasses.replace(TUNED, class_weights=None, epochs=1))
    losses = [read_metrics(path / "metrics.jsonl")[0]["train_loss"] for path in (tuned[0], tmp_path)]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_the_best_epoch_is_kept_and_every_figure_says_which_it_is_of(tuned):
    workdir, seen = tuned
    history = read_metrics(workdir / "metrics.jsonl")
    assert [{"version": 1} | record for record in seen] == history and len(history) == 3
    assert not any("version" in record for record in seen)
    accuracies = [record["validation_accuracy"] for record in history]
    result = run_directory.read_result(workdir)
    assert result.best_epoch == accuracies.index(max(accuracies))
    chosen = history[result.best_epoch]
    for name in ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy"):
        assert (getattr(result, f"best_{name}"), getattr(result, name)) == (chosen[name], history[-1][name])
    assert [path.name for path in (workdir / "best").iterdir()] == [str(3 * (result.best_epoch + 1))]
    assert verified(workdir) == "finished, records sound; 4 checkpoints sound"
    correct = jresnet.Classifier.load(workdir / "best").predict(DATA.test.images).argmax(1)
    assert (correct == DATA.test.labels).mean() == pytest.approx(result.best_test_accuracy, abs=1e-12)


@pytest.mark.parametrize("step", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_a_killed_run_ends_in_the_same_bits_and_the_same_best(source, tuned, tmp_path, step):
    """Also where its best checkpoint is later than the one it goes on from, and where the weights are gone."""
    rewind(tuned[0], tmp_path / "run", step)
    fit(tmp_path / "run", tmp_path / "gone")
    assert_same(tuned[0], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_that_stops_around_a_best_checkpoint_loses_nothing(source, tuned, tmp_path, monkeypatch, moment, epoch):
    """With the few checkpoints of a quick run: before it, between the run's own and the best one, and after it."""
    keep = best.keep

    class Killed(BaseException):
        pass

    def killed(best_checkpoint, checkpoints, trainer, history):
        if len(history) <= epoch:
            return keep(best_checkpoint, checkpoints, trainer, history)
        if moment == "after":
            keep(best_checkpoint, checkpoints, trainer, history)
            best_checkpoint.wait()
        if moment == "between":
            trainer.save(checkpoints, history[:-1])
            checkpoints.wait()
        raise Killed

    monkeypatch.setattr(best, "keep", killed)
    with pytest.raises(Killed):
        fit(tmp_path, source[0])
    monkeypatch.setattr(best, "keep", keep)
    fit(tmp_path, source[0])
    assert_same(tuned[0], tmp_path)


def test_the_weights_decide_which_run_it_is_and_not_their_path(source, tuned, tmp_path):
    run = run_directory.read_run(tuned[0])
    assert run.initial_weights.name == "weights" and len(run.initial_weights.sha256) == 64
    assert run_directory.read_result(tuned[0]).initial_weights == run.initial_weights
    shutil.copytree(source[0], tmp_path / "moved")
    moved = initial.read(dataclasses.replace(CONFIG, init_from=str(tmp_path / "moved")), tmp_path)
    assert (moved.record.name, moved.record.sha256) == ("moved", run.initial_weights.sha256)
    assert fit(tuned[0], tmp_path / "moved") == fit(tuned[0], tmp_path / "gone") == run_directory.read_result(tuned[0])
    other = dataclasses.replace(run, initial_weights=dataclasses.replace(run.initial_weights, sha256="0" * 64))
    assert other.fingerprint != run.fingerprint != dataclasses.replace(run, initial_weights=None).fingerprint
    renamed = dataclasses.replace(run.initial_weights, name="other")
    assert dataclasses.replace(run, initial_weights=renamed).fingerprint == run.fingerprint
    write_source(tmp_path / "others", ("a", "b", "c"), seed=1)
    with pytest.raises(
        InputError, match=f"another run \\(initial weights {run.initial_weights.sha256}, not [0-9a-f]{{64}}\\)"
    ):
        fit(tuned[0], tmp_path / "others")
    plain = dataclasses.replace(TUNED, init_from=None, freeze=())
    with pytest.raises(InputError, match=r"freeze 0, not ; initial weights [0-9a-f]{64}, not random\)"):
        loop.fit(plain, DATA, tuned[0])


@pytest.mark.parametrize("became", ["weights of another training", "unreadable"])
def test_a_run_goes_on_by_its_own_command_whatever_became_of_its_source(tuned, tmp_path, became):
    rewind(tuned[0], tmp_path / "run", 6)
    write_source(tmp_path / "others", ("a", "b", "c"), seed=1)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["config"]["init_from"] = str(tmp_path / "others")
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    if became == "unreadable":
        (tmp_path / "others" / "config.json").write_text("{")
    found = initial.read(dataclasses.replace(TUNED, init_from=str(tmp_path / "others")), tmp_path / "run")
    assert (found.record, found.variables) == (run_directory.read_run(tuned[0]).initial_weights, None)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    if became == "unreadable":
        with pytest.raises(InputError, match=r"^--init-from \S+others/config\.json: "):
            initial.read(dataclasses.replace(TUNED, init_from=str(tmp_path / "others")), tmp_path / "run")
    else:
        again = initial.read(dataclasses.replace(TUNED, init_from=str(tmp_path / "others")), tmp_path / "run")
        assert again.record.sha256 != found.record.sha256 and again.variables is not None


def test_a_run_may_start_from_the_best_epoch_of_another(tuned, tmp_path, caplog):
    found = initial.read(dataclasses.replace(CONFIG, init_from=str(tuned[0] / "best")), tmp_path)
    best_one = restore(tuned[0] / "best")
    chex.assert_trees_all_equal(found.variables, jax.device_get(best_one.variables))
    assert (found.record.name, found.record.updates) == ("best", best_one.step)
    assert caplog.messages == [f"--init-from {tuned[0] / 'best'}: resnet18, width 4, after {best_one.step} updates"]


def test_options_of_the_network_are_those_of_the_weights_or_agree(source):
    config = Config(init_from=str(source[0]), dropout=0.3)
    weights = initial.read(config, pathlib.Path("nowhere"))
    chex.assert_trees_all_equal(jax.device_get(weights.variables), source[1])
    found = initial.adopted(config, weights)
    assert found == dataclasses.replace(config, width=4, blocks=(1,), kernel_size=3, pool_size=4)
    same = dataclasses.replace(config, width=4, shortcut="projection", epsilon=1e-5, pool_size=2)
    assert initial.adopted(same, weights).pool_size == 2
    for option, given, words in (("width", 8, "4"), ("blocks", (1, 1), "1"), ("epsilon", 1e-3, "its network's own")):
        shown = " ".join(map(str, given)) if isinstance(given, tuple) else given
        with pytest.raises(InputError, match=f"^--{option} {shown}: that of --init-from .* is {words}: leave"):
            initial.adopted(dataclasses.replace(config, **{option: given}), weights)
    with pytest.raises(InputError, match=r"^--model resnet34: that of .* is resnet18: leave it out"):
        initial.adopted(dataclasses.replace(config, model="resnet34"), weights)
    assert initial.adopted(CONFIG, None) is CONFIG


def test_weights_from_a_file(tmp_path, caplog):
    import safetensors.numpy

    config, variables = Config(model="resnet20", width=4, blocks=(1, 1)), None
    network = models.from_config(config, 7)
    shapes = models.variable_shapes(network, (32, 32))
    variables = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape).astype("f4") ** 2, shapes)
    state_dict = torch_weights.to_state_dict(variables, network)
    safetensors.numpy.save_file(
        {name: np.asarray(array) for name, array in state_dict.items()}, tmp_path / "w.safetensors"
    )
    config = Config(init_from=str(tmp_path / "w.safetensors"))
    weights = initial.read(config, tmp_path)
    chex.assert_trees_all_equal(jax.device_get(weights.variables), variables)
    assert "read as resnet20" in caplog.text
    found = initial.adopted(config, weights)
    assert (found.model, found.width, found.blocks) == ("resnet20", 4, (1, 1))
    with pytest.raises(
        InputError, match=r"^--init-from \S+w\.safetensors: the weights do not fit the network .* they fit resnet20"
    ):
        initial.read(dataclasses.replace(config, model="resnet34"), tmp_path)


def head(inputs, outputs):
    return {"params": {"conv1": np.ones(2, np.float32), "linear": {"kernel": np.ones((inputs, outputs), np.float32)}}}


@pytest.mark.parametrize(
    ("theirs", "inputs", "classes", "reason"),
    [
        (("a", "b"), 8, ("a", "b"), None),
        (("0", "1"), 8, ("a", "b"), None),  # no names
        (("a", "b"), 8, ("0", "1"), None),
        (("a", "b"), 8, ("a", "b", "c"), "the weights are of 2 classes, the data of 3"),
        (("a", "b"), 8, ("b", "a"), "the weights are of other classes than the data"),
        (("a", "b"), 2, ("a", "b"), "that of the weights has 8 inputs, and images of this size make 2"),
    ],
)
def test_another_head_is_a_new_one_which_a_line_says(theirs, inputs, classes, reason, caplog):
    weights = Initial(run_directory.Weights("mine", ""), Config(), theirs, head(8, len(theirs)))
    found = initial.starting_weights(weights, head(inputs, len(classes)), classes)
    assert ("linear" in found["params"]) == (reason is None) and "conv1" in found["params"]
    expected = [] if reason is None else [f"--init-from mine: the linear layer is a new one, as {reason}"]
    if reason is None and theirs != classes:
        expected = ["--init-from mine: the linear layer is kept: one side numbers its classes only"]
    assert caplog.messages == expected and "linear" in weights.variables["params"]


def test_bad_weights_are_refused_in_one_line_before_anything_is_written(source, tmp_path):
    later, empty, unsaved, text = (tmp_path / name for name in ("later", "empty", "unsaved", "notes.txt"))
    shutil.copytree(source[0], later)
    record = json.loads((later / "config.json").read_text())
    (later / "config.json").write_text(json.dumps(record | {"version": 2, "jresnet": "9.0"}))
    shutil.copytree(source[0], unsaved)
    shutil.rmtree(unsaved / "checkpoints")
    empty.mkdir()
    text.write_text("weights")
    refusals = {
        later: r"its version is 2, and this jresnet reads 0 to 1; jresnet '9\.0' wrote it",
        empty: r"config\.json: cannot be read",
        unsaved: "this run has no checkpoint yet",
        text: "notes.txt",
        tmp_path / "missing": "does not exist: give the directory of a run, or a file of weights",
        source[0]: r"--width 8: that of --init-from \S+ is 4",
    }
    for path, words in refusals.items():
        config = dataclasses.replace(TUNED, width=8) if path == source[0] else TUNED
        with pytest.raises(InputError, match=words) as caught:
            fit(tmp_path / "run", path, config)
        assert "\n" not in str(caught.value)
        assert path == source[0] or str(caught.value).startswith("--init-from ")
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"^--keep-best validation: there are no validation images: hold some out"):
        fit(tmp_path / "run", source[0], dataclasses.replace(TUNED, validation=0))
    with pytest.raises(InputError, match="this run has kept no best epoch: train it with --keep-best validation"):
        restore(source[0] / "best")
    assert not (tmp_path / "run").exists()


def test_what_on_epoch_raises_ends_the_run_which_can_be_resumed(source, tuned, tmp_path):
    def stop(record):
        raise ConnectionError(record["epoch"])

    with pytest.raises(ConnectionError, match=r"^0$"):
        fit(tmp_path, source[0], on_epoch=stop)
    assert not (tmp_path / "result.json").exists()
    seen = []
    fit(tmp_path, source[0], on_epoch=seen.append)
    assert_same(tuned[0], tmp_path)
    assert [record["epoch"] for record in seen] == [0, 1, 2]  # the first was saved before it was evaluated


def test_of_equal_epochs_the_earliest_is_the_best():
    accuracies = (0.2, 0.5, 0.5, 0.4)
    assert best_epoch([{"epoch": e, "validation_accuracy": a} for e, a in enumerate(accuracies)]) == 1
    assert best_epoch([{"epoch": 0, "validation_accuracy": 0.0}]) == 0
    assert best_epoch([]) is best_epoch([{"epoch": 0, "test_accuracy": 1.0}]) is None


def test_verify_finds_what_is_wrong_with_the_best(tuned, tmp_path):
    shutil.copytree(tuned[0], tmp_path / "run")
    (kept,) = (tmp_path / "run" / "best").iterdir()
    shutil.rmtree(kept)
    with pytest.raises(InputError, match=r"best: lacks the checkpoint of epoch \d: restore it"):
        verified(tmp_path / "run")
    with pytest.raises(InputError, match=r"best: lacks the checkpoint of epoch \d: .* or use the last epoch"):
        restore(tmp_path / "run" / "best")
    result = json.loads((tuned[0] / "result.json").read_text()) | {"best_test_accuracy": 1.0}
    history = read_metrics(tuned[0] / "metrics.jsonl")
    assert "best_test_accuracy is 1.0" in run_directory.contradictions(result, history)[0]
    del result["best_test_accuracy"]
    assert "best_test_accuracy is None" in run_directory.contradictions(result, history)[0]


def test_the_records_that_more_epochs_set_aside_are_sound_without_a_best_checkpoint(tuned, tmp_path):
    shutil.copytree(tuned[0], tmp_path / "run")
    run = run_directory.read_run(tuned[0])
    run_directory.create(tmp_path / "run", dataclasses.replace(run, config=dataclasses.replace(run.config, epochs=5)))
    assert verified(tmp_path / "run" / "earlier" / "3-epochs") == "finished, records sound"
    assert verified(tmp_path / "run") == "not finished, records readable; 4 checkpoints sound"


def test_the_best_checkpoint_is_that_of_the_records_and_no_other(tuned, tmp_path, caplog):
    """Also where a kill between two checkpoints has left another, and where it is damaged."""
    shutil.copytree(tuned[0], tmp_path / "run")
    place = tmp_path / "run" / "best"
    kept = int(next(place.iterdir()).name)
    other = next(step for step in (9, 3) if step != kept)
    shutil.copytree(tmp_path / "run" / "checkpoints" / str(other), place / str(other))
    assert restore(tmp_path / "run" / "best").step == kept
    position = types.SimpleNamespace(step=8, steps_per_epoch=3)  # within the last epoch
    with Checkpoints(place, 1) as best_checkpoint:
        best.begin(best_checkpoint, position, read_metrics(tmp_path / "run" / "metrics.jsonl"))
        assert best_checkpoint.steps() == [kept]
    assert caplog.messages == ["best/: checkpoints of other epochs than the best one so far are set aside"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints-damaged").iterdir()] == [f"{other}-1"]
    shutil.rmtree(place / str(kept) / "state")
    with pytest.raises(InputError, match=r"cannot be restored .*: restore it from a copy, or use the last epoch$"):
        restore(tmp_path / "run" / "best")


def test_a_result_of_other_weights_is_refused(tuned, tmp_path):
    shutil.copytree(tuned[0], tmp_path / "run")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    record["initial_weights"]["sha256"] = "0" * 64
    run_directory.finish(tmp_path / "run", record, read_metrics(tuned[0] / "metrics.jsonl"))
    with pytest.raises(InputError, match=r"contradicts the other records \(its initial weights are not those"):
        run_directory.read_result(tmp_path / "run")


def five_of_ten(first, train, test):
    """Five classes of the synthetic data, as images of 16 x 16, with at most so many of each split."""
    arrays = synthetic.draw(4000, 1000, image_size=16)

    def part(images, labels, count):
        rows = np.flatnonzero((labels >= first) & (labels < first + 5))[:count]
        return Split(images[rows], labels[rows] - np.int32(first))

    classes = synthetic.CLASSES[first : first + 5]
    return Dataset("five", part(*arrays[:2], train), part(*arrays[2:], 0), part(*arrays[2:], test), classes)


@pytest.mark.slow
def test_tuning_to_five_other_classes_beats_training_from_scratch(tmp_path, caplog):
    """Mean of two seeds of a few steps on few images: seen 0.50 from scratch, 0.90 tuned."""
    common = Config(learning_rate=0.1, schedule="cosine", grayscale=0.0, crop_padding=2)
    config = dataclasses.replace(common, width=8, blocks=(1, 1, 1), pool_size=0)
    loop.fit(dataclasses.replace(config, epochs=20), five_of_ten(0, 2000, 100), tmp_path / "first")
    few = partial(dataclasses.replace, epochs=6, batch_size=32, learning_rate=0.05)
    others, accuracy = five_of_ten(5, 160, 500), {}
    tuning = dataclasses.replace(common, init_from=str(tmp_path / "first"))
    for name, chosen in (("scratch", config), ("tuned", tuning)):
        results = [loop.fit(few(chosen), others, tmp_path / f"{name}-{seed}", seed=seed) for seed in (0, 1)]
        accuracy[name] = np.mean([result.test_accuracy for result in results])
    assert "the linear layer is a new one, as the weights are of other classes than the data" in caplog.text
    assert (results[0].config["width"], results[0].config["blocks"]) == (8, [1, 1, 1])
    assert accuracy["tuned"] > accuracy["scratch"] + 0.1, accuracy
