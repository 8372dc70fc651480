"""`python -m jresnet evaluate`: the figures of runs, files and ensembles, in one step; what is refused, and when."""

import dataclasses
import functools
import json
import shutil
import types

import numpy as np
import pytest
from PIL import Image

import jresnet
from jresnet import models
from jresnet.cli import commands, data, evaluate
from jresnet.records import run_directory
from jresnet.train import initial, optim
from jresnet.train.checkpoint import Checkpoints, Meta
from jresnet.train.loop import describe
from jresnet.train.trainer import init_program
from jresnet.use import metrics
from tests.support.commands import refusal, run
from tests.support.page_parser import Page
from tests.support.runs import make_dataset

CONFIG = jresnet.Config(
    width=2, blocks=(1,), pool_size=8, epochs=1, batch_size=12, parallel="jit", input="resident", learning_rate=0.05,
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images, and two runs on it with random weights."""
    root = tmp_path_factory.mktemp("evaluate")
    made = make_dataset(24, 15)
    for name in ("train", "test"):
        part = getattr(made, name)
        for index, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            path = root / "photos" / name / made.classes[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    dataset = jresnet.load_dataset(f"folder:{root / 'photos'}")
    for seed in (0, 1):
        write_run(root / f"run-{seed}", dataset, seed)
    return root, dataset


@pytest.fixture(scope="module", autouse=True)
def _load_once():
    """Let tests of one run share its compiled program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jresnet.Classifier, "load", functools.cache(jresnet.Classifier.load))
        yield


@functools.cache
def initial_program(network, size):
    """Compiled once for all runs, which differ in what it is given."""
    return init_program(network, optim.shared_optimizer(CONFIG, 1), (*size, 3))


def write_run(directory, dataset, seed=0, **options):
    """The directory of a run that has not trained a step."""
    config = dataclasses.replace(CONFIG, **options)
    run = describe(config, dataset, dataset.sha256, seed, "made")
    network = models.from_config(run.config, len(run.classes))
    state = initial_program(network, run.image_size)(seed, *optim.rates(config))
    with Checkpoints(directory / "checkpoints", runs=run.fingerprints) as checkpoints:
        checkpoints.save(0, state, Meta(history=()))
    run_directory.create(directory, run)


def test_an_ensemble_against_one_of_its_members_on_the_runs_own_data(capsys, photos, tmp_path):
    root, dataset = photos
    paths, files = [str(root / f"run-{seed}") for seed in (0, 1)], [tmp_path / "found.json", tmp_path / "page.html"]
    words = [*paths, "--tta", "flip", "--against", paths[0], "--json", files[0], "--page", files[1]]
    status, out, err = run(capsys, "evaluate", *words)
    assert (status, err) == (0, "")
    record = json.loads(files[0].read_text())
    models = [jresnet.Classifier.load(path) for path in paths]
    plain, flipped = (
        [model.predict(images).astype(float) for model in models]
        for images in (dataset.test.images, dataset.test.images[:, :, ::-1])
    )
    expected = {
        paths[0]: plain[0], paths[1]: plain[1], "ensemble of 2": sum(plain) / 2,
        "ensemble of 2, with flip": sum(plain + flipped) / 4, f"against: {paths[0]}": plain[0],
        f"against: {paths[0]}, with flip": (plain[0] + flipped[0]) / 2,
    }  # fmt: skip
    assert [*record["systems"]] == [*expected] and record["name"] == "ensemble of 2, with flip"
    for name, probabilities in expected.items():
        found, figures = record["systems"][name], metrics.figures(probabilities, dataset.test.labels)
        assert found["images"] == 15 and found["correct"] == figures.correct
        assert found["cross_entropy"] == pytest.approx(figures.cross_entropy, rel=1e-6)
    assert sum(record["against"]["test"][name] for name in ("both", "first", "second", "neither")) == 15
    assert record["dataset"]["sha256"] == dataset.sha256 and record["split"] == "test"
    started_from = initial.read(dataclasses.replace(CONFIG, init_from=paths[0]), tmp_path).record
    assert record["models"][0]["weights_sha256"] == started_from.sha256
    assert {mistake["name"] for mistake in record["mistakes"]} <= {*dataset.test.names}
    assert f"folder:{root / 'photos'}, test: 15 images of 3 classes" in " ".join(out.split())
    assert out.endswith(f"{files[0]}\n{files[1]}\n") and "McNemar" in out
    assert "Evaluation of ensemble of 2, with flip" in Page(files[1].read_text()).text()


