"""The page of a study: what an `Outcome` holds, as report.html, and its figures and tables as files of their own."""

import dataclasses
import importlib.resources
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from experiments.page import figures, sections, tables
from experiments.page.figures import Drawing
from experiments.page.tables import Table
from jresnet.records.files import write_bytes, write_json
from jresnet.records.tables import provenance

if TYPE_CHECKING:
    from experiments.study.experiment import Outcome

PAGE, OUTCOME, FIGURES, TABLES = "report.html", "outcome.json", "figures", "tables"
_MOST_CLASSES = 30  # rows of accuracies per class on the page; the files hold all


def write(outcome: "Outcome", workdir: pathlib.Path) -> list[pathlib.Path]:
    """Write the page of a study, whole or partial, with its figures as PNG and SVG, its tables as Markdown and CSV.

    Args:
      outcome: what was run.
      workdir: the study's directory; gets report.html, figures/, tables/ and outcome.json.

    Returns:
      The paths written, the page first.

    Raises:
      InputError: a run's predictions are damaged or not its own; nothing was written.
    """
    errors = sections.errors(outcome)
    experiments = sections.every_section(outcome)
    networks = sections.networks(outcome)
    shared: dict[str, Any] = {
        "samples": figures.drawn("samples", "Training images of each class.", figures.samples(outcome.dataset)),
        "augmentations": sections.augmentations(outcome),
        "budget": sections.budget(networks),
        "parameters": tables.parameters(networks),
        "choices": tables.choices(sections.every_choice(outcome), outcome.select),
        "commands": tables.commands(outcome.experiments),
    }
    html = _render(outcome=outcome, sections=experiments, errors=errors, **shared)
    parts = [*shared.values(), *(part for section in experiments for part in vars(section).values())]
    parts += vars(errors).values() if errors else ()
    return _write_files(outcome, pathlib.Path(workdir), html, parts)


def _render(**parts: Any) -> str:
    """The page as HTML, from the template beside this module and the outcome's parts."""
    outcome = parts["outcome"]
    records = sections.every_record(outcome)
    template = importlib.resources.files("experiments.page").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "svg": lambda drawing: sections.data_uri(drawing.svg, "image/svg+xml"),
        "lowest": lambda table: _lowest(table, _MOST_CLASSES),
    }
    return environment.from_string(template).render(
        **parts,
        data_names=sections.data_names(outcome),
        origin=provenance(records),
        runs=len(records),
        seconds=sum(record["seconds"] for record in records),
        scale=sections.scale(outcome),
        absent=sections.absent(outcome),
    )


def _lowest(table: Table, most: int) -> Table:
    """The table itself, or where it has more than `most` rows those with the lowest means."""
    if len(table.rows) <= most:
        return table
    rows = sorted((row for row in table.rows if row["mean"] is not None), key=lambda row: row["mean"])[:most]
    caption = f"{table.caption} The {most} lowest of {len(table.rows)}; tables/{table.name}.csv has all."
    return dataclasses.replace(table, rows=tuple(rows), caption=caption)


def _write_files(outcome: "Outcome", workdir: pathlib.Path, html: str, parts: Sequence[Any]) -> list[pathlib.Path]:
    """Write the page, and each drawing and table among `parts`; the page comes last, so that it never lacks them."""
    files: dict[pathlib.Path, bytes] = {}
    for part in parts:
        if isinstance(part, Drawing) and part.png is not None:
            files[workdir / FIGURES / f"{part.name}.png"] = part.png
            files[workdir / FIGURES / f"{part.name}.svg"] = part.svg
        elif isinstance(part, Table):
            files[workdir / TABLES / f"{part.name}.md"] = part.markdown().encode()
            files[workdir / TABLES / f"{part.name}.csv"] = part.csv().encode()
    for name in (FIGURES, TABLES):
        (workdir / name).mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        write_bytes(path, data)
    write_json(workdir / OUTCOME, _described(outcome, workdir))
    write_bytes(workdir / PAGE, html.encode())
    return [workdir / PAGE, workdir / OUTCOME, *files]


def _described(outcome: "Outcome", workdir: pathlib.Path) -> dict:
    """The study as outcome.json holds it: which runs, in directories relative to `workdir`, are which settings."""
    return {
        "command": outcome.command,
        "select": outcome.select,
        "follow": outcome.follow,
        "experiments": [
            {
                "name": experiment.name,
                "section": experiment.section,
                "title": experiment.title,
                "settings": [
                    {
                        "label": cell.setting.label,
                        "runs": [pathlib.Path(os.path.relpath(place, workdir)).as_posix() for place in cell.places],
                    }
                    for cell in cells
                ],
            }
            for experiment, cells in outcome.experiments
        ],
    }
