"""The figures of a study's page, as matplotlib objects independent of its global state, and as PNG and SVG files.

Sizes are in inches of 96 CSS pixels: a figure 3.75 inches wide fills a phone's screen.
"""

import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.page.predictions import Mistake
from experiments.report import COMPARED
from experiments.study.experiment import Cell
from jresnet.data import augment
from jresnet.data.datasets import Dataset
from jresnet.records.figures import STYLES, legend, panel
from jresnet.records.tables import Row
from jresnet.use.figures import DPI, FONT_SIZE, WIDTH, blank, shortened, styled, svg
from jresnet.use.html import reduced

_MOST_CLASSES = 10  # rows of sample images
_ACROSS = 5  # mistakes in a row
_GAP = 3  # pixels between images

# The report's curves are black, over ours; its test accuracies are means over batches.
_REPORTED = {"loss": ("train_loss", "test_loss"), "accuracy": ("train_accuracy", COMPARED)}
_BLUE, _VERMILION = STYLES["train"]["color"], STYLES["test"]["color"]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One figure of the page: its files, their name without suffix, and its alternative text."""

    name: str
    text: str
    svg: bytes
    png: bytes | None  # None for a part of another figure


@styled
def render(name: str, text: str, figure: Figure, part: bool = False) -> Drawing:
    """Render a figure; equal figures give equal bytes."""
    png = io.BytesIO()
    # PNG first: `svg` sets the figure's resolution to 72 for good. Both use the PNG's layout.
    if not part:
        FigureCanvasAgg(figure).print_png(png)
        figure.set_layout_engine("none")
    return Drawing(name, text, svg(name, figure), None if part else png.getvalue())


@styled
def curves(
    cells: Sequence[Cell],
    titles: Sequence[str],
    logs: Sequence[Sequence[dict]] | None = None,
    like: Figure | None = None,
) -> Figure:
    """Loss above accuracy, one column per cell, with shared axes; a band spans the seeds.

    The `logs`, for each cell the epochs that the report prints, are plotted over its curves. The axes have the limits
    of `like`, a figure of these cells and others.
    """
    figure = blank(WIDTH * len(cells), 4.8)
    grid = figure.subplots(2, len(cells), sharex=True, sharey="row", squeeze=False)
    for column, cell, title, log in zip(grid.T, cells, titles, logs or [()] * len(cells), strict=True):
        for axes, name in zip(column, ("loss", "accuracy"), strict=True):
            if cell.histories:
                panel(axes, cell.histories, name)
                _reported(axes, log, name)
            else:
                axes.text(0.5, 0.5, "not run yet", transform=axes.transAxes, ha="center", color="#666666")
            axes.tick_params(labelleft=True, labelbottom=True)
        legend(column[0])
        column[0].set_title(textwrap.fill(title, 44), parse_math=False, pad=24)
    if like is not None:
        for row, axes in zip(grid, (like.axes[0], like.axes[-1]), strict=True):
            row[0].set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    return figure


def _reported(axes: Axes, log: Sequence[dict], name: str) -> None:
    """Plot the report's curves as thin lines that share one entry of the legend."""
    if not log:
        return
    scale = 100 if name == "accuracy" else 1
    epochs = [line["epoch"] for line in log]
    # matplotlib leaves labels that begin with an underscore out of the legend.
    for key, split, label in zip(_REPORTED[name], ("train", "test"), ("report", "_report"), strict=True):
        style = STYLES[split]["linestyle"]
        values = [line[key] * scale for line in log]
        axes.plot(epochs, values, label=label, color="black", linewidth=0.9, linestyle=style, zorder=4)


@styled
def samples(dataset: Dataset, each: int = 7) -> Figure:
    """The first training images of every class, one row per class, for ten classes at most."""
    classes = shown_classes(dataset)
    rows = [dataset.train.images[np.flatnonzero(dataset.train.labels == label)[:each]] for label in classes]
    figure, _ = _mosaic(rows, each, [dataset.classes[label] for label in classes])
    return figure


@styled
def augmentations(dataset: Dataset, padding: int) -> Figure:
    """A training image of each class before and after each augmentation of section 3.2, and after all of them."""
    classes = shown_classes(dataset)
    images = np.stack([dataset.train.images[np.argmax(dataset.train.labels == label)] for label in classes])
    random = augment.draw(jax.random.key(0), len(images), augment.Augmentations(padding=padding)).offsets
    centred = jnp.full_like(random, padding)
    columns = {"original": images}
    for title, offsets, flip, gray in (
        ("crop", random, False, False),
        ("flip", centred, True, False),
        ("gray", centred, False, True),
        ("all", random, True, True),
    ):
        draws = augment.Draws(offsets, jnp.full(len(images), flip), jnp.full(len(images), gray))
        pixels = augment.augment(jnp.asarray(images), draws, padding)
        columns[title] = np.asarray(jnp.round(pixels)).astype(np.uint8)
    rows = list(np.stack(list(columns.values()), axis=1))
    figure, axes = _mosaic(rows, len(columns), [dataset.classes[label] for label in classes])
    wide = reduced(images).shape[2] + _GAP
    axes.set_xticks([wide * (i + 0.5) - _GAP / 2 for i in range(len(columns))], list(columns))
    axes.xaxis.tick_top()
    return figure