def test_a_folder_of_test_images_alone_has_the_runs_classes(capsys, photos, tmp_path):
    root, dataset = photos
    words = ["evaluate", str(root / "run-0"), "--json", "-", "--dataset"]
    status, own, _ = run(capsys, *words, f"folder:{root / 'photos'}")
    assert status == 0
    shutil.copytree(root / "photos/test", tmp_path / "new/test")
    for directory in (tmp_path / "new", tmp_path / "new/test"):
        status, out, err = run(capsys, *words, f"folder:{directory}")
        alone = json.loads(out)
        assert (
            status == 0
            and ("the classes of test images" in err) == (directory.name == "test")
            and alone["dataset"]["train"] == 0
            and alone["dataset"]["test"] == 15
        )
        assert alone["systems"] == json.loads(own)["systems"] and alone["confusion"] == json.loads(own)["confusion"]
    shutil.copytree(tmp_path / "new/test" / dataset.classes[0], tmp_path / "new/test/unknown")
    said = refusal(capsys, *words, f"folder:{tmp_path / 'new'}")
    assert dataset.classes[0] in said and said.endswith("unknown: rename or remove them")


def test_a_runs_own_folder_without_its_training_images_is_refused(capsys, photos, tmp_path):
    root, _ = photos
    shutil.copytree(root / "photos", tmp_path / "photos")
    write_run(tmp_path / "run", jresnet.load_dataset(f"folder:{tmp_path / 'photos'}"))
    shutil.rmtree(tmp_path / "photos/train")
    assert f"there is no directory {tmp_path}/photos/train" in refusal(capsys, "evaluate", str(tmp_path / "run"))


def test_a_file_of_weights_in_one_step(capsys, photos, tmp_path):
    pytest.importorskip("safetensors")
    root, dataset = photos
    path = tmp_path / "weights.safetensors"
    assert commands.main(["convert", str(root / "run-0"), str(path)]) == 0
    capsys.readouterr()
    record = json.loads((root / "run-0" / "config.json").read_text())
    words = [path, "--image-size", 8, 8, "--pool-size", 8, "--model", "resnet18", "--width", 2, "--blocks", 1]
    given, named = ["--mean", *record["mean"], "--std", *record["std"]], ["--dataset", f"folder:{root / 'photos'}"]
    assert "--dataset: must be given, as weights from elsewhere" in refusal(capsys, "evaluate", *words, *given)
    assert "--mean and --std: weights from a file need" in refusal(capsys, "evaluate", *words, *named)
    status, out, err = run(capsys, "evaluate", *words, *named, *given, "--json", "-")
    assert status == 0 and err.startswith(f"{path}: read as resnet18 --width 2")
    found, part = json.loads(out), dataset.test
    expected = metrics.figures(jresnet.Classifier.load(str(root / "run-0")).predict(part.images), part.labels)
    assert found["systems"][str(path)]["cross_entropy"] == pytest.approx(expected.cross_entropy, rel=1e-6)
    assert [row["name"] for row in found["classes"]] == list(dataset.classes), "the data name the classes"


