"""What stops a run: numbers that are not finite, and data or batches from which nothing can be learnt."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.study import single
from jresnet.config import Config
from jresnet.data.datasets import Dataset, Split
from jresnet.errors import Diverged, InputError
from jresnet.models.layers import BatchNorm
from jresnet.train import loop, trainer
from tests.support import runs
from tests.support.studies import TINY, tiny_npz

CONFIG = dataclasses.replace(runs.CONFIG, epochs=3, dropout=0.0)
# One update per epoch, whose loss is of the parameters before it.
ONE_STEP = dataclasses.replace(CONFIG, batch_size=72)


def checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))


def test_a_training_loss_that_is_not_finite_stops_the_run_after_its_call(tmp_path):
    with pytest.raises(Diverged, match=r"^the loss is not finite at epoch 0, step [1-4] \(update [1-4]\): lower"):
        loop.fit(dataclasses.replace(CONFIG, learning_rate=1e30), runs.make_dataset(), tmp_path)
    assert checkpoints(tmp_path) == [] and not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(("config", "steps"), [pytest.param(CONFIG, 5, marks=pytest.mark.slow), (ONE_STEP, 1)])
def test_the_last_good_checkpoint_and_the_epochs_before_are_kept(tmp_path, monkeypatch, config, steps):
    """Images of NaN from an epoch on, as a broken input would give them.

    In batches of 32 and more on a CPU the loss stays finite, see docs/numerics.md: the statistics do not.
    """
    broken = 2
    epochs = loop.Trainer.train_epoch

    def train_epoch(self, epoch, log, signal):
        if epoch == broken:
            images, labels, mean, std = self.source.data
            self.source.data = images, labels, mean * jnp.nan, std
        epochs(self, epoch, log, signal)

    monkeypatch.setattr(loop.Trainer, "train_epoch", train_epoch)
    with pytest.raises(Diverged, match=r"at epoch 2, step 0 .*the last good checkpoint is kept"):
        loop.fit(config, runs.make_dataset(), tmp_path, checkpoint_seconds=0.0)
    assert checkpoints(tmp_path)[-1] == steps * broken
    assert len(runs.strip(tmp_path)) == broken
    monkeypatch.undo()
    assert loop.fit(config, runs.make_dataset(), tmp_path).epochs == 3


def test_parameters_that_are_not_finite_stop_the_run_though_the_loss_is_finite(tmp_path):
    config = dataclasses.replace(ONE_STEP, learning_rate=1e10, weight_decay=1e38)
    with pytest.raises(Diverged, match=r"not finite at epoch 0, step 0 \(update 0\)"):
        loop.fit(config, runs.make_dataset(), tmp_path)
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_evaluation_that_is_not_finite_stops_the_run_though_training_is_finite(tmp_path, split):
    """Running statistics lag behind parameters that have just grown: activations overflow in the evaluation alone."""
    dataset = runs.make_dataset(validation=9 if split == "validation" else 0, test=9)
    config = dataclasses.replace(ONE_STEP, learning_rate=1e15)
    with pytest.raises(Diverged, match=f"^the {split} loss is not finite after epoch 0: lower --learning-rate$"):
        loop.fit(config, dataset, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_an_overflow_in_bfloat16_stops_the_run(tmp_path):
    config = dataclasses.replace(CONFIG, precision="bfloat16", learning_rate=1e30)
    with pytest.raises(Diverged, match="the loss is not finite at epoch 0"):
        loop.fit(config, runs.make_dataset(), tmp_path)
    assert checkpoints(tmp_path) == []


def test_losses_of_steps_that_are_finite_with_an_infinite_sum_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.Trainer, "epoch_metrics", lambda self: (math.inf, 0.5))
    with pytest.raises(Diverged, match=r"^the train loss is not finite over epoch 0: lower --learning-rate$"):
        loop.fit(CONFIG, runs.make_dataset(), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"" and not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_the_program_exits_with_1_and_one_line(tmp_path, monkeypatch, capfd):
    tiny_npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    assert single.main("initial", Config(), [*TINY, "--learning-rate", "1e30"]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "the loss is not finite at epoch 0" in err


def refused(tmp_path, dataset, **changes):
    """The line with which `fit` refuses a data set, before it writes anything."""
    with pytest.raises(InputError) as caught:
        loop.fit(dataclasses.replace(CONFIG, **changes), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(caught.value)


def test_a_class_without_training_images_is_refused_in_data_made_in_python(tmp_path):
    dataset = runs.make_dataset()
    more = dataclasses.replace(dataset, classes=(*dataset.classes, "nowhere"))
    line = "--dataset tiny: class nowhere has no training image: add some, or leave out the class"
    assert refused(tmp_path, more) == line
    assert refused(tmp_path, more.hold_out(9, seed=0)) == line
    only = dataclasses.replace(dataset, train=dataset.train.take(dataset.train.labels != 0))
    assert "class left has no training image" in refused(tmp_path, only)
    with pytest.raises(InputError, match="--train-images 2: leaves class"):
        dataset.subset(train=2)
    with pytest.raises(InputError, match="--folds 2: must lie from 2 to 0"):
        only.fold(2, 0)
    with pytest.raises(InputError, match="would take every training image of class"):
        dataset.hold_out(71, seed=0)


def test_data_from_which_nothing_can_be_learnt_are_refused(tmp_path):
    dataset = runs.make_dataset()
    labels = dataset.train.labels
    gray = Split(np.full_like(dataset.train.images, 7), labels)
    assert "one and the same colour" in refused(tmp_path, dataclasses.replace(dataset, train=gray))
    alone = Split(dataset.train.images, labels * 0)
    line = refused(tmp_path, Dataset("made", alone, alone.take(slice(0)), alone, ("everything",)))
    assert line == "--dataset made: it has 1 class: give at least 2"
    unseen = dataclasses.replace(dataset, test=dataset.test.take(slice(0)))
    assert "no test and no validation image" in refused(tmp_path, unseen)
    untrained = dataclasses.replace(dataset, train=dataset.train.take(slice(0)))
    assert "class left has no training image" in refused(tmp_path, untrained)
    nothing = Split(dataset.train.images[:, :0], labels)
    empty = dataclasses.replace(dataset, train=nothing, test=nothing)
    assert refused(tmp_path, empty) == "images of 0 x 8 have no pixels: give images of at least 1 x 1"


@pytest.mark.slow
def test_a_constant_channel_is_left_as_it_is(tmp_path):
    """Its standard deviation of 0 is replaced by 1, so that nothing is divided by 0."""
    dataset = runs.make_dataset()
    images = dataset.train.images.copy()
    images[..., 2] = 9
    dataset = dataclasses.replace(dataset, train=Split(images, dataset.train.labels))
    result = loop.fit(dataclasses.replace(CONFIG, epochs=1), dataset, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["std"][2] == 1.0 and record["mean"][2] == round(9 / 255, 4)
    assert np.isfinite([result.train_loss, result.test_loss]).all()


def one_pixel():
    dataset = runs.make_dataset()
    return dataclasses.replace(
        dataset, **{n: Split(s.images[:, :1, :1], s.labels) for n in ("train", "test") for s in [getattr(dataset, n)]}
    )


@pytest.mark.slow
def test_images_of_one_pixel_are_trained_on_without_crops(tmp_path):
    dataset, changes = one_pixel(), {"pool_size": 1}
    line = "--crop-padding 4: must be below 1, the images' shorter side, as crops of the padding alone show nothing"
    assert refused(tmp_path, dataset, **changes) == f"{line}: choose at most 0"
    changes |= {"crop_padding": 0}
    assert "--batch-size 71: leaves 1 of 72 training" in refused(tmp_path, dataset, batch_size=71, **changes)
    result = loop.fit(dataclasses.replace(CONFIG, batch_size=70, **changes), dataset, tmp_path / "run")
    assert np.isfinite([result.train_loss, result.test_loss]).all()


def test_why_a_batch_with_one_value_per_channel_is_refused():
    """Batch normalisation forgets its input, silently; PyTorch's refuses to train on it."""
    norm = BatchNorm()
    x = jnp.arange(1, 6, dtype=jnp.float32).reshape(1, 1, 1, 5)
    output, updates = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    assert not output.any()
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9)
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm2d(5)(torch.zeros(1, 5, 1, 1))
