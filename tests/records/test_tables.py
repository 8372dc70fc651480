"""Tables are checked cell by cell against figures worked out here, images by their pixels."""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import rich.console
from PIL import Image

from jresnet.errors import InputError
from jresnet.records.figures import curves
from jresnet.records.tables import data_name, markdown_table, results_table

BLUE, GREEN, VERMILION = (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)


def history(epochs, validation=False):
    records = []
    for epoch in range(epochs):
        loss = 1.6 / (1 + epoch)
        figures = {
            "epoch": epoch,
            "train_loss": loss,
            "test_loss": loss + 0.3,
            "train_accuracy": 1 - 0.5 / (1 + epoch),
            "test_accuracy": 0.9 - 0.5 / (1 + epoch),
        }
        if validation:
            figures |= {"validation_loss": loss + 0.2, "validation_accuracy": 0.92 - 0.5 / (1 + epoch)}
        records.append(figures)
    return records


def result(seed=0, test_accuracy=0.909545, experiment="final", config=None, **changes):
    figures = {
        "experiment": experiment,
        "config": {"experiment": experiment, "seed": seed, "width": 42, **(config or {})},
        "parameters": 4815940,
        "seed": seed,
        "epochs": 100,
        "train_loss": 0.0123,
        "train_accuracy": 0.99671,
        "test_loss": 0.3812,
        "test_accuracy": test_accuracy,
        "test_accuracy_batch_mean": 0.9091,
        "dataset": {
            "name": "cifar10", "train": 50000, "validation": 0, "test": 10000, "classes": 10,
            "sha256": "0123456789abcdef" * 4,
        },
        "device": "NVIDIA H200 x1",
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "commit": "f" * 40,
        "seconds": 1234.56,
        "images_per_second": 40000.0,
    }  # fmt: skip
    return figures | changes


def pixels(path, colour):
    """Pixels of about this colour, per half of the image (left: loss, right: accuracy)."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    near = np.abs(image - colour).max(axis=2) < 12
    middle = near.shape[1] // 2
    return int(near[:, :middle].sum()), int(near[:, middle:].sum())


def cells(text):
    """The rows of a Markdown table as lists of cells, without the rule under the head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def printed(table, width):
    screen = io.StringIO()
    rich.console.Console(file=screen, width=width).print(table)
    return screen.getvalue()


@pytest.mark.parametrize("epochs", [1, 3, 100])
@pytest.mark.parametrize("validation", [False, True])
def test_curves_show_every_split_in_both_panels(tmp_path, epochs, validation):
    path = tmp_path / "curves.png"
    curves(history(epochs, validation), path, "final, $seed 0")
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width >= 1500 and image.height >= 600
    for colour in (BLUE, VERMILION):
        assert min(pixels(path, colour)) > 100
    assert (min(pixels(path, GREEN)) > 100) == validation
    assert os.listdir(tmp_path) == ["curves.png"]


def test_curves_leave_a_gap_for_values_that_were_not_finite(tmp_path):
    whole = history(30)
    curves(whole, tmp_path / "whole.png", "")
    curves(whole[:5] + [r | {"test_loss": None} for r in whole[5:]], tmp_path / "gap.png", "")
    curves([r | {"test_loss": None} for r in whole], tmp_path / "none.png", "")
    drawn = [pixels(tmp_path / name, VERMILION) for name in ("whole.png", "gap.png", "none.png")]
    assert drawn[0][0] > drawn[1][0] > 0 == drawn[2][0]
    assert min(right for _, right in drawn) > 100


