"""Figures and tables, drawn from recorded results only."""

import io
import json
import math
import os
import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rich.box
import rich.table

from jresnet.errors import InputError
from jresnet.runlog import write_bytes

if TYPE_CHECKING:
    import matplotlib.axes

STYLES = {
    "train": {"color": "#0072B2", "linestyle": "--", "marker": "o"},
    "validation": {"color": "#009E73", "linestyle": ":", "marker": "^"},
    "test": {"color": "#D55E00", "linestyle": "-", "marker": "s"},
}
"""How each split is drawn, in colours that stay apart in every common form of colour blindness: Okabe and
Ito, "Color Universal Design" (2008). The line styles tell the curves apart in black and white too."""

_MOST_MARKERS = 20  # epochs; with more of them, markers hide the curve
_PANELS = {"loss": ("cross-entropy (nats)", 1), "accuracy": ("accuracy (%)", 100)}

# Copies of a data set that differ from the original under whose name they were read, by their sha256.
_COPIES = {"1abb6cef1d3dfc07289d52cf1a9b2029c13dce3d311ac5d3861e9ce6a9500ea3": "CIFAR-10 (JPEG q75)"}


class _Column(NamedTuple):
    """A figure of `result.json` as a column: value * scale in `form`; the header's lines suit a console."""

    header: str
    key: str
    form: str
    scale: int = 1


_COUNTS = (_Column("parameters", "parameters", ",d"), _Column("epochs", "epochs", "d"))
_MEASURES = (
    _Column("train\nloss", "train_loss", ".4f"),
    _Column("train\nacc (%)", "train_accuracy", ".2f", 100),
    _Column("validation\nloss", "validation_loss", ".4f"),
    _Column("validation\nacc (%)", "validation_accuracy", ".2f", 100),
    _Column("test\nloss", "test_loss", ".4f"),
    _Column("test\nacc (%)", "test_accuracy", ".2f", 100),
    _Column("mean of\ntest\nbatches\n(%)", "test_accuracy_batch_mean", ".2f", 100),
    _Column("seconds", "seconds", ",.1f"),
)


def curves(history: list[dict], path: str | os.PathLike, title: str) -> None:
    """Draw loss and accuracy against the epoch as a PNG; matplotlib's global state stays as it is.

    Args:
      history: records of `metrics.jsonl`; null values leave gaps, missing validation figures no curve.
      path: the PNG file, written whole or not at all.
      title: plain text above the panels.

    Raises:
      InputError: the history holds no epoch.
    """
    if not history:
        raise InputError(f"{path}: no epoch has been recorded, so there is no curve to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=150, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 100)), parse_math=False)
    for axes, name in zip(figure.subplots(1, 2), _PANELS, strict=True):
        panel(axes, [history], name, last=True)
        legend(axes)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    write_bytes(path, image.getvalue())


def results_table(results: Sequence[dict]) -> rich.table.Table:
    """The records of `result.json` as a table for the console: a row per run, mean ± std per configuration.

    Runs whose configurations differ in nothing but the seed belong together; from two of them on, a row
    gives mean, sample standard deviation and n. Configuration fields that vary get columns of their own.
    """
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        caption="\n".join(_notes(results)),
        caption_justify="left",
    )
    settings, columns = _varying(results), _columns(results)
    # A console that is too narrow must break a figure over two lines, never cut its digits off.
    for name in settings:
        table.add_column(name, overflow="fold")
    for header in ("seed", *(column.header for column in columns)):
        table.add_column(header, justify="right", vertical="top", overflow="fold")
    for group in _grouped(results):
        for row in _rows(group, settings, columns, plus_minus="\n±"):
            table.add_row(*row)
        table.add_section()
    return table


def markdown_table(results: Sequence[dict]) -> str:
    """The rows of `results_table` as Markdown, followed by where the results were made."""
    settings, columns = _varying(results), _columns(results)
    headers = [*settings, "seed", *(column.header.replace("\n", " ") for column in columns)]
    rules = [":--"] * len(settings) + ["--:"] * (len(headers) - len(settings))
    rows = [row for group in _grouped(results) for row in _rows(group, settings, columns, plus_minus=" ± ")]
    lines = ["| " + " | ".join(markdown_cells(row)) + " |" for row in (headers, rules, *rows)]
    return "\n".join([*lines, "", *(f"- {line}" for line in _notes(results))]) + "\n"


