"""The plan of a study: from its options to the report's experiments at its scale, and to stages of distinct runs."""

import dataclasses
import importlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

from experiments import report
from experiments.study import runs, statistics
from experiments.study.experiment import Cell, Experiment
from experiments.study.options import as_words, check_processes, check_runs, check_seeds, directory_of, seeds_of
from experiments.study.progress import Progress
from experiments.study.runs import StudyRun
from jresnet import cli, models
from jresnet.cli.runs import check_workdir
from jresnet.config import Config, Input, Parallel, Precision, Source
from jresnet.data.datasets import Dataset
from jresnet.errors import InputError
from jresnet.rules import require

NAMES = (
    "initial", "augmentation", "grayscale", "learning_rate", "batch_size", "width",
    "blocks", "kernel_size", "pool_size", "final",
)  # fmt: skip
"""The modules of the report's experiments, in its order."""
EXPERIMENTS: tuple[Experiment, ...] = tuple(importlib.import_module(f"experiments.{name}").EXPERIMENT for name in NAMES)

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
class StudyOptions(Source):
    """Options of a study: which experiments, at which scale, how often, and how it chooses."""

    GROUP: ClassVar = "study"

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
    processes: int = 1
    """Runs to train at once on one device, each in a process of its own."""
    workdir: str | None = None
    """Directory of the study, where it also resumes (default: runs/reproduce)."""
    precision: Precision = "float32"
    """Arithmetic of the networks; parameters and statistics are float32 in both."""
    input: Input = "auto"
    """resident: images on the device, augmented inside the program; tfds: tf.data on the host."""
    parallel: Parallel = "auto"
    """jit: one device; pmap: all local devices; auto: pmap where there are several."""
    channel_multiple: int = 1
    """Pad channels with zeros to a multiple of this while training: same parameters, same function (8 is for GPUs)."""
    deterministic: bool = False
    """Make equal runs on a GPU equal in every bit, at some cost in speed; runs on CPUs are equal anyway."""
    quick: bool = False
    """Run at a tiny scale on synthetic data; options given explicitly still apply."""
    check: bool = False
    """Only check that the tables in README.md and docs/ agree with the committed records."""

    def __post_init__(self):
        super().__post_init__()
        check_seeds(self)
        check_processes(self)
        check_workdir(self)
        # The rules of a configuration hold before the data are read, too.
        held_out = 0 if self.validation is None else self.validation
        Config(epochs=self.epochs, validation=held_out, blocks=self.blocks, channel_multiple=self.channel_multiple)
        require(self, "width_scale", 0 < self.width_scale <= 1, "must be above 0 and at most 1")
        if unknown := [name for name in self.only if name not in NAMES]:
            raise InputError(f"--only {' '.join(unknown)}: no such experiment: choose from {', '.join(NAMES)}")
        index, count = self.shard_of
        require(self, "shard", 1 <= index <= count, "must be i/n with i from 1 to n, as in 1/4")

    @property
    def shard_of(self) -> tuple[int, int]:
        """(i, n) of --shard; (0, 0) if it is not of that form."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @property
    def directory(self) -> pathlib.Path:
        """The study's directory."""
        return directory_of(self, "reproduce")

    def held_out(self, dataset: Dataset) -> int:
        """The number of validation images that each run holds out; settings cannot be chosen on none."""
        default = min(HELD_OUT, len(dataset.train) // 10)
        if self.select == "test" or len(dataset.validation):
            default = 0
        count = default if self.validation is None else self.validation
        if self.select == "validation" and count == 0 and len(dataset.validation) == 0:
            raise InputError("--select validation: needs validation images: add --validation N, or use --select test")
        return count


class Plan:
    """The experiments of a study on its data, stage by stage; `progress` reads the results of its runs."""

    def __init__(self, options: StudyOptions, dataset: Dataset, progress: Progress):
        self.options, self.dataset, self.progress = options, dataset, progress
        self.wanted = options.only or NAMES
        own = "epochs", "precision", "input", "parallel", "channel_multiple", "deterministic"
        names = *(field.name for field in dataclasses.fields(Source)), *own
        self.changes = {name: getattr(options, name) for name in names} | {"validation": options.held_out(dataset)}

    def check(self) -> None:
        """Check everything that can be checked before the first run is trained, without writing anything."""
        selected, seeds = self.selected(EXPERIMENTS), self.options.seeds
        check_runs(self.options, "seeds", seeds * sum(len(experiment.settings) for experiment in selected))
        runs.check(self.runs(selected), self.options.directory)

    def ready(self) -> tuple[list[list[Experiment]], dict[str, str]]:
        """Stages of experiments at the study's scale, as far as known, and names of others -> what they wait for."""
        if not self.options.follow:
            return [self.selected(EXPERIMENTS)], {}
        stages: list[list[Experiment]] = []
        choices: dict[str, Any] = {}
        for decision in (*report.DECISIONS, None):
            stage = [e.following(choices) for e in EXPERIMENTS if e.builds_on == tuple(choices)]
            stages.append(self.selected(stage))
            if decision is not None:
                value = self.choice(next(e for e in stage if e.name == decision))
                if value is None:
                    waiting = (e for e in EXPERIMENTS if decision in e.builds_on and e.name in self.wanted)
                    return stages, {e.name: decision for e in waiting}
                choices[decision] = value
        return stages, {}

    def choice(self, sweep: Experiment) -> Any:
        """The value, before scaling, that later experiments build on after a sweep; None while it is unfinished."""
        cells = self.cells(self.scaled(sweep))
        if any(len(cell.records) < self.options.seeds for cell in cells):
            return None
        if sweep.name == "width":
            size = len(self.dataset.classes), self.dataset.image_size
            cells = tuple(c for c in cells if models.check_network(c.setting.config, *size) <= report.BUDGET)
        label = statistics.winner(cells, self.options.select)
        return next(getattr(setting.config, sweep.name) for setting in sweep.settings if setting.label == label)

    def scaled(self, experiment: Experiment) -> Experiment:
        """The experiment on the study's data, at its scale; InputError if two of its settings become equal."""
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

    def selected(self, experiments: Sequence[Experiment]) -> list[Experiment]:
        """Those of these experiments that --only names, on the study's data, at its scale."""
        return [self.scaled(experiment) for experiment in experiments if experiment.name in self.wanted]

    def runs(self, experiments: Sequence[Experiment]) -> list[StudyRun]:
        """The distinct runs of these experiments: every setting once before the next seed."""
        options = self.options
        every = (
            runs.study_run(experiment.name, setting.config, seed, self.dataset, options.directory)
            for seed in seeds_of(options)
            for experiment in experiments
            for setting in experiment.settings
        )
        return list(dict.fromkeys(every))

    def groups(self, experiments: Sequence[Experiment]) -> Mapping[str, list[StudyRun]]:
        """Experiment -> its runs, including those that it shares with others."""
        return {experiment.name: self.runs([experiment]) for experiment in experiments}

    def mine(self, stages: Sequence[Sequence[Experiment]]) -> list[StudyRun]:
        """The runs of this process's shard; a stage added later does not change the share of earlier ones."""
        index, count = self.options.shard_of
        return list(dict.fromkeys(run for stage in stages for run in self.runs(stage)))[index - 1 :: count]

    def cells(self, experiment: Experiment) -> tuple[Cell, ...]:
        """The finished runs of an experiment, setting by setting."""
        cells = []
        for setting in experiment.settings:
            seeds = self.runs([dataclasses.replace(experiment, settings=(setting,))])
            cells.append(self.progress.cell(setting, seeds, command(setting.config, self.options)))
        return tuple(cells)


def command(config: Config, options: StudyOptions) -> str:
    """The command that repeats one setting's runs, in a directory of their own."""
    given = {name: value for name, value in vars(config).items() if value != getattr(report.AUGMENTED, name)}
    repetition = {name: getattr(options, name) for name in ("train_images", "test_images", "seeds", "first_seed")}
    given |= {name: value for name, value in repetition.items() if value not in (None, 0)}
    return cli.command("python -m experiments.augmentation", as_words(given))


def parse(arguments: list[str], program: str) -> StudyOptions:
    """Options from the command line; --quick changes their defaults to the tiny scale's."""
    default = StudyOptions(**QUICK) if "--quick" in arguments else StudyOptions()
    return cli.parse(StudyOptions, arguments, program, default)
