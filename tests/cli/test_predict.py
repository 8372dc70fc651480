"""`jresnet predict`: which files it finds, what it prints where, and its exit statuses."""

import csv
import io
import json
import shlex
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jresnet import models
from jresnet.cli import commands
from jresnet.cli.network import WeightsOptions
from jresnet.cli.predict import find
from jresnet.config import Config
from jresnet.use.classifier import Classifier, described, store
from tests.support.commands import run

CONFIG = Config(width=2, blocks=(1,), pool_size=8, image_size=(8, 8), resize="crop")
CLASSES, MEAN, STD = ("cat", "dog", "=owl"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)


@pytest.fixture(scope="module")
def variables():
    network = models.from_config(CONFIG, len(CLASSES))
    return jax.jit(network.init, static_argnames="train")(jax.random.key(0), np.zeros((1, 8, 8, 3)), train=False)


@pytest.fixture(scope="module")
def classifier(variables):
    record = described(CONFIG, CLASSES, (8, 8), MEAN, STD)
    return Classifier(models.from_config(CONFIG, len(CLASSES)), variables, record)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three images in a folder of the working directory, two of another size than 8 x 8, and a hidden file."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (8, 8)), ("b/c.png", (16, 9)), ("b/d[1].png", (20, 12))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    (tmp_path / "photos" / ".hidden.png").write_text("not read")
    return ["photos/a.png", "photos/b/c.png", "photos/b/d[1].png"]


@pytest.fixture
def loaded(monkeypatch, classifier):
    """The network is there already."""
    monkeypatch.setattr(WeightsOptions, "load", lambda options, path: classifier)


@pytest.mark.parametrize(
    "words", [["photos"], ["photos/a.png", "photos/b"], ["photos/**/*.png"], ["photos/a.png", "photos/b/*", "photos"]]
)
def test_files_folders_and_patterns_name_each_file_once(photos, words):
    files, refused = find(words)
    assert (sorted(files), refused) == (photos, {})


def test_paths_are_read_from_standard_input(photos, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photos/b\n\nphotos/a.png\n")))
    assert find(["-"]) == ([*photos[1:], photos[0]], {})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x89PNG\0\0")))
    message = "-: standard input must be paths, one a line: to classify one image, give its path"
    assert find(["-", "photos/a.png"]) == (["photos/a.png"], {"-": message})


def test_a_bad_line_of_standard_input_costs_no_other(photos, monkeypatch):
    lines = b"s3://x\n~nobody-of-that-name/a.png\nphotos/a.png\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    files, refused = find(["-"])
    assert files == ["photos/a.png"] and [*refused] == ["s3://x", "~nobody-of-that-name/a.png"]


@pytest.mark.parametrize("words", [["photos", "photos"], ["photos/**"], ["photos/*", "./photos/", "photos/link"]])
def test_what_several_words_name_is_refused_once(photos, tmp_path, words):
    (tmp_path / "photos" / "link").symlink_to("nothing")
    files, refused = find(words)
    message = "photos/link cannot be read (a link to nothing): repair it, or leave it out"
    assert (sorted(files), refused) == (photos, {"photos/link": message})


def test_the_table_has_the_most_probable_class_of_each_image(capsys, photos, loaded, classifier):
    status, out, err = run(capsys, "predict", "runs/mine", "photos")
    best = classifier.predict(photos)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert rows == [[path, CLASSES[row.argmax()], f"{row.max():.4f}"] for path, row in zip(photos, best, strict=True)]


def test_json_and_csv_have_the_top_classes(capsys, photos, loaded, classifier, tmp_path):
    best = classifier.predict(photos)
    status, out, err = run(capsys, "predict", "runs/mine", "photos", "--json", "-", "--top", 2)
    records = json.loads(out)
    assert (status, err) == (0, "") and [record["file"] for record in records] == photos
    for record, row in zip(records, best, strict=True):
        order = np.argsort(-row)[:2]
        assert [top["class"] for top in record["top"]] == [CLASSES[label] for label in order]
        np.testing.assert_allclose([top["probability"] for top in record["top"]], row[order], rtol=1e-6)
        assert {name: record[name] for name in ("class", "probability")} == record["top"][0]
    status, out, _ = run(capsys, "predict", "runs/mine", "photos", "--csv", "out.csv", "--top", 3, "--json", "out.json")
    assert (status, len(out.split("=owl"))) == (0, 4)  # the table is printed
    assert [len(record["top"]) for record in json.loads((tmp_path / "out.json").read_text())] == [3, 3, 3]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["file"] for row in rows[::3]] == photos and len(rows) == 9
    assert {row["class"] for row in rows} == {"cat", "dog", "'=owl"}  # no formula for a spreadsheet
    np.testing.assert_allclose([float(row["probability"]) for row in rows], -np.sort(-best).ravel(), rtol=1e-6)


