"""The page of an ablation: what every ingredient gains or costs, with the look of the study's page."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.page import figures, page, sections
from experiments.study import paired
from experiments.study.experiment import Cell, Outcome
from experiments.study.options import as_words
from experiments.study.results import provenance
from jresnet.config import Config, Source
from jresnet.records.tables import Table, text
from jresnet.use import html

_MEASURES = {"accuracy": ("validation accuracy (points)", 100.0), "loss": ("validation loss (nats)", 1.0)}


def write(outcome: Outcome, workdir: pathlib.Path) -> list[pathlib.Path]:
    """Write the page of a complete or partial ablation, the outcome's only experiment, as `page.write` does."""
    ((experiment, cells),) = outcome.experiments
    records = sections.all_records(outcome)
    rows = paired.compare([(cell.setting.label, cell.records) for cell in cells])
    reference = cells[0].setting.label
    parts: dict[str, Any] = {"comparison": paired.table(rows, experiment.name), "options": _options(cells)}
    differences = [
        figures.render(
            f"differences-{measure}",
            f"Differences of {label} from {reference}, with 95 % confidence intervals.",
            figures.differences(rows[1:], f"validation_{measure}", label, scale),
        )
        for measure, (label, scale) in _MEASURES.items()
    ]
    curves, panels = sections.drawn_curves(experiment, cells)
    page_text = html.render(
        pathlib.Path(__file__).with_name("ingredients.html.j2"),
        **parts,
        differences=differences,
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
    return page.write_files(outcome, workdir, page_text, [*parts.values(), *differences, curves])


def _options(cells: Sequence[Cell]) -> Table:
    """The options of each setting that differ from the first setting's; of that, from the library's defaults."""
    reference = cells[0].setting.config
    own = {field.name for field in dataclasses.fields(Source)}  # where the data come from
    rows = []
    for cell in cells:
        of = Config() if cell is cells[0] else reference
        values = {name: value for name, value in vars(cell.setting.config).items() if value != getattr(of, name)}
        words = as_words({name: value for name, value in values.items() if name not in own})
        rows.append({"setting": cell.setting.label, "options": " ".join(words)})
    columns = [text("setting", "setting"), text("options", "options")]
    caption = "Options of the first setting that are not the library's defaults; what others have instead or besides."
    return Table(columns, rows, caption, name="options")
