"""`jresnet evaluate`: what a run, a file of weights or an ensemble of them gets right on a data set."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import ClassVar

import rich.console
import tyro.conf

from jresnet.cli.data import DataOptions
from jresnet.cli.network import WeightsOptions
from jresnet.cli.program import STDOUT, make_console, output_files
from jresnet.data.datasets import load_dataset
from jresnet.data.progress import warn
from jresnet.errors import InputError, by
from jresnet.parallel.compiler import enable_compile_cache
from jresnet.records.files import json_bytes, kind, local_path, write_json
from jresnet.records.run import Run
from jresnet.rules import flag, require
from jresnet.use.classifier import CONVERTED, Classifier, refuse_for_run
from jresnet.use.evaluation import Augmentation, Evaluation, SplitName, common_classes, evaluate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(WeightsOptions, DataOptions):
    """Evaluate a run or a file of weights on labelled images; several together, as an ensemble.

    The data are the run's own unless others are given. Options of the network, the normalisation and the classes are
    for files of weights, as a run has recorded its own.
    """

    GROUP: ClassVar = "evaluation"

    models: tyro.conf.Positional[tuple[str, ...]]
    """Directories of runs, or files of weights; the probabilities of several are averaged."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels to which images are resized (default: as the run's own were; else not at all)."""
    split: SplitName = "test"
    """Which images are evaluated."""
    tta: Augmentation | None = None
    """flip: average the probabilities of each image and of its mirror image; the plain figures stay beside it."""
    against: tuple[str, ...] = ()
    """Runs or files to compare with by McNemar's exact test, several as an ensemble."""
    json: str | None = None
    """File for all figures as JSON; - for the standard output, in the place of the tables."""
    page: str | None = None
    """File for a page of HTML with the tables, figures and the worst mistakes."""


def run(options: Options) -> None:
    """Evaluate, write the files and print the tables, in this order, as a reader may leave at any line.

    Whatever can be wrong is looked for first.
    """
    outputs = _outputs(options)
    console = make_console(quiet=options.json == STDOUT)
    enable_compile_cache()
    evaluation = _evaluate(options, _load(options), console)
    if "json" in outputs:
        write_json(outputs["json"], evaluation.to_json())
    if "page" in outputs:
        evaluation.save_page(outputs["page"])
    for index, table in enumerate(evaluation.tables()):
        if index:
            console.print()
        console.print(table)
    if options.json == STDOUT:
        print(json_bytes(evaluation.to_json()).decode(), end="")
    for path in outputs.values():
        console.out(path, highlight=False)


def _outputs(options: Options) -> dict[str, pathlib.Path]:
    """The files to write, by the names of their options; InputError if one cannot be."""
    require(options, "page", options.page != STDOUT, "must be a file: only --json goes to the standard output")
    return output_files(options, ("json", "page"))


def _load(options: Options) -> dict[str, Classifier]:
    """The classifiers of all runs and files, by their paths as given."""
    for paths in (options.models, options.against):
        if len({*map(local_path, paths)}) < len(paths):
            raise InputError(f"{' '.join(paths)}: one is given twice: an ensemble needs different ones")
    if not options.models:
        raise InputError("MODELS: must be given: see --help")
    both = dict.fromkeys([*options.models, *options.against])
    if all(kind(local_path(path)) == "directory" for path in both):
        refuse_for_run({**options.of_file, "image_size": None})  # to which the data's images are resized
    if _is_file(options.models[0]):
        options.require_dataset()
    models = {path: _load_one(path, options) for path in both}
    _check_alike(models, options)
    return models


def _is_file(path: str) -> bool:
    """Whether a path is of a file of weights; anything else is taken for a run's directory."""
    return kind(local_path(path)) == "file"


def _load_one(path: str, options: Options) -> Classifier:
    if _is_file(path):
        return options.load(path)
    classifier = Classifier.load(path)
    fits = options.image_size in (None, classifier.image_size)
    rule = f"the images of {path} are {by(classifier.image_size)}: leave it out, or give that"
    require(options, "image_size", fits, rule)
    return classifier


def _check_alike(models: Mapping[str, Classifier], options: Options) -> None:
    """Raise InputError unless the models take the same images, resized in the same way."""
    path, first = next(iter(models.items()))
    for other, model in models.items():
        if model.image_size != first.image_size:
            sizes = f"its images are {by(model.image_size)}, those of {path} {by(first.image_size)}"
            raise InputError(f"{other}: {sizes}: evaluate models of equal images together")
    configs = (model.run.config for model in models.values())
    ways = {(config.resize, config.background) for config in configs if config.image_size}
    if len(ways) > 1 and not (options.resize and options.background):
        rule = "were trained on images that were resized in different ways: give --resize and --background"
        raise InputError(f"{path} and another {rule}")


def _evaluate(options: Options, models: Mapping[str, Classifier], console: rich.console.Console) -> Evaluation:
    """Evaluate on the first run's own data, or on those given; of its own its validation images are held out again."""
    run = models[options.models[0]].run
    classes = common_classes([(path, model.classes) for path, model in models.items()])
    # A run's own folder has training images; without them it is damaged.
    dataset = load_dataset(options.source(run), console=console, classes=classes if options.dataset else None)
    sha256 = dataset.sha256
    if options.dataset is None:
        _warn_of_other_data(models, dataset.name, sha256)
    if sha256 == run.dataset.get("sha256"):
        if options.split == "validation":
            _check_validation(models)
        dataset = dataset.hold_out(run.config.validation, run.seed)
    return evaluate(
        {path: models[path] for path in options.models}, dataset, split=options.split, tta=options.tta,
        against={path: models[path] for path in options.against} or None, sha256=sha256, console=console,
    )  # fmt: skip


def _warn_of_other_data(models: Mapping[str, Classifier], name: str, sha256: str) -> None:
    """Name every run that was trained on other data than these; what files were trained on is not known."""
    for path, model in models.items():
        trained = model.run.dataset
        if model.run.experiment != CONVERTED and trained.get("sha256") != sha256:
            part = "a part of" if trained.get("cut_from") == sha256 else "other pixels or labels than"
            warn(f"{path} was trained on {part} {name}")


def _check_validation(models: Mapping[str, Classifier]) -> None:
    """Raise InputError unless all runs have the same validation images: others may have been trained on them."""
    runs = {path: model.run for path, model in models.items() if model.run.experiment != CONVERTED}
    held = {path: (run.dataset.get("sha256"), _held_out(run)) for path, run in runs.items()}
    first = next(iter(held))
    for path, images in held.items():
        if images != held[first]:
            raise InputError(
                f"{flag('split')} validation: {path} may have been trained on the validation images of {first}, as its "
                f"data, {flag('validation')} or {flag('seed')} are others: choose another split, or runs that agree"
            )


def _held_out(run: Run) -> tuple[int, int] | None:
    """What decides which training images a run held out; None where it held out none."""
    return (run.config.validation, run.seed) if run.config.validation else None
