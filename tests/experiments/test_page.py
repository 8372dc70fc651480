"""The page is parsed as a browser would, and its numbers are compared with values computed here from the records."""

import csv
import dataclasses
import io
import json
import math
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from experiments import augmentation
from experiments.page import beyond, figures, page, sections
from experiments.study.experiment import Setting
from jresnet import models
from jresnet.errors import InputError
from tests.support import pages as page_helpers
from tests.support.page_parser import Page, decoded

CLASSES = ("cat <b>bold</b>", 'dog & "co"', "it's $5 and $6")
# Quantile 0.975 of Student's t with one degree of freedom, from printed tables.
T1 = 12.7062


def read(directory):
    return Page((directory / "report.html").read_text())


@pytest.fixture(scope="module")
def data():
    return page_helpers.dataset(CLASSES)


@pytest.fixture(scope="module")
def study(tmp_path_factory, data):
    """A partial study: the rates with 2, 1 and no runs, batch sizes not started, and the final model with 2 runs."""
    directory = tmp_path_factory.mktemp("study")
    rates = page_helpers.rates(directory / "runs", data, seeds=(2, 1, 0))
    batches = page_helpers.rates(directory / "none", data, seeds=(0, 0, 0))
    batches = (dataclasses.replace(batches[0], name="batch_size", title="Batch size", option="batch_size"), batches[1])
    final = page_helpers.final(directory / "runs", data)
    return page_helpers.outcome([rates, batches, final], data, command='python -m experiments.reproduce --x "<a>"')


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    directory = tmp_path_factory.mktemp("page")
    return directory, page.write(study, directory)


@pytest.fixture(scope="module")
def parsed(written):
    return read(written[0])


@pytest.fixture
def quick(monkeypatch):
    """Pages whose figures are blank, for tests of their text."""
    for name in ("samples", "augmentations", "budget", "curves", "mistakes"):
        monkeypatch.setattr(figures, name, lambda *_: None)
    monkeypatch.setattr(sections, "confusion", lambda *_: None)
    monkeypatch.setattr(beyond, "figure", lambda *_: None)
    monkeypatch.setattr(figures, "render", lambda name, text, _, part=False: figures.Drawing(name, text, b"", b""))


def recorded(cell, key):
    """The value in every result.json of a cell, from the files."""
    return [json.loads((directory / "result.json").read_text())[key] for directory in cell.directories]


def csv_rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def arrays(path):
    with np.load(path) as archive:
        return dict(archive)


