"""The content of a study's page, section by section, gathered from its outcome."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import report
from experiments.anchors import Anchor
from experiments.page import beyond, figures, predictions, tables
from experiments.page.beyond import Candidate
from experiments.page.figures import Drawing
from experiments.page.predictions import Predictions
from experiments.study import statistics
from experiments.study.experiment import Cell, Experiment, Outcome, chosen_on_test
from experiments.study.plan import EXPERIMENTS
from experiments.study.results import data_name
from jresnet.data.datasets import dataset_record
from jresnet.records.tables import Table
from jresnet.rules import as_typed
from jresnet.use import metrics
from jresnet.use.figures import confusion

_MOST_MISTAKES = 20


def all_records(outcome: Outcome) -> list[dict]:
    """The records of all runs; a run that several experiments share counts once."""
    records = {
        directory.resolve(): record
        for _, cells in outcome.experiments
        for cell in cells
        for directory, record in zip(cell.directories, cell.records, strict=True)
    }
    return list(records.values())


def section(experiment: Experiment, cells: Sequence[Cell], seeds: int) -> dict[str, Any]:
    """One experiment of the page, as the template shows it; what does not apply is None.

    `missing` says what has not been run; `panels` are the columns of the figure `curves`, one by one.
    """
    verdict = statistics.judge(experiment, cells)
    curves, panels = drawn_curves(experiment, cells)
    beside_report = tables.beside_report(experiment, cells)
    return {
        "experiment": experiment,
        "cells": cells,
        "missing": missing_runs(cells, seeds),
        "verdict": verdict,
        "pairs": tables.comparisons(experiment, verdict.comparisons) if verdict and verdict.comparisons else None,
        "accuracies": tables.accuracies(experiment, cells),
        "beside_report": beside_report if beside_report.rows else None,
        "further": tables.further(experiment, cells),
        "log": tables.log(experiment, cells),
        "curves": curves,
        "panels": panels,
    }


def absent(outcome: Outcome) -> list[str]:
    """Titles of the report's experiments that the outcome lacks."""
    present = {experiment.name for experiment, _ in outcome.experiments}
    return [experiment.title for experiment in EXPERIMENTS if experiment.name not in present]


def data_names(outcome: Outcome) -> str:
    """The data sets of the runs, or if there is no run yet, the study's."""
    names = {data_name(record["dataset"]) for record in all_records(outcome)}
    return ", ".join(sorted(names)) or data_name(dataset_record(outcome.dataset, outcome.dataset.sha256))


def scale_differences(outcome: Outcome) -> list[str]:
    """How the study's scale differs from the report's, in words."""
    records = all_records(outcome)
    names = sorted({data_name(record["dataset"]) for record in records} - {"cifar10"})
    differences = [f"the data are {name}, not CIFAR-10 as published" for name in names]
    images = {record["dataset"]["train"] + record["dataset"]["validation"] for record in records}
    if images - {report.TRAIN_IMAGES}:
        differences.append(f"{_either(images)} training images, not {report.TRAIN_IMAGES:,}")
    epochs = {record["epochs"] for record in records}
    if epochs - {report.FINAL.epochs}:
        differences.append(f"{_either(epochs)} epochs, not {report.FINAL.epochs}")
    for experiment, cells in outcome.experiments:
        option = experiment.option
        values = (
            {cell.setting.label: as_typed(getattr(cell.setting.config, option)) for cell in cells} if option else {}
        )
        scaled = {name: value for name, value in values.items() if value != name}
        if scaled:
            verb = "stand" if len(scaled) > 1 else "stands"
            title = experiment.title.lower()
            differences.append(f"{title} {', '.join(scaled)} {verb} for {', '.join(scaled.values())}")
        for cell in cells:
            theirs = tables.reported(experiment, cell, "parameters")
            ours = {record["parameters"] for record in cell.records}
            if theirs is not None and ours - {theirs}:
                differences.append(f"{_either(ours)} parameters in {experiment.title.lower()}, not {int(theirs):,}")
    return differences


def augmentations(outcome: Outcome) -> Drawing:
    """An image of each class before and after each augmentation, with the study's crop padding."""
    padding = max((cell.setting.config.crop_padding for _, cells in outcome.experiments for cell in cells), default=0)
    text = (
        f"Training images before and after a crop with {padding} pixels of padding, a flip, grayscale, and all three."
    )
    return figures.render("augmentations", text, figures.augmentations(outcome.dataset, padding))


