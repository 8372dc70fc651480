"""The study's figures as matplotlib objects, drawn without its global state, and their bytes as PNG and SVG.

Sizes are in inches at 96 pixels, so that a figure of 3.75 fills a telephone's width at its own size.
"""

import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from experiments.page.mistakes import Mistake
from experiments.report import COMPARED
from jresnet.data import augment
from jresnet.data.datasets import Dataset
from jresnet.records.figures import STYLES, legend, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.study.experiment import Cell

FONT_SIZE = 9
_WIDTH = 3.75
_DPI = 200  # of PNG files
_MOST_CLASSES = 10  # rows of sample pictures
_MOST_NAMES, _MOST_NUMBERS = 30, 12  # classes up to which a confusion matrix has room for names, for numbers
_GAP = 3  # pixels between pictures

# The report's own curves, over ours in black; its test accuracies are means over batches.
_REPORTED = {"loss": ("train_loss", "test_loss"), "accuracy": ("train_accuracy", COMPARED)}
_BLUE, _VERMILION = STYLES["train"]["color"], STYLES["test"]["color"]
Limits = Mapping[str, tuple[float, float]]
# Letters as outlines: where a reader lacks the font, another's widths would make labels overlap.
_styled = rc_context({"font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE + 1, "svg.fonttype": "path"})


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One figure of the page.

    Attributes:
      name: of its files, without suffix.
      text: what it shows, in words, for those who do not see it.
      svg: the figure as an SVG file.
      png: the same as a PNG file; None for a part of another figure.
    """

    name: str
    text: str
    svg: bytes
    png: bytes | None


@_styled
def drawn(name: str, text: str, figure: Figure, part: bool = False) -> Drawing:
    """Render a figure; the same figure always gives the same bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    # PNG first, since print_svg sets the figure's resolution to 72 for good; its layout serves both.
    if not part:
        FigureCanvasAgg(figure).print_png(png)
        figure.set_layout_engine("none")
    with rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return Drawing(name, text, svg.getvalue(), None if part else png.getvalue())


@_styled
def curves(
    cells: Sequence["Cell"],
    titles: Sequence[str],
    logs: Sequence[Sequence[dict]] | None = None,
    limits: Limits | None = None,
) -> Figure:
    """Loss above accuracy, one column per setting, all on the same axes; a band spans the seeds.

    Args:
      cells: what was run; a setting without runs gets an empty column that says so.
      titles: one per cell, plain text.
      logs: per cell the epochs that the report prints, drawn over the curves; empty where it prints none.
      limits: of the axes, from `limits` of another figure; None to fit these cells.
    """
    figure = _figure(_WIDTH * len(cells), 4.8)
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
    for row, name in zip(grid, ("loss", "accuracy"), strict=True):
        if limits is not None:
            row[0].set_xlim(limits["epoch"])
            row[0].set_ylim(limits[name])
    return figure


def _reported(axes: "Axes", log: Sequence[dict], name: str) -> None:
    """The report's curves of one figure, as thin lines with one name for both."""
    if not log:
        return
    scale = 100 if name == "accuracy" else 1
    epochs = [line["epoch"] for line in log]
    # matplotlib leaves names that begin with an underscore out of the legend.
    for key, split, label in zip(_REPORTED[name], ("train", "test"), ("report", "_report"), strict=True):
        style = STYLES[split]["linestyle"]
        values = [line[key] * scale for line in log]
        axes.plot(epochs, values, label=label, color="black", linewidth=0.9, linestyle=style, zorder=4)


def limits(figure: Figure) -> Limits:
    """The axes' limits of a figure that `curves` made."""
    loss, accuracy = figure.axes[0], figure.axes[-1]
    return {"epoch": loss.get_xlim(), "loss": loss.get_ylim(), "accuracy": accuracy.get_ylim()}


@_styled
def samples(dataset: Dataset, each: int = 7) -> Figure:
    """The first training images of every class, one row per class; ten classes at most, spread over all."""
    classes = shown_classes(dataset)
    rows = [dataset.train.images[dataset.train.labels == label][:each] for label in classes]
    figure, _ = _mosaic(rows, each, [dataset.classes[label] for label in classes])
    return figure


@_styled
def augmentations(dataset: Dataset, padding: int) -> Figure:
    """One training image per class before and after each augmentation of section 3.2, and after all of them."""
    classes = shown_classes(dataset)
    images = np.stack([dataset.train.images[dataset.train.labels == label][0] for label in classes])
    offsets = augment.draw(jax.random.key(0), len(images), padding, 0.0, 0.0).offsets
    middle = jnp.full_like(offsets, padding)
    titles, columns = ["original"], [images]
    for title, at, flip, gray in (
        ("crop", offsets, False, False),
        ("flip", middle, True, False),
        ("gray", middle, False, True),
        ("all", offsets, True, True),
    ):
        draws = augment.Draws(at, jnp.full(len(images), flip), jnp.full(len(images), gray))
        pixels = augment.augment(jnp.asarray(images), draws, padding)
        titles.append(title)
        columns.append(np.asarray(jnp.round(pixels)).astype(np.uint8))
    rows = list(np.stack(columns, axis=1))
    figure, axes = _mosaic(rows, len(columns), [dataset.classes[label] for label in classes])
    wide = reduced(images).shape[2] + _GAP
    axes.set_xticks([wide * (i + 0.5) - _GAP / 2 for i in range(len(titles))], titles)
    axes.xaxis.tick_top()
    return figure


def shown_classes(dataset: Dataset) -> list[int]:
    """Labels of the classes that figures of samples show: all, or ten of them spread over the list."""
    count = len(dataset.classes)
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, _MOST_CLASSES))})


