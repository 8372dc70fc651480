"""What a study is made of: settings, experiments, what was run of them."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from jresnet.config import Config
from jresnet.data.datasets import Dataset


@dataclasses.dataclass(frozen=True)
class Setting:
    """One column of the report's tables: its head, and the configuration behind it."""

    label: str
    config: Config


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment of the report.

    Attributes:
      name: its module in this package.
      section: of the report.
      title: in words.
      option: the field of Config that varies; None where several or none do.
      settings: what is compared.
      reported: label -> key of `result.json` -> the report's value, where it gives one.
      claim: labels, best first, as the report orders them by test accuracy; empty where it claims nothing.
      chosen: the label that the report went on with, if it chose one.
      log: label -> the epochs that the report prints, as lines of `metrics.jsonl`; its test accuracies are means
        over batches.
    """

    name: str
    section: str
    title: str
    option: str | None
    settings: tuple[Setting, ...]
    reported: Mapping[str, Mapping[str, float]]
    claim: tuple[str, ...]
    chosen: str | None
    log: Mapping[str, Sequence[dict]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What was run for one setting.

    Attributes:
      setting: the setting.
      records: `result.json` of each finished seed, by ascending seed.
      histories: the epochs' lines of `metrics.jsonl` of each.
      places: the directories of those runs.
      command: what makes these runs again.
    """

    setting: Setting
    records: tuple[dict, ...]
    histories: tuple[tuple[dict, ...], ...]
    places: tuple[pathlib.Path, ...]
    command: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A study as far as it has come.

    Attributes:
      experiments: each with its cells, in the report's order; those that still wait for another are left out.
      dataset: the data, with the pictures, no validation images held out.
      seeds: runs that each setting is to have.
      select: the split that choices are made on, "validation" or "test".
      follow: whether sweeps go on from this study's own choices instead of the report's.
      command: what made the study.
      caption: what was really run, in words.
    """

    experiments: tuple[tuple[Experiment, tuple[Cell, ...]], ...]
    dataset: Dataset
    seeds: int
    select: str
    follow: bool
    command: str
    caption: str
