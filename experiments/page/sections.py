"""What the page of a study says, section by section, gathered from its outcome."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from experiments import report
from experiments.page import figures, mistakes, tables
from experiments.page.figures import Drawing
from experiments.page.tables import Row, Table
from experiments.study import statistics
from jresnet import models
from jresnet.data.datasets import dataset_record
from jresnet.records.tables import data_name

if TYPE_CHECKING:
    from experiments.study.experiment import Cell, Experiment, Outcome
    from experiments.study.statistics import Verdict

# What the report ran: CIFAR-10's training images (section 3.1) for epochs 0 to 99 (section 4.1's log).
_IMAGES, _EPOCHS = 50_000, 100
_MOST_MISTAKES = 20


@dataclasses.dataclass(frozen=True)
class Section:
    """One experiment: `missing` says in words what was not run, `panels` are its settings' curves one by one."""

    experiment: "Experiment"
    cells: Sequence["Cell"]
    missing: str
    verdict: "Verdict | None"
    pairs: Table | None
    accuracies: Table
    beside_report: Table | None
    further: Table
    log: Table | None
    curves: Drawing | None
    panels: Sequence[Drawing]


@dataclasses.dataclass(frozen=True)
class Errors:
    """What one setting's networks got wrong: over `runs` runs, and with pictures the mistakes of the run of `seed`."""

    title: str
    runs: int
    seed: int
    confusion: Drawing
    classes: Table
    pictures: Drawing | None
    mistakes: Sequence[dict[str, str]]


def every_record(outcome: "Outcome") -> list[dict]:
    """The records of all runs; a run that several experiments share counts once."""
    places = {
        place.resolve(): record
        for _, cells in outcome.experiments
        for cell in cells
        for place, record in zip(cell.places, cell.records, strict=True)
    }
    return list(places.values())


def every_section(outcome: "Outcome") -> list[Section]:
    """One section per experiment, in the report's order."""
    return [_section(experiment, cells, outcome.seeds) for experiment, cells in outcome.experiments]


def absent(outcome: "Outcome") -> list[str]:
    """Titles of the report's experiments that the outcome does not hold."""
    present = {experiment.name for experiment, _ in outcome.experiments}
    return [experiment.title for experiment in report.experiments() if experiment.name not in present]


def data_names(outcome: "Outcome") -> str:
    """The data sets that runs were made on, or before the first of them the one at hand."""
    at_hand = dataset_record(outcome.dataset, outcome.dataset.sha256)
    datasets = [record["dataset"] for record in every_record(outcome)] or [at_hand]
    return ", ".join(sorted({data_name(dataset) for dataset in datasets}))


def scale(outcome: "Outcome") -> list[str]:
    """In which ways the study is not the report's size, in words; empty where it is."""
    records = every_record(outcome)
    found = []
    for name in sorted({data_name(record["dataset"]) for record in records} - {"cifar10"}):
        found.append(f"the data are {name}, not CIFAR-10 as published")
    images = {record["dataset"]["train"] + record["dataset"]["validation"] for record in records}
    if images - {_IMAGES}:
        found.append(f"{_listed(images)} training images, not {_IMAGES:,}")
    epochs = {record["epochs"] for record in records}
    if epochs - {_EPOCHS}:
        found.append(f"{_listed(epochs)} epochs, not {_EPOCHS}")
    for experiment, cells in outcome.experiments:
        scaled = {cell.setting.label: _value(experiment, cell) for cell in cells}
        scaled = {label: value for label, value in scaled.items() if label != value}
        if scaled:
            verb = "stand" if len(scaled) > 1 else "stands"
            found.append(f"{experiment.title.lower()} {', '.join(scaled)} {verb} for {', '.join(scaled.values())}")
        for cell in cells:
            theirs = experiment.reported.get(cell.setting.label, {}).get("parameters")
            ours = {record["parameters"] for record in cell.records}
            if theirs is not None and ours - {theirs}:
                found.append(f"{_listed(ours)} parameters in {experiment.title.lower()}, not {int(theirs):,}")
    return found