def test_the_page_is_self_contained(parsed, written):
    assert parsed.addresses and all(address.startswith(("data:", "#")) for address in parsed.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(parsed.tags)
    text = (written[0] / "report.html").read_text()
    assert "url(" not in text and "@import" not in text and "http:" not in text and "https:" not in text
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert {address[1:] for address in parsed.addresses if address.startswith("#")} <= ids


def test_the_header_describes_the_study(parsed, study):
    text = parsed.text()
    assert study.caption in text and study.command in text
    assert "cpu: Model x2 cores" in text and "jax 0.10.2" in text and "f" * 40 in text
    assert "made-up (24 train, 0 validation, 24 test images; sha256 0123456789ab)" in text
    # Five runs of three epochs of 12.5 s.
    assert "5 runs, 188 seconds" in text
    assert "24 training images, not 50,000; 3 epochs, not 100;" in text
    # The made-up sweep of batch sizes has the labels of rates.
    assert "batch size 0.01, 0.005, 0.001 stand for 64, 64, 64;" in text and "learning rate 0.0" not in text
    assert "175,947 parameters in final model, not 4,815,940." in text
    assert "Not in this study, or waiting for another of its experiments: Initial model, Data augmentation," in text


def test_the_accuracy_table_compares_the_records_with_the_report(parsed, study):
    table = parsed.tables["learning_rate"][0]
    assert table[0] == [
        "learning rate", "n", "report (%)", "here (%)", "95 % CI (%)", "difference (points)", "exact test accuracy (%)",
        "validation accuracy (%)",
    ]  # fmt: skip
    cell = study.experiments[0][1][0]
    spreads = []
    for key in ("test_accuracy_batch_mean", "test_accuracy", "validation_accuracy"):
        a, b = (100 * value for value in recorded(cell, key))
        mean, std = (a + b) / 2, abs(a - b) / math.sqrt(2)
        spreads.append(f"{mean:.2f} ± {std:.2f}")
        if key == "test_accuracy_batch_mean":
            half = T1 * std / math.sqrt(2)
            interval, difference = f"{mean - half:.2f} to {mean + half:.2f}", f"{mean - 87:+.2f}"
    assert table[1] == ["0.01", "2", "87.00", spreads[0], interval, difference, *spreads[1:]]
    one = [f"{100 * recorded(study.experiments[0][1][1], key)[0]:.2f}" for key in (
        "test_accuracy_batch_mean", "test_accuracy", "validation_accuracy")]  # fmt: skip
    assert table[2][:5] == ["0.005", "1", "88.00", one[0], "n/a"] and table[2][6:] == one[1:]
    assert table[3] == ["0.001", "0", "89.00", *["n/a"] * 5]


def test_the_final_models_other_values_are_compared_with_the_reports(parsed, study):
    cell = study.experiments[2][1][0]
    rows = {row[1]: row for row in parsed.tables["final"][1][1:]}
    assert list(rows) == ["test loss", "train accuracy (%)", "train loss", "parameters"]
    loss = np.mean(recorded(cell, "train_loss"))
    assert rows["train loss"][2] == "0.0504" and rows["train loss"][5] == f"{loss - 0.050407:+.4f}"
    assert rows["parameters"][2:4] == ["4,815,940", f"{recorded(cell, 'parameters')[0]:,} ± 0"]


def test_every_experiment_has_its_section_with_curves_and_commands(parsed, study):
    for experiment, cells in study.experiments:
        text = parsed.text(experiment.name)
        assert f"{experiment.section} {experiment.title}" in text
        assert all(cell.command in text for cell in cells)
    assert len(parsed.images["learning_rate"]) == 3 and len(parsed.images["final"]) == 1
    assert [image["alt"][-23:] for image in parsed.images["learning_rate"]] == [
        "learning rate 0.01, n = 2"[-23:], "learning rate 0.005, n = 1"[-23:], "learning rate 0.001, n = 0"[-23:],
    ]  # fmt: skip


def test_missing_runs_are_listed(parsed):
    assert "Not completely run yet: 0.005 has 1 of 2 runs, 0.001 has no run." in parsed.text("learning_rate")
    assert "Not run yet." in parsed.text("batch_size") and parsed.images["batch_size"] == []
    assert "ot run yet" not in parsed.text("final")


def test_seeds_that_no_setting_has_are_missing_too(tmp_path, data, quick):
    final = page_helpers.final(tmp_path / "runs", data, seeds=2)
    page.write(page_helpers.outcome([final], data, seeds=3), tmp_path)
    assert "Not completely run yet: final has 2 of 3 runs." in read(tmp_path).text("final")


@pytest.mark.parametrize("epochs", [3, 90])
def test_the_reports_log_is_compared_with_the_epochs_run(tmp_path, data, quick, epochs):
    published = augmentation.EXPERIMENT
    setting = dataclasses.replace(published.settings[1].config, width=8, epochs=epochs, dataset=data.name)
    cells = tuple(
        page_helpers.cell(tmp_path / "runs", "augmentation", label, setting, data, 0.87, seeds)
        for label, seeds in zip(published.claim, (2, 1), strict=True)
    )
    page.write(page_helpers.outcome([(published, cells)], data), tmp_path)
    shown = read(tmp_path)
    if epochs == 3:
        assert "prints epochs 83 to 99 of crop + flip + grayscale; no run here" in shown.text("augmentation")
        assert not (tmp_path / "tables" / "augmentation-log.csv").exists()
        return
    table = shown.tables["augmentation"][-1]
    assert [row[0] for row in table[1:]] == [str(epoch) for epoch in range(83, 90)]
    # Section 4.1: Epoch 83, Train loss 0.421626, Test loss 0.388598, Train acc 0.854020, Test acc 0.868830
    assert table[1][1::2] == ["0.4216", "0.3886", "85.40", "86.88"]
    ours = [history[83] for history in cells[0].histories]
    for column, key, scale, digits in ((2, "train_loss", 1, 4), (8, "test_accuracy_batch_mean", 100, 2)):
        a, b = (scale * line[key] for line in ours)
        assert table[1][column] == f"{(a + b) / 2:.{digits}f} ± {abs(a - b) / math.sqrt(2):.{digits}f}"


def test_findings_are_a_sentence_and_paired_differences(tmp_path, data, quick):
    rates = page_helpers.rates(tmp_path / "runs", data)
    page.write(page_helpers.outcome([rates], data), tmp_path)
    shown = read(tmp_path)
    assert re.search(r"Learning rate: (supported|refuted|undecided)", shown.text("findings"))
    table = shown.tables["findings"][0]
    by_label = {cell.setting.label: recorded(cell, "test_accuracy") for cell in rates[1]}
    for row, (first, second) in zip(table[1:], [("0.001", "0.005"), ("0.001", "0.01"), ("0.005", "0.01")], strict=True):
        differences = [100 * (a - b) for a, b in zip(by_label[first], by_label[second], strict=True)]
        mean = sum(differences) / 2
        half = T1 * abs(differences[0] - differences[1]) / 2
        assert row[:4] == [
            f"{first} minus {second}", "2", f"{mean:+.2f}", f"{mean - half:+.2f} to {mean + half:+.2f}"
        ]  # fmt: skip


def test_names_of_classes_are_escaped(parsed):
    assert "b" not in parsed.tags
    assert [row[0] for row in parsed.tables["mistakes"][0][1:]] == list(CLASSES)


def test_mistakes_are_those_of_the_predictions(parsed, study):
    test, directories = study.dataset.test, study.experiments[2][1][0].directories
    runs = [arrays(directory / "predictions.npz") for directory in directories]
    for label, row in enumerate(parsed.tables["mistakes"][0][1:]):
        a, b = (100 * np.mean(run["test_predictions"][test.labels == label] == label) for run in runs)
        assert row[1:3] == ["8", f"{(a + b) / 2:.1f} ± {abs(a - b) / math.sqrt(2):.1f}"]
    first = runs[0]
    wrong = np.flatnonzero(first["test_predictions"] != test.labels)
    order = sorted(wrong, key=lambda i: -first["test_confidences"][i])
    pictures = parsed.images["mistakes"][1:]
    assert len(pictures) == len(order) > 0
    for i, image in zip(order, pictures, strict=True):
        assert (decoded(image["src"]) == test.images[i]).all()
        assert f"taken for {CLASSES[first['test_predictions'][i]]}, {100 * first['test_confidences'][i]:.1f} %" in (
            parsed.text("mistakes")
        )


def test_parameters_are_compared_with_the_budget(parsed, study):
    config = study.experiments[2][1][0].setting.config
    count = models.parameter_count(models.from_config(config, 3), (32, 32))
    (row,) = parsed.tables["parameters"][0][1:]
    assert row[:4] == ["width 8", f"{count:,}", f"{100 * count / 5e6:.1f}", "yes"]
    assert row[4] == "Learning rate: 0.01, 0.005, 0.001; Batch size: 0.01, 0.005, 0.001; Final model: final"


def test_csv_has_the_unrounded_values(written, study):
    rows = csv_rows(written[0] / "tables" / "learning_rate.csv")
    assert [row["setting"] for row in rows] == ["0.01", "0.005", "0.001"]
    values = recorded(study.experiments[0][1][0], "test_accuracy_batch_mean")
    assert float(rows[0]["mean"]) == pytest.approx(sum(values) / 2, rel=1e-15)
    assert float(rows[0]["difference"]) == pytest.approx(sum(values) / 2 - 0.87, rel=1e-12)
    assert rows[1]["std"] == rows[2]["mean"] == ""
    classes = csv_rows(written[0] / "tables" / "classes.csv")
    assert [row["class"] for row in classes] == list(CLASSES)


def test_markdown_has_the_rows_of_the_page(written, parsed):
    text = (written[0] / "tables" / "learning_rate.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert [rows[0], *rows[2:]] == parsed.tables["learning_rate"][0]


def test_every_file_is_listed_and_readable(written):
    directory, paths = written
    assert paths[0] == directory / "report.html"
    on_disk = {path for path in directory.rglob("*") if path.is_file()}
    assert set(paths) == on_disk
    names = {path.name for path in paths if path.parent.name == "figures"}
    figures = {"learning_rate", "final", "samples", "augmentations", "confusion", "mistakes", "parameters", "beyond"}
    assert names == {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".svg":
            assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_outcome_lists_every_run_relative_to_its_own_directory(written, study):
    directory = written[0]
    kept = json.loads((directory / "outcome.json").read_text())
    assert kept["command"] == study.command
    for (experiment, cells), listed in zip(study.experiments, kept["experiments"], strict=True):
        assert listed["name"] == experiment.name
        for cell, setting in zip(cells, listed["settings"], strict=True):
            assert setting["label"] == cell.setting.label
            assert [(directory / run).resolve() for run in setting["runs"]] == [p.resolve() for p in cell.directories]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "chose settings on a validation split"),
        ({}, "built on the report's choices"),
        ({"select": "test"}, "chose settings on the test set, as the report did"),
        ({"follow": True}, "built on the choices of this study's earlier sweeps"),
    ],
)
def test_the_page_says_how_settings_were_chosen(tmp_path, data, quick, changes, sentence):
    rates = page_helpers.rates(tmp_path / "runs", data, epochs=1)
    best = max(rates[1], key=lambda cell: np.mean(recorded(cell, f"{changes.get('select', 'validation')}_accuracy")))
    final = page_helpers.final(tmp_path / "runs", data, seeds=1, epochs=1)
    page.write(page_helpers.outcome([rates, final], data, **changes), tmp_path)
    shown = read(tmp_path)
    assert sentence in shown.text("choices")
    assert shown.tables["choices"][0][1] == ["Learning rate", "0.001", best.setting.label, "0.001"]


