"""The page of a study: an `Outcome` as report.html, with its figures and tables as files of their own."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.page import beyond, figures, sections, tables
from experiments.study.experiment import Outcome, write_outcome
from experiments.study.results import provenance
from jresnet.records.files import OLD, sweep, write_bytes, writing
from jresnet.records.tables import Table
from jresnet.use import html

PAGE = "report.html"
_MOST_CLASSES = 30  # rows of accuracies per class on the page; the files have all


def write(outcome: Outcome, workdir: pathlib.Path) -> list[pathlib.Path]:
    """Write the page of a complete or partial study to its directory, and return the paths written, the page first.

    Figures are PNG and SVG in figures/, tables Markdown and CSV in tables/; outcome.json lists the runs.

    Raises:
      InputError: a run's predictions are damaged or not its own; nothing was written.
    """
    mistakes = sections.mistakes(outcome)
    experiments = [sections.section(experiment, cells, outcome.seeds) for experiment, cells in outcome.experiments]
    parameters, marked = tables.parameters(outcome), sections.marks(outcome)
    shared: dict[str, Any] = {
        "samples": figures.render("samples", "Training images of each class.", figures.samples(outcome.dataset)),
        "augmentations": sections.augmentations(outcome),
        "budget": sections.budget(parameters),
        "parameters": parameters,
        "published": sections.published(marked),
        "beside": beyond.table(marked),
        "choices": tables.choices(outcome),
        "commands": tables.commands(outcome.experiments),
    }
    text = _render(outcome, sections=experiments, mistakes=mistakes, **shared)
    parts = [part for group in (shared, *experiments, mistakes or {}) for part in group.values()]
    return write_files(outcome, workdir, text, parts)


def _render(outcome: Outcome, **parts: Any) -> str:
    """The page as HTML, from the template beside this module."""
    records = sections.all_records(outcome)
    return html.render(
        pathlib.Path(__file__).with_name("report.html.j2"),
        **parts,
        lowest=_lowest,
        outcome=outcome,
        data_names=sections.data_names(outcome),
        provenance=provenance(records),
        runs=len(records),
        seconds=sum(record["seconds"] for record in records),
        scale_differences=sections.scale_differences(outcome),
        absent=sections.absent(outcome),
    )


def _lowest(table: Table) -> Table:
    """The table, or the lowest means of one with too many rows."""
    if len(table.rows) <= _MOST_CLASSES:
        return table
    rows = sorted((row for row in table.rows if "mean" in row), key=lambda row: row["mean"])[:_MOST_CLASSES]
    caption = f"{table.caption} The {_MOST_CLASSES} lowest of {len(table.rows)}; tables/{table.name}.csv has all."
    return dataclasses.replace(table, rows=rows, caption=caption)


def write_files(outcome: Outcome, workdir: pathlib.Path, text: str, parts: Sequence[Any]) -> list[pathlib.Path]:
    """Write every drawing and table among `parts`, the outcome, and last the page that goes with them, as `write`."""
    files: dict[pathlib.Path, bytes] = {}
    for part in parts:
        if isinstance(part, figures.Drawing) and part.png is not None:
            files[workdir / "figures" / f"{part.name}.png"] = part.png
            files[workdir / "figures" / f"{part.name}.svg"] = part.svg
        elif isinstance(part, Table):
            files[workdir / "tables" / f"{part.name}.md"] = html.encoded(part.markdown())
            files[workdir / "tables" / f"{part.name}.csv"] = html.encoded(part.csv())
    for directory in {path.parent for path in files}:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        sweep(directory, OLD)
    for path, data in files.items():
        write_bytes(path, data)
    listed = write_outcome(workdir, outcome.command, outcome.experiments, outcome.select, outcome.follow)
    write_bytes(workdir / PAGE, html.encoded(text))
    return [workdir / PAGE, listed, *files]
