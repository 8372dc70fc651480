"""The run directory: the same run is continued, any other is refused naming the difference, and nothing is touched."""

import dataclasses
import json

import numpy as np
import pytest

from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Dataset, Split
from jresnet.errors import InputError
from jresnet.records import run_directory
from jresnet.records.files import read_json
from jresnet.records.run import is_replanned
from jresnet.train.loop import describe
from tests.support.studies import as_nobody, unprivileged

CONFIG = Config(dataset="made", width=3, blocks=(1, 2), learning_rate=0.1, epochs=2, init_from="weights")
OTHER = {
    "model": "resnet34",
    "validation": 5,
    "crop_padding": 2,
    "flip": 0.25,
    "grayscale": 0.0,
    "width": 16,
    "blocks": (2, 2),
    "kernel_size": 5,
    "pool_size": 2,
    "dropout": 0.5,
    "budget": 10,
    "batch_size": 8,
    "learning_rate": 0.3,
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "precision": "bfloat16",
    "batch_norm": "local",
    "deterministic": True,
    "resize": "pad",
    "background": (0, 0, 0),
    "shortcut": "padding",
    "stem": "small-pool",
    "epsilon": 1e-3,
    "freeze": (0, 2),
    "head_learning_rate": 0.1,
    "class_weights": "balanced",
    "keep_best": "validation",
    "alternate_flip": True,
    "trivialaugment": True,
    "randaugment": (2, 9),
    "cutout": 2,
    "mixup": 0.2,
    "cutmix": 1.0,
    "zero_init": True,
    "optimizer": "adamw",
    "muon_learning_rate": 0.1,
    "weight_decay_on": "kernels",
    "label_smoothing": 0.1,
    "ema_decay": 0.99,
    "clip_norm": 1.0,
    "accumulate": 2,
    "sam": 0.05,
    "test_after": "training",
}
# Options without which others are refused.
BESIDE = {"zero_init": {"init_from": None}, "muon_learning_rate": {"optimizer": "muon"}}
CHANGEABLE = {
    "dataset": "other", "data_dir": "elsewhere", "image_size": (8, 8), "skip_unreadable": True,
    "test_from": "validation", "holdout_test": 5, "epochs": 7, "input": "tfds", "parallel": "pmap",
    "channel_multiple": 8, "init_from": None,
}  # fmt: skip


