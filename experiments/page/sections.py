"""The content of a study's page, section by section, gathered from its outcome."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments import report
from experiments.page import figures, predictions, tables
from experiments.page.figures import Drawing
from experiments.page.predictions import Predictions
from experiments.study import statistics
from experiments.study.experiment import Cell, Experiment, Outcome, label
from experiments.study.plan import EXPERIMENTS
from experiments.study.results import data_name
from jresnet import models
from jresnet.data.datasets import dataset_record
from jresnet.records.tables import Row

# The report's scale: CIFAR-10's training images (section 3.1), epochs 0 to 99 (section 4.1's log).
_IMAGES, _EPOCHS = 50_000, 100
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
    """One experiment of the page.

    Returns:
      experiment, cells; missing, what has not been run, in words; verdict; the tables accuracies, beside_report,
      further, log and pairs; curves, the figure, and panels, its columns one by one. What does not apply is None.
    """
    verdict = statistics.judge(experiment, cells)
    curves, panels = _curves(experiment, cells)
    beside_report = tables.beside_report(experiment, cells)
    return {
        "experiment": experiment,
        "cells": cells,
        "missing": _missing(cells, seeds),
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
    own = dataset_record(outcome.dataset, outcome.dataset.sha256)
    datasets = [record["dataset"] for record in all_records(outcome)] or [own]
    return ", ".join(sorted({data_name(dataset) for dataset in datasets}))


def scale_differences(outcome: Outcome) -> list[str]:
    """How the study's scale differs from the report's, in words."""
    records = all_records(outcome)
    names = sorted({data_name(record["dataset"]) for record in records} - {"cifar10"})
    differences = [f"the data are {name}, not CIFAR-10 as published" for name in names]
    images = {record["dataset"]["train"] + record["dataset"]["validation"] for record in records}
    if images - {_IMAGES}:
        differences.append(f"{_either(images)} training images, not {_IMAGES:,}")
    epochs = {record["epochs"] for record in records}
    if epochs - {_EPOCHS}:
        differences.append(f"{_either(epochs)} epochs, not {_EPOCHS}")
    for experiment, cells in outcome.experiments:
        scaled = {
            cell.setting.label: value for cell in cells if (value := _value(experiment, cell)) != cell.setting.label
        }
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


def choices(outcome: Outcome) -> list[Row]:
    """What each sweep chose, in the report and here."""
    rows: list[Row] = []
    key = f"{outcome.select}_accuracy"
    for experiment, cells in outcome.experiments:
        if experiment.chosen is None or len(cells) < 2:
            continue
        complete = all(cell.records and all(key in record for record in cell.records) for cell in cells)
        here = statistics.winner(cells, outcome.select) if complete else None
        final = _in_final_model(cells, outcome)
        rows.append({"sweep": experiment.title, "report": experiment.chosen, "here": here, "final": final})
    return rows


def networks(outcome: Outcome) -> dict[str, tuple[int, str]]:
    """Every network of the study: description -> (parameters, the settings that use it)."""
    fields = ("width", "blocks", "kernel_size", "pool_size")
    configs = [cell.setting.config for _, cells in outcome.experiments for cell in cells]
    varying = [name for name in fields if name == "width" or len({getattr(config, name) for config in configs}) > 1]
    counts: dict[str, int] = {}
    uses: dict[str, dict[str, list[str]]] = {}
    for experiment, cells in outcome.experiments:
        for cell in cells:
            config = cell.setting.config
            name = ", ".join(f"{field.removesuffix('_size')} {label(getattr(config, field))}" for field in varying)
            model = models.from_config(config, len(outcome.dataset.classes))
            counts[name] = models.parameter_count(model, outcome.dataset.image_size)
            uses.setdefault(name, {}).setdefault(experiment.title, []).append(cell.setting.label)
    return {
        name: (count, "; ".join(f"{title}: {', '.join(labels)}" for title, labels in uses[name].items()))
        for name, count in counts.items()
    }


def augmentations(outcome: Outcome) -> Drawing:
    """An image of each class before and after each augmentation, with the study's crop padding."""
    padding = max((cell.setting.config.crop_padding for _, cells in outcome.experiments for cell in cells), default=0)
    text = (
        f"Training images before and after a crop with {padding} pixels of padding, a flip, grayscale, and all three."
    )
    return figures.render("augmentations", text, figures.augmentations(outcome.dataset, padding))


def budget(networks: Mapping[str, tuple[int, str]]) -> Drawing | None:
    """The networks' parameters against the budget; None without any network."""
    if not networks:
        return None
    text = f"Trainable parameters of each network against the budget of {report.BUDGET:,}."
    counts = {name: count for name, (count, _) in networks.items()}
    return figures.render("parameters", text, figures.budget(counts, report.BUDGET))


