"""The tables of a study's page."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import BUDGET, COMPARED
from experiments.study import statistics
from experiments.study.experiment import Cell, Experiment, Outcome
from experiments.study.statistics import Comparison, Summary
from jresnet import models
from jresnet.records.tables import Column, Row, Table, interval, number, spread, text
from jresnet.rules import as_typed

_SPREADS = {
    name: spread(header, f"{name}_mean", f"{name}_std", form, scale)
    for name, header, form, scale in (
        ("test_accuracy", "exact test accuracy (%)", ".2f", 100),
        (COMPARED, "test accuracy (%)", ".2f", 100),
        ("validation_accuracy", "validation accuracy (%)", ".2f", 100),
        ("train_accuracy", "train accuracy (%)", ".2f", 100),
        ("test_loss", "test loss", ".4f", 1),
        ("validation_loss", "validation loss", ".4f", 1),
        ("train_loss", "train loss", ".4f", 1),
        ("parameters", "parameters", ",.0f", 1),
        ("seconds", "seconds per run", ",.1f", 1),
    )
}
_FURTHER = ("test_loss", "train_accuracy", "train_loss", "validation_loss", "parameters", "seconds")
_LOGGED = ("train_loss", "test_loss", "train_accuracy", COMPARED)
_FIELDS = ("width", "blocks", "kernel_size", "pool_size")  # of Config, which set the number of parameters


def accuracies(experiment: Experiment, cells: Sequence[Cell]) -> Table:
    """Test accuracy of each setting beside the report's."""
    rows = [
        {"setting": cell.setting.label, "n": len(cell.records)}
        | _compared(statistics.summary(cell.records, COMPARED), reported(experiment, cell, COMPARED))
        | statistics.spreads(cell.records, ("test_accuracy", "validation_accuracy"))
        for cell in cells
    ]
    any_reported = any(row["report"] is not None for row in rows)
    any_validation = any("validation_accuracy_mean" in row for row in rows)
    columns = [
        text(heading(experiment), "setting"),
        number("n", "n", "d"),
        *[number("report (%)", "report", ".2f", 100)] * any_reported,
        spread("here (%)", "mean", "std", ".2f", 100),
        interval("95 % CI (%)", "low", "high", ".2f", 100),
        *[number("difference (points)", "difference", "+.2f", 100)] * any_reported,
        _SPREADS["test_accuracy"],
        *[_SPREADS["validation_accuracy"]] * any_validation,
    ]
    caption = (
        f"{experiment.title}. Test accuracy after the last epoch, mean ± standard deviation over n seeds with its 95 % "
        "confidence interval, computed as in the report: the mean over test batches. The exact accuracy counts every "
        "image once."
    )
    return Table(columns, rows, caption, name=experiment.name)


def further(experiment: Experiment, cells: Sequence[Cell]) -> Table:
    """The other values of each setting."""
    rows = [{"setting": cell.setting.label} | statistics.spreads(cell.records, _FURTHER) for cell in cells]
    columns = [
        number("parameters", "parameters_mean", ",.0f") if name == "parameters" else _SPREADS[name]
        for name in _FURTHER
        if any(f"{name}_mean" in row for row in rows)
    ]
    caption = f"{experiment.title}: other values of the last epoch, mean ± standard deviation over seeds."
    return Table([text(heading(experiment), "setting"), *columns], rows, caption, name=f"{experiment.name}-figures")


class _MeasureColumn(Column):
    """A column whose format depends on the measure that a row's "figure" names."""

    def cell(self, row: Row) -> str:
        measure = _SPREADS[row["figure"]]
        return Column(self.header, self.keys, f"{self.form}{measure.form}", measure.scale, self.layout).cell(row)


