"""What ingredients beyond the report gain or cost: each added to a base recipe, or left out of the full one.

    python -m experiments.ablation                                   # add: base + ingredient against base
    python -m experiments.ablation --direction leave                 # full - ingredient against full
    python -m experiments.ablation --only mixup sam muon --seeds 5   # others of INGREDIENTS
    python -m experiments.ablation --quick                           # a small network on synthetic images

Validation accuracy and loss, paired by seed, with 95 % intervals and Holm's correction. A tenth of the training images,
5,000 of CIFAR-10's, the same for all seeds, is held out for that (`Dataset.fold`); no test image is evaluated. Options
change the base. The same command resumes; finished runs are kept, and several processes may share --workdir. Table and
page have all ingredients of which --workdir has runs with the same base, those of earlier commands too.

At width 16 a run of 8 epochs took 14 minutes, on one core of an AMD EPYC as on two of an Intel Xeon. docs/results.md
has the results.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from experiments import report
from experiments.page import ingredients as page
from experiments.study import options as study_options
from experiments.study import paired, runs, workers
from experiments.study.experiment import Cell, Experiment, Outcome, Setting
from experiments.study.ingredients import INGREDIENTS
from experiments.study.options import RunsOptions, SeedOptions, check_runs, directory_of, seeds_of
from experiments.study.progress import Progress
from experiments.study.results import data_name
from experiments.study.runs import StudyRun
from jresnet import cli
from jresnet.cli.runs import resumable
from jresnet.config import Config
from jresnet.data.datasets import Dataset, dataset_record
from jresnet.errors import InputError
from jresnet.records.lock import hold
from jresnet.rules import require

NAME = "ablation"
PROGRAM = f"python -m experiments.{NAME}"
PARTS = 10
"""Of the training images; the first part is the validation split."""

BASE = dataclasses.replace(
    report.AUGMENTED, width=16, batch_size=128, learning_rate=0.1, nesterov=True, schedule="cosine", warmup_epochs=1.0,
    epochs=8, grayscale=0.0,
)  # fmt: skip
"""The report's network and augmentation without grayscale, at a width, batch and schedule that eight epochs suit."""


FIRST = ("grayscale", "label-smoothing", "cutout", "ema", "alternate-flip", "kernels", "one-cycle")
"""What is added unless --only says otherwise."""
FULL = ("label-smoothing", "cutout", "ema", "alternate-flip", "kernels", "one-cycle")
"""What the full recipe has beyond the base; --direction leave removes one at a time."""

TITLES = {"add": "Ingredients added to a base recipe", "leave": "Ingredients left out of the full recipe"}

# A first look: a minute at most. 640 images without a tenth are whole batches, for which one program is compiled.
QUICK_ONLY = {"add": ("grayscale", "alternate-flip"), "leave": ("alternate-flip",)}
QUICK_SCALE: dict[str, Any] = {"train_images": 640, "epochs": 2, "seeds": 2}


@dataclasses.dataclass(frozen=True)
class Options(RunsOptions, SeedOptions):
    """Options of an ablation: those of the base recipe, which ingredients, and how often."""

    GROUP: ClassVar = "record"

    seeds: int = 3
    """Runs of every setting, with seeds from --first-seed on."""
    direction: Literal["add", "leave"] = "add"
    """add: the base recipe and one ingredient, against the base; leave: the full recipe without one, against it."""
    only: tuple[str, ...] = ()
    """Names of ingredients (default: seven to add, all six of the full recipe to leave out)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.only if name not in self.known]:
            listed = ", ".join(self.known)
            raise InputError(
                f"--only {' '.join(unknown)}: no such ingredient to {self.direction}: choose from {listed}"
            )
        require(self, "validation", self.validation == 0, "a tenth of the training images is held out: leave it out")
        unread = "no test image is evaluated: leave it out"
        require(self, "test_after", self.test_after == BASE.test_after, unread)
        require(self, "test_images", self.test_images is None, unread)
        check_runs(self, "seeds", self.seeds * (1 + len(self.chosen)))

    @property
    def known(self) -> tuple[str, ...]:
        """The names that --only may have."""
        return tuple(INGREDIENTS) if self.direction == "add" else FULL

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the ingredients that are compared, each once."""
        default = FIRST if self.direction == "add" else FULL
        return tuple(dict.fromkeys(self.only or (QUICK_ONLY[self.direction] if self.quick else default)))

    @property
    def directory(self) -> pathlib.Path:
        """The directory of the runs."""
        return directory_of(self, f"{NAME}-{self.direction}")


