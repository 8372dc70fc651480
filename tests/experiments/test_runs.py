"""Directories of a study's runs: found by what they hold, whatever version or data path they were begun with."""

import dataclasses
import hashlib
import json
import shutil

import pytest

from experiments.study import runs
from jresnet import models
from jresnet.config import Config, DeviceConfig, Source
from jresnet.errors import InputError
from jresnet.records import run_directory
from jresnet.train.loop import describe
from tests.support.studies import five_classes

CONFIG = Config(width=4, blocks=(1, 1), epochs=2)


def begin(run, directory):
    """Create the run's directory as `fit` does."""
    run_directory.create(directory, describe(run.config, run.dataset, run.dataset.sha256, run.seed, run.experiment))


def first_version_digest(config, sha256):
    """The digest of the first version, over every option but four, the data set's name included."""
    left_out = ("data_dir", "input", "parallel", "budget")
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in left_out}
    return hashlib.sha256(json.dumps([options, sha256], sort_keys=True).encode()).hexdigest()[:10]


def test_a_study_begun_by_the_first_version_is_continued(tmp_path):
    dataset = five_classes()
    run = runs.study_run("width", CONFIG, 0, dataset, tmp_path)
    name = f"{runs.name(run.config)}-{first_version_digest(run.config, dataset.sha256)}"
    assert name != run.directory.parent.name
    begin(run, tmp_path / runs.RUNS / name / "seed-0")
    for seed in (0, 1):
        run = runs.study_run("width", CONFIG, seed, dataset, tmp_path)
        assert run.directory == tmp_path / runs.RUNS / name / f"seed-{seed}"


@pytest.mark.parametrize("changes", [{"dataset": "npz:/moved.npz"}, {"data_dir": "/moved"}, {"input": "tfds"}])
def test_the_same_data_under_another_path_are_the_same_run(tmp_path, changes):
    dataset = five_classes()
    moved = dataclasses.replace(dataset, name=changes.get("dataset", dataset.name))
    config = dataclasses.replace(CONFIG, **changes)
    first = runs.study_run("width", CONFIG, 0, dataset, tmp_path)
    assert runs.study_run("width", config, 0, moved, tmp_path).directory == first.directory
    begin(first, first.directory)
    assert runs.study_run("width", config, 0, moved, tmp_path).directory == first.directory


def test_another_configuration_seed_or_data_set_has_another_directory(tmp_path):
    dataset = five_classes()
    first = runs.study_run("width", CONFIG, 0, dataset, tmp_path)
    begin(first, first.directory)
    others = [
        runs.study_run("width", dataclasses.replace(CONFIG, momentum=0.5), 0, dataset, tmp_path),
        runs.study_run("width", CONFIG, 1, dataset, tmp_path),
        runs.study_run("width", CONFIG, 0, dataset.subset(train=10), tmp_path),
    ]
    assert len({run.directory for run in (first, *others)}) == 4


def test_a_study_does_not_start_from_weights(tmp_path):
    config = dataclasses.replace(CONFIG, init_from="source")
    with pytest.raises(InputError, match=r"^--init-from source: the runs of a study start from random weights: leave"):
        runs.study_run("width", config, 0, five_classes(), tmp_path)


def test_options_at_their_defaults_do_not_enter_the_digest():
    config = models.fill_defaults(CONFIG)
    assert runs.digest(config, "a") == runs.digest(dataclasses.replace(config, batch_norm="synchronised"), "a")
    assert runs.digest(config, "a") != runs.digest(dataclasses.replace(config, batch_norm="local"), "a")
    assert runs.digest(config, "a") != runs.digest(config, "b")


def test_a_damaged_record_beside_the_run_does_not_hide_it(tmp_path):
    dataset = five_classes()
    run = runs.study_run("width", CONFIG, 0, dataset, tmp_path)
    begin(run, run.directory)
    damaged = run.directory.parent.with_name(f"{runs.name(run.config)}-0000000000") / "seed-0"
    shutil.copytree(run.directory, damaged)
    (damaged / "config.json").write_text("{")
    assert runs.study_run("width", CONFIG, 0, dataset, tmp_path).directory == run.directory


# Options that names do not show, or show in words of their own: those that the report's experiments vary, and older
# ones, which must not join, as runs begun with them would not be found.
UNNAMED = {
    "width", "batch_size", "learning_rate", "crop_padding", "flip", "grayscale", "blocks", "kernel_size", "pool_size",
    "schedule", "epochs", "model", "dropout", "shortcut", "stem", "epsilon", "budget", "validation", "input",
    "momentum", "nesterov", "weight_decay", "warmup_epochs", "init_from", "freeze", "head_learning_rate",
    "class_weights", "keep_best",
}  # fmt: skip


def test_names_show_every_option_but_those_of_devices_and_data_and_older_ones():
    """A new option of Config has its place in one of the two lists."""
    own = {field.name for field in dataclasses.fields(Config)}
    elsewhere = {field.name for kind in (Source, DeviceConfig) for field in dataclasses.fields(kind)}
    assert own - elsewhere - UNNAMED == {*runs._INGREDIENTS} and not UNNAMED & {*runs._INGREDIENTS}
    assert own >= UNNAMED


def test_names_tell_options_beyond_the_reports_and_keep_those_of_older_runs():
    config = models.fill_defaults(CONFIG)
    assert runs.name(config) == "width4-batch64-rate0.01-blocks11-crop4-flip0.5-gray0.5-2epochs"
    older = {
        "schedule": "cosine",
        "nesterov": True,
        "warmup_epochs": 1.0,
        "weight_decay": 0.1,
        "keep_best": "validation",
    }
    assert runs.name(dataclasses.replace(config, **older)) == runs.name(config)
    changes = {"cutout": 8, "ema_decay": 0.99, "label_smoothing": 0.1, "alternate_flip": True, "randaugment": (2, 9)}
    changed = dataclasses.replace(config, **changes, schedule="one-cycle", warmup_epochs=1.0, test_after="training")
    assert runs.name(changed) == (
        "width4-batch64-rate0.01-blocks11-crop4-flip0.5-gray0.5-onecycle-alternateflip-randaugment2x9-cutout8-"
        "labelsmoothing0.1-emadecay0.99-testaftertraining-2epochs"
    )


def test_a_name_is_no_longer_than_a_file_system_takes(tmp_path):
    changes = {"cutout": 8, "ema_decay": 0.999, "label_smoothing": 0.1, "alternate_flip": True, "trivialaugment": True}
    changes |= {"mixup": 0.2, "cutmix": 1.0, "optimizer": "muon", "muon_learning_rate": 0.01, "clip_norm": 1.0}
    changes |= {"accumulate": 2, "weight_decay_on": "kernels", "test_after": "training"}
    config = dataclasses.replace(models.fill_defaults(CONFIG), **changes)
    name = runs.name(config)
    assert len(name) == runs.LONGEST and name.endswith("-2epochs")
    (place := tmp_path / f"{name}-{runs.digest(config, '0')[:10]}").mkdir()
    assert len(place.name) == 255
