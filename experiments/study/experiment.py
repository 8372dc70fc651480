"""The types of a study: settings, experiments and their finished runs."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from experiments.report import COMPARED
from experiments.study.commands import without_paths
from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.records import schema
from jresnet.records.files import write_json
from jresnet.rules import as_typed

Select = Literal["validation", "test"]
"""The split by which settings are chosen."""
OUTCOME = "outcome.json"
"""In a study's directory: a StudyRecord."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SettingRecord:
    """One setting in `outcome.json`."""

    label: str
    """as in the report's tables"""
    runs: tuple[str, ...]
    """directories of its finished runs, below the study's"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentRecord:
    """One experiment in `outcome.json`."""

    name: str
    """its module in `experiments`"""
    section: str
    """of the report, or empty"""
    title: str
    """in words"""
    settings: tuple[SettingRecord, ...]
    """what it compares"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study, the content of `outcome.json`."""

    command: str
    """what made it"""
    select: Select | None = None
    """the split that settings were chosen on, if any were"""
    follow: bool | None = None
    """whether sweeps built on the study's own choices"""
    experiments: tuple[ExperimentRecord, ...]
    """those that are finished or begun"""


def chosen_on_test(section: str, select: Select | None, follow: bool | None) -> bool:
    """Whether test images chose the settings of an experiment of this section of the report, empty if of none.

    The report chose by them, and so does a study that does not choose by itself, on validation images.
    """
    return bool(section) and not (follow and select == "validation")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One column of the report's tables: its heading, and the configuration behind it."""

    label: str
    config: Config


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a study compares, named after its module in `experiments`: an experiment of the report, or one beyond it.

    Attributes:
      section: of the report; empty beyond it.
      title: in words.
      settings: what is compared.
      reported: label -> key of `result.json` -> the report's value, where it gives one.
      claim: labels, best first, as the report orders them by test accuracy; empty where it claims nothing.
      chosen: the label that the report continued with, if it chose one.
      option: the field of Config that varies; None where several or none do.
      builds_on: the options that earlier sweeps decide for this experiment, the first ones of `report.DECISIONS`.
      log: label -> the epochs that the report prints, as lines of `metrics.jsonl`; test accuracies are means over
        batches.
    """

    name: str
    section: str
    title: str
    settings: tuple[Setting, ...]
    reported: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    claim: tuple[str, ...] = ()
    chosen: str | None = None
    option: str | None = None
    builds_on: tuple[str, ...] = ()
    log: Mapping[str, Sequence[dict]] = dataclasses.field(default_factory=dict)

    def with_configs(self, configs: Sequence[Config]) -> "Experiment":
        """The experiment with these configurations behind its labels."""
        labels = [setting.label for setting in self.settings]
        return dataclasses.replace(self, settings=tuple(map(Setting, labels, configs)))

    def following(self, choices: Mapping[str, Any]) -> "Experiment":
        """The experiment with the options that earlier sweeps have chosen, option -> value."""
        changes = {name: value for name, value in choices.items() if name in self.builds_on}
        return self.with_configs([dataclasses.replace(setting.config, **changes) for setting in self.settings])


def vary(
    option: str,
    section: str,
    title: str,
    config: Config,
    accuracies: Mapping[Any, float | None],
    chosen: Any,
    builds_on: tuple[str, ...] = (),
) -> Experiment:
    """The experiment that varies one option of a configuration, without a budget, and is named after that option.

    `accuracies` has the report's test accuracy for each value of the option, None where it gives none; their order is
    the claim.
    """
    reported = {as_typed(value): accuracy for value, accuracy in accuracies.items() if accuracy is not None}
    config = dataclasses.replace(config, budget=None)
    return Experiment(
        name=option,
        section=section,
        title=title,
        settings=tuple(
            Setting(as_typed(value), dataclasses.replace(config, **{option: value})) for value in accuracies
        ),
        reported={name: {COMPARED: accuracy} for name, accuracy in reported.items()},
        claim=tuple(sorted(reported, key=lambda name: -reported[name])),
        chosen=as_typed(chosen),
        option=option,
        builds_on=builds_on,
    )


@dataclasses.dataclass(frozen=True)
class Cell:
    """The finished runs of one setting, by ascending seed, and the command line that repeats them.

    Records are those of `result.json`, histories the lines of `metrics.jsonl`.
    """

    setting: Setting
    records: tuple[dict, ...] = ()
    histories: tuple[tuple[dict, ...], ...] = ()
    directories: tuple[pathlib.Path, ...] = ()
    command: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of a study, complete or partial.

    Attributes:
      experiments: each with its cells, in the report's order; those that wait for another are left out.
      dataset: the data before validation images are held out.
      seeds: how many runs each setting is to have.
      select: the split that choices are made on.
      follow: whether each sweep uses the choices of this study's earlier sweeps instead of the report's.
      caption: data, scale, repetition and devices, in words.
    """

    experiments: tuple[tuple[Experiment, tuple[Cell, ...]], ...]
    dataset: Dataset
    seeds: int
    select: Select
    follow: bool
    command: str
    caption: str


def write_outcome(
    workdir: pathlib.Path,
    command: str,
    experiments: Sequence[tuple[Experiment, Sequence[Cell]]],
    select: Select | None = None,
    follow: bool | None = None,
) -> pathlib.Path:
    """Write `outcome.json` about these experiments, whose runs are below `workdir`, into it; returns its path.

    Of the command it keeps what `without_paths` leaves, as the record may be published.
    """

    def setting(cell: Cell) -> SettingRecord:
        runs = tuple(pathlib.Path(os.path.relpath(run, workdir)).as_posix() for run in cell.directories)
        return SettingRecord(label=cell.setting.label, runs=runs)

    listed = tuple(
        ExperimentRecord(
            name=experiment.name, section=experiment.section, title=experiment.title,
            settings=tuple(map(setting, cells)),
        )
        for experiment, cells in experiments
    )  # fmt: skip
    record = StudyRecord(command=without_paths(command), select=select, follow=follow, experiments=listed)
    write_json(workdir / OUTCOME, schema.to_json(record))
    return workdir / OUTCOME