def test_a_study_without_runs_has_a_page_that_says_so(tmp_path, data, quick):
    rates = page_helpers.rates(tmp_path / "runs", data, seeds=(0, 0, 0))
    page.write(page_helpers.outcome([rates], data), tmp_path)
    shown = read(tmp_path)
    assert "No run has finished yet." in shown.text()
    assert "Not run yet." in shown.text("learning_rate")
    assert "no run has predictions" in shown.text("mistakes")


def test_a_study_whose_experiments_all_wait_has_a_page(tmp_path, data):
    page.write(page_helpers.outcome([], data), tmp_path)
    shown = read(tmp_path)
    assert "No run has finished yet." in shown.text() and "No experiment has a network yet." in shown.text("parameters")


@pytest.mark.parametrize("damage", ["other", "short", "torn", "nameless"])
def test_wrong_or_damaged_predictions_are_refused_before_anything_is_written(tmp_path, data, damage):
    final = page_helpers.final(tmp_path / "runs", data, seeds=1, epochs=1)
    path = final[1][0].directories[0] / "predictions.npz"
    labels, confidences = arrays(path).values()
    if damage == "other":
        labels = np.where(labels == data.test.labels, (labels + 1) % 3, labels)
        np.savez(path, test_predictions=labels, test_confidences=confidences)
    elif damage == "short":
        np.savez(path, test_predictions=labels[:-1], test_confidences=confidences[:-1])
    elif damage == "nameless":
        np.savez(path, predictions=labels)
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"predictions\.npz: ") as caught:
        page.write(page_helpers.outcome([final], data), tmp_path / "page")
    assert "\n" not in str(caught.value) and not (tmp_path / "page").exists()


