"""What a study runs: options -> the report's experiments at the study's scale -> stages of distinct runs."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from experiments import report
from experiments.registry import EXPERIMENTS, NAMES
from experiments.study import runs, statistics
from experiments.study.experiment import Cell, Experiment
from experiments.study.progress import Progress
from experiments.study.runs import Run
from jresnet import cli, models
from jresnet.config import Config, Input, Parallel, Precision
from jresnet.data.datasets import Dataset
from jresnet.errors import InputError
from jresnet.records.log import METRICS, read_metrics

# The whole study for a first look: minutes on two cores. 384 - 128 images are a multiple of every batch size, and
# there are as many validation images as test images, so that few programs are compiled.
QUICK: dict[str, Any] = {
    "dataset": "synthetic",
    "train_images": 384,
    "validation": 128,
    "test_images": 128,
    "width_scale": 0.05,
    "blocks": (1, 1, 1, 1),
    "epochs": 2,
    "seeds": 2,
}

HELD_OUT = 5000
"""Validation images where a study selects on them, but at most a tenth of the training images."""


@dataclasses.dataclass(frozen=True)
class StudyOptions:
    """Options of a study: which experiments, at which scale, how often, and how it chooses."""

    dataset: str = "cifar10"
    """cifar10, cifar100 or another TFDS name; npz:FILE; folder:DIR; synthetic."""
    data_dir: str | None = None
    """Directory of prepared TFDS data sets (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    epochs: int = 100
    """Passes over the training images in every run."""
    width_scale: float = 1.0
    """Factor on every network's channels, for a reduced study: 0.125 makes 42, 64 and 80 into 5, 8 and 10."""
    blocks: tuple[int, ...] | None = None
    """Residual blocks per stage in every experiment except the one that compares them (default: 2 2 2 2)."""
    train_images: int | None = None
    """Use only this many training images, the same share of every class."""
    test_images: int | None = None
    """Use only this many test images, the same share of every class."""
    seeds: int = 3
    """Runs of every setting, with seeds from --first-seed on."""
    first_seed: int = 0
    """Seed of the first run."""
    select: Literal["validation", "test"] = "validation"
    """Choose settings on validation images held out of the training set or, as in the report, on the test set."""
    validation: int | None = None
    """Images held out of the training set (default: 5000, at most a tenth; none with --select test)."""
    follow: bool = False
    """Let each sweep build on the choices of this study's earlier sweeps instead of the report's."""
    only: tuple[str, ...] = ()
    """Names of experiments to run (default: all)."""
    shard: str = "1/1"
    """i/n: train every n-th run, starting with the i-th; the shards may share one --workdir."""
    workdir: str | None = None
    """Directory of the study, in which it also resumes (default: runs/reproduce)."""
    precision: Precision = "float32"
    """Arithmetic of the networks; parameters and statistics are float32 in both."""
    input: Input = "auto"
    """resident: images on the device, augmented inside the program; tfds: tf.data on the host."""
    parallel: Parallel = "auto"
    """jit: one device; pmap: all local devices; auto: pmap where there are several."""
    quick: bool = False
    """Run at a tiny scale on synthetic data; other options still count."""
    check: bool = False
    """Only check that the tables in README.md and docs/results.md agree with the committed records."""

    def __post_init__(self):
        """Check every option that does not depend on the data."""
        _require("seeds", self.seeds, self.seeds >= 1, "must be at least 1")
        seeds_fit = 0 <= self.first_seed <= 2**32 - self.seeds
        _require("first-seed", self.first_seed, seeds_fit, "seeds must lie from 0 to 2**32 - 1")
        _require("width-scale", self.width_scale, 0 < self.width_scale <= 1, "must be above 0 and at most 1")
        unknown = [name for name in self.only if name not in NAMES]
        _require("only", " ".join(unknown), not unknown, f"no such experiment: choose from {', '.join(NAMES)}")
        index, count = self.shard_of
        _require("shard", self.shard, 1 <= index <= count, "must be i/n with i from 1 to n, as in 1/4")

    @property
    def shard_of(self) -> tuple[int, int]:
        """(i, n) of --shard; (0, 0) if it is not of that form."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @property
    def directory(self) -> pathlib.Path:
        """The study's directory."""
        return pathlib.Path(self.workdir or ("runs/reproduce-quick" if self.quick else "runs/reproduce"))

    def held_out(self, dataset: Dataset) -> int:
        """The number of validation images that each run holds out of its training images.

        Raises:
          InputError: settings are to be chosen on validation images, and there are none.
        """
        if self.validation is not None:
            count = self.validation
        elif self.select == "test" or len(dataset.validation):
            count = 0
        else:
            count = min(HELD_OUT, len(dataset.train) // 10)
        if self.select == "validation" and count == 0 and len(dataset.validation) == 0:
            raise InputError("--select validation: needs validation images: add --validation N, or use --select test")
        return count


def _require(option: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise InputError(f"--{option} {value}: {rule}")


class Plan:
    """The experiments of a study on its data, stage by stage.

    Args:
      options: the study's.
      dataset: its data.
      progress: knows the results of its runs.
    """

    def __init__(self, options: StudyOptions, dataset: Dataset, progress: Progress):
        self.options, self.dataset, self.progress = options, dataset, progress
        self.wanted = options.only or NAMES
        names = ("dataset", "data_dir", "epochs", "precision", "input", "parallel")
        self.changes: dict[str, Any] = {name: getattr(options, name) for name in names}
        self.changes["validation"] = options.held_out(dataset)

    def check(self) -> None:
        """Check everything that can be checked before the first run is trained; nothing is written.

        Raises:
          InputError: a network is impossible, or the study's directory cannot be used for it.
        """
        experiments = [self.scaled(experiment) for experiment in EXPERIMENTS if experiment.name in self.wanted]
        for setting in (setting for experiment in experiments for setting in experiment.settings):
            models.check_network(setting.config, len(self.dataset.classes), self.dataset.image_size)
        runs.check(self.runs(experiments), self.options.directory)

    def ready(self) -> tuple[list[list[Experiment]], dict[str, str]]:
        """The experiments whose settings are known, and what the others wait for.

        Returns:
          Stages of experiments at the study's scale, and name -> the unfinished experiment, for the rest.
        """
        if not self.options.follow:
            return [[self.scaled(experiment) for experiment in EXPERIMENTS if experiment.name in self.wanted]], {}
        stages: list[list[Experiment]] = []
        waiting = list(EXPERIMENTS)
        choices: dict[str, Any] = {}
        for decision in (*report.DECISIONS, None):
            stage = [
                experiment.following(choices) for experiment in waiting if choices.keys() >= {*experiment.builds_on}
            ]
            waiting = [experiment for experiment in waiting if not choices.keys() >= {*experiment.builds_on}]
            stages.append([self.scaled(experiment) for experiment in stage if experiment.name in self.wanted])
            if decision is not None:
                experiment = next(experiment for experiment in stage if experiment.name == decision)
                label = self.choice(self.scaled(experiment))
                if label is None:
                    return stages, {e.name: decision for e in waiting if e.name in self.wanted}
                config = next(setting.config for setting in experiment.settings if setting.label == label)
                choices[decision] = getattr(config, decision)
        return stages, {}

    def choice(self, experiment: Experiment) -> str | None:
        """The label that later experiments build on after a sweep; None while the sweep is unfinished."""
        if not self.progress.finished(self.runs([experiment])):
            return None
        cells = self.cells(experiment)
        affordable = [cell for cell in cells if self.parameters(cell.setting.config) <= report.BUDGET]
        return statistics.winner(affordable if experiment.name == "width" else cells, self.options.select)

    def parameters(self, config: Config) -> int:
        """Trainable parameters of a configuration's network on this data."""
        model = models.from_config(config, len(self.dataset.classes))
        return models.parameter_count(model, self.dataset.image_size)

    def scaled(self, experiment: Experiment) -> Experiment:
        """The experiment on the study's data, at its scale.

        Raises:
          InputError: two of its settings become equal at this scale.
        """
        blocks = None if experiment.option == "blocks" else self.options.blocks
        configs = [
            dataclasses.replace(
                setting.config,
                width=max(1, round(cast(int, setting.config.width) * self.options.width_scale)),
                blocks=blocks or setting.config.blocks,
                **self.changes,
            )
            for setting in experiment.settings
        ]
        if len(set(configs)) < len(configs):
            labels = ", ".join(setting.label for setting in experiment.settings)
            raise InputError(
                f"--width-scale {self.options.width_scale}: makes two of {experiment.name}'s settings ({labels}) "
                "the same: choose a larger one"
            )
        return experiment.with_configs(configs)

    def runs(self, experiments: Sequence[Experiment]) -> list[Run]:
        """The distinct runs of these experiments: every setting once before the next seed."""
        options = self.options
        return _distinct(
            runs.make(experiment.name, setting.config, seed, self.dataset, options.directory)
            for seed in range(options.first_seed, options.first_seed + options.seeds)
            for experiment in experiments
            for setting in experiment.settings
        )

    def groups(self, experiments: Sequence[Experiment]) -> Mapping[str, list[Run]]:
        """Experiment -> its runs, including those that it shares with others."""
        return {experiment.name: self.runs([experiment]) for experiment in experiments}

    def mine(self, stages: Sequence[Sequence[Experiment]]) -> list[Run]:
        """The runs of this process's shard; a stage added later does not change the share of earlier ones."""
        index, count = self.options.shard_of
        return _distinct(run for stage in stages for run in self.runs(stage))[index - 1 :: count]

    def cells(self, experiment: Experiment) -> tuple[Cell, ...]:
        """What has been run of an experiment, setting by setting."""
        return tuple(
            self._cell(dataclasses.replace(experiment, settings=(setting,))) for setting in experiment.settings
        )

    def _cell(self, experiment: Experiment) -> Cell:
        (setting,) = experiment.settings
        results = [(run.place, self.progress.result(run)) for run in self.runs([experiment])]
        done = [(directory, record) for directory, record in results if record is not None]
        return Cell(
            setting,
            records=tuple(record for _, record in done),
            histories=tuple(tuple(read_metrics(directory / METRICS)) for directory, _ in done),
            directories=tuple(directory for directory, _ in done),
            command=command(setting.config, self.options),
        )


def _distinct(runs_of_all: Iterable[Run]) -> list[Run]:
    """The first run in each directory."""
    first: dict[pathlib.Path, Run] = {}
    for run in runs_of_all:
        first.setdefault(run.place, run)
    return list(first.values())


def command(config: Config, options: StudyOptions) -> str:
    """The command that repeats one setting's runs, in a directory of their own."""
    words: list[str] = []
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if value != getattr(report.AUGMENTED, field.name):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    for name in ("train_images", "test_images", "seeds", "first_seed"):
        if getattr(options, name) not in (None, 0):
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return cli.command("python -m experiments.augmentation", words)


def parse(arguments: list[str], program: str) -> StudyOptions:
    """Options from the command line; --quick changes their defaults to the tiny scale's."""
    default = StudyOptions(**QUICK) if "--quick" in arguments else StudyOptions()
    return cli.parse(StudyOptions, arguments, program, default)