def test_curves_need_an_epoch(tmp_path):
    with pytest.raises(InputError, match="no epoch"):
        curves([], tmp_path / "curves.png", "")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_figure(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_text("old")

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        curves(history(1), path, "")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["curves.png"]


def test_matplotlib_is_loaded_on_use_and_its_global_state_kept(tmp_path):
    program = f"""
import sys

from jresnet.records.figures import curves
assert "matplotlib" not in sys.modules
import matplotlib
before = dict(matplotlib.rcParams.copy())
curves([dict(epoch=0, train_loss=1., test_loss=1., train_accuracy=.5, test_accuracy=.5)],
              {str(tmp_path / "curves.png")!r}, "")
assert dict(matplotlib.rcParams.copy()) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_run_is_one_row():
    header, row = cells(markdown_table([result()]))
    assert header == [
        "seed", "parameters", "epochs", "train loss", "train acc (%)", "test loss", "test acc (%)",
        "mean of test batches (%)", "seconds",
    ]  # fmt: skip
    assert row == ["0", "4,815,940", "100", "0.0123", "99.67", "0.3812", "90.95", "90.91", "1,234.6"]


def test_several_seeds_end_in_mean_and_sample_deviation():
    _, *rows = cells(markdown_table([result(0, 0.90), result(1, 0.91), result(2, 0.95)]))
    # Mean 92 %; deviations -2, -1, 3: sample variance 14 / 2, deviation 2.6458 (population: 2.1602).
    assert [row[6] for row in rows] == ["90.00", "91.00", "95.00", "92.00 ± 2.65"]
    assert rows[-1][:4] == ["mean ± std, n = 3", "4,815,940", "100", "0.0123 ± 0.0000"]


def test_runs_are_averaged_only_within_their_configuration():
    results = [
        result(seed, accuracy, experiment, {"width": width})
        for experiment, width, accuracies in (("narrow", 32, (0.80, 0.82)), ("wide|er", 64, (0.90, 0.94)))
        for seed, accuracy in enumerate(accuracies)
    ]
    text = markdown_table(results)
    assert r"wide\|er" in text
    header, *rows = cells(text)
    assert header[:3] == ["experiment", "width", "seed"]
    summaries = [(row[1], row[8]) for row in rows if row[2].startswith("mean")]
    assert summaries == [("32", "81.00 ± 1.41"), ("64", "92.00 ± 2.83")]
    assert [row[2] for row in rows] == ["0", "1", "mean ± std, n = 2"] * 2


def test_a_figure_that_is_missing_or_was_not_finite_spoils_its_mean():
    first = result(0, validation_loss=0.5, validation_accuracy=0.875, train_loss=None)
    header, one, two, mean = cells(markdown_table([first, result(1)]))
    column = header.index("validation acc (%)")
    assert [row[column] for row in (one, two, mean)] == ["87.50", "n/a", "n/a"]
    assert [row[header.index("train loss")] for row in (one, two, mean)] == ["n/a", "0.0123", "n/a"]
    assert "validation" not in " ".join(cells(markdown_table([result()]))[0])


def test_provenance_names_every_distinct_origin_once():
    text = markdown_table([result(0), result(1), result(2, device="cpu: Z x2 cores", commit=None)])
    assert "Device: NVIDIA H200 x1; cpu: Z x2 cores" in text
    assert f"Commit: {'f' * 40}; unknown" in text
    assert "Versions: python 3.11.7, jax 0.10.2" in text
    assert "cifar10 (50,000 train, 0 validation, 10,000 test images; sha256 0123456789ab)" in text


def test_console_table_fits_eighty_columns_and_loses_no_digit():
    results = [result(seed, 0.90 + seed / 100) for seed in range(10)]
    text = printed(results_table(results), 80)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for part in ("4,815,940", "90.00", "99.00", "94.50", "±3.03", "1,234.6", "n = 10", "NVIDIA H200 x1"):
        assert part in text
    squeezed = printed(results_table([result(0, 0.912345), result(1, config={"width": 64})]), 40)
    assert "…" not in squeezed


def test_a_copy_of_the_data_is_named_as_one_also_where_it_is_a_part():
    copy = "1abb6cef1d3dfc07289d52cf1a9b2029c13dce3d311ac5d3861e9ce6a9500ea3"
    assert data_name({"name": "cifar10", "sha256": copy}) == "CIFAR-10 (JPEG q75)"
    assert data_name({"name": "cifar10", "sha256": "0" * 64, "cut_from": copy}) == "CIFAR-10 (JPEG q75)"
    assert data_name({"name": "cifar10", "sha256": "0" * 64}) == "cifar10"