@_styled
def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Shares of each true class's images, int64 [classes, classes], rows true, columns predicted.

    Names stand at the axes up to 30 classes, numbers in the cells up to 12; beyond, labels are indices.
    """
    count = len(classes)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = _WIDTH + 0.15 if count <= _MOST_NUMBERS else 6.5
    figure = _figure(side, side + 0.3)
    axes = figure.subplots()
    # The root brings out the mistakes, most of which are a few per cent.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="none")
    bar = figure.colorbar(picture, ax=axes, location="bottom", fraction=0.05, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("share of the true class's test images (%)")
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    if count <= _MOST_NAMES:
        names = [shortened(name, 14) for name in classes]
        axes.set_xticks(range(count), names, rotation=90, fontsize=7.5, parse_math=False)
        axes.set_yticks(range(count), names, fontsize=7.5, parse_math=False)
    if count <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            text = "" if share == 0 else "<1" if share < 1 else f"{share:.0f}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=7, color="white" if share > 35 else "black"
            )  # fmt: skip
    return figure


@_styled
def mistakes(found: Sequence[Mistake], dataset: Dataset, across: int = 5) -> Figure:
    """The pictures of mistakes, with the true class, the one it was taken for, and the confidence."""
    rows = [found[start : start + across] for start in range(0, len(found), across)]
    height, width = dataset.image_size
    text = 3 * (FONT_SIZE - 2) * 1.3 / 72  # inches under a picture
    cell = _WIDTH * 1.6 / across
    figure = _figure(_WIDTH * 1.6, len(rows) * (cell * height / width + text + 0.1))
    grid = figure.subplots(len(rows), across, squeeze=False)
    for axes, mistake in zip(grid.flat, found, strict=False):
        axes.imshow(reduced(dataset.test.images[mistake.index]), interpolation="none")
        true, predicted = (shortened(dataset.classes[label], 14) for label in (mistake.label, mistake.prediction))
        axes.set_xlabel(
            f"{true}\n→ {predicted}\n{100 * mistake.confidence:.1f} %", fontsize=FONT_SIZE - 2, parse_math=False
        )
        _bare(axes)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    return figure


@_styled
def budget(networks: Mapping[str, int], most: int) -> Figure:
    """Trainable parameters of each network as bars against the budget `most`."""
    figure = _figure(_WIDTH, 0.9 + 0.42 * len(networks))
    axes = figure.subplots()
    counts = [count / 1e6 for count in networks.values()]
    colours = [_BLUE if count <= most / 1e6 else _VERMILION for count in counts]
    bars = axes.barh(range(len(counts)), counts, color=colours, height=0.4)
    axes.axvline(most / 1e6, color="black", linestyle="--", linewidth=1.2, zorder=0)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axes.bar_label(bars, [f"{count:,}" for count in networks.values()], padding=4, fontsize=FONT_SIZE - 1, bbox=box)
    for row, network in enumerate(networks):
        place = (0, row - 0.22)
        axes.annotate(
            network, place, (2, 1), textcoords="offset points", va="bottom", fontsize=FONT_SIZE - 1, bbox=box
        )  # fmt: skip
    side, shift = ("left", 4) if max(counts) > 2 * most / 1e6 else ("right", -4)
    axes.annotate(
        f"budget {most:,}", (most / 1e6, -1.3), (shift, -3), textcoords="offset points", ha=side, va="top",
        fontsize=FONT_SIZE - 1,
    )  # fmt: skip
    axes.set_yticks([])
    axes.set_ylim(len(counts) - 0.6, -1.3)
    axes.set_xlim(0, 1.3 * max(*counts, most / 1e6))
    axes.set_xlabel("trainable parameters (millions)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def reduced(pictures: np.ndarray, most: int = 64) -> np.ndarray:
    """Every k-th pixel of pictures [..., height, width, 3], so that their shorter side comes near `most` pixels."""
    step = max(1, min(pictures.shape[-3:-1]) // most)
    return pictures[..., ::step, ::step, :]


def shortened(name: str, most: int) -> str:
    """The name, cut to `most` characters with an ellipsis."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _mosaic(rows: Sequence[np.ndarray], columns: int, names: Sequence[str]) -> tuple[Figure, "Axes"]:
    """Rows of uint8 pictures [n, height, width, 3] with gaps between them and their names at the left."""
    rows = [reduced(pictures) for pictures in rows]
    height, width = rows[0].shape[1:3]
    tall, wide = height + _GAP, width + _GAP
    canvas = np.full((tall * len(rows) - _GAP, wide * columns - _GAP, 3), 255, np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            canvas[row * tall : row * tall + height, column * wide : column * wide + width] = picture
    # Placed by hand: the automatic layout misjudges names beside pictures of fixed proportions.
    left, top = 1.0, 0.3
    high = (_WIDTH - left) * canvas.shape[0] / canvas.shape[1]
    figure = Figure(figsize=(_WIDTH, high + top), dpi=_DPI)
    axes = figure.add_axes((left / _WIDTH, 0, 1 - left / _WIDTH, high / (high + top)))
    axes.imshow(canvas, interpolation="none")
    _bare(axes)
    places = [tall * (row + 0.5) - _GAP / 2 for row in range(len(rows))]
    axes.set_yticks(places, [shortened(name, 14) for name in names], parse_math=False)
    return figure, axes


def _bare(axes: "Axes") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
