"""Figures and tables, drawn from recorded results only."""

import json
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import rich.box
import rich.table

if TYPE_CHECKING:
    pass


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