def mistakes(outcome: Outcome) -> dict[str, Any] | None:
    """The mistakes of the final model, or else of the last setting whose runs have predictions; None without any.

    Returns:
      title; runs, their number; confusion, a figure; classes, a table; and from the run with the lowest seed, `seed`,
      the most confident mistakes as a figure and as images.

    Raises:
      InputError: predictions are damaged, or not those of their run.
    """
    ordered = sorted(outcome.experiments, key=lambda pair: pair[0].name == "final")
    for experiment, cells in reversed(ordered):
        for cell in reversed(cells):
            by_seed = {
                record["seed"]: of_run
                for directory, record in zip(cell.directories, cell.records, strict=True)
                if (of_run := predictions.read(directory, record, outcome.dataset.test)) is not None
            }
            if by_seed:
                return _mistakes(experiment, cell, by_seed, outcome)
    return None


def image_uri(image: np.ndarray) -> str:
    """An image, uint8 [height, width, 3], as a PNG in a data: URI; a large one is reduced."""
    png = io.BytesIO()
    Image.fromarray(figures.reduced(image)).save(png, "PNG")
    return data_uri(png.getvalue(), "image/png")


def data_uri(data: bytes, mime_type: str) -> str:
    """A data: URI with this content."""
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


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


def _value(experiment: Experiment, cell: Cell) -> str:
    """The value of the option that the experiment varies, which a reduced study may have scaled; else the label."""
    return label(getattr(cell.setting.config, experiment.option)) if experiment.option else cell.setting.label


def _missing(cells: Sequence[Cell], seeds: int) -> str:
    if not any(cell.records for cell in cells):
        return "Not run yet."
    counts = {cell.setting.label: len(cell.records) for cell in cells if len(cell.records) < seeds}
    listed = ", ".join(f"{name} has {f'{n} of {seeds} runs' if n else 'no run'}" for name, n in counts.items())
    return f"Not completely run yet: {listed}." if counts else ""


def _curves(experiment: Experiment, cells: Sequence[Cell]) -> tuple[Drawing | None, list[Drawing]]:
    """The experiment's figure, and its columns one by one with the same axes, for screens of any width."""
    if not any(cell.records for cell in cells):
        return None, []
    option = f"{tables.heading(experiment)} " if experiment.option else ""
    titles = [f"{option}{cell.setting.label}, n = {len(cell.records)}" for cell in cells]
    logs = [tables.logged(experiment, cell) for cell in cells]
    figure = figures.curves(cells, titles, logs)
    limits = figures.limits(figure)
    text = "Loss and accuracy against the epoch, train and test: "
    panels = [
        figures.render(experiment.name, text + title, figures.curves([cell], [title], [log], limits), part=True)
        for cell, title, log in zip(cells, titles, logs, strict=True)
    ]
    return figures.render(experiment.name, text + "; ".join(titles), figure), panels


def _mistakes(
    experiment: Experiment, cell: Cell, by_seed: Mapping[int, Predictions], outcome: Outcome
) -> dict[str, Any]:
    test, classes = outcome.dataset.test, outcome.dataset.classes
    runs = list(by_seed.values())
    counts = predictions.confusion(runs, test, len(classes))
    seed = min(by_seed)
    worst = predictions.most_confident(by_seed[seed], test, _MOST_MISTAKES)
    figure = figures.mistakes(worst, outcome.dataset) if worst else None
    text = "Share of each true class's test images by predicted class."
    return {
        "title": experiment.title + f", {cell.setting.label}" * (len(experiment.settings) > 1),
        "runs": len(runs),
        "seed": seed,
        "confusion": figures.render("confusion", text, figures.confusion(counts, classes)),
        "classes": tables.classes(_class_rows(runs, counts, outcome)),
        "figure": figures.render("mistakes", "The most confident mistakes.", figure) if figure else None,
        "images": [
            {
                "picture": image_uri(test.images[mistake.index]),
                "true": classes[mistake.label],
                "predicted": classes[mistake.prediction],
                "confidence": f"{100 * mistake.confidence:.1f}\N{NO-BREAK SPACE}%",
            }
            for mistake in worst
        ],
    }


def _class_rows(runs: Sequence[Predictions], counts: np.ndarray, outcome: Outcome) -> list[Row]:
    """Per class: test images, accuracy over the runs, and the class that it is most often confused with."""
    test, classes = outcome.dataset.test, outcome.dataset.classes
    images = np.bincount(test.labels, minlength=len(classes))
    per_run = [predictions.class_accuracies(of_run, test, len(classes)) for of_run in runs]
    rows: list[Row] = []
    for index, name in enumerate(classes):
        accuracies = [of_run[index] for of_run in per_run]
        summary = tables.compared(statistics.summarise(accuracies) if images[index] else None, None)
        wrong = counts[index].copy()
        wrong[index] = 0
        share = 100 * wrong.max() / max(counts[index].sum(), 1)
        taken_for = f"{classes[wrong.argmax()]} ({share:.1f} %)" if wrong.any() else None
        rows.append({"class": name, "images": int(images[index]), "taken_for": taken_for} | summary)
    return rows


def _either(values: set[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(values))