def test_a_copy_of_cifar10_has_its_own_name(tmp_path, data, quick, monkeypatch):
    monkeypatch.setattr(page_helpers, "SHA256", "1abb6cef1d3dfc07289d52cf1a9b2029c13dce3d311ac5d3861e9ce6a9500ea3")
    cifar = dataclasses.replace(data, name="cifar10")
    rates = page_helpers.rates(tmp_path / "runs", cifar, epochs=1)
    page.write(page_helpers.outcome([rates], cifar), tmp_path)
    text = read(tmp_path).text()
    assert "the data are CIFAR-10 (JPEG q75), not CIFAR-10 as published" in text
    assert "Data set CIFAR-10 (JPEG q75): 3 classes" in text and "cifar10" not in text


def test_a_study_at_the_reports_scale_has_no_warning(tmp_path, data):
    experiment, cells = page_helpers.rates(tmp_path, data, epochs=100)
    dataset = {"name": "cifar10", "train": 45000, "validation": 5000, "test": 10000, "classes": 10, "sha256": "0" * 64}
    cells = tuple(
        dataclasses.replace(cell, records=tuple(record | {"dataset": dataset} for record in cell.records))
        for cell in cells
    )
    assert sections.scale_differences(page_helpers.outcome([(experiment, cells)], data)) == []
    scaled = dataclasses.replace(
        cells[0], setting=Setting("0.01", dataclasses.replace(cells[0].setting.config, learning_rate=0.02))
    )
    (warning,) = sections.scale_differences(page_helpers.outcome([(experiment, (scaled, *cells[1:]))], data))
    assert warning == "learning rate 0.01 stands for 0.02"


def test_of_many_classes_the_page_has_the_worst_and_the_files_have_all(tmp_path, quick):
    many = page_helpers.dataset([f"class {i}" for i in range(40)], per_class=5)
    page.write(page_helpers.outcome([page_helpers.final(tmp_path / "runs", many, seeds=1, epochs=1)], many), tmp_path)
    rows = csv_rows(tmp_path / "tables" / "classes.csv")
    assert [row["class"] for row in rows] == list(many.classes)
    lowest = read(tmp_path).tables["mistakes"][0][1:]
    assert len(lowest) == 30
    assert [float(row[2]) for row in lowest] == sorted(100 * float(row["mean"]) for row in rows)[:30]
