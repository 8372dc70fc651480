"""Settings against the first of them, paired by seed, on the validation images."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.study import statistics
from jresnet.records.tables import Column, Row, Table, number, text

MEASURES = ("validation_accuracy", "validation_loss")
NOTE = (
    "Values of the last epoch on validation images, mean over n seeds [95 % confidence interval]. Differences are from "
    "the first row, paired by seed; p is that of the paired t-test, corrected by Holm's method for the rows below the "
    "first, for each measure apart. ms per image are those of the runs themselves, and say little about costs if other "
    "programs ran beside them."
)


def _with_interval(header: str, name: str, form: str, scale: float = 1) -> Column:
    return Column(header, (name, f"{name}_low", f"{name}_high"), form, scale, "{} [{}, {}]", right=True, missing="")


COLUMNS = (
    text("setting", "setting"),
    number("n", "n", "d"),
    _with_interval("accuracy (%)", "validation_accuracy", ".2f", 100),
    _with_interval("difference (points)", "validation_accuracy_difference", "+.2f", 100),
    number("p", "validation_accuracy_p", ".2g", missing=""),
    _with_interval("loss", "validation_loss", ".4f"),
    _with_interval("difference", "validation_loss_difference", "+.4f"),
    number("p", "validation_loss_p", ".2g", missing=""),
    number("ms per image", "ms_per_image", ".2f", missing=""),
)


def compare(settings: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Sequence[Row]:
    """A row for each setting, a pair of its label and the records of its `result.json`; the first is the reference.

    Entries are in the measures' units, and the time of training in ms per image. What needs runs that there are not is
    left out.
    """
    rows = [{"setting": label} | _figures(records) for label, records in settings]
    (reference, theirs), *others = settings
    for measure in MEASURES:
        found = [statistics.compare_records((label, reference), records, theirs, measure) for label, records in others]
        p = statistics.corrected([comparison for comparison in found if comparison])
        for row, comparison in zip(rows[1:], found, strict=True):
            if comparison:
                ends = {"": comparison.difference, "_low": comparison.low, "_high": comparison.high}
                row |= {f"{measure}_difference{end}": value for end, value in ends.items()}
                row[f"{measure}_p"] = p.get(comparison)
    return rows


def _figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Number of runs, the measures' means with intervals, and the time, of one setting."""
    row: dict[str, Any] = {"n": len(records)}
    for measure in MEASURES:
        if found := statistics.summary(records, measure):
            row |= {measure: found.mean, f"{measure}_low": found.low, f"{measure}_high": found.high}
    if records:
        row["ms_per_image"] = statistics.summarise(1000 / record["images_per_second"] for record in records).mean
    return row


def table(rows: Sequence[Row], name: str = "") -> Table:
    """The rows as a table."""
    return Table(COLUMNS, rows, NOTE, name=name)
