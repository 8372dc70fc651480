"""Figures with logarithmic axes; matplotlib's global state is not touched."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jresnet.records.figures import STYLES

BLUE, ORANGE = STYLES["train"]["color"], STYLES["test"]["color"]


def new(size: tuple[float, float], caption: str) -> Figure:
    """A figure of this size in inches, with a caption above."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(caption, fontsize="small", wrap=True)
    return figure


def logarithmic(axes: Axes, label: str, xticks: Sequence[float], yticks: Sequence[float], form: str) -> None:
    """Make both axes logarithmic, with these ticks alone; `form` formats those of the y axis."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(xticks, [f"{tick:,}" for tick in xticks])
    axes.set_yticks(yticks, [format(tick, form) for tick in yticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.grid(color="#dddddd", linewidth=0.6)