def beside_report(experiment: Experiment, cells: Sequence[Cell]) -> Table:
    """Every value except the test accuracy that the report gives for a setting, beside this study's."""
    rows = [
        {"setting": cell.setting.label, "figure": name} | _compared(statistics.summary(cell.records, name), value)
        for cell in cells
        for name in _FURTHER
        if (value := reported(experiment, cell, name)) is not None
    ]
    columns = [
        text(heading(experiment), "setting"),
        text("figure", "figure", lambda name: _SPREADS[name].header),
        _MeasureColumn("report", ("report",), right=True),
        _MeasureColumn("here", ("mean", "std"), layout="{} ± {}", right=True),
        _MeasureColumn("95 % CI", ("low", "high"), layout="{} to {}", right=True),
        _MeasureColumn("difference", ("difference",), form="+", right=True),
    ]
    caption = f"{experiment.title}: the report's other values, mean ± standard deviation over seeds beside them."
    return Table(columns, rows, caption, name=f"{experiment.name}-report")


def logged(experiment: Experiment, cell: Cell) -> list[dict]:
    """The epochs that the report prints of a setting and that every run of the cell has."""
    epochs = [{line["epoch"] for line in history} for history in cell.histories]
    log = experiment.log.get(cell.setting.label, ())
    return [line for line in log if epochs and all(line["epoch"] in of_run for of_run in epochs)]


def log(experiment: Experiment, cells: Sequence[Cell]) -> Table | None:
    """The epochs that the report prints beside this study's; None if none of them was run here."""
    rows = []
    for cell in cells:
        for line in logged(experiment, cell):
            ours = [of_run for history in cell.histories for of_run in history if of_run["epoch"] == line["epoch"]]
            theirs = {f"{name}_report": line[name] for name in _LOGGED}
            rows.append({"epoch": line["epoch"]} | theirs | statistics.spreads(ours, _LOGGED))
    if not rows:
        return None
    columns = [number("epoch", "epoch", "d")]
    for name in _LOGGED:
        here, key = _SPREADS[name], f"{name}_report"
        columns.append(dataclasses.replace(here, header=f"{here.header}, report", keys=(key,), layout="{}"))
        columns.append(dataclasses.replace(here, header="here"))
    caption = (
        f"{experiment.title}: the epochs that the report prints, mean ± standard deviation over seeds beside them; "
        "test accuracies are means over test batches."
    )
    return Table(columns, rows, caption, name=f"{experiment.name}-log")


def comparisons(experiment: Experiment, pairs: Sequence[Comparison]) -> Table:
    """Paired differences of test accuracy between settings."""
    columns = [
        Column("pair", ("first", "second"), layout="{} minus {}"),
        number("n", "n", "d"),
        number("difference (points)", "difference", "+.2f", 100),
        interval("95 % CI (points)", "low", "high", "+.2f", 100),
        number("p", "p", ".3g"),
    ]
    caption = f"{experiment.title}: differences of test accuracy between settings, paired over shared seeds."
    return Table(columns, [vars(pair) for pair in pairs], caption, name=f"{experiment.name}-pairs")


def parameters(outcome: Outcome) -> Table:
    """Parameters of each network of the study against the budget, and the settings that use it."""
    cells = [(experiment, cell) for experiment, cells in outcome.experiments for cell in cells]
    configs = [cell.setting.config for _, cell in cells]
    varying = [name for name in _FIELDS if name == "width" or len({getattr(config, name) for config in configs}) > 1]
    counts: dict[str, int] = {}
    uses: dict[str, dict[str, list[str]]] = {}
    for experiment, cell in cells:
        config = cell.setting.config
        network = ", ".join(f"{name.removesuffix('_size')} {as_typed(getattr(config, name))}" for name in varying)
        model = models.from_config(config, len(outcome.dataset.classes))
        counts[network] = models.parameter_count(model, outcome.dataset.image_size)
        uses.setdefault(network, {}).setdefault(experiment.title, []).append(cell.setting.label)
    rows = [
        {
            "network": network,
            "parameters": count,
            "share": count / BUDGET,
            "fits": count <= BUDGET,
            "used": "; ".join(f"{title}: {', '.join(labels)}" for title, labels in uses[network].items()),
        }
        for network, count in counts.items()
    ]
    columns = [
        text("network", "network"),
        number("parameters", "parameters", ",d"),
        number("of the budget (%)", "share", ".1f", 100),
        text("fits", "fits", lambda fits: "yes" if fits else "no"),
        text("used in", "used"),
    ]
    return Table(columns, rows, f"Trainable parameters against the budget of {BUDGET:,}.", name="parameters")


