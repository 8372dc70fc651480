"""Plots are judged by the pixels of their colours."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jresnet.errors import CannotWrite, InputError
from jresnet.records.figures import curves

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


def pixels(path, colour):
    """Pixels of about this colour, per half of the image (left: loss, right: accuracy)."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    near = np.abs(image - colour).max(axis=2) < 12
    middle = near.shape[1] // 2
    return int(near[:, :middle].sum()), int(near[:, middle:].sum())


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


def test_a_figure_of_the_last_epoch_alone_is_a_point_that_can_be_seen(tmp_path):
    """As of test images that are evaluated after training."""
    names = ("test_loss", "test_accuracy")
    *before, last = history(30)
    once = [{name: value for name, value in r.items() if name not in names} for r in before]
    curves([*once, last], tmp_path / "once.png", "")
    curves([*once, {name: value for name, value in last.items() if name not in names}], tmp_path / "none.png", "")
    drawn = [pixels(tmp_path / name, VERMILION) for name in ("once.png", "none.png")]
    assert min(drawn[0]) > 20 and drawn[1] == (0, 0)


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
    with pytest.raises(CannotWrite, match="disk full"):
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