def every_choice(outcome: "Outcome") -> list[Row]:
    """What each sweep chose, the report's way and this study's."""
    rows: list[Row] = []
    for experiment, cells in outcome.experiments:
        if experiment.chosen is None or len(cells) < 2:
            continue
        key = f"{outcome.select}_accuracy"
        whole = all(cell.records and all(key in record for record in cell.records) for cell in cells)
        here = statistics.winner(cells, outcome.select) if whole else None
        final = _in_final_model(cells, outcome)
        rows.append({"sweep": experiment.title, "report": experiment.chosen, "here": here, "final": final})
    return rows


def networks(outcome: "Outcome") -> dict[str, tuple[int, str]]:
    """Parameters of every network of the study, and the settings that use it, by its description."""
    fields = ("width", "blocks", "kernel_size", "pool_size")
    configs = [cell.setting.config for _, cells in outcome.experiments for cell in cells]
    varying = [name for name in fields if name == "width" or len({getattr(config, name) for config in configs}) > 1]
    found: dict[str, tuple[int, dict[str, list[str]]]] = {}
    for experiment, cells in outcome.experiments:
        for cell in cells:
            config = cell.setting.config
            name = ", ".join(f"{field.removesuffix('_size')} {_shown(getattr(config, field))}" for field in varying)
            network = models.from_config(config, len(outcome.dataset.classes))
            count = models.parameter_count(network, outcome.dataset.image_size)
            uses = found.setdefault(name, (count, {}))[1]
            uses.setdefault(experiment.title, []).append(cell.setting.label)
    return {
        name: (count, "; ".join(f"{title}: {', '.join(labels)}" for title, labels in uses.items()))
        for name, (count, uses) in found.items()
    }


def budget(found: Mapping[str, tuple[int, str]]) -> Drawing | None:
    """The networks' parameters against the budget; None without any network."""
    if not found:
        return None
    text = f"Trainable parameters of each network against the budget of {report.BUDGET:,}."
    counts = {name: count for name, (count, _) in found.items()}
    return figures.drawn("parameters", text, figures.budget(counts, report.BUDGET))


def augmentations(outcome: "Outcome") -> Drawing:
    """One image per class before and after each augmentation, at the padding that the study crops with."""
    padding = max((cell.setting.config.crop_padding for _, cells in outcome.experiments for cell in cells), default=0)
    text = f"Training images before and after a crop with {padding} pixels of padding, a flip, gray, and all three."
    return figures.drawn("augmentations", text, figures.augmentations(outcome.dataset, padding))


def errors(outcome: "Outcome") -> Errors | None:
    """What the final model got wrong, or else the last setting whose runs left predictions; None without any.

    Raises:
      InputError: predictions are damaged, or not those of their run.
    """
    ordered = sorted(outcome.experiments, key=lambda pair: pair[0].name == "final")
    for experiment, cells in reversed(ordered):
        for cell in reversed(cells):
            read = [
                (record["seed"], mistakes.read(place, record, outcome.dataset.test))
                for place, record in zip(cell.places, cell.records, strict=True)
            ]
            found = {seed: predictions for seed, predictions in read if predictions is not None}
            if found:
                return _errors(experiment, cell, found, outcome)
    return None


def picture(pixels: np.ndarray) -> str:
    """An image, uint8 [height, width, 3], as a data: URI, a large one reduced."""
    png = io.BytesIO()
    Image.fromarray(figures.reduced(pixels)).save(png, "PNG")
    return data_uri(png.getvalue(), "image/png")


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of a MIME type as a URI that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _section(experiment: "Experiment", cells: Sequence["Cell"], seeds: int) -> Section:
    verdict = statistics.judge(experiment, cells)
    curves, panels = _curves(experiment, cells)
    beside_report = tables.beside_report(experiment, cells)
    return Section(
        experiment=experiment,
        cells=cells,
        missing=_missing(cells, seeds),
        verdict=verdict,
        pairs=tables.comparisons(experiment, verdict.comparisons) if verdict and verdict.comparisons else None,
        accuracies=tables.accuracies(experiment, cells),
        beside_report=beside_report if beside_report.rows else None,
        further=tables.further(experiment, cells),
        log=tables.log(experiment, cells),
        curves=curves,
        panels=panels,
    )


