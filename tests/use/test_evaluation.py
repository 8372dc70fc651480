"""`evaluate`: every image once, ensembles and mirror images against their definitions, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

import jresnet
from jresnet.config import Config
from jresnet.data.mapped import MappedImages
from jresnet.errors import InputError
from jresnet.records.files import json_bytes
from jresnet.use import classifier, evaluation, figures, metrics, show
from jresnet.use.page import page
from jresnet.use.tables import tables
from tests.support.page_parser import Page, decoded

CLASSES = ("cat", "dog <b>", "owl")
SIZE = (4, 6)


class Fake(jresnet.Classifier):
    """A classifier whose logits are pixels of the left column, so that mirror images have others."""

    def __init__(self, seed, classes=CLASSES, **config):
        config = Config(width=2, **config)
        self.run = classifier.described(config, classes, SIZE, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        self.classes, self.image_size, self.variables = classes, SIZE, {"params": {"w": np.ones(seed + 1)}}
        self.weights = np.random.default_rng(seed).normal(0, 1 / 16, (SIZE[0], len(classes)))

    def predict(self, images):
        logits = images[:, : self.image_size[0], 0, 0].astype(float) @ self.weights
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)


def split(n=50, size=SIZE, classes=3, seed=0, names=True):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *size, 3), np.uint8)
    labels = Fake(0).predict(images).argmax(1) if (size, classes) == (SIZE, 3) else np.arange(n) % classes
    noisy = np.where(rng.random(n) < 0.4, rng.integers(0, classes, n), labels)
    return jresnet.Split(images, noisy.astype(np.int32), tuple(f"cat/{i}.png" for i in range(n)) if names else None)


def dataset(classes=CLASSES, **options):
    part = split(classes=len(classes), **options)
    return jresnet.Dataset("made", part, part.take(slice(0)), part, classes)


def plain(found):
    """What an evaluation says of the images, as JSON has it, without the order of the mistakes."""
    record = json.loads(json_bytes(found.to_json()))
    record["mistakes"] = sorted((m["name"], m["label"], m["prediction"], m["probability"]) for m in record["mistakes"])
    return record


def numbers(found):
    return [value for value in vars(found).values() if value is not None]


def test_the_figures_are_those_of_the_probabilities_and_labels():
    data, model = dataset(), Fake(0)
    found = jresnet.evaluate(model, data)
    probabilities, labels = model.predict(data.test.images), data.test.labels
    assert found.systems == {"model": metrics.figures(probabilities, labels)} and found.name == "model"
    assert found.figures.images == 50 and 0.5 < found.figures.accuracy < 1
    assert [row.name for row in found.classes] == list(CLASSES)
    assert sum(map(sum, found.confusion)) == 50
    assert sum(row[i] for i, row in enumerate(found.confusion)) == found.figures.correct
    assert (found.dataset["sha256"], found.split, found.against) == (data.sha256, "test", None)
    wrong = metrics.worst(probabilities, labels, evaluation.MISTAKES)
    assert [mistake.index for mistake in found.mistakes] == wrong.tolist()
    for mistake in found.mistakes:
        assert mistake.name == f"cat/{mistake.index}.png" and mistake.label == CLASSES[labels[mistake.index]]
        assert mistake.prediction == CLASSES[probabilities[mistake.index].argmax()] != mistake.label
        assert mistake.probability == probabilities[mistake.index].max()
        np.testing.assert_array_equal(mistake.image, data.test.images[mistake.index])


def test_an_ensemble_is_the_mean_of_probabilities_and_flip_that_of_images_and_mirror_images():
    part, models = split(), [Fake(0), Fake(1), Fake(2)]
    found = jresnet.evaluate(models, part, tta="flip", against=Fake(3))
    members = [model.predict(part.images).astype(float) for model in models]
    mirrored = [model.predict(np.flip(part.images, 2)).astype(float) for model in models]
    other = Fake(3).predict(part.images), Fake(3).predict(np.flip(part.images, 2))
    expected = {f"model {i}": member for i, member in enumerate(members, 1)}
    expected["ensemble of 3"] = sum(members) / 3
    expected["ensemble of 3, with flip"] = answer = sum(members + mirrored) / 6
    expected["against: other model"] = other[0]
    expected["against: other model, with flip"] = (other[0].astype(float) + other[1]) / 2
    assert list(found.systems) == list(expected) and found.name == "ensemble of 3, with flip"
    for name, probabilities in expected.items():
        values = numbers(metrics.figures(probabilities, part.labels))
        assert numbers(found.systems[name]) == pytest.approx(values, rel=1e-9), name
    right = [(one.argmax(1) == part.labels) for one in (answer, expected["against: other model, with flip"])]
    assert found.against.test == metrics.mcnemar(*right)
    assert found.against.test.first != found.against.test.second
    assert [model.name for model in found.models] == ["model 1", "model 2", "model 3", "other model"]
    assert len({model.weights_sha256 for model in found.models}) == 4


@pytest.mark.parametrize("size", [1, 7, 50, 256])
def test_every_image_counts_once_whatever_the_batches(monkeypatch, size):
    expected = plain(jresnet.evaluate([Fake(0), Fake(1)], dataset(), tta="flip"))
    monkeypatch.setattr(evaluation, "MAX_BATCH_SIZE", size)
    assert plain(jresnet.evaluate([Fake(0), Fake(1)], dataset(), tta="flip")) == expected


def test_the_order_of_the_images_changes_nothing():
    part = split()
    shuffled = part.take(np.random.default_rng(5).permutation(50))
    first, second = (plain(jresnet.evaluate(Fake(1), one, tta="flip", against=Fake(2))) for one in (part, shuffled))
    assert first == second


def test_images_in_a_file_are_evaluated_as_those_in_memory(tmp_path):
    part = split()
    part.images.tofile(tmp_path / "pixels")
    mapped = dataclasses.replace(part, images=MappedImages(tmp_path / "pixels", part.images.shape))
    assert plain(jresnet.evaluate(Fake(0), mapped, tta="flip")) == plain(jresnet.evaluate(Fake(0), part, tta="flip"))


def test_json_has_everything_but_pixels_and_the_repr_is_a_line():
    found = jresnet.evaluate({"runs/a": Fake(0)}, dataset(names=False), split="train", sha256="abc")
    record = json.loads(json_bytes(found.to_json()))
    assert record["version"] == 1 and record["dataset"]["sha256"] == "abc" and record["split"] == "train"
    assert {*record} >= {"models", "systems", "classes", "confusion", "reliability", "device", "versions", "commit"}
    assert record["mistakes"] and all("image" not in mistake for mistake in record["mistakes"])
    assert record["mistakes"][0]["name"] is None
    assert repr(found).startswith(f"<Evaluation of runs/a on made, train: accuracy {found.figures.accuracy:.2%} [")
    assert "\n" not in repr(found)


def test_tables_have_the_figures():
    found = jresnet.evaluate([Fake(0), Fake(1)], dataset(), tta="flip", against=Fake(1))
    systems, classes, confusion, mistakes, against = tables(found, most_mistakes=2)
    assert [table.name for table in found.tables()] == ["figures", "classes", "confusion", "mistakes", "against"]
    assert systems.title == "made, test: 50 images of 3 classes" and "top-5 (%)" not in systems.headers
    for cells, (name, row) in zip(systems.cells, found.systems.items(), strict=True):
        assert cells[:2] == [name, f"{100 * row.accuracy:.2f}"] and cells[3:5] == [
            f"{row.auc:.4f}", f"{row.cross_entropy:.4f}"
        ]  # fmt: skip
    assert [row[0] for row in classes.cells] == [row[0] for row in confusion.cells] == list(CLASSES)
    assert [row[1:] for row in confusion.cells] == [[str(count) for count in row] for row in found.confusion]
    assert [row[0] for row in mistakes.cells] == [mistake.name for mistake in found.mistakes[:2]]
    test = found.against.test
    assert against.cells[0][1:5] == [str(count) for count in (test.both, test.first, test.second, test.neither)]


def test_of_many_classes_the_lowest_are_shown_and_the_first_five_count():
    names = tuple(map(str, range(40)))
    part = dataclasses.replace(split(), labels=np.arange(50, dtype=np.int32) % 40)
    found = jresnet.evaluate(Fake(0, names), part)
    systems, classes, *_ = tables(found)
    assert systems.headers[3] == "top-5 (%)" and found.figures.top5 > found.figures.accuracy
    recalls = [row["recall"] for row in classes.rows]
    assert len(recalls) == 30 and recalls == sorted(recalls) and "30 classes of 40" in classes.caption


def test_the_page_loads_nothing_and_has_the_tables_and_pictures(tmp_path):
    found = jresnet.evaluate({"a & b": Fake(0), "c": Fake(1)}, dataset(), against={"d": Fake(2)})
    shown = Page(page(found).decode())
    assert all(address.startswith("data:") for address in shown.addresses)
    assert not {"script", "link", "iframe", "b"} & {*shown.tags}
    assert [row[0] for row in shown.tables["figures"][0][1:]] == list(found.systems)
    assert [row[0] for row in shown.tables["classes"][0][1:]] == list(CLASSES)
    assert shown.tables["against"][0][1][1:5] == [
        str(getattr(found.against.test, name)) for name in ("both", "first", "second", "neither")
    ]
    pictures = shown.images["mistakes"]
    assert len(pictures) == len(found.mistakes) > 3
    for picture, mistake in zip(pictures, found.mistakes, strict=True):
        np.testing.assert_array_equal(decoded(picture["src"]), mistake.image)
        assert f"{mistake.name}: {mistake.label}, taken for {mistake.prediction}, " in shown.text("mistakes")
    assert "numbered" not in shown.text("classes")
    found.save_page(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == page(found) == found.page().encode()
    assert found.dataset["sha256"] in shown.text() and "a & b: resnet18" in shown.text()


def test_the_page_of_a_classifier_without_mistakes(monkeypatch):
    monkeypatch.setattr(figures, "svg", lambda *_: b"")
    part = split()
    right = dataclasses.replace(part, labels=Fake(0).predict(part.images).argmax(1).astype(np.int32))
    shown = Page(page(jresnet.evaluate(Fake(0), right)).decode())
    assert "None: every image was classified correctly." in shown.text("mistakes") and "against" not in shown.sections


def test_classes_whose_letters_the_font_lacks_are_numbered_without_a_warning(monkeypatch):
    """A warning would be an error here."""
    names, drawn = ("猫", "dog", "ふくろう"), []
    monkeypatch.setattr(figures, "svg", lambda name, figure: drawn.append(figure) or b"")
    found = jresnet.evaluate(Fake(0, names), split())
    shown = Page(page(found).decode())
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["class 0", "dog", "class 2"]
    drawn[0].draw_without_rendering()
    assert [row[0] for row in shown.tables["classes"][0][1:]] == list(names)
    assert "numbered from 0, in the order of the table" in shown.text("classes")
    image = show.figure(split(1).images, names, np.array([[0.1, 0.2, 0.7]]))
    assert image.axes[0].get_title() == "class 2\n70.0%"
    image.draw_without_rendering()


@pytest.mark.parametrize(
    ("known", "classes"),
    [
        ([("a", "b"), ("a", "b")], ("a", "b")),
        ([("0", "1"), ("a", "b"), ("0", "1")], ("a", "b")),
        ([("a", "b"), ("0", "1")], ("a", "b")),
        ([("0", "1"), ("0", "1")], ("0", "1")),
    ],
)
def test_numbers_are_the_names_of_unnamed_classes(known, classes):
    assert evaluation.common_classes([("one", names) for names in known]) == classes


@pytest.mark.parametrize(
    ("models", "data", "message"),
    [
        (Fake(0), dataset(("cat", "dog")), "model has 3 classes, made 2: only equal classes can be compared"),
        (Fake(0), dataset(("dog <b>", "cat", "owl")), "model has the classes cat, dog <b>, owl, made dog"),
        (Fake(0), dataset(("dog <b>", "cat", "owl")), "owl in another order: only equal"),
        (Fake(0), dataset(("cat", "dog <b>", "auk")), "made cat, dog <b>, auk: only equal"),
        ([Fake(0), Fake(0, ("0", "1", "2")), Fake(0, ("a", "b", "c"))], split(), "model 3 has the classes a, b, c"),
        (Fake(0), dataset(n=0), "--split test: made has no such images"),
        (Fake(0), dataset(size=(4, 5)), "made: its images are 4 x 5, those of model 4 x 6 (height x width): resize"),
        (Fake(0), split(classes=5, n=200), "labels go from 0 to 4: give indices into the 3 classes"),
        ([], split(), "there are no classifiers: give at least one"),
        ({}, split(), "there are no classifiers: give at least one"),
        ({}, dataset(), "there are no classifiers: give at least one"),
        ({"made": Fake(0)}, dataset(("a", "b", "c")), "made has the classes cat, dog <b>, owl, made a, b, c"),
        ({"ensemble of 2": Fake(0), "b": Fake(1)}, split(), "ensemble of 2: figures of others have this name"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused_in_a_line(models, data, message):
    with pytest.raises(InputError) as caught:
        jresnet.evaluate(models, data)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "--split val: must be one of train, validation, test"),
        ({"tta": "rotate"}, "--tta rotate: must be one of flip, None"),
        ({"against": {}}, "there are no classifiers: give at least one"),
        ({"against": {"a": Fake(1)}}, "against: a: figures of others have this name: give the classifier another"),
    ],
)  # fmt: skip
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        jresnet.evaluate({"against: a": Fake(0)}, dataset(), **options)
    assert str(caught.value) == message


def test_two_classifiers_of_one_name_are_refused_and_one_may_be_on_both_sides():
    one = Fake(0)
    with pytest.raises(InputError, match="two classifiers are called a: give them different names"):
        jresnet.evaluate({"b": one, "a": Fake(0)}, split(), against={"b": one, "a": Fake(1)})
    found = jresnet.evaluate({"a": one, "b": Fake(1)}, split(), against={"a": one})
    assert found.systems["a"] == found.systems["against: a"] and len(found.models) == 2


def test_a_run_that_resized_its_images_takes_others():
    assert jresnet.evaluate(Fake(0, image_size=SIZE, resize="pad"), split(size=(8, 6))).figures.images == 50


def test_probabilities_that_are_not_numbers_are_refused():
    model = Fake(0)
    model.weights[:] = np.nan
    with pytest.raises(InputError, match=r"^broken: its probabilities are not numbers"):
        jresnet.evaluate({"broken": model}, split())


def test_the_reliability_figure_has_the_bins():
    found = jresnet.evaluate(Fake(0), split())
    diagonal, line = figures.reliability(found.reliability).axes[0].lines
    assert len(found.reliability) > 10 and diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
    expected = [(100 * part.confidence, 100 * part.accuracy) for part in found.reliability]
    np.testing.assert_allclose(line.get_xydata(), expected)
