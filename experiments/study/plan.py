"""What a study runs: options -> the report's experiments at the study's scale -> stages of distinct runs."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from experiments import report
from experiments.study import runs, statistics
from experiments.study.experiment import Cell, Experiment
from experiments.study.progress import Ledger
from experiments.study.runs import Run
from jresnet import cli, models
from jresnet.config import Config, Input, Parallel, Precision
from jresnet.data.datasets import Dataset
from jresnet.errors import InputError
from jresnet.records import run_directory
from jresnet.records.log import read_metrics

# The whole study for a first look: minutes on two cores. 384 - 128 images are a multiple of every batch size,
# and the validation images as many as the test images, so that few programs are compiled.
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

HELD_OUT, HELD_OUT_SHARE = 5000, 10
"""Validation images where a study selects on them: so many, or the training images divided by so much."""


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
    """Residual blocks per stage in every experiment but the one that compares them (default: 2 2 2 2)."""
    train_images: int | None = None
    """Use only this many training images, the same share of every class."""
    test_images: int | None = None
    """Use only this many test images, the same share of every class."""
    seeds: int = 3
    """Runs of every setting, with seeds from --first-seed on."""
    first_seed: int = 0
    """Seed of the first run."""
    select: Literal["validation", "test"] = "validation"
    """What choices are made on: validation images held out of the training set, or, as in the report, the test set."""
    validation: int | None = None
    """Images held out of the training set (default: 5000, at most a tenth; none with --select test)."""
    follow: bool = False
    """Let each sweep go on with this study's own winners instead of the report's choices."""
    only: tuple[str, ...] = ()
    """Names of experiments to run (default: all)."""
    shard: str = "1/1"
    """i/n: train every n-th run from the i-th on; the shards may share one --workdir."""
    workdir: str | None = None
    """Directory of the study, which goes on where it was (default: runs/reproduce)."""
    precision: Precision = "float32"
    """Arithmetic of the networks; parameters and statistics are float32 in both."""
    input: Input = "auto"
    """resident: images on the device, augmented inside the program; tfds: tf.data on the host."""
    parallel: Parallel = "auto"
    """jit: one device; pmap: all local devices; auto: pmap where there are several."""
    quick: bool = False
    """Run at a tiny scale on synthetic data; other options still count."""
    check: bool = False
    """Only check that README's results table agrees with the committed records."""

    def __post_init__(self):
        """Check every option that can be judged without the data."""
        _require("seeds", self.seeds, self.seeds >= 1, "must be at least 1")
        seeds_fit = 0 <= self.first_seed <= 2**32 - self.seeds
        _require("first-seed", self.first_seed, seeds_fit, "seeds must lie from 0 to 2**32 - 1")
        _require("width-scale", self.width_scale, 0 < self.width_scale <= 1, "must be above 0 and at most 1")
        unknown = [name for name in self.only if name not in report.NAMES]
        _require("only", " ".join(unknown), not unknown, f"no such experiment: choose from {', '.join(report.NAMES)}")
        index, count = self.shard_of
        _require("shard", self.shard, 1 <= index <= count, "must be i/n with i from 1 to n, as in 1/4")

    @property
    def shard_of(self) -> tuple[int, int]:
        """(i, n) of --shard; (0, 0) where it is neither."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def place(self) -> pathlib.Path:
        """The study's directory."""
        return pathlib.Path(self.workdir or ("runs/reproduce-quick" if self.quick else "runs/reproduce"))

    def held_out(self, dataset: Dataset) -> int:
        """Validation images that each run holds out of its training images.

        Raises:
          InputError: choices are to be made on validation images, and there are none.
        """
        if self.validation is not None:
            count = self.validation
        elif self.select == "test" or len(dataset.validation):
            count = 0
        else:
            count = min(HELD_OUT, len(dataset.train) // HELD_OUT_SHARE)
        if self.select == "validation" and count == 0 and len(dataset.validation) == 0:
            raise InputError(
                "--select validation: needs validation images: give --validation N, or choose with --select test"
            )
        return count


def _require(option: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise InputError(f"--{option} {value}: {rule}")


class Plan:
    """The experiments of a study on its data, stage by stage.

    Args:
      options: the study's.
      dataset: its data.
      ledger: what is known of its runs.
    """

    def __init__(self, options: StudyOptions, dataset: Dataset, ledger: Ledger):
        self.options, self.dataset, self.ledger = options, dataset, ledger
        self.changes: dict[str, Any] = {
            name: getattr(options, name) for name in ("dataset", "data_dir", "epochs", "precision", "input", "parallel")
        } | {"validation": options.held_out(dataset)}

    def check(self) -> None:
        """Check all that can be checked before the first run is trained; nothing is written.

        Raises:
          InputError: a network is impossible, or the study's directory cannot be this study's.
        """
        wanted = self.options.only or report.NAMES
        experiments = [self.scaled(experiment) for experiment in report.experiments() if experiment.name in wanted]
        for setting in (setting for experiment in experiments for setting in experiment.settings):
            models.check_network(setting.config, len(self.dataset.classes), self.dataset.image_size)
        runs.check(self.runs(experiments), self.options.place)

    def ready(self) -> tuple[list[list[Experiment]], dict[str, str]]:
        """The experiments whose settings are known, and what the others wait for.

        Returns:
          Stages of experiments at the study's scale, and name -> the unfinished experiment, for the rest.
        """
        wanted = self.options.only or report.NAMES
        if not self.options.follow:
            return [[self.scaled(found) for found in report.experiments() if found.name in wanted]], {}
        stages: list[list[Experiment]] = []
        seen: set[str] = set()
        choices = report.REPORTED_CHOICES
        for decision in (*report.DECIDES, None):
            known = {found.name: found for found in report.experiments(choices)}
            names = [name for name in known if name not in seen and _needs(name) <= seen]
            seen |= set(names)
            stages.append([self.scaled(known[name]) for name in names if name in wanted])
            if decision is None:
                break
            chosen = self.choice(self.scaled(known[decision]))
            if chosen is None:
                return stages, {name: decision for name in known if name in wanted and name not in seen}
            value = next(s.config for s in known[decision].settings if s.label == chosen)
            choices = dataclasses.replace(choices, **{decision: getattr(value, decision)})
        return stages, {}

    def choice(self, experiment: Experiment) -> str | None:
        """The label that this study goes on with after a sweep; None while the sweep is not finished."""
        if not self.ledger.finished(self.runs([experiment])):
            return None
        cells = self.cells(experiment)
        fitting = [cell for cell in cells if self.parameters(cell.setting.config) <= report.BUDGET]
        return statistics.winner(fitting if experiment.name == "width" else cells, self.options.select)

    def parameters(self, config: Config) -> int:
        """Trainable parameters of a configuration's network on this data."""
        model = models.from_config(config, len(self.dataset.classes))
        return models.parameter_count(model, self.dataset.image_size)

    def scaled(self, experiment: Experiment) -> Experiment:
        """The experiment on the study's data, at its scale.

        Raises:
          InputError: the scale makes two of its settings the same.
        """
        settings = []
        for setting in experiment.settings:
            width = max(1, round(cast(int, setting.config.width) * self.options.width_scale))
            blocks = None if experiment.option == "blocks" else self.options.blocks
            config = dataclasses.replace(
                setting.config, width=width, blocks=blocks or setting.config.blocks, **self.changes
            )
            settings.append(dataclasses.replace(setting, config=config))
        if len({setting.config for setting in settings}) < len(settings):
            labels = ", ".join(setting.label for setting in settings)
            raise InputError(
                f"--width-scale {self.options.width_scale}: makes two of {experiment.name}'s settings ({labels}) "
                "the same: choose a larger one"
            )
        return dataclasses.replace(experiment, settings=tuple(settings))

    def seeds(self) -> range:
        """The seeds of every setting."""
        return range(self.options.first_seed, self.options.first_seed + self.options.seeds)

    def runs(self, experiments: Sequence[Experiment]) -> list[Run]:
        """The distinct runs of these experiments: every setting once before the next seed."""
        found = (
            runs.make(experiment.name, setting.config, seed, self.dataset, self.options.place)
            for seed in self.seeds()
            for experiment in experiments
            for setting in experiment.settings
        )
        return _distinct(found)

    def groups(self, experiments: Sequence[Experiment]) -> Mapping[str, list[Run]]:
        """Experiment -> its runs, those included that it shares with others."""
        return {experiment.name: self.runs([experiment]) for experiment in experiments}

    def mine(self, stages: Sequence[Sequence[Experiment]]) -> list[Run]:
        """The runs of this process's shard; a stage that is added later leaves those before as they were."""
        index, count = self.options.shard_of
        return _distinct(run for stage in stages for run in self.runs(stage))[index - 1 :: count]

    def cells(self, experiment: Experiment) -> tuple[Cell, ...]:
        """What has been run of an experiment, setting by setting."""
        cells = []
        for setting in experiment.settings:
            single = dataclasses.replace(experiment, settings=(setting,))
            found = [(run, self.ledger.result(run)) for run in self.runs([single])]
            done = [(run.place, record) for run, record in found if record is not None]
            cells.append(
                Cell(
                    setting,
                    records=tuple(record for _, record in done),
                    histories=tuple(tuple(read_metrics(place / run_directory.METRICS)) for place, _ in done),
                    places=tuple(place for place, _ in done),
                    command=command(setting.config, self.options),
                )
            )
        return tuple(cells)


def _distinct(found: Iterable[Run]) -> list[Run]:
    """Each directory's first run."""
    every: dict[pathlib.Path, Run] = {}
    for run in found:
        every.setdefault(run.place, run)
    return list(every.values())


def _needs(name: str) -> set[str]:
    """The sweeps whose choices an experiment builds on."""
    if name in ("initial", "augmentation", "grayscale"):
        return set()
    return set(report.DECIDES[: report.DECIDES.index(name)] if name in report.DECIDES else report.DECIDES)


def command(config: Config, options: StudyOptions) -> str:
    """The command that trains one setting's runs again, in a directory of their own."""
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
    """Options from the command line, or, with --quick, on top of the tiny scale's."""
    options = cli.parse(StudyOptions, arguments, program)
    return cli.parse(StudyOptions, arguments, program, StudyOptions(**QUICK)) if options.quick else options