def run(arguments: list[str]) -> None:
    """Parse the options, train every setting and seed, and write the table and the page."""
    options = parse(arguments)
    check(options)
    workers.check(options)
    console = cli.make_console()
    dataset = options.load(console).fold(PARTS, 0)
    groups = {setting.label: runs_of(options, setting, dataset) for setting in settings(options, options.chosen)}
    seed_by_seed = [run for of_seed in zip(*groups.values(), strict=True) for run in of_seed]
    runs.check(seed_by_seed, options.directory)
    progress = Progress(console, options.processes)
    command = cli.command(PROGRAM, arguments)
    with resumable(command), hold(options.directory, shared=True):
        progress.train(seed_by_seed, groups)
        outcome = collect(dataset, options, command, progress)
        conclude(outcome, options.directory, progress)
    progress.raise_failures(command)


def parse(arguments: Sequence[str]) -> Options:
    """Options from the command line; --quick changes their defaults to the small scale's."""
    return study_options.parse(PROGRAM, BASE, arguments, Options, QUICK_SCALE)


def check(options: Options) -> None:
    """Raise InputError if the options have what a setting is to change, so that its label would not be true."""
    if options.direction == "leave":
        for key in FULL:
            for name in INGREDIENTS[key].changes:
                own = getattr(options, name) == getattr(BASE, name)
                require(options, name, own, "is what the full recipe or a setting without it decides: leave it out")
        return
    for key in options.chosen:
        label, changes = INGREDIENTS[key]
        rule = f"is what {label} changes: leave it out, or choose other ingredients with --only"
        require(options, next(iter(changes)), not is_base(options, key), rule)


def is_base(options: Options, key: str) -> bool:
    """Whether the base has all that an ingredient changes."""
    return all(getattr(options, name) == value for name, value in INGREDIENTS[key].changes.items())


def settings(options: Options, keys: Sequence[str]) -> list[Setting]:
    """The reference, then a setting for each of these ingredients."""
    base = options.config
    if options.direction == "add":
        chosen = (INGREDIENTS[key] for key in keys)
        added = (Setting(label, dataclasses.replace(base, **changes)) for label, changes in chosen)
        return [Setting("base", base), *added]
    full = {key: INGREDIENTS[key].changes for key in FULL}

    def without(*left: str) -> Config:
        changes = [of_key for key, of_key in full.items() if key not in left]
        return dataclasses.replace(base, **{name: value for of_key in changes for name, value in of_key.items()})

    return [Setting("full", without()), *(Setting(f"without {INGREDIENTS[key].label}", without(key)) for key in keys)]


def runs_of(options: Options, setting: Setting, dataset: Dataset) -> list[StudyRun]:
    """A setting's runs by ascending seed."""
    return runs.over_seeds(NAME, setting.config, seeds_of(options), dataset, options.directory)


def compared(options: Options, dataset: Dataset, progress: Progress) -> list[str]:
    """The ingredients that are asked for, and the others of which the directory has finished runs, in their order."""

    def finished(key: str) -> bool:
        if is_base(options, key):
            return False
        try:
            _, setting = settings(options, [key])
            wanted = runs_of(options, setting, dataset)
        except InputError:  # it does not go with the base
            return False
        return bool(progress.finished(wanted))

    return [key for key in options.known if key in options.chosen or finished(key)]


def collect(dataset: Dataset, options: Options, command: str, progress: Progress) -> Outcome:
    """The results of the ablation, complete or partial."""
    shown = tuple(settings(options, compared(options, dataset, progress)))
    cells = tuple(progress.cell(setting, runs_of(options, setting, dataset)) for setting in shown)
    experiment = Experiment(NAME, "", TITLES[options.direction], shown)
    return Outcome(
        ((experiment, cells),), dataset, options.seeds, "validation", False, command, caption(dataset, options, cells)
    )


def caption(dataset: Dataset, options: Options, cells: Sequence[Cell]) -> str:
    """Data, network, repetition and devices, in words."""
    devices = sorted({record["device"] for cell in cells for record in cell.records})
    parts = [
        data_name(dataset_record(dataset, dataset.sha256)),
        f"{len(dataset.train):,} training and {len(dataset.validation):,} validation images",
        f"{options.model}, width {cells[0].setting.config.width or 'as published'}",
        f"{options.epochs} epochs",
        f"{options.seeds} seed{'s' if options.seeds > 1 else ''} per setting",
        "on " + (" and ".join(devices) or "no device yet"),
    ]
    return "; ".join(parts)


def conclude(outcome: Outcome, workdir: pathlib.Path, progress: Progress) -> None:
    """Print the comparison, and write it with the page."""
    ((_, cells),) = outcome.experiments
    progress.say(outcome.caption)
    progress.console.print(paired.table(paired.compare([(c.setting.label, c.records) for c in cells])))
    for path in page.write(outcome, workdir):
        progress.say(str(path))


main = partial(cli.run_program, run)

if __name__ == "__main__":
    raise SystemExit(main())
