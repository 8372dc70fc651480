"""Tables of results over seeds, with their provenance: data, device, versions and commit."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from jresnet.records.tables import Column, Row, Table, number, spread, text
from jresnet.rules import as_typed

NEARLY_CIFAR10 = "CIFAR-10 (93 of 60,000 images from a JPEG copy)"
"""The name of a copy whose accuracies compare with those on CIFAR-10 as published."""
# sha256 -> name of copies of a data set that differ from the published one.
COPIES = {
    "1abb6cef1d3dfc07289d52cf1a9b2029c13dce3d311ac5d3861e9ce6a9500ea3": "CIFAR-10 (JPEG q75)",
    "27e4662af8785ffce35ded41cdc3ec65c8041017a45833d3a074d55a62a90f0d": NEARLY_CIFAR10,
}

_COUNTS = (number("parameters", "parameters", ",d"), number("epochs", "epochs", "d"))
_MEASURES = tuple(
    spread(header, key, f"{key}_std", form, scale)
    for header, key, form, scale in (
        ("train\nloss", "train_loss", ".4f", 1),
        ("train\nacc (%)", "train_accuracy", ".2f", 100),
        ("validation\nloss", "validation_loss", ".4f", 1),
        ("validation\nacc (%)", "validation_accuracy", ".2f", 100),
        ("test\nloss", "test_loss", ".4f", 1),
        ("test\nacc (%)", "test_accuracy", ".2f", 100),
        ("mean of\ntest\nbatches\n(%)", "test_accuracy_batch_mean", ".2f", 100),
        ("seconds", "seconds", ",.1f", 1),
    )
)


def results_table(results: Sequence[dict]) -> Table:
    """A row per record of `result.json`, and mean ± sample standard deviation per configuration with several seeds.

    Options in which the runs' configurations differ get columns of their own.
    """
    settings = [{"experiment": result["experiment"], **result["config"]} for result in results]
    names = dict.fromkeys(itertools.chain(*settings))
    options = [name for name in names if len({as_typed(setting.get(name)) for setting in settings}) > 1]
    groups: dict[tuple[str, ...], list[dict]] = {}
    for setting, result in zip(settings, results, strict=True):
        groups.setdefault(tuple(as_typed(setting.get(name)) for name in options), []).append(result)
    columns = [column for column in (*_COUNTS, *_MEASURES) if any(column.keys[0] in result for result in results)]
    rows: list[Row] = []
    for values, group in groups.items():
        shared = dict(zip(options, values, strict=True)) | {"group": len(rows)}
        rows += [shared | _summary([result], columns) | {"seed": result["seed"]} for result in group]
        if len(group) > 1:
            rows.append(shared | _summary(group, columns) | {"seed": f"mean ± std\nn = {len(group)}"})
    notes = ["Values are those of the last epoch; std is the sample standard deviation over seeds."]
    notes += [f"{name}: {values}" for name, values in provenance(results).items()]
    return Table(
        [*(text(name, name) for name in options), number("seed", "seed"), *columns],
        rows,
        caption="\n".join(notes),
        group="group",
    )


def provenance(results: Sequence[dict]) -> dict[str, str]:
    """Data, device, versions and commit of records of `result.json`: every distinct value once."""
    values = {
        "Data": [_data(result["dataset"]) for result in results],
        "Device": [result["device"] for result in results],
        "Versions": [", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in results],
        "Commit": [result["commit"] or "unknown" for result in results],
    }
    return {name: "; ".join(dict.fromkeys(distinct)) for name, distinct in values.items() if distinct}


def data_name(dataset: dict) -> str:
    """The name of a `jresnet.data.datasets.dataset_record`; a copy that differs from the published data has its own."""
    return COPIES.get(dataset.get("cut_from", dataset["sha256"]), dataset["name"])


def markdown_lines(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """A table without a caption, as lines of Markdown."""
    return Table(columns, rows).markdown().splitlines()


def _summary(group: Sequence[dict], columns: Sequence[Column]) -> dict[str, Any]:
    """The group's means and deviations; a count is kept only if it is the same in all."""
    row: dict[str, Any] = {}
    for column in columns:
        key = column.keys[0]
        values: list[Any] = [result.get(key) for result in group]
        if len(values) == 1 or column in _COUNTS:
            row[key] = values[0] if len(set(values)) == 1 else None
        elif None not in values:
            row |= {key: statistics.fmean(values), f"{key}_std": statistics.stdev(values)}
    return row


def _data(dataset: dict) -> str:
    sizes = ", ".join(f"{dataset[split]:,} {split}" for split in ("train", "validation", "test"))
    return f"{data_name(dataset)} ({sizes} images; sha256 {dataset['sha256'][:12]})"
