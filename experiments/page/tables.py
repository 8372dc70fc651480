"""The study's tables: rows of raw values, and how they read on the page, in Markdown and in CSV."""

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.report import BUDGET, COMPARED
from experiments.study import statistics
from jresnet.records.tables import markdown_cells

if TYPE_CHECKING:
    from experiments.study.experiment import Cell, Experiment
    from experiments.study.statistics import Comparison, Summary

Row = Mapping[str, Any]

# Figures of `result.json` beside the test accuracy: name, format and scale.
_FIGURES = {
    "test_loss": ("test loss", ".4f", 1),
    "train_accuracy": ("train accuracy (%)", ".2f", 100),
    "train_loss": ("train loss", ".4f", 1),
    "validation_loss": ("validation loss", ".4f", 1),
    "parameters": ("parameters", ",.0f", 1),
    "seconds": ("seconds per run", ",.1f", 1),
}
_NONE = "n/a"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column as people read it; in CSV every key is a column of its own, unrounded."""

    header: str
    keys: tuple[str, ...]
    show: Callable[[Row], str]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table by the name of its files; `rows` hold a value or None under each key of the columns."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def headers(self) -> list[str]:
        """The columns' headers."""
        return [column.header for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The rows' cells as text."""
        return [[column.show(row) for column in self.columns] for row in self.rows]

    def markdown(self) -> str:
        """The table in Markdown below its caption."""
        lines = [self.headers, [":--"] + ["--:"] * (len(self.columns) - 1), *self.cells]
        table = ["| " + " | ".join(markdown_cells(line)) + " |" for line in lines]
        return "\n".join([self.caption, "", *table]) + "\n"

    def csv(self) -> str:
        """The values as CSV with a header line; accuracies from 0 to 1, nothing rounded, None as an empty field."""
        text = io.StringIO()
        keys = [key for column in self.columns for key in column.keys]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows([row.get(key) for key in keys] for row in self.rows)
        return text.getvalue()


def accuracies(experiment: "Experiment", cells: Sequence["Cell"]) -> Table:
    """Test accuracy of each setting beside the report's."""
    rows = []
    for cell in cells:
        row = {"setting": cell.setting.label, "n": len(cell.records)}
        row |= compared(_summary(cell, COMPARED), reported(experiment, cell.setting.label, COMPARED))
        for name in ("test_accuracy", "validation_accuracy"):
            found = _summary(cell, name)
            row |= {f"{name}_mean": found and found.mean, f"{name}_std": found and found.std}
        rows.append(row)
    theirs = any(row["report"] is not None for row in rows)
    columns = [
        plain(heading(experiment), "setting"),
        plain("n", "n"),
        *[number("report (%)", "report", ".2f", 100)] * theirs,
        spread("here (%)", "mean", "std", ".2f", 100),
        interval("95 % CI (%)", "low", "high", ".2f", 100),
        *[number("difference (points)", "difference", "+.2f", 100)] * theirs,
        spread("exact test accuracy (%)", "test_accuracy_mean", "test_accuracy_std", ".2f", 100),
    ]
    if any(row["validation_accuracy_mean"] is not None for row in rows):
        columns.append(
            spread("validation accuracy (%)", "validation_accuracy_mean", "validation_accuracy_std", ".2f", 100)
        )
    caption = (
        "Test accuracy after the last epoch, mean ± standard deviation over n seeds with its 95 % confidence "
        "interval, as the report measured it: the mean over test batches. The exact accuracy counts every image once."
    )
    return Table(experiment.name, f"{experiment.title}. {caption}", tuple(columns), tuple(rows))


def further(experiment: "Experiment", cells: Sequence["Cell"]) -> Table:
    """The other figures of each setting."""
    rows, names = [], [name for name in _FIGURES if any(_summary(cell, name) for cell in cells)]
    for cell in cells:
        row: dict[str, Any] = {"setting": cell.setting.label}
        for name in names:
            found = _summary(cell, name)
            row |= {f"{name}_mean": found and found.mean, f"{name}_std": found and found.std}
        rows.append(row)
    columns = [
        number("parameters", "parameters_mean", ",.0f")
        if name == "parameters"
        else spread(_FIGURES[name][0], f"{name}_mean", f"{name}_std", *_FIGURES[name][1:])
        for name in names
    ]
    caption = f"{experiment.title}: other figures of the last epoch, mean ± standard deviation over seeds."
    return Table(f"{experiment.name}-figures", caption, (plain(heading(experiment), "setting"), *columns), tuple(rows))


def beside_report(experiment: "Experiment", cells: Sequence["Cell"]) -> Table:
    """Every figure but the test accuracy that the report gives for a setting, beside this study's."""
    rows = [
        {"setting": cell.setting.label, "figure": name, **compared(_summary(cell, name), value)}
        for cell in cells
        for name in _FIGURES
        if (value := reported(experiment, cell.setting.label, name)) is not None
    ]

    def figure(show: Callable[..., str], *keys: str, sign: str = "") -> Callable[[Row], str]:
        def cell(row: Row) -> str:
            _, form, scale = _FIGURES[row["figure"]]
            return show(*(row[key] for key in keys), sign + form, scale)

        return cell

    columns = (
        plain(heading(experiment), "setting"),
        Column("figure", ("figure",), lambda row: _FIGURES[row["figure"]][0]),
        Column("report", ("report",), figure(_shown, "report")),
        Column("here", ("mean", "std"), figure(_spread, "mean", "std")),
        Column("95 % CI", ("low", "high"), figure(_interval, "low", "high")),
        Column("difference", ("difference",), figure(_shown, "difference", sign="+")),
    )
    caption = f"{experiment.title}: the report's other figures, mean ± standard deviation over seeds beside them."
    return Table(f"{experiment.name}-report", caption, columns, tuple(rows))


def logged(experiment: "Experiment", cell: "Cell") -> list[dict]:
    """The epochs that the report prints of a setting, as far as every run of the cell has them."""
    epochs = [{line["epoch"] for line in history} for history in cell.histories]
    log = experiment.log.get(cell.setting.label, ())
    return [line for line in log if epochs and all(line["epoch"] in found for found in epochs)]


def log(experiment: "Experiment", cells: Sequence["Cell"]) -> Table | None:
    """The epochs that the report prints beside this study's; None where it prints none that was run here."""
    names = ("train_loss", "test_loss", "train_accuracy", COMPARED)
    rows = []
    for cell in cells:
        for line in logged(experiment, cell):
            row = {"setting": cell.setting.label, "epoch": line["epoch"]}
            theirs = [of_run for history in cell.histories for of_run in history if of_run["epoch"] == line["epoch"]]
            for name in names:
                found = statistics.summarise(of_run[name] for of_run in theirs)
                row |= {f"{name}_report": line[name], f"{name}_mean": found.mean, f"{name}_std": found.std}
            rows.append(row)
    if not rows:
        return None
    heads = dict(zip(names, ("train loss", "test loss", "train accuracy (%)", "test accuracy (%)"), strict=True))
    columns = [plain("epoch", "epoch")]
    for name, head in heads.items():
        form, scale = (".4f", 1) if name.endswith("loss") else (".2f", 100)
        columns.append(number(f"{head}, report", f"{name}_report", form, scale))
        columns.append(spread("here", f"{name}_mean", f"{name}_std", form, scale))
    caption = (
        f"{experiment.title}: the epochs that the report prints, mean ± standard deviation over seeds beside them; "
        "test accuracies are means over test batches."
    )
    return Table(f"{experiment.name}-log", caption, tuple(columns), tuple(rows))


def comparisons(experiment: "Experiment", pairs: Sequence["Comparison"]) -> Table:
    """Paired differences of test accuracy between settings."""
    columns = (
        Column("pair", ("first", "second"), lambda row: f"{row['first']} minus {row['second']}"),
        plain("n", "n"),
        number("difference (points)", "difference", "+.2f", 100),
        interval("95 % CI (points)", "low", "high", "+.2f", 100),
        number("p", "p", ".3g"),
    )
    caption = f"{experiment.title}: differences of test accuracy between settings, paired over shared seeds."
    return Table(f"{experiment.name}-pairs", caption, columns, tuple(dataclasses.asdict(pair) for pair in pairs))


def parameters(networks: Mapping[str, tuple[int, str]]) -> Table:
    """Parameters of each network, by its description: the count, and where the study uses it."""
    rows = [
        {"network": network, "used": used, "parameters": count, "share": count / BUDGET, "fits": count <= BUDGET}
        for network, (count, used) in networks.items()
    ]
    columns = (
        plain("network", "network"),
        number("parameters", "parameters", ",d"),
        number("of the budget (%)", "share", ".1f", 100),
        Column("fits", ("fits",), lambda row: "yes" if row["fits"] else "no"),
        plain("used in", "used"),
    )
    return Table("parameters", f"Trainable parameters against the budget of {BUDGET:,}.", columns, tuple(rows))


def choices(rows: Sequence[Row], select: str) -> Table:
    """What each sweep chose: the report, and this study by mean accuracy on the split `select`."""
    columns = (
        plain("sweep", "sweep"),
        plain("the report chose", "report"),
        plain(f"best here by {select} accuracy", "here"),
        plain("in the final model", "final"),
    )
    return Table("choices", f"Settings chosen, by mean {select} accuracy.", columns, tuple(rows))


def classes(rows: Sequence[Row]) -> Table:
    """Accuracy per class, see `experiments.sections` for the rows."""
    columns = (
        plain("class", "class"),
        number("test images", "images", ",d"),
        spread("accuracy (%)", "mean", "std", ".1f", 100),
        plain("most often taken for", "taken_for"),
    )
    return Table("classes", "Accuracy per class, mean ± standard deviation over seeds.", columns, tuple(rows))


def commands(experiments: Sequence[tuple["Experiment", Sequence["Cell"]]]) -> Table:
    """The command that makes each setting's runs again."""
    rows = [
        {"experiment": experiment.name, "setting": cell.setting.label, "command": cell.command}
        for experiment, cells in experiments
        for cell in cells
    ]
    columns = tuple(plain(name, name) for name in ("experiment", "setting", "command"))
    return Table("commands", "The command that makes each setting's runs again.", columns, tuple(rows))


def reported(experiment: "Experiment", label: str, name: str) -> float | None:
    """The report's value; what it calls test accuracy is the mean over batches."""
    values = experiment.reported.get(label, {})
    return values.get(name, values.get("test_accuracy") if name == COMPARED else None)


def compared(found: "Summary | None", value: float | None) -> dict[str, float | None]:
    """A summary beside the report's value, as a row's entries."""
    if found is None:
        return dict.fromkeys(("mean", "std", "low", "high", "difference")) | {"report": value}
    difference = None if value is None else found.mean - value
    return {
        "report": value, "mean": found.mean, "std": found.std, "low": found.low, "high": found.high,
        "difference": difference,
    }  # fmt: skip


def heading(experiment: "Experiment") -> str:
    """What an experiment's settings are called."""
    return experiment.option.replace("_", " ") if experiment.option else "setting"


def plain(header: str, key: str) -> Column:
    """A value as it is."""
    return Column(header, (key,), lambda row: _NONE if row[key] is None else str(row[key]))


def number(header: str, key: str, form: str, scale: int = 1) -> Column:
    """A number times `scale` in a format."""
    return Column(header, (key,), lambda row: _shown(row[key], form, scale))


def spread(header: str, mean: str, std: str, form: str, scale: int = 1) -> Column:
    """Mean ± standard deviation."""
    return Column(header, (mean, std), lambda row: _spread(row[mean], row[std], form, scale))


def interval(header: str, low: str, high: str, form: str, scale: int = 1) -> Column:
    """The ends of a confidence interval."""
    return Column(header, (low, high), lambda row: _interval(row[low], row[high], form, scale))


def _summary(cell: "Cell", name: str) -> "Summary | None":
    """Over the cell's seeds, or None where a run lacks the figure or there is no run."""
    values = [record[name] for record in cell.records if record.get(name) is not None]
    return statistics.summarise(values) if values and len(values) == len(cell.records) else None


def _shown(value: float | None, form: str, scale: int = 1) -> str:
    return _NONE if value is None else format(value * scale, form)


def _spread(mean: float | None, std: float | None, form: str, scale: int) -> str:
    shown = _shown(mean, form, scale)
    return shown if std is None else f"{shown} ± {_shown(std, form, scale)}"


def _interval(low: float | None, high: float | None, form: str, scale: int) -> str:
    if low is None or high is None:
        return _NONE
    return f"{_shown(low, form, scale)} to {_shown(high, form, scale)}"
