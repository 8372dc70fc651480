"""Plots of loss and accuracy against the epoch, from recorded results only."""

import math
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jresnet.errors import InputError
from jresnet.records.files import Record, atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jresnet.records.picture import Picture

STYLES = {
    "train": {"color": "#0072B2", "linestyle": "--", "marker": "o"},
    "validation": {"color": "#009E73", "linestyle": ":", "marker": "^"},
    "test": {"color": "#D55E00", "linestyle": "-", "marker": "s"},
}
"""How each split is drawn: in colours that remain distinct in every common form of colour blindness (Okabe and Ito,
"Color Universal Design", 2008), and in line styles that remain distinct in black and white."""

_MOST_MARKERS = 20  # points; more markers than this hide the curve, but a single point is only seen by its marker
_PANELS = {"loss": ("cross-entropy (nats)", 1), "accuracy": ("accuracy (%)", 100)}


def curves(history: list[Record], path: str | os.PathLike[str], title: str) -> None:
    """Plot loss and accuracy against the epoch as a PNG file; matplotlib's global state is left alone.

    `history` are lines of `metrics.jsonl`: a null value leaves a gap, a split without values has no curve. InputError
    if there are none.
    """
    if not history:
        raise InputError(f"{path}: no epoch has been recorded, so there is no curve to draw")
    figure = draw_curves(history, title)
    with atomic_write(path) as file:
        figure.write_png(file)


def draw_curves(history: list[Record], title: str) -> "Picture":
    """The figure of `curves`."""
    from jresnet.records.picture import Picture

    figure = Picture(figsize=(11, 4.4), dpi=150, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 100)), parse_math=False)
    for axes, name in zip(figure.subplots(1, 2), _PANELS, strict=True):
        panel(axes, [history], name, last=True)
        legend(axes)
    return figure


def panel(axes: "Axes", histories: Sequence[Sequence[Record]], name: str, last: bool = False) -> None:
    """Plot the mean loss or accuracy of several runs against the epoch, in a band from the lowest to the highest run.

    A value that is null or missing in any run leaves a gap; `last` adds the last epoch's mean to each curve's label.
    """
    from matplotlib.ticker import MaxNLocator

    label, scale = _PANELS[name]
    epochs = sorted({record["epoch"] for history in histories for record in history})
    for split, style in STYLES.items():
        values = np.array([_series(history, epochs, f"{split}_{name}", scale) for history in histories])
        means = values.mean(axis=0)
        if np.isnan(means).all():
            continue
        last_value = f" (last {means[-1]:.2f} %)" if name == "accuracy" else f" (last {means[-1]:.4f})"
        axes.plot(
            epochs, means, label=split + last_value * last, linewidth=1.6, markersize=5,
            color=style["color"], linestyle=style["linestyle"],
            marker=style["marker"] if np.isfinite(means).sum() <= _MOST_MARKERS else "", clip_on=False, zorder=3,
        )  # fmt: skip
        if len(values) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(epochs, low, high, color=style["color"], alpha=0.25, linewidth=0, zorder=2)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if len(epochs) == 1:
        axes.set_xticks(epochs)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def legend(axes: "Axes") -> None:
    """Put a legend above the axes, if they have curves."""
    if axes.lines:
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize="small",
            columnspacing=1.0, handletextpad=0.5, borderaxespad=0.2,
        )  # fmt: skip


def _series(history: Sequence[Record], epochs: list[int], key: str, scale: int) -> list[float]:
    values = {record["epoch"]: record[key] * scale for record in history if record.get(key) is not None}
    return [values.get(epoch, math.nan) for epoch in epochs]
