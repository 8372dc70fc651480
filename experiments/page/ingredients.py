"""The page of an ablation: what every ingredient gains or costs, with the look of the study's page."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.page import figures, page, sections
from experiments.study import ingredients
from experiments.study.experiment import Outcome
from experiments.study.options import as_words
from experiments.study.results import provenance
from jresnet.records.tables import Table, text
from jresnet.use import html

_MEASURES = {
    "validation_accuracy": ("validation accuracy (percentage points)", 100.0),
    "validation_loss": ("validation loss (nats)", 1.0),
}


def write(outcome: Outcome, changes: Mapping[str, Mapping[str, Any]], workdir: pathlib.Path) -> list[pathlib.Path]:
    """Write the page of a complete or partial ablation, the outcome's only experiment, as `page.write` does.

    `changes` has the options that each setting changes, by its label.
    """
    ((experiment, cells),) = outcome.experiments
    records = sections.all_records(outcome)
    rows = ingredients.compare([(cell.setting.label, cell.records) for cell in cells])
    reference = cells[0].setting.label
    parts: dict[str, Any] = {
        "comparison": ingredients.table(rows, experiment.name),
        "options": _options(changes),
        "differences": figures.render(
            "differences",
            f"Differences of validation accuracy and loss from {reference}, with 95 % confidence intervals.",
            figures.differences(rows[1:], _MEASURES),
        ),
    }
    curves, panels = sections.drawn_curves(experiment, cells)
    page_text = html.render(
        pathlib.Path(__file__).with_name("ingredients.html.j2"),
        **parts,
        outcome=outcome,
        experiment=experiment,
        reference=reference,
        missing=sections.missing_runs(cells, outcome.seeds),
        panels=panels,
        data_names=sections.data_names(outcome),
        provenance=provenance(records),
        runs=len(records),
        seconds=sum(record["seconds"] for record in records),
    )
    return page.write_files(outcome, workdir, page_text, [*parts.values(), curves])


def _options(changes: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [{"setting": label, "options": " ".join(as_words(options))} for label, options in changes.items()]
    columns = [text("setting", "setting"), text("options", "options")]
    return Table(columns, rows, "The options that each setting changes.", name="options")