class Closed(io.StringIO):
    """A standard output whose reader is gone."""

    def write(self, text):
        raise BrokenPipeError


def test_a_reader_that_leaves_costs_no_file(photos, loaded, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", Closed())
    words = ["--json", "out.json", "--csv", "out.csv"]
    assert commands.main(["predict", "runs/mine", "photos", *words]) == 141
    assert [record["file"] for record in json.loads((tmp_path / "out.json").read_text())] == photos
    assert (tmp_path / "out.csv").read_text().count("\n") == 4


def test_unreadable_files_are_named_and_the_others_done(capsys, photos, loaded, tmp_path):
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "link").symlink_to("nothing")
    status, out, err = run(capsys, "predict", "runs/mine", "photos", "none/*.png", "s3://bucket/a.png", "--csv", "-")
    assert status == 5 and [line.split(",")[0] for line in out.splitlines()[1:]] == photos
    assert err.splitlines() == [
        "photos/link cannot be read (a link to nothing): repair it, or leave it out",
        "s3://bucket/a.png: is a URL, and jresnet reads and writes local files: mount it, or copy the files",
        "photos/notes.txt cannot be read as an image (it is no image of a known format): repair it, or leave it out",
        "none/*.png cannot be read as an image (No such file or directory): repair it, or leave it out",
        "4 of 7 images could not be read (named above): repair them or leave them out",
    ]


def test_nothing_readable_is_one_line(capsys, photos, loaded, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no image")
    for words, reason in (
        (["empty"], "empty: there are no files in this folder: give one with images, or leave it out"),
        (["x" * 300], f"{'x' * 300} cannot be read as an image (File name too long): repair it, or leave it out"),
        (["text", "none.png"], "text cannot be read as an image (it is no image of a known format): repair it, or"),
    ):
        status, out, err = run(capsys, "predict", "runs/mine", *words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"no image could be read: {reason}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("runs/mine", "IMAGES: must be given"),
        ("runs/mine photos ''", "IMAGES '': names nothing: give files, folders, patterns"),
        ("runs/mine photos --top 0", "--top 0: must be at least 1"),
        ("runs/mine photos --top 4", "--top 4: the network has 3 classes: choose at most 3"),
        ("runs/mine photos --json - --csv -", "--csv -: has --json already: give a file"),
        ("runs/mine photos --json a --csv a", "--csv a: is the file of --json too: choose another"),
        ("runs/mine photos --json none/a", "--json none/a: there is no directory none: name a file in a directory"),
        (f"runs/mine photos --csv {'x' * 300}", f"--csv {'x' * 300}: cannot be reached (File name too long): check"),
        ("runs/mine photos --resize fit", "--resize fit: must be one of crop, pad, stretch"),
    ],
)
def test_bad_options_are_one_line(capsys, photos, loaded, words, message):
    status, out, err = run(capsys, "predict", *shlex.split(words))
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(message)


def test_a_run_and_a_file_of_weights_predict_alike(capsys, photos, variables, tmp_path):
    store(tmp_path / "run", CONFIG, variables, CLASSES, (8, 8), MEAN, STD)
    file, normalisation = "weights.safetensors", ["--mean", *MEAN, "--std", *STD]
    assert commands.main(["convert", "run", file]) == 0
    capsys.readouterr()
    of_run = run(capsys, "predict", "run", "photos", "--json", "-")
    given = [*normalisation, "--classes", *CLASSES, "--image-size", 8, 8, "--resize", "crop"]
    status, out, err = run(capsys, "predict", file, "photos", "--json", "-", *given)
    assert of_run[0] == status == 0 and json.loads(out) == json.loads(of_run[1])
    assert err.count("\n") == 1 and err.startswith(f"{file}: read as resnet20 --width 2 --blocks 1")
    assert run(capsys, "predict", file, "photos")[2].startswith("--mean and --std: weights from a file need")
    message = run(capsys, "predict", file, "photos", *normalisation, "--image-size", 8, 8, "--classes", "cat", "dog")[2]
    assert message == f"--classes cat dog: {file} has 3 classes: give as many names\n"
    message = run(capsys, "predict", "weihgts.safetensors", "photos", "--model", "resnet20")[2]
    assert message == "weihgts.safetensors: there is no such run or file of weights: choose another\n"
    message = run(capsys, "predict", "run", "photos", *normalisation)[2]
    assert message.startswith("--mean 0.5 0.5 0.5: the run's own record says it: leave it out")
