"""Whose directory it is: the same run goes on, every other is refused with its difference named, nothing touched."""

import dataclasses
import json

import numpy as np
import pytest

from jresnet.config import Config
from jresnet.data.datasets import Dataset, Split
from jresnet.errors import InputError
from jresnet.records import run_directory
from jresnet.train.loop import describe
from tests.support.studies import as_nobody, unprivileged

CONFIG = Config(dataset="made", width=3, blocks=(1, 2), learning_rate=0.1, epochs=2)
OTHER = {
    "model": "resnet34",
    "dataset": "other",
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
    "epochs": 7,
    "batch_size": 8,
    "learning_rate": 0.3,
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "precision": "bfloat16",
    "batch_norm": "local",
}
FREE = {"data_dir": "elsewhere", "input": "tfds", "parallel": "pmap"}


def made(train=20, validation=4, test=6):
    def split(count):
        images = np.zeros((count, 4, 6, 3), np.uint8)
        images[: count // 2] = (255, 51, 0)
        return Split(images, (np.arange(count) % 2).astype(np.int32))

    return Dataset("made", split(train), split(validation), split(test), ("no", "yes"))


def described(seed=0, sha256="abc", **changes):
    return describe(dataclasses.replace(CONFIG, **changes), made(), sha256, seed, "trial")


@pytest.fixture
def claimed(tmp_path):
    run_directory.claim(tmp_path / "run", described())
    return tmp_path / "run"


def files(directory):
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def refused(workdir, run, resume=True):
    """The refusal's message; it is one line, and nothing beside or inside the directory has changed."""
    before = files(workdir.parent)
    with pytest.raises(InputError) as caught:
        run_directory.look(workdir, run, resume)
    assert files(workdir.parent) == before
    message = str(caught.value)
    assert "\n" not in message and message.count(": ") >= 2
    return message


def test_the_record_holds_what_the_result_depends_on(claimed):
    record = json.loads((claimed / "config.json").read_text())
    assert record["experiment"] == "trial" and record["seed"] == 0
    assert record["config"] == json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert record["config"]["blocks"] == [1, 2]
    assert record["dataset"] == {
        "name": "made", "train": 20, "validation": 4, "test": 6, "classes": 2, "sha256": "abc",
    }  # fmt: skip
    assert record["classes"] == ["no", "yes"] and record["image_size"] == [4, 6]
    assert record["mean"] == [0.5, 0.1, 0.0] and record["std"] == [0.5, 0.1, 1.0]


def test_looking_writes_nothing_and_claiming_makes_the_directory(tmp_path):
    workdir = tmp_path / "a" / "b"
    for resume in (False, True):
        assert run_directory.look(workdir, described(), resume) is None
    assert list(tmp_path.iterdir()) == []
    run_directory.claim(workdir, described())
    assert sorted(path.name for path in workdir.iterdir()) == ["config.json"]


def test_an_existing_directory_without_a_run_is_free(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert run_directory.look(tmp_path, described(), resume=False) is None
    run_directory.claim(tmp_path, described())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_same_run_needs_resume(claimed):
    assert run_directory.look(claimed, described(), resume=True) is None
    message = refused(claimed, described(), resume=False)
    assert message.startswith(f"--workdir {claimed}: already holds this run") and "--resume" in message


def test_a_finished_run_gives_its_result(claimed):
    (claimed / "result.json").write_text('{"test_accuracy": 0.5}')
    assert run_directory.look(claimed, described(), resume=True) == {"test_accuracy": 0.5}
    assert "already holds" in refused(claimed, described(), resume=False)
    assert "width 3, not 4" in refused(claimed, described(width=4))


def test_claiming_again_keeps_the_first_record(claimed):
    before = (claimed / "config.json").read_bytes()
    run_directory.claim(claimed, described(input="tfds"))
    assert (claimed / "config.json").read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", OTHER)
def test_another_configuration_is_refused_by_the_name_of_its_difference(claimed, name, resume):
    recorded, value = getattr(CONFIG, name), OTHER[name]
    as_json = [list(v) if isinstance(v, tuple) else v for v in (recorded, value)]
    message = refused(claimed, described(**{name: value}), resume)
    assert message.startswith(f"--workdir {claimed}: holds another run ({name} {as_json[0]}, not {as_json[1]})")
    assert "choose another directory" in message


def test_every_field_decides_whose_run_it_is_or_is_free():
    assert set(OTHER) | set(FREE) == {field.name for field in dataclasses.fields(Config)}
    assert not set(OTHER) & set(FREE)


@pytest.mark.parametrize("name", FREE)
def test_where_data_lie_and_how_they_travel_may_change(claimed, name):
    assert run_directory.look(claimed, described(**{name: FREE[name]}), resume=True) is None


def test_another_seed_or_other_data_are_refused(claimed):
    assert "(seed 0, not 3)" in refused(claimed, described(seed=3))
    assert "(data sha256 abc, not def)" in refused(claimed, described(sha256="def"))
    both = refused(claimed, described(seed=1, width=9))
    assert "width 3, not 9; seed 0, not 1" in both


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1]", b"3", b'{"config": 1}', b'{"seed": 0}', b"{}"])
def test_a_config_that_is_no_record_is_refused(claimed, content):
    (claimed / "config.json").write_bytes(content)
    message = refused(claimed, described())
    assert str(claimed / "config.json") in message and "record of a run" in message and "choose" in message


def test_a_config_that_is_a_directory_is_refused(tmp_path):
    (tmp_path / "run" / "config.json").mkdir(parents=True)
    assert "config.json" in refused(tmp_path / "run", described())


@pytest.mark.parametrize("content", [b"{", b"[]", b"null"])
def test_a_result_that_is_no_record_is_refused(claimed, content):
    (claimed / "result.json").write_bytes(content)
    assert str(claimed / "result.json") in refused(claimed, described())


def test_a_missing_record_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: not a readable record"):
        run_directory.read_json(tmp_path / "none.json")


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
def test_a_file_in_the_path_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("kept")
    message = refused(tmp_path / "file" / below, described())
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
            run_directory.look(closed / below, described(), resume=True)
        message = str(caught.value)
        assert message.startswith(f"--workdir {closed / below}: {closed}") and "choose another" in message
        assert list(closed.iterdir()) == []


def test_writing_that_fails_though_permitted_is_refused(tmp_path, monkeypatch):
    """As on a read-only file system, where root is told that it may write."""

    def fail(self, *_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.touch", fail)
    assert "is not writable: choose another directory" in refused(tmp_path / "run", described())


def test_a_name_that_no_file_system_takes_is_refused(tmp_path):
    assert "choose another" in refused(tmp_path / ("x" * 300), described())