def _in_final_model(cells: Sequence["Cell"], outcome: "Outcome") -> str | None:
    """Label of the setting that the study's final model has; None without a final model, or if it has another."""
    final = [
        cell.setting.config for experiment, cells in outcome.experiments if experiment.name == "final" for cell in cells
    ]
    configs = [cell.setting.config for cell in cells]
    varying = [name for name in vars(configs[0]) if len({getattr(config, name) for config in configs}) > 1]
    for cell in cells:
        if final and all(getattr(cell.setting.config, name) == getattr(final[0], name) for name in varying):
            return cell.setting.label
    return None


def _value(experiment: "Experiment", cell: "Cell") -> str:
    """What the setting's configuration has where its label names a value, which a reduced study may have scaled."""
    return _shown(getattr(cell.setting.config, experiment.option)) if experiment.option else cell.setting.label


def _missing(cells: Sequence["Cell"], seeds: int) -> str:
    if not any(cell.records for cell in cells):
        return "Not run yet."
    counts = {cell.setting.label: len(cell.records) for cell in cells if len(cell.records) < seeds}
    listed = ", ".join(
        f"{label} has {count or 'no run'}{f' of {seeds} runs' * bool(count)}" for label, count in counts.items()
    )
    return f"Not wholly run yet: {listed}." if counts else ""


def _curves(experiment: "Experiment", cells: Sequence["Cell"]) -> tuple[Drawing | None, list[Drawing]]:
    """The experiment's figure, and its columns one by one on the same axes, for screens of any width."""
    if not any(cell.records for cell in cells):
        return None, []
    titles = [_title(experiment, cell) for cell in cells]
    logs = [tables.logged(experiment, cell) for cell in cells]
    whole = figures.curves(cells, titles, logs)
    limits = figures.limits(whole)
    text = "Loss and accuracy against the epoch, train and test: "
    drawing = figures.drawn(experiment.name, text + "; ".join(titles), whole)
    panels = [
        figures.drawn(experiment.name, text + title, figures.curves([cell], [title], [log], limits), part=True)
        for cell, title, log in zip(cells, titles, logs, strict=True)
    ]
    return drawing, panels


def _title(experiment: "Experiment", cell: "Cell") -> str:
    name = f"{tables.heading(experiment)} " if experiment.option else ""
    return f"{name}{cell.setting.label}, n = {len(cell.records)}"


def _errors(
    experiment: "Experiment", cell: "Cell", found: dict[int, mistakes.Predictions], outcome: "Outcome"
) -> Errors:
    test, classes = outcome.dataset.test, outcome.dataset.classes
    counts = mistakes.confusion(list(found.values()), test, len(classes))
    seed = min(found)
    worst = mistakes.most_confident(found[seed], test, _MOST_MISTAKES)
    text = "Share of each true class's test images by predicted class."
    return Errors(
        title=experiment.title + f", {cell.setting.label}" * (len(experiment.settings) > 1),
        runs=len(found),
        seed=seed,
        confusion=figures.drawn("confusion", text, figures.confusion(counts, classes)),
        classes=tables.classes(_class_rows(list(found.values()), counts, outcome)),
        pictures=figures.drawn("mistakes", "The most confident mistakes.", figures.mistakes(worst, outcome.dataset))
        if worst
        else None,
        mistakes=[
            {
                "picture": picture(test.images[one.index]),
                "true": classes[one.label],
                "predicted": classes[one.prediction],
                "confidence": f"{100 * one.confidence:.1f}\N{NO-BREAK SPACE}%",
            }
            for one in worst
        ],
    )


def _class_rows(found: list[mistakes.Predictions], counts: np.ndarray, outcome: "Outcome") -> list[Row]:
    """Per class: images, accuracy over runs, and the class that most of its images were mistaken for."""
    test, classes = outcome.dataset.test, outcome.dataset.classes
    images = np.bincount(test.labels, minlength=len(classes))
    per_run = [mistakes.class_accuracies(predictions, test, len(classes)) for predictions in found]
    rows: list[Row] = []
    for label, name in enumerate(classes):
        values = [accuracies[label] for accuracies in per_run]
        row: dict = {"class": name, "images": int(images[label]), "taken_for": None}
        row |= tables.compared(statistics.summarise(values) if images[label] else None, None)
        wrong = counts[label].copy()
        wrong[label] = 0
        if wrong.any():
            row["taken_for"] = f"{classes[wrong.argmax()]} ({100 * wrong.max() / counts[label].sum():.1f} %)"
        rows.append(row)
    return rows


def _listed(values: set[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(values))


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