def made(train=20, validation=4, test=6):
    def split(count):
        images = np.zeros((count, 4, 6, 3), np.uint8)
        images[: count // 2] = (255, 51, 0)
        return Split(images, (np.arange(count) % 2).astype(np.int32))

    return Dataset("made", split(train), split(validation), split(test), ("no", "yes"))


def make_run(seed=0, sha256="abc", **changes):
    return describe(dataclasses.replace(CONFIG, **changes), made(), sha256, seed, "trial")


def check(workdir, run, resume=True):
    return run_directory.check(workdir, run.config, run.seed, run.dataset["sha256"], resume)


def finish(workdir, **changes):
    """Write the records of a finished run."""
    run = make_run().to_json()
    figures = {"train_loss": 1.0, "train_accuracy": 0.25} | changes
    history = [{"epoch": e, **figures, "learning_rate": 0.1, "images_per_second": 10.0, "seconds": 2.0} for e in (0, 1)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    record = {name: run[name] for name in ("experiment", "config", "seed", "dataset")} | figures
    record |= {"parameters": 1, "epochs": 2, "device": "none", "versions": {}, "commit": None}
    run_directory.finish(workdir, record | {"seconds": 4.0, "compile_seconds": 1.0, "images_per_second": 10.0}, history)


@pytest.fixture
def workdir(tmp_path):
    run_directory.create(tmp_path / "run", make_run())
    return tmp_path / "run"


def files(directory):
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def refused(workdir, run, resume=True):
    """The one-line message of the refusal, after which nothing in or beside the directory has changed."""
    before = files(workdir.parent)
    with pytest.raises(InputError) as caught:
        check(workdir, run, resume)
    assert files(workdir.parent) == before
    message = str(caught.value)
    assert "\n" not in message and message.count(": ") >= 2
    return message


def test_config_json_holds_the_run(workdir):
    record = json.loads((workdir / "config.json").read_text())
    assert record["experiment"] == "trial" and record["seed"] == 0
    assert record["config"] == json.loads(json.dumps(dataclasses.asdict(models.fill_defaults(CONFIG))))
    assert record["config"]["blocks"] == [1, 2]
    assert record["dataset"] == {
        "name": "made", "train": 20, "validation": 4, "test": 6, "classes": 2, "sha256": "abc",
    }  # fmt: skip
    assert record["classes"] == ["no", "yes"] and record["image_size"] == [4, 6]
    assert record["mean"] == [0.5, 0.1, 0.0] and record["std"] == [0.5, 0.1, 1.0]


def test_config_json_names_the_files_that_the_data_were_read_without(tmp_path):
    dataset = dataclasses.replace(made(), skipped=("train/no/a.png", "train/yes/b.txt"))
    run = describe(CONFIG, dataset, "abc", 0, "trial")
    run_directory.create(tmp_path, run)
    found = run_directory.read_run(tmp_path)
    assert found.dataset["skipped"] == ["train/no/a.png", "train/yes/b.txt"]
    assert found.fingerprint == run.fingerprint == make_run().fingerprint  # the pixels are the same


def test_check_writes_nothing_and_create_makes_the_directory(tmp_path):
    workdir = tmp_path / "a" / "b"
    for resume in (False, True):
        assert check(workdir, make_run(), resume) is None
    assert list(tmp_path.iterdir()) == []
    run_directory.create(workdir, make_run())
    assert sorted(path.name for path in workdir.iterdir()) == ["config.json"]


def test_an_existing_directory_without_a_run_can_be_used(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert check(tmp_path, make_run(), resume=False) is None
    run_directory.create(tmp_path, make_run())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_same_run_needs_resume(workdir):
    assert check(workdir, make_run(), resume=True) is None
    message = refused(workdir, make_run(), resume=False)
    assert message.startswith(f"--workdir {workdir}: already holds this run") and "--resume" in message


def test_a_finished_run_returns_its_result(workdir):
    finish(workdir, test_accuracy=0.5)
    assert check(workdir, make_run(), resume=True).test_accuracy == 0.5
    assert "already holds" in refused(workdir, make_run(), resume=False)
    assert "width 3, not 4" in refused(workdir, make_run(width=4))


def test_creating_again_keeps_the_first_record(workdir):
    before = (workdir / "config.json").read_bytes()
    run_directory.create(workdir, make_run(input="tfds"))
    assert (workdir / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", [0.5, 0.3, 0.0]),
        ("std", [0.5, 0.1, 0.9]),
        ("image_size", [4, 4]),
        ("classes", ["no", "yet"]),
        ("dataset", {"name": "made", "train": 21, "validation": 4, "test": 6, "classes": 2, "sha256": "abc"}),
    ],
)
def test_creating_again_refuses_a_record_that_contradicts_the_data(workdir, name, value):
    """Its checksums would be made for it at the end, and whoever loads the network would normalise with it."""
    record = json.loads((workdir / "config.json").read_text()) | {name: value}
    (workdir / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"config\.json: .* are not those of the data: restore it"):
        run_directory.create(workdir, make_run())


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", OTHER)
def test_another_configuration_is_refused_naming_the_difference(workdir, name, resume):
    values = (getattr(models.fill_defaults(CONFIG), name), OTHER[name])
    recorded, other = (" ".join(map(str, value)) if isinstance(value, tuple) else value for value in values)
    message = refused(workdir, make_run(**{name: OTHER[name]}, **BESIDE.get(name, {})), resume)
    assert message.startswith(f"--workdir {workdir}: holds another run (")
    assert f"{name} {recorded}, not {other}" in message
    assert "choose another directory" in message


def test_runs_that_differ_in_more_than_epochs_are_not_replanned():
    """Though the wanted options would be no configuration with the recorded number of epochs."""
    wanted = Config(epochs=20, warmup_epochs=12.0, schedule="one-cycle")
    assert not is_replanned(wanted, Config(epochs=10))
    assert is_replanned(Config(epochs=20), Config(epochs=10))


def test_every_option_is_part_of_the_identity_or_not():
    assert set(OTHER) | set(CHANGEABLE) == {field.name for field in dataclasses.fields(Config)}
    assert not set(OTHER) & set(CHANGEABLE)


def test_a_run_without_new_options_has_the_fingerprint_that_its_checkpoints_have():
    """As the version before those options computed it; another would make its checkpoints another run's."""
    assert make_run().fingerprint == "e7996817933873506896f95062eb99616ca20f5adbb42c9ab52e588ef9bead57"


@pytest.mark.parametrize("name", CHANGEABLE)
def test_the_datas_path_and_the_input_may_change(workdir, name):
    assert check(workdir, make_run(**{name: CHANGEABLE[name]}), resume=True) is None


def test_another_seed_or_other_data_are_refused(workdir):
    assert "(seed 0, not 3)" in refused(workdir, make_run(seed=3))
    assert "(data sha256 abc, not def)" in refused(workdir, make_run(sha256="def"))
    both = refused(workdir, make_run(seed=1, width=9))
    assert "width 3, not 9; seed 0, not 1" in both


def test_a_run_reads_back_as_it_was_written(workdir):
    assert run_directory.read_run(workdir) == make_run()


def test_an_option_added_later_has_its_default_in_older_records(workdir):
    record = json.loads((workdir / "config.json").read_text())
    del record["config"]["batch_norm"], record["config"]["warmup_epochs"]
    (workdir / "config.json").write_text(json.dumps(record))
    assert check(workdir, make_run()) is None
    assert run_directory.read_run(workdir) == make_run()
    assert "batch_norm synchronised, not local" in refused(workdir, make_run(batch_norm="local"))


def test_an_option_of_a_later_version_is_refused(workdir):
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["warp"] = 0.2
    (workdir / "config.json").write_text(json.dumps(record))
    message = refused(workdir, make_run())
    assert "not a record of this version (config has an unknown field 'warp'; jresnet '" in message
    record["config"]["bend"], record["jresnet"] = 3, "9.1"
    (workdir / "config.json").write_text(json.dumps(record))
    message = refused(workdir, make_run())
    assert "(config has unknown fields 'warp', 'bend'; jresnet '9.1' wrote it)" in message


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1]", b"3", b'{"config": 1}', b'{"seed": 0}', b"{}"])
def test_a_config_that_is_no_record_is_refused(workdir, content):
    (workdir / "config.json").write_bytes(content)
    message = refused(workdir, make_run())
    assert str(workdir / "config.json") in message and message.endswith(("choose another", "choose another directory"))


def test_a_config_that_is_a_directory_is_refused(tmp_path):
    (tmp_path / "run" / "config.json").mkdir(parents=True)
    assert "config.json" in refused(tmp_path / "run", make_run())


@pytest.mark.parametrize("content", [b"{", b"[]", b"null"])
def test_a_result_that_is_no_record_is_refused(workdir, content):
    finish(workdir)
    (workdir / "result.json").write_bytes(content)
    assert str(workdir / "result.json") in refused(workdir, make_run())


def test_a_missing_record_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: "):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
def test_a_file_in_the_path_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("kept")
    message = refused(tmp_path / "file" / below, make_run())
    assert f"{tmp_path / 'file'} is not a directory: choose another" in message
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("mode", [0o555, 0o000])
@pytest.mark.parametrize("below", ["", "new", "new/deeper"])
def test_a_directory_that_cannot_be_written_is_refused(mode, below):
    with unprivileged() as home:
        closed = home / "closed"
        closed.mkdir()
        closed.chmod(mode)
        with as_nobody(), pytest.raises(InputError) as caught:
            check(closed / below, make_run())
        message = str(caught.value)
        assert message.startswith(f"--workdir {closed / below}: {closed}") and "choose another" in message
        assert list(closed.iterdir()) == []


def test_writing_that_fails_though_permitted_is_refused(tmp_path, monkeypatch):
    """As on a read-only file system, where root is told that it may write."""

    def fail(self, *_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.touch", fail)
    assert "is not writable: choose another directory" in refused(tmp_path / "run", make_run())


def test_a_name_that_no_file_system_takes_is_refused(tmp_path):
    assert "choose another" in refused(tmp_path / ("x" * 300), make_run())


def test_predictions_have_the_labels_always_and_names_where_there_are_any(tmp_path):
    columns = np.array([1, 0], np.int32), np.array([0.9, 0.6], np.float32), np.array([1, 1], np.int32)
    for names in (None, ("test/yes/é.png", "test/yes/b.png")):
        run_directory.write_predictions(tmp_path, *columns, names)
        with np.load(tmp_path / "predictions.npz", allow_pickle=False) as archive:
            found = dict(archive)
        for name, array in zip(("predictions", "confidences", "labels"), columns, strict=True):
            np.testing.assert_array_equal(found.pop(f"test_{name}"), array, strict=True)
        assert [*map(tuple, found.values())] == ([] if names is None else [names])
