"""Figures and tables, drawn from recorded results only."""

import io
import json
import math
import os
import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import rich.box
import rich.table

from jresnet.errors import InputError
from jresnet.runlog import write_bytes

if TYPE_CHECKING:
    import matplotlib.axes

# Colours that stay apart in every common form of colour blindness: Okabe and Ito, "Color Universal
# Design" (2008). The line styles tell the curves apart in black and white too.
_STYLES = {
    "train": {"color": "#0072B2", "linestyle": "--", "marker": "o"},
    "validation": {"color": "#009E73", "linestyle": ":", "marker": "^"},
    "test": {"color": "#D55E00", "linestyle": "-", "marker": "s"},
}
_MOST_MARKERS = 20  # epochs; with more of them, markers hide the curve


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
    loss, accuracy = figure.subplots(1, 2)
    _panel(loss, history, "loss", "cross-entropy (nats)", 1)
    _panel(accuracy, history, "accuracy", "accuracy (%)", 100)
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
        caption="\n".join(_provenance(results)),
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
    lines = ["| " + " | ".join(_escaped(row)) + " |" for row in (headers, rules, *rows)]
    return "\n".join([*lines, "", *(f"- {line}" for line in _provenance(results))]) + "\n"


def _panel(axes: "matplotlib.axes.Axes", history: list[dict], figure: str, label: str, scale: int) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [record["epoch"] for record in history]
    for split, style in _STYLES.items():
        values = [_number(record.get(f"{split}_{figure}")) * scale for record in history]
        if all(math.isnan(value) for value in values):
            continue
        last = f"{values[-1]:.2f} %" if figure == "accuracy" else f"{values[-1]:.4f}"
        marker = style["marker"] if len(epochs) <= _MOST_MARKERS else ""
        axes.plot(
            epochs, values, label=f"{split} (last {last})", linewidth=1.6, markersize=5,
            color=style["color"], linestyle=style["linestyle"], marker=marker, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if len(epochs) == 1:
        axes.set_xticks(epochs)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small",
            columnspacing=1.0, handletextpad=0.5, borderaxespad=0.2,
        )  # fmt: skip


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


def _provenance(results: Sequence[dict]) -> list[str]:
    """Lines that say how to read the table and where its results were made, every distinct value once."""
    lines = ["Figures are those of the last epoch; std is the sample standard deviation over seeds."]
    described = {
        "Data": [_data(result["dataset"]) for result in results],
        "Device": [result["device"] for result in results],
        "Versions": [", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in results],
        "Commit": [result["commit"] or "unknown" for result in results],
    }
    for name, values in described.items():
        if values:
            lines.append(f"{name}: {'; '.join(dict.fromkeys(values))}")
    return lines


def _data(dataset: dict) -> str:
    sizes = ", ".join(f"{dataset[split]:,} {split}" for split in ("train", "validation", "test"))
    return f"{dataset['name']} ({sizes} images; sha256 {dataset['sha256'][:12]})"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _escaped(row: Sequence[str]) -> list[str]:
    return [cell.replace("\n", ", ").replace("|", "\\|") for cell in row]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
