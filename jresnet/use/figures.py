"""The figures of an evaluation, and what all figures of pages share; matplotlib's global state is left alone.

Sizes are in inches of 96 CSS pixels: a figure 3.75 inches wide fills a phone's screen.
"""

import functools
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from jresnet.records.figures import STYLES
from jresnet.use.metrics import Bin

FONT_SIZE = 9
WIDTH = 3.75
DPI = 200  # of PNG files
# The most classes for which a confusion matrix has room for names, for numbers.
MOST_NAMES, _MOST_NUMBERS = 30, 12
# Text as outlines: another font's widths could make labels overlap where a reader lacks this one.
styled = rc_context({"font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE + 1, "svg.fonttype": "path"})


@styled
def svg(name: str, figure: Figure, description: str | None = None) -> bytes:
    """A figure as SVG, with the description among its metadata; equal arguments give equal bytes."""
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Description": description})
    return file.getvalue()


@styled
def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix in shares of each true class's images, with as many names and numbers as there is room for.

    The counts are int64 [classes, classes], images by true (rows) and predicted class (columns).
    """
    count = len(classes)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = WIDTH + 0.15 if count <= _MOST_NUMBERS else 6.5
    figure = blank(side, side + 0.3)
    axes = figure.subplots()
    # A square-root scale makes the mistakes visible, most of which are a few per cent.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="none")
    bar = figure.colorbar(picture, ax=axes, location="bottom", fraction=0.05, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("share of the true class's images (%)")
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    if count <= MOST_NAMES:
        names = drawable(classes)
        axes.set_xticks(range(count), names, rotation=90, fontsize=7.5, parse_math=False)
        axes.set_yticks(range(count), names, fontsize=7.5, parse_math=False)
    if count <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            text = "" if share == 0 else "<1" if share < 1 else f"{share:.0f}"
            color = "white" if share > 35 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    return figure


@styled
def reliability(bins: Sequence[Bin]) -> Figure:
    """Accuracy against confidence in each bin; a calibrated classifier is on the diagonal."""
    figure = blank(WIDTH, WIDTH)
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="black", linestyle="--", linewidth=1, label="calibrated")
    confidences, accuracies = [100 * bin.confidence for bin in bins], [100 * bin.accuracy for bin in bins]
    color = STYLES["test"]["color"]
    axes.plot(confidences, accuracies, color=color, marker="s", markersize=5, clip_on=False, label="bins")
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xlabel="mean confidence (%)", ylabel="accuracy (%)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False)
    return figure


def drawable(classes: Sequence[str], most: int = 14) -> list[str]:
    """Names of classes, cut to `most` characters; "class 3", counted from 0, for one whose letters the font lacks."""
    return [shortened(name, most) if can_draw(name) else f"class {index}" for index, name in enumerate(classes)]


def can_draw(name: str) -> bool:
    """Whether matplotlib's fonts have all letters of the name; for others it draws boxes, and warns."""
    return {*map(ord, name)} <= _letters(tuple(rcParams["font.family"]))


@functools.cache
def _letters(families: tuple[str, ...]) -> set[int]:
    return {
        letter for family in families for letter in get_font(findfont(FontProperties(family=[family]))).get_charmap()
    }


def shortened(name: str, most: int = 14) -> str:
    """The name, cut to `most` characters with an ellipsis if it is longer."""
    return name if len(name) <= most else name[: most - 1] + "…"


def blank(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")