def test_images_of_other_data_are_resized_as_they_are_asked_to_be(capsys, photos, tmp_path):
    root, dataset = photos
    large = {f"{name}_images": np.repeat(getattr(dataset, name).images, 2, 2) for name in ("train", "test")}
    labels = {f"{name}_labels": getattr(dataset, name).labels for name in ("train", "test")}
    np.savez(tmp_path / "large.npz", **large, **labels, classes=np.array(dataset.classes))
    other = root / "run-0", "--dataset", f"npz:{tmp_path / 'large.npz'}"
    message = refusal(capsys, "evaluate", *other)
    assert "images are 8 x 16, those of" in message
    assert "run-0 8 x 8 (height x width): resize them with --image-size 8 8" in message
    status, out, _ = run(capsys, "evaluate", *other, "--image-size", 8, 8, "--resize", "stretch", "--json", "-")
    part = jresnet.load_dataset(other[2], image_size=(8, 8), resize="stretch").test
    expected = metrics.figures(jresnet.Classifier.load(str(other[0])).predict(part.images), part.labels)
    (found,) = json.loads(out)["systems"].values()
    assert status == 0 and found["cross_entropy"] == pytest.approx(expected.cross_entropy, rel=1e-6)
    message = refusal(capsys, "evaluate", *other, "--image-size", 8, 8, "--split", "validation")
    assert message.startswith("--split validation: npz:") and message.endswith("choose another split")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "MODELS: must be given"),
        ("RUN none", "none: there is no such run or file of weights"),
        ("FOLDER", "photos/config.json: cannot be read (No such file or directory): choose a run's directory"),
        ("RUN RUN", "run-0: one is given twice: an ensemble needs different ones"),
        ("RUN --mean 0 0 0", "--mean 0.0 0.0 0.0: the run's own record says it: leave it out"),
        ("RUN --width 3", "--width 3: the run's own record says it: leave it out"),
        ("RUN --image-size 9 9", "run-0 are 8 x 8: leave it out, or give that"),
        ("RUN --split all", "--split all: must be one of train, validation, test"),
        ("RUN --tta rotate", "--tta rotate: must be one of flip"),
        ("RUN --background 0 0 256", "--background 0 0 256: must be three levels from 0 to 255"),
        ("RUN --json none/found.json", "--json none/found.json: there is no directory none"),
        ("RUN --page FOLDER", "is a directory: name a file in a directory that exists"),
        ("RUN --page -", "--page -: must be a file: only --json goes to the standard output"),
        ("RUN --page a --json a", "--page a: is the file of --json too: choose another"),
        ("s3://bucket/run", "s3://bucket/run: is a URL"),
    ],
)
def test_bad_input_is_refused_in_a_line(capsys, photos, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": photos[0] / "run-0", "FOLDER": photos[0] / "photos"}
    assert message in refusal(capsys, "evaluate", *(places.get(word, word) for word in words.split()))
    assert not [*tmp_path.iterdir()]


def test_runs_of_a_later_version_are_refused(capsys, photos, tmp_path):
    shutil.copytree(photos[0] / "run-0", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    message = refusal(capsys, "evaluate", tmp_path / "run")
    assert message.startswith(f"{path}: not a record of this version (its version is 2, and this jresnet reads 0 to 1")
    assert message.endswith(": restore the file, or choose another directory")


@pytest.fixture(scope="module")
def held_out(photos):
    """Directories of runs that held out validation images, by the seed and the number of them."""
    root, dataset = photos
    for seed, images in ((3, 6), (4, 6), (3, 9)):
        write_run(root / f"held-{seed}-{images}", dataset, seed, validation=images)
    return root


@pytest.mark.parametrize("other", ["held-4-6", "held-3-9", "run-0"])
@pytest.mark.parametrize("words", [[], ["--against"]])
def test_validation_images_that_others_were_trained_on_are_refused(capsys, held_out, other, words):
    first = held_out / "held-3-6"
    message = refusal(capsys, "evaluate", first, *words, held_out / other, "--split", "validation")
    assert message == (
        f"--split validation: {held_out / other} may have been trained on the validation images of {first}, as its "
        "data, --validation or --seed are others: choose another split, or runs that agree"
    )


@pytest.fixture
def until_computed(monkeypatch):
    """Let the command end, in a line on stderr, where it would begin to compute."""

    def end(models, dataset, *, split, **_):
        raise jresnet.InputError(f"{len(getattr(dataset, split))} images")

    monkeypatch.setattr(evaluate, "evaluate", end)


def test_runs_of_one_seed_share_their_validation_images(capsys, held_out, photos, tmp_path, until_computed):
    write_run(tmp_path / "same", photos[1], 3, validation=6, learning_rate=0.1)
    first = held_out / "held-3-6"
    assert refusal(capsys, "evaluate", first, tmp_path / "same", "--split", "validation").endswith("6 images")
    assert refusal(capsys, "evaluate", first, held_out / "held-4-6").endswith("15 images"), (
        "both saw none of the test images"
    )


def test_every_run_of_other_data_is_named(capsys, photos, tmp_path, until_computed):
    root, dataset = photos
    write_run(tmp_path / "part", dataset.subset(train=12))
    write_run(tmp_path / "other", dataclasses.replace(dataset, test=dataset.test.take(slice(9))))
    _, _, err = run(capsys, "evaluate", root / "run-0", tmp_path / "part", "--against", tmp_path / "other")
    assert err.splitlines()[:-1] == [
        f"{tmp_path / 'part'} was trained on a part of {dataset.name}",
        f"{tmp_path / 'other'} was trained on other pixels or labels than {dataset.name}",
    ]


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"image_size": (8, 9)}, "", "b: its images are 8 x 9, those of a 8 x 8: evaluate models of equal"),
        ({"resize": "pad"}, "", "a and another were trained on images that were resized in different"),
        ({"background": (0, 0, 0)}, "--resize crop", "resized in different ways: give --resize and --background"),
    ],
)  # fmt: skip
def test_runs_of_other_images_are_no_ensemble(capsys, photos, monkeypatch, changes, words, message):
    def load(path):
        options = {"image_size": (8, 8)} | (changes if path == "b" else {})
        config = dataclasses.replace(CONFIG, **options)
        return types.SimpleNamespace(image_size=config.image_size, run=types.SimpleNamespace(config=config))

    monkeypatch.setattr(jresnet.Classifier, "load", load)
    assert message in refusal(capsys, "evaluate", "a", "b", *words.split())


