"""The tables of a study's page."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report import BUDGET, COMPARED
from experiments.study import statistics
from experiments.study.experiment import Cell, Experiment
from experiments.study.statistics import Comparison, Summary
from jresnet.records.tables import Column, Row, Table, interval, number, spread, text


class Measure(NamedTuple):
    """Header and format of a value of `result.json`."""

    header: str
    form: str
    scale: int = 1


_MEASURES = {
    "test_accuracy": Measure("exact test accuracy (%)", ".2f", 100),
    COMPARED: Measure("test accuracy (%)", ".2f", 100),
    "validation_accuracy": Measure("validation accuracy (%)", ".2f", 100),
    "train_accuracy": Measure("train accuracy (%)", ".2f", 100),
    "test_loss": Measure("test loss", ".4f"),
    "validation_loss": Measure("validation loss", ".4f"),
    "train_loss": Measure("train loss", ".4f"),
    "parameters": Measure("parameters", ",.0f"),
    "seconds": Measure("seconds per run", ",.1f"),
}
_FURTHER = ("test_loss", "train_accuracy", "train_loss", "validation_loss", "parameters", "seconds")
_LOGGED = ("train_loss", "test_loss", "train_accuracy", COMPARED)


def accuracies(experiment: Experiment, cells: Sequence[Cell]) -> Table:
    """Test accuracy of each setting beside the report's."""
    rows = [
        {"setting": cell.setting.label, "n": len(cell.records)}
        | compared(_summary(cell, COMPARED), reported(experiment, cell, COMPARED))
        | _spreads(cell, ("test_accuracy", "validation_accuracy"))
        for cell in cells
    ]
    any_reported = any(row["report"] is not None for row in rows)
    any_validation = any(row.get("validation_accuracy_mean") is not None for row in rows)
    columns = [
        text(heading(experiment), "setting"),
        number("n", "n", "d"),
        *[number("report (%)", "report", ".2f", 100)] * any_reported,
        spread("here (%)", "mean", "std", ".2f", 100),
        interval("95 % CI (%)", "low", "high", ".2f", 100),
        *[number("difference (points)", "difference", "+.2f", 100)] * any_reported,
        _spread("test_accuracy"),
        *[_spread("validation_accuracy")] * any_validation,
    ]
    caption = (
        f"{experiment.title}. Test accuracy after the last epoch, mean ± standard deviation over n seeds with its 95 % "
        "confidence interval, computed as in the report: the mean over test batches. The exact accuracy counts every "
        "image once."
    )
    return Table(columns, rows, caption, name=experiment.name)


def further(experiment: Experiment, cells: Sequence[Cell]) -> Table:
    """The other values of each setting."""
    names = [name for name in _FURTHER if any(_summary(cell, name) for cell in cells)]
    columns = [
        number("parameters", "parameters_mean", ",.0f") if name == "parameters" else _spread(name) for name in names
    ]
    rows = [{"setting": cell.setting.label} | _spreads(cell, names) for cell in cells]
    caption = f"{experiment.title}: other values of the last epoch, mean ± standard deviation over seeds."
    return Table([text(heading(experiment), "setting"), *columns], rows, caption, name=f"{experiment.name}-figures")


class _MeasureColumn(Column):
    """A column whose format depends on the measure that a row's "figure" names."""

    def cell(self, row: Row) -> str:
        _, form, scale = _MEASURES[row["figure"]]
        return Column(self.header, self.keys, f"{self.form}{form}", scale, self.layout).cell(row)


def beside_report(experiment: Experiment, cells: Sequence[Cell]) -> Table:
    """Every value except the test accuracy that the report gives for a setting, beside this study's."""
    rows = [
        {"setting": cell.setting.label, "figure": name} | compared(_summary(cell, name), value)
        for cell in cells
        for name in _FURTHER
        if (value := reported(experiment, cell, name)) is not None
    ]
    columns = [
        text(heading(experiment), "setting"),
        text("figure", "figure", lambda name: _MEASURES[name].header),
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
            row = {"setting": cell.setting.label, "epoch": line["epoch"]}
            here = [of_run for history in cell.histories for of_run in history if of_run["epoch"] == line["epoch"]]
            for name in _LOGGED:
                summary = statistics.summarise(of_run[name] for of_run in here)
                row |= {f"{name}_report": line[name], f"{name}_mean": summary.mean, f"{name}_std": summary.std}
            rows.append(row)
    if not rows:
        return None
    columns = [number("epoch", "epoch", "d")]
    for name in _LOGGED:
        header, form, scale = _MEASURES[name]
        columns.append(number(f"{header}, report", f"{name}_report", form, scale))
        columns.append(spread("here", f"{name}_mean", f"{name}_std", form, scale))
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
    return Table(columns, [dataclasses.asdict(pair) for pair in pairs], caption, name=f"{experiment.name}-pairs")


def parameters(networks: Mapping[str, tuple[int, str]]) -> Table:
    """Parameters of each network: description -> (count, the settings that use it)."""
    rows = [
        {"network": network, "used": used, "parameters": count, "share": count / BUDGET, "fits": count <= BUDGET}
        for network, (count, used) in networks.items()
    ]
    columns = [
        text("network", "network"),
        number("parameters", "parameters", ",d"),
        number("of the budget (%)", "share", ".1f", 100),
        text("fits", "fits", lambda fits: "yes" if fits else "no"),
        text("used in", "used"),
    ]
    return Table(columns, rows, f"Trainable parameters against the budget of {BUDGET:,}.", name="parameters")


def choices(rows: Sequence[Row], select: str) -> Table:
    """The setting chosen by each sweep: in the report, and here by mean accuracy on the split `select`."""
    columns = [
        text("sweep", "sweep"),
        text("the report chose", "report"),
        text(f"best here by {select} accuracy", "here"),
        text("in the final model", "final"),
    ]
    return Table(columns, rows, f"Settings chosen, by mean {select} accuracy.", name="choices")


def classes(rows: Sequence[Row]) -> Table:
    """Accuracy per class; `experiments.page.sections` makes the rows."""
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


def compared(here: Summary | None, value: float | None) -> dict[str, Any]:
    """A summary beside the report's value, as entries of a row."""
    if here is None:
        return {"report": value}
    return vars(here) | {"report": value, "difference": None if value is None else here.mean - value}


def heading(experiment: Experiment) -> str:
    """The heading of an experiment's settings."""
    return experiment.option.replace("_", " ") if experiment.option else "setting"


def _spread(name: str) -> Column:
    header, form, scale = _MEASURES[name]
    return spread(header, f"{name}_mean", f"{name}_std", form, scale)


def _spreads(cell: Cell, names: Sequence[str]) -> dict[str, float | None]:
    """Mean and deviation of each measure, as entries of a row."""
    summaries = {name: summary for name in names if (summary := _summary(cell, name))}
    return {f"{name}_{part}": getattr(summaries[name], part) for name in summaries for part in ("mean", "std")}


def _summary(cell: Cell, name: str) -> Summary | None:
    """Over the cell's seeds; None if there is no run, or one lacks the value."""
    values = [record[name] for record in cell.records if record.get(name) is not None]
    return statistics.summarise(values) if values and len(values) == len(cell.records) else None
