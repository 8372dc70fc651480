"""Figures are checked by their lines' data, their images' pixels, and the positions of their texts."""

import dataclasses
import itertools
import unittest.mock

import matplotlib
import matplotlib.text
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from experiments import augmentation, report
from experiments.page import figures, predictions, tables
from jresnet.data import augment
from jresnet.records.figures import STYLES
from jresnet.use import metrics
from jresnet.use.figures import confusion
from tests.support import pages as page_helpers

LONG = "a very long name of a class, with $x$ and $y"


def texts(figure):
    """Every text that is drawn, with its bounding box in pixels."""
    drawn, draw = [], matplotlib.text.Text.draw

    def noting(self, renderer):
        drawn.append(self)
        draw(self, renderer)

    canvas = FigureCanvasAgg(figure)
    with unittest.mock.patch.object(matplotlib.text.Text, "draw", noting):
        canvas.draw()
    renderer = canvas.get_renderer()
    return {text: text.get_window_extent(renderer) for text in drawn if text.get_text().strip()}


def assert_legible(figure):
    """No text overlaps another, leaves the figure, or is smaller than 6.5 points."""
    boxes = texts(figure)
    assert boxes
    for text, box in boxes.items():
        assert text.get_fontsize() >= 6.5
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
    for (a, first), (b, second) in itertools.combinations(boxes.items(), 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert not (wide > 1 and high > 1), f"{a} overlaps {b}"


@pytest.mark.parametrize(("epochs", "seeds"), [(1, (1, 1, 1)), (5, (2, 1, 0)), (100, (3, 3, 3))])
def test_curves_are_legible_at_any_length(tmp_path, epochs, seeds):
    _, cells = page_helpers.rates(tmp_path, page_helpers.dataset(), seeds=seeds, epochs=epochs)
    assert_legible(figures.curves(cells, [f"learning rate {cell.setting.label}, n = 3" for cell in cells]))


def test_curves_are_the_mean_in_a_band_from_lowest_to_highest(tmp_path):
    _, (cell, *_) = page_helpers.rates(tmp_path, page_helpers.dataset(), seeds=(3, 0, 0), epochs=4)
    loss, accuracy = figures.curves([cell], ["0.01"]).axes
    for axes, name, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        lines = {line.get_label(): line for line in axes.lines}
        bands = {to_hex(band.get_facecolor()[0]): band for band in axes.collections}
        for split in ("train", "test"):
            values = scale * np.array([[line[f"{split}_{name}"] for line in run] for run in cell.histories])
            assert lines[split].get_xdata().tolist() == [0, 1, 2, 3]
            np.testing.assert_allclose(lines[split].get_ydata(), values.mean(axis=0), rtol=1e-12)
            outline = bands[STYLES[split]["color"].lower()].get_paths()[0].vertices
            for epoch in range(4):
                heights = outline[outline[:, 0] == epoch, 1]
                np.testing.assert_allclose(
                    [heights.min(), heights.max()], [values[:, epoch].min(), values[:, epoch].max()], rtol=1e-12
                )


def test_the_reports_epochs_are_plotted_over_ours_in_the_same_units(tmp_path):
    _, cells = page_helpers.rates(tmp_path, page_helpers.dataset(), seeds=(3, 3, 0), epochs=100)
    log = augmentation.EXPERIMENT.log["crop + flip + grayscale"]
    figure = figures.curves(cells, ["a", "b", "c"], [log, (), ()])
    assert_legible(figure)
    for axes, columns, scale in (
        (figure.axes[0], ("train_loss", "test_loss"), 1),
        (figure.axes[3], ("train_accuracy", report.COMPARED), 100),
    ):
        drawn = [line for line in axes.lines if to_hex(line.get_color()) == "#000000"]
        assert [text.get_text() for text in axes.texts] == []
        assert len(drawn) == 2
        for line, column in zip(drawn, columns, strict=True):
            assert line.get_xdata().tolist() == list(range(83, 100))
            np.testing.assert_allclose(line.get_ydata(), [scale * row[column] for row in report.LOG], rtol=1e-12)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["train", "validation", "test", "report"]
    for axes in (*figure.axes[1:3], *figure.axes[4:]):
        assert all(to_hex(line.get_color()) != "#000000" for line in axes.lines)


def test_one_seed_has_no_band(tmp_path):
    _, (cell, *_) = page_helpers.rates(tmp_path, page_helpers.dataset(), seeds=(1, 0, 0))
    assert all(not axes.collections for axes in figures.curves([cell], ["0.01"]).axes)


def test_settings_have_equal_axes_in_one_figure_and_in_figures_of_their_own(tmp_path):
    _, cells = page_helpers.rates(tmp_path, page_helpers.dataset(), seeds=(2, 2, 0))
    together = figures.curves(cells, ["a", "b", "c"])
    for number, cell in enumerate(cells):
        alone = figures.curves([cell], ["a"], like=together)
        for row in range(2):
            axes = together.axes[3 * row + number]
            assert alone.axes[row].get_ylim() == axes.get_ylim() == together.axes[3 * row].get_ylim()
            assert alone.axes[row].get_xlim() == axes.get_xlim()


def test_rendering_is_deterministic_and_leaves_matplotlib_alone(tmp_path):
    _, cells = page_helpers.rates(tmp_path, page_helpers.dataset())
    before = dict(matplotlib.rcParams)
    once, again = (figures.render("rates", "", figures.curves(cells, ["a", "b", "c"])) for _ in range(2))
    assert once == again
    assert dict(matplotlib.rcParams) == before
    # Letters are outlines: their width does not depend on the reader's fonts.
    assert b"<text" not in once.svg and b"<svg" in once.svg


@pytest.mark.parametrize("count", [2, 10, 31, 100])
def test_figures_of_images_are_legible_with_few_and_many_classes(count):
    data = page_helpers.dataset([f"{LONG} {i}" for i in range(count)], per_class=2, size=12)
    assert len(figures.shown_classes(data)) == min(count, 10)
    assert {0, count - 1} <= set(figures.shown_classes(data))
    assert_legible(figures.samples(data))
    assert_legible(figures.augmentations(data, 4))


def test_samples_are_the_first_training_images_of_each_class():
    data = page_helpers.dataset(size=12)
    canvas = figures.samples(data, each=3).axes[0].images[0].get_array()
    for row, column in itertools.product(range(3), range(3)):
        expected = data.train.images[np.flatnonzero(data.train.labels == row)[column]]
        assert (canvas[row * 15 : row * 15 + 12, column * 15 : column * 15 + 12] == expected).all()


def test_augmentations_are_those_of_training():
    data = page_helpers.dataset(size=12)
    canvas = np.asarray(figures.augmentations(data, 2).axes[0].images[0].get_array())
    for row in range(3):
        original, crop, flip, gray, all_ = (
            canvas[row * 15 : row * 15 + 12, column * 15 : column * 15 + 12].astype(int) for column in range(5)
        )
        assert (original == data.train.images[data.train.labels == row][0]).all()
        assert (flip == original[:, ::-1]).all()
        luminance = original @ np.array(augment.GRAY_WEIGHTS)
        assert (gray[..., 0] == gray[..., 1]).all() and np.abs(gray[..., 0] - luminance).max() <= 0.51
        padded = np.pad(original, ((2, 2), (2, 2), (0, 0)))
        windows = {
            (top, left): padded[top : top + 12, left : left + 12]
            for top, left in itertools.product(range(5), range(5))
        }  # fmt: skip
        (offset,) = [offset for offset, window in windows.items() if (window == crop).all()]
        both = windows[offset][:, ::-1] @ np.array(augment.GRAY_WEIGHTS)
        assert np.abs(all_[..., 0] - both).max() <= 0.51


@pytest.mark.parametrize("count", [2, 10, 12, 13, 30, 31, 100])
def test_confusion_is_legible_with_few_and_many_classes(count):
    counts = np.random.default_rng(0).integers(0, 9, (count, count)) + 90 * np.eye(count, dtype=int)
    figure = confusion(counts, [f"{LONG} {i}" for i in range(count)])
    assert_legible(figure)
    assert len(figure.axes[0].texts) == (count**2 if count <= 12 else 0)


def test_confusion_shows_shares_of_the_true_class():
    figure = confusion(np.array([[3, 1], [0, 0]]), ["a", "b"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["75", "25", "", ""]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[75, 25], [0, 0]])


@pytest.mark.parametrize("count", [1, 7, 20])
def test_mistakes_are_legible(count):
    data = page_helpers.dataset([LONG, "b" * 40, "truck"])
    worst = [predictions.Mistake(i % 24, i % 3, (i + 1) % 3, 1 - i / 100) for i in range(count)]
    assert_legible(figures.mistakes(worst, data))


@pytest.mark.parametrize("counts", [(4815940, 11173962, 17454170), (78002,), (4_999_999, 5_000_001)])
def test_the_budget_is_legible_and_its_colours_show_what_fits(counts):
    networks = {f"width {i}, blocks 2 2 2 2, kernel 3, pool 4": count for i, count in enumerate(counts)}
    figure = figures.budget(networks, 5_000_000)
    assert_legible(figure)
    colours = [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches]
    fits = STYLES["train"]["color"].lower()
    assert [colour == fits for colour in colours] == [count <= 5_000_000 for count in counts]


def test_counts_accuracies_and_order_of_mistakes():
    data = page_helpers.dataset(per_class=2)
    test = dataclasses.replace(data.test, labels=np.array([0, 0, 1, 1, 1, 0], np.int32))
    one = predictions.Predictions(np.array([0, 1, 1, 2, 2, 1], np.int32), np.array([0.9, 0.5, 0.4, 0.6, 0.7, 0.7]))
    counts = metrics.confusion(one.labels, test.labels, 3)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 2], [0, 0, 0]]
    rows = tables.classes(np.stack([counts, counts]), data.classes).rows
    assert [row.get("mean") for row in rows] == [1 / 3, 1 / 3, None]
    assert [row["images"] for row in rows] == [3, 3, 0]
    assert [row["taken_for"] for row in rows] == ["dog (66.7 %)", "tree (66.7 %)", None]
    assert [mistake.index for mistake in predictions.most_confident(one, test, 3)] == [4, 5, 3]


def test_large_images_are_reduced():
    data = page_helpers.dataset(per_class=1, size=200)
    assert figures.reduced(data.train.images).shape == (3, 67, 67, 3)
    assert (figures.reduced(data.train.images[0]) == data.train.images[0, ::3, ::3]).all()
    assert_legible(figures.augmentations(data, 4))
    assert figures.reduced(data.train.images[:, :32, :32]).shape == (3, 32, 32, 3)