def budget(parameters: Table) -> Drawing | None:
    """The networks' parameters, from their table, against the budget; None without any network."""
    if not parameters.rows:
        return None
    text = f"Trainable parameters of each network against the budget of {report.BUDGET:,}."
    counts = {row["network"]: row["parameters"] for row in parameters.rows}
    return figures.render("parameters", text, figures.budget(counts, report.BUDGET))


def marks(outcome: Outcome) -> dict[str, Anchor]:
    """Published results, and the study's settings that have their place beside them, see `beyond`."""
    candidates = (
        Candidate(
            f"{experiment.title}, {cell.setting.label}", "this study",
            chosen_on_test(experiment.section, outcome.select, outcome.follow),
            dict(zip(cell.directories, cell.records, strict=True)),
        )
        for experiment, cells in outcome.experiments
        for cell in cells
    )  # fmt: skip
    return beyond.marks(beyond.ours(candidates))


def published(marked: Mapping[str, Anchor]) -> Drawing:
    """Published results and the study's, against arithmetic and time."""
    text = "Test accuracy against PFLOP and against seconds of training."
    return figures.render("beyond", text, beyond.figure(marked))


def mistakes(outcome: Outcome) -> dict[str, Any] | None:
    """The mistakes of the final model, or else of the last setting whose runs have predictions; None without any.

    The most confident ones, `worst` and their figure, are those of the run with the lowest seed.

    Raises:
      InputError: predictions are damaged, or not those of their run.
    """
    ordered = sorted(outcome.experiments, key=lambda pair: pair[0].name == "final")
    for experiment, cells in reversed(ordered):
        for cell in reversed(cells):
            by_seed = {
                record["seed"]: of_run
                for directory, record in zip(cell.directories, cell.records, strict=True)
                if (of_run := predictions.read(directory, record, outcome.dataset)) is not None
            }
            if by_seed:
                return _mistakes(experiment, cell, by_seed, outcome)
    return None


def missing_runs(cells: Sequence[Cell], seeds: int) -> str:
    """What of these settings, each to have `seeds` runs, has not been run, in words; "" if all has."""
    if not any(cell.records for cell in cells):
        return "Not run yet."
    counts = {cell.setting.label: len(cell.records) for cell in cells if len(cell.records) < seeds}
    listed = ", ".join(f"{name} has {f'{n} of {seeds} runs' if n else 'no run'}" for name, n in counts.items())
    return f"Not completely run yet: {listed}." if counts else ""


def drawn_curves(experiment: Experiment, cells: Sequence[Cell]) -> tuple[Drawing | None, list[Drawing]]:
    """The experiment's figure, and its columns one by one with the same axes, for screens of any width."""
    if not any(cell.records for cell in cells):
        return None, []
    option = f"{tables.heading(experiment)} " if experiment.option else ""
    titles = [f"{option}{cell.setting.label}, n = {len(cell.records)}" for cell in cells]
    logs = [tables.logged(experiment, cell) for cell in cells]
    figure = figures.curves(cells, titles, logs)
    text = "Loss and accuracy against the epoch, train and test: "
    panels = [
        figures.render(experiment.name, text + title, figures.curves([cell], [title], [log], figure), part=True)
        for cell, title, log in zip(cells, titles, logs, strict=True)
    ]
    return figures.render(experiment.name, text + "; ".join(titles), figure), panels


def _mistakes(
    experiment: Experiment, cell: Cell, by_seed: Mapping[int, Predictions], outcome: Outcome
) -> dict[str, Any]:
    test, classes = outcome.dataset.test, outcome.dataset.classes
    counts = np.stack([metrics.confusion(of_run.labels, test.labels, len(classes)) for of_run in by_seed.values()])
    seed = min(by_seed)
    worst = predictions.most_confident(by_seed[seed], test, _MOST_MISTAKES)
    figure = figures.mistakes(worst, outcome.dataset) if worst else None
    text = "Share of each true class's test images by predicted class."
    return {
        "title": experiment.title + f", {cell.setting.label}" * (len(experiment.settings) > 1),
        "runs": len(by_seed),
        "seed": seed,
        "confusion": figures.render("confusion", text, confusion(counts.sum(axis=0), classes)),
        "classes": tables.classes(counts, classes),
        "figure": figures.render("mistakes", "The most confident mistakes.", figure) if figure else None,
        "worst": worst,
    }


def _either(values: set[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(values))