def test_other_data_are_resized_as_the_runs_own_and_not_otherwise_read_as_they_were(photos):
    own = jresnet.Source("npz:a", "here", (8, 8), "pad", (1, 2, 3), holdout_test=5)
    dataset = dataclasses.replace(photos[1], name="npz:a", source=own)
    made = describe(CONFIG, dataset, "abc", 0, "made")
    assert data.DataOptions().source(made) == own
    assert data.DataOptions(resize="crop", data_dir="there").source(made) == dataclasses.replace(
        own, resize="crop", data_dir="there"
    )
    validation = data.DataOptions(test_from="validation").source(made)
    assert (validation.test_from, validation.holdout_test) == ("validation", 0), "in the place of the run's own"
    assert data.DataOptions(holdout_test=0).source(made) == dataclasses.replace(own, holdout_test=0)
    assert data.DataOptions(dataset="").source(made).dataset == ""
    other = data.DataOptions(dataset="npz:b", background=(0, 0, 0), test_from="validation").source(made)
    assert other == jresnet.Source("npz:b", None, (8, 8), "pad", (0, 0, 0), test_from="validation")


@pytest.fixture(scope="module")
def trained(photos):
    """The result of a run that was really trained, and its directory."""
    root, dataset = photos
    config = dataclasses.replace(CONFIG, validation=6)
    return root / "trained", jresnet.fit(config, dataset, root / "trained", seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_run_gives_the_figures_that_it_recorded(capsys, trained, split):
    """On the validation images those that were held out by its seed."""
    path, result = trained
    status, out, err = run(capsys, "evaluate", path, "--split", split, "--json", "-")
    record = json.loads(out)
    (figures,) = record["systems"].values()
    assert (status, err, figures["images"]) == (0, "", {"test": 15, "validation": 6}[split])
    assert figures["accuracy"] == getattr(result, f"{split}_accuracy")
    assert figures["cross_entropy"] == pytest.approx(getattr(result, f"{split}_loss"), rel=1e-5)
    assert record["dataset"]["sha256"] == result.dataset["sha256"]
    assert record["models"][0]["parameters"] == result.parameters


@pytest.mark.slow
def test_data_that_are_not_those_of_the_training_are_named(capsys, trained, photos, tmp_path):
    root, dataset = photos
    write_run(tmp_path / "part", dataset.subset(train=12))
    status, out, err = run(capsys, "evaluate", tmp_path / "part")
    assert status == 0 and "15 images of 3 classes" in " ".join(out.split())
    assert err == f"{tmp_path / 'part'} was trained on a part of {dataset.name}\n"
    shutil.copytree(root / "photos", tmp_path / "photos")
    shutil.copytree(trained[0], tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace(str(root), str(tmp_path)))
    next((tmp_path / "photos" / "test" / "left").iterdir()).unlink()
    status, out, err = run(capsys, "evaluate", tmp_path / "run")
    assert status == 0 and "14 images of 3 classes" in " ".join(out.split())
    assert err == f"{tmp_path / 'run'} was trained on other pixels or labels than folder:{tmp_path / 'photos'}\n"
    status, _, err = run(capsys, "evaluate", tmp_path / "run", "--split", "validation")
    assert status == 2 and "has no such images" in err, "which were held out is not known"