def panel(axes: "matplotlib.axes.Axes", histories: Sequence[Sequence[dict]], name: str, last: bool = False) -> None:
    """Draw one figure of several runs against the epoch: the mean over the runs, in a band from lowest to highest.

    Args:
      axes: where to draw.
      histories: records of `metrics.jsonl` of each run; a value that is null or missing in any leaves a gap.
      name: "loss" or "accuracy".
      last: add the last epoch's mean to each curve's label.
    """
    from matplotlib.ticker import MaxNLocator

    label, scale = _PANELS[name]
    epochs = sorted({record["epoch"] for history in histories for record in history})
    for split, style in STYLES.items():
        values = np.array([_series(history, epochs, f"{split}_{name}", scale) for history in histories])
        means = values.mean(axis=0)
        if np.isnan(means).all():
            continue
        shown = f" (last {means[-1]:.2f} %)" if name == "accuracy" else f" (last {means[-1]:.4f})"
        axes.plot(
            epochs, means, label=split + shown * last, linewidth=1.6, markersize=5,
            color=style["color"], linestyle=style["linestyle"],
            marker=style["marker"] if len(epochs) <= _MOST_MARKERS else "", clip_on=False, zorder=3,
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


def legend(axes: "matplotlib.axes.Axes") -> None:
    """Name the curves above the axes, if there are any."""
    if axes.lines:
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize="small",
            columnspacing=1.0, handletextpad=0.5, borderaxespad=0.2,
        )  # fmt: skip


def provenance(results: Sequence[dict]) -> dict[str, str]:
    """Where records of `result.json` were made: data, device, versions, commit, every distinct value once."""
    described = {
        "Data": [_data(result["dataset"]) for result in results],
        "Device": [result["device"] for result in results],
        "Versions": [", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in results],
        "Commit": [result["commit"] or "unknown" for result in results],
    }
    return {name: "; ".join(dict.fromkeys(values)) for name, values in described.items() if values}


def data_name(dataset: dict) -> str:
    """The data set of a record by the name it deserves: a copy that differs from the original by its own.

    Args:
      dataset: as `rundir.dataset_record` makes it.
    """
    return _COPIES.get(dataset.get("cut_from", dataset["sha256"]), dataset["name"])


def _rows(group: list[dict], settings: list[str], columns: list[_Column], plus_minus: str) -> list[list[str]]:
    """One configuration's rows of cells; `plus_minus` stands between a mean and its deviation."""
    shown = [_shown(_setting(group[0], name)) for name in settings]
    rows = [
        [*shown, str(result["seed"]), *(_cell(column, [result], plus_minus) for column in columns)] for result in group
    ]
    if len(group) > 1:
        summary = f"mean{plus_minus}std\nn = {len(group)}"
        rows.append([*shown, summary, *(_cell(column, group, plus_minus) for column in columns)])
    return rows


def _cell(column: _Column, results: list[dict], plus_minus: str) -> str:
    """One result's figure, or several results' mean ± sample standard deviation."""
    values = [result[column.key] for result in results if result.get(column.key) is not None]
    if len(values) < len(results):
        return "n/a"
    if column in _COUNTS:
        return format(values[0], column.form) if len(set(values)) == 1 else "n/a"
    scaled = [value * column.scale for value in values]
    mean = format(statistics.fmean(scaled), column.form)
    return mean if len(scaled) == 1 else f"{mean}{plus_minus}{statistics.stdev(scaled):{column.form}}"


def _columns(results: Sequence[dict]) -> list[_Column]:
    return [column for column in (*_COUNTS, *_MEASURES) if any(column.key in result for result in results)]


def _grouped(results: Sequence[dict]) -> list[list[dict]]:
    """The results in groups that differ in nothing but the seed, in order of first appearance."""
    groups: dict[str, list[dict]] = {}
    for result in results:
        key = json.dumps([_setting(result, name) for name in _settings(results)])
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def _varying(results: Sequence[dict]) -> list[str]:
    """Names of the settings in which the results differ."""
    return [name for name in _settings(results) if len({json.dumps(_setting(result, name)) for result in results}) > 1]


def _settings(results: Sequence[dict]) -> list[str]:
    names = dict.fromkeys(name for result in results for name in result["config"])
    return ["experiment", *(name for name in names if name not in ("experiment", "seed"))]


def _setting(result: dict, name: str) -> Any:
    return result["experiment"] if name == "experiment" else result["config"].get(name)


def _notes(results: Sequence[dict]) -> list[str]:
    """Lines that say how to read the table and where its results were made."""
    lines = ["Figures are those of the last epoch; std is the sample standard deviation over seeds."]
    return [*lines, *(f"{name}: {values}" for name, values in provenance(results).items())]


def _data(dataset: dict) -> str:
    sizes = ", ".join(f"{dataset[split]:,} {split}" for split in ("train", "validation", "test"))
    return f"{data_name(dataset)} ({sizes} images; sha256 {dataset['sha256'][:12]})"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def markdown_cells(row: Sequence[str]) -> list[str]:
    """Texts as cells of a Markdown table."""
    return [cell.replace("\n", ", ").replace("|", "\\|") for cell in row]


def _series(history: Sequence[dict], epochs: list[int], key: str, scale: int) -> list[float]:
    values = {record["epoch"]: _number(record.get(key)) * scale for record in history}
    return [values.get(epoch, math.nan) for epoch in epochs]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
