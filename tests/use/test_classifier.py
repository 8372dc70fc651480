"""Classifier: predicts as the run's own evaluation did, and refuses what it cannot load."""

import dataclasses
import gc
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import jresnet
from jresnet.data.images.resize import resized
from jresnet.use.classifier import MAX_BATCH_SIZE, Classifier, store


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "mine"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90).astype(np.int32)
    images = rng.integers(0, 60, (90, 8, 8, 3), np.uint8) + (60 * labels[:, None, None, None]).astype(np.uint8)
    halves = [jresnet.Split(images[part], labels[part]) for part in (slice(0, 60), slice(60, 90))]
    dataset = jresnet.Dataset("shades", halves[0], jresnet.Split(images[:0], labels[:0]), halves[1], ("a", "b", "c"))
    config = jresnet.Config(width=4, blocks=(1, 1), batch_size=16, epochs=3, learning_rate=0.05, parallel="jit")
    return workdir, dataset, jresnet.fit(config, dataset, workdir)


@pytest.fixture(scope="module")
def classifier(trained):
    return Classifier.load(trained[0])


def test_it_predicts_as_the_run_evaluated(trained, classifier):
    _, dataset, result = trained
    probabilities = classifier.predict(dataset.test.images)
    assert probabilities.shape == (30, 3) and probabilities.dtype == np.float32
    assert classifier.classes == ("a", "b", "c") and classifier.image_size == (8, 8)
    assert np.mean(probabilities.argmax(1) == dataset.test.labels) == result.test_accuracy > 0.5
    of_labels = probabilities[np.arange(30), dataset.test.labels]
    np.testing.assert_allclose(-np.log(of_labels).mean(), result.test_loss, rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)


def test_predictions_do_not_depend_on_the_number_of_images(trained, classifier):
    _, dataset, _ = trained
    images = np.tile(dataset.test.images, (10, 1, 1, 1))
    assert len(images) > MAX_BATCH_SIZE
    whole = classifier.predict(images)
    np.testing.assert_allclose(whole, np.tile(whole[:30], (10, 1)), atol=1e-6)
    np.testing.assert_allclose(classifier.predict(images[4:7]), whole[4:7], atol=1e-6)
    assert classifier.predict(images[:0]).shape == (0, 3)


def test_loading_changes_nothing_in_the_directory(trained):
    workdir, _, _ = trained

    def contents():
        return {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}

    # As if a run were writing a checkpoint at this moment.
    unfinished = workdir / "checkpoints" / "999.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = contents()
    Classifier.load(workdir)
    assert contents() == before
    unfinished.rmdir()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 9, 3), np.uint8), r"^image 0: it has 8 x 9 pixels, and the network's images have 8 x 8 "),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], r"^image 1: it has 8 x 9 .*--resize crop"),
        (3, "^image 0: 3: is no image"),
        ("none.png", r"^none\.png cannot be read as an image \(No such file"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\): give .*without transparency"),
    ],
)
def test_what_is_no_image_of_the_runs_size_is_refused(classifier, images, message):
    with pytest.raises(jresnet.InputError, match=message):
        classifier.predict(images)


def test_an_image_may_be_a_file_an_image_of_pillow_or_an_array_one_or_several(trained, classifier, tmp_path):
    images = trained[1].test.images[:5]
    expected = classifier.predict(images)
    Image.fromarray(images[1]).save(tmp_path / "1.png")
    Image.fromarray(images[2]).save(tmp_path / "2.png")
    several = [images[0], tmp_path / "1.png", str(tmp_path / "2.png"), Image.fromarray(images[3]), images[4] / 255]
    np.testing.assert_array_equal(classifier.predict(several), expected)
    np.testing.assert_array_equal(classifier.predict(iter(several)), expected)
    one = classifier.predict(images[0])
    assert one.shape == (1, 3)
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)
    assert classifier.predict([]).shape == (0, 3)