def shown_classes(dataset: Dataset) -> list[int]:
    """The labels of the classes shown in figures of images: all, or ten spread evenly over them."""
    count = len(dataset.classes)
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, _MOST_CLASSES))})


@styled
def mistakes(worst: Sequence[Mistake], dataset: Dataset) -> Figure:
    """Misclassified images, with true class, predicted class and confidence."""
    rows = [worst[start : start + _ACROSS] for start in range(0, len(worst), _ACROSS)]
    height, width = dataset.image_size
    text = 3 * (FONT_SIZE - 2) * 1.3 / 72  # inches below an image
    cell = WIDTH * 1.6 / _ACROSS
    figure = blank(WIDTH * 1.6, len(rows) * (cell * height / width + text + 0.1))
    grid = figure.subplots(len(rows), _ACROSS, squeeze=False)
    for axes, mistake in zip(grid.flat, worst, strict=False):
        axes.imshow(reduced(dataset.test.images[mistake.index]), interpolation="none")
        true, predicted = (shortened(dataset.classes[label]) for label in (mistake.label, mistake.prediction))
        label = f"{true}\n→ {predicted}\n{100 * mistake.confidence:.1f} %"
        axes.set_xlabel(label, fontsize=FONT_SIZE - 2, parse_math=False)
        _bare(axes)
    for axes in grid.flat[len(worst) :]:
        axes.set_axis_off()
    return figure


@styled
def budget(networks: Mapping[str, int], most: int) -> Figure:
    """Trainable parameters of each network as bars, and the budget `most` as a line."""
    figure = blank(WIDTH, 0.9 + 0.42 * len(networks))
    axes = figure.subplots()
    counts = [count / 1e6 for count in networks.values()]
    colours = [_BLUE if count <= most / 1e6 else _VERMILION for count in counts]
    bars = axes.barh(range(len(counts)), counts, color=colours, height=0.4)
    axes.axvline(most / 1e6, color="black", linestyle="--", linewidth=1.2, zorder=0)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axes.bar_label(bars, [f"{count:,}" for count in networks.values()], padding=4, fontsize=FONT_SIZE - 1, bbox=box)
    note: dict[str, Any] = {"textcoords": "offset points", "fontsize": FONT_SIZE - 1}
    for row, network in enumerate(networks):
        axes.annotate(network, (0, row - 0.22), (2, 1), va="bottom", bbox=box, **note)
    side, shift = ("left", 4) if max(counts) > 2 * most / 1e6 else ("right", -4)
    axes.annotate(f"budget {most:,}", (most / 1e6, -1.3), (shift, -3), ha=side, va="top", **note)
    axes.set_yticks([])
    axes.set_ylim(len(counts) - 0.6, -1.3)
    axes.set_xlim(0, 1.3 * max(*counts, most / 1e6))
    axes.set_xlabel("trainable parameters (millions)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@styled
def differences(rows: Sequence[Row], measure: str, label: str, scale: float) -> Figure:
    """Differences of a measure from a reference, times `scale`, with their intervals, on an axis of this label.

    The rows are those of `study.paired.compare` below the first; one without runs is left blank.
    """
    figure = blank(WIDTH, 0.7 + 0.3 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        value, low, high = (row.get(f"{measure}_difference{end}") for end in ("", "_low", "_high"))
        if value is None:
            continue
        if low is not None and high is not None:
            axes.plot([scale * low, scale * high], [place, place], color=_BLUE, linewidth=1.6, zorder=2)
        axes.plot([scale * value], [place], color=_BLUE, marker="o", markersize=5, zorder=3)
    axes.axvline(0, color="black", linestyle="--", linewidth=1.0, zorder=1)
    axes.set_yticks(range(len(rows)), [row["setting"] for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _mosaic(rows: Sequence[np.ndarray], columns: int, names: Sequence[str]) -> tuple[Figure, Axes]:
    """Rows of uint8 images [n, height, width, 3] with gaps between them, and the rows' names to the left."""
    rows = [reduced(images) for images in rows]
    height, width = rows[0].shape[1:3]
    tall, wide = height + _GAP, width + _GAP
    tiles = np.full((len(rows), tall, columns, wide, 3), 255, np.uint8)
    for row, images in enumerate(rows):
        tiles[row, :height, : len(images), :width] = images.swapaxes(0, 1)
    canvas = tiles.reshape(len(rows) * tall, columns * wide, 3)[:-_GAP, :-_GAP]
    # Positioned by hand: constrained layout misjudges labels beside images of fixed aspect.
    left, top = 1.0, 0.3
    high = (WIDTH - left) * canvas.shape[0] / canvas.shape[1]
    figure = Figure(figsize=(WIDTH, high + top), dpi=DPI)
    axes = figure.add_axes((left / WIDTH, 0, 1 - left / WIDTH, high / (high + top)))
    axes.imshow(canvas, interpolation="none")
    _bare(axes)
    centres = [tall * (row + 0.5) - _GAP / 2 for row in range(len(rows))]
    axes.set_yticks(centres, [shortened(name) for name in names], parse_math=False)
    return figure, axes


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