def choices(outcome: Outcome) -> Table:
    """The setting chosen by each sweep: in the report, and here by mean accuracy on the split `outcome.select`."""
    rows = []
    key = f"{outcome.select}_accuracy"
    for experiment, cells in outcome.experiments:
        if experiment.chosen is None or len(cells) < 2:
            continue
        complete = all(statistics.summary(cell.records, key) for cell in cells)
        here = statistics.winner(cells, outcome.select) if complete else None
        final = _in_final_model(cells, outcome)
        rows.append({"sweep": experiment.title, "report": experiment.chosen, "here": here, "final": final})
    columns = [
        text("sweep", "sweep"),
        text("the report chose", "report"),
        text(f"best here by {outcome.select} accuracy", "here"),
        text("in the final model", "final"),
    ]
    return Table(columns, rows, f"Settings chosen, by mean {outcome.select} accuracy.", name="choices")


def _in_final_model(cells: Sequence[Cell], outcome: Outcome) -> str | None:
    """The label of the setting used by the study's final model, if it has one and uses one of these."""
    final = [
        cell.setting.config for experiment, cells in outcome.experiments if experiment.name == "final" for cell in cells
    ]
    configs = [cell.setting.config for cell in cells]
    varying = [name for name in vars(configs[0]) if len({getattr(config, name) for config in configs}) > 1]
    for cell in cells:
        if final and all(getattr(cell.setting.config, name) == getattr(final[0], name) for name in varying):
            return cell.setting.label
    return None


def classes(per_run: np.ndarray, names: Sequence[str]) -> Table:
    """Per class its test images, the accuracy over the runs, and the class that it is most often taken for.

    The confusion matrices `per_run` are int64 [runs, classes, classes], as `jresnet.use.metrics.confusion` counts them.
    """
    rows = []
    for index, (name, counts) in enumerate(zip(names, per_run.sum(axis=0), strict=True)):
        images = int(per_run[0, index].sum())
        accuracy = vars(statistics.summarise(per_run[:, index, index] / images)) if images else {}
        wrong = np.where(np.arange(len(names)) == index, 0, counts)
        share = 100 * wrong.max() / max(counts.sum(), 1)
        taken_for = f"{names[int(wrong.argmax())]} ({share:.1f} %)" if wrong.any() else None
        rows.append({"class": name, "images": images, "taken_for": taken_for} | accuracy)
    columns = [
        text("class", "class"),
        number("test images", "images", ",d"),
        spread("accuracy (%)", "mean", "std", ".1f", 100),
        text("most often taken for", "taken_for"),
    ]
    return Table(columns, rows, "Accuracy per class, mean ± standard deviation over seeds.", name="classes")


def commands(experiments: Sequence[tuple[Experiment, Sequence[Cell]]]) -> Table:
    """The command that repeats each setting's runs."""
    rows = [
        {"experiment": experiment.name, "setting": cell.setting.label, "command": cell.command}
        for experiment, cells in experiments
        for cell in cells
    ]
    columns = [text(name, name) for name in ("experiment", "setting", "command")]
    return Table(columns, rows, "The command that repeats each setting's runs.", name="commands")


def reported(experiment: Experiment, cell: Cell, name: str) -> float | None:
    """The report's value of a measure for a cell's setting, if it gives one."""
    return experiment.reported.get(cell.setting.label, {}).get(name)


def heading(experiment: Experiment) -> str:
    """The heading of an experiment's settings."""
    return experiment.option.replace("_", " ") if experiment.option else "setting"


def _compared(here: Summary | None, value: float | None) -> dict[str, Any]:
    """A summary beside the report's value, as entries of a row."""
    if here is None:
        return {"report": value}
    return vars(here) | {"report": value, "difference": None if value is None else here.mean - value}