def test_features_are_what_the_linear_layer_is_given(trained, classifier):
    images, linear = trained[1].test.images, classifier.variables["params"]["linear"]
    features = classifier.features(images)
    assert features.shape == (30, 8 * 2 * 2 // 4) and features.dtype == np.float32
    logits = features @ np.asarray(linear["kernel"]) + np.asarray(linear["bias"])
    np.testing.assert_allclose(jax.nn.softmax(logits), classifier.predict(images), atol=1e-6)
    assert features.std(axis=0).max() > 0 and classifier.features(images[:0]).shape == (0, features.shape[1])


def test_show_draws_each_image_with_its_class_and_probability(trained, classifier):
    images = trained[1].test.images[:8]
    drawn = classifier.show(images)
    panels = [axes for axes in drawn.axes if axes.images]
    probabilities = classifier.predict(images)
    names = [f"{'abc'[row.argmax()]}\n{row.max():.1%}" for row in probabilities]
    assert [axes.get_title() for axes in panels] == names
    np.testing.assert_array_equal([axes.images[0].get_array() for axes in panels], images)
    assert drawn._repr_png_().startswith(b"\x89PNG")
    for count, message in ((0, "there are none"), (101, "more than 100")):
        with pytest.raises(jresnet.InputError, match=message):
            classifier.show(np.zeros((count, 8, 8, 3), np.uint8))


def test_it_says_what_it_is(classifier):
    assert repr(classifier) == "Classifier(resnet18, width 4, 3 classes (a, b, c), images of 8 x 8)"


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_images_of_other_sizes_are_resized_as_the_runs_own_were(classifier, tmp_path, resize):
    source = classifier
    read = {"image_size": (8, 8), "resize": resize, "background": (9, 8, 7)}
    config = dataclasses.replace(source.run.config, **read)
    store(tmp_path / "run", config, source.variables, source.classes, (8, 8), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    classifier = Classifier.load(tmp_path / "run")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((8, 8), (16, 8), (5, 30), (8, 8), (1, 1))]
    fitted = np.stack([resized(image, (8, 8), resize, (9, 8, 7)) for image in images])
    expected = classifier.predict(fitted)
    np.testing.assert_array_equal(classifier.predict(images), expected)
    np.testing.assert_array_equal(classifier.predict(images[1][None])[0], classifier.predict(fitted[1:2])[0])
    assert len({image.tobytes() for image in np.asarray(expected)}) > 1
    np.testing.assert_array_equal(source.predict(images, resize=resize), source.predict(fitted_white(images, resize)))
    with pytest.raises(jresnet.InputError, match="resize 'fit': must be one of crop, pad, stretch"):
        classifier.predict(images, resize="fit")


def fitted_white(images, resize):
    """Resized to 8 x 8, on white where they are padded."""
    return np.stack([resized(image, (8, 8), resize, (255, 255, 255)) for image in images])


def test_a_directory_without_a_run_is_refused(tmp_path, trained):
    with pytest.raises(jresnet.InputError, match=r"config\.json"):
        Classifier.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(jresnet.InputError, match="not a record of this version"):
        Classifier.load(tmp_path)
    (tmp_path / "config.json").write_text((trained[0] / "config.json").read_text())
    with pytest.raises(jresnet.InputError, match="no checkpoint yet"):
        Classifier.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "--mean 0.5 0.5 0.5: the run's own record says it: leave it out"),
        ({"classes": ["a", "b", "c"]}, "--classes a b c: the run's own record says it: leave it out"),
        ({"image_size": (8, 8)}, "--image-size 8 8: the run's own record says it: leave it out"),
        ({"width": 3}, "--width 3: the run's own record says it: leave it out"),
        ({"widht": 3}, "widht: no option of a network: choose among width, blocks"),
    ],
)
def test_arguments_that_are_not_read_are_refused(trained, arguments, message):
    with pytest.raises(jresnet.InputError) as caught:
        Classifier.load(trained[0], **arguments)
    assert str(caught.value).startswith(message)


def test_files_are_refused_in_a_line(tmp_path):
    long = "x" * 300
    path = tmp_path / "weights.safetensors"
    jresnet.models.torch_weights.save(path, {"linear.weight": np.ones((3, 4), np.float32)})
    for given, arguments, message in (
        (path, {"dropout": 0.5}, "dropout: no option of a network: choose among width"),
        (tmp_path / long, {}, f"{tmp_path / long}: cannot be reached (File name too long): check the path"),
        (tmp_path / "none", {"width": 3}, f"{tmp_path / 'none'}: there is no such run or file of weights"),
    ):
        with pytest.raises(jresnet.InputError) as caught:
            Classifier.load(given, **arguments)
        assert str(caught.value).startswith(message)


def test_a_path_below_a_closed_directory_is_refused_in_a_line(tmp_path, monkeypatch):
    def closed(path, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "stat", closed)  # for root no directory is closed
    with pytest.raises(jresnet.InputError, match=r"run: cannot be reached \(Permission denied\): check the path"):
        Classifier.load("closed/run")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_record_of_another_network_than_the_checkpoint_is_refused(tmp_path, trained):
    run = json.loads((trained[0] / "config.json").read_text())
    run["config"]["width"] = 5
    (tmp_path / "config.json").write_text(json.dumps(run))
    (tmp_path / "checkpoints").symlink_to(trained[0] / "checkpoints")
    with pytest.raises(jresnet.InputError, match="cannot be restored"):
        Classifier.load(tmp_path)
    gc.collect()  # abandoned TensorStore reads warn here, not in whichever test comes next


def test_the_variables_are_those_of_the_model(trained, classifier):
    workdir, dataset, _ = trained
    mean, std = (json.loads((workdir / "config.json").read_text())[name] for name in ("mean", "std"))
    images = (dataset.test.images / np.float32(255) - np.float32(mean)) / np.float32(std)
    logits = classifier.model.apply(classifier.variables, images, train=False)
    np.testing.assert_allclose(jax.nn.softmax(logits), classifier.predict(dataset.test.images), atol=1e-6)
