"""What ingredients beyond the report gain or cost: each added to a base recipe, or left out of the full one.

    python -m experiments.ablation                                   # add: base + ingredient against base
    python -m experiments.ablation --direction leave                 # full - ingredient against full
    python -m experiments.ablation --only mixup sam muon --seeds 5   # others of INGREDIENTS
    python -m experiments.ablation --quick                           # a small network on synthetic images

Validation accuracy and loss, paired by seed, with 95 % intervals and Holm's correction. A tenth of the training images,
5,000 of CIFAR-10's, the same for all seeds, is held out for that (`Dataset.fold`); no test image is evaluated. Options
change the base. The same command resumes; finished runs are kept, and several processes may share --workdir.

At width 16 two CPU cores take about 14 minutes a run of 8 epochs. Results are in docs/results.md once there are any.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

from experiments import report
from experiments.page import ingredients as page
from experiments.study import ingredients, runs, workers
from experiments.study import options as study_options
from experiments.study.experiment import Cell, Experiment, Outcome, Setting
from experiments.study.options import SeedOptions, check_processes, check_runs
from experiments.study.progress import Progress
from experiments.study.results import data_name
from experiments.study.runs import StudyRun
from jresnet import cli
from jresnet.cli.runs import check_workdir, resumable
from jresnet.config import Config
from jresnet.data.datasets import Dataset, dataset_record
from jresnet.errors import InputError
from jresnet.records.files import local_path
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


class Ingredient(NamedTuple):
    """One ingredient: its name in tables, and the options that it changes."""

    label: str
    changes: Mapping[str, Any]


INGREDIENTS: Mapping[str, Ingredient] = {
    "grayscale": Ingredient("grayscale 0.5", {"grayscale": 0.5}),  # the report's own, section 3.2
    "label-smoothing": Ingredient("label smoothing 0.1", {"label_smoothing": 0.1}),  # Szegedy et al. 2015
    "cutout": Ingredient("cutout 8", {"cutout": 8}),  # a quarter of the side: 16 suits runs of hundreds of epochs
    # 0.999 is usual over hundreds of epochs. At 352 steps an epoch it averages over 1,000 steps, three of the eight
    # epochs, and would lag behind; 0.99 averages over 100 steps.
    "ema": Ingredient("EMA 0.99", {"ema_decay": 0.99}),
    "alternate-flip": Ingredient("alternating flip", {"alternate_flip": True}),  # Jordan 2024
    "kernels": Ingredient("weight decay on kernels", {"weight_decay_on": "kernels"}),  # He et al. 2018, section 3.1
    # With the base's warm-up, so that the shape alone changes.
    "one-cycle": Ingredient("one-cycle", {"schedule": "one-cycle"}),  # Smith and Topin 2017, as airbench has it
    "mixup": Ingredient("mixup 0.2", {"mixup": 0.2}),  # Zhang et al. 2017, the weak end of their range
    "cutmix": Ingredient("cutmix 1.0", {"cutmix": 1.0}),  # Yun et al. 2019
    "trivialaugment": Ingredient("TrivialAugment", {"trivialaugment": True}),
    "zero-init": Ingredient("zero-init", {"zero_init": True}),  # Goyal et al. 2017, section 5.1
    "sam": Ingredient("SAM 0.05", {"sam": 0.05}),  # Foret et al. 2020, section 3.1; two gradients per step
    "muon": Ingredient("Muon", {"optimizer": "muon"}),  # its rate's default; SGD keeps the base's for the rest
    # AdamW's usual rate and decay for networks from scratch; Nesterov's momentum is SGD's.
    "adamw": Ingredient(
        "AdamW", {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "nesterov": False}
    ),
}
"""What --only may name; comments say where values are from."""

FIRST = ("grayscale", "label-smoothing", "cutout", "ema", "alternate-flip", "kernels", "one-cycle")
"""What is added unless --only says otherwise."""
FULL = ("label-smoothing", "cutout", "ema", "alternate-flip", "kernels", "one-cycle")
"""What the full recipe has beyond the base, and of what --direction leave leaves one out."""

# A first look: a minute at most. 640 images without a tenth are whole batches, for which one program is compiled.
QUICK_ONLY = {"add": ("grayscale", "alternate-flip"), "leave": ("alternate-flip",)}
QUICK_SCALE: dict[str, Any] = {"train_images": 640, "epochs": 2, "seeds": 2}


@dataclasses.dataclass(frozen=True)
class Options(SeedOptions):
    """Options of an ablation: those of the base recipe, which ingredients, and how often."""

    GROUP: ClassVar = "record"

    seeds: int = 3
    """Runs of every setting, with seeds from --first-seed on."""
    direction: Literal["add", "leave"] = "add"
    """add: the base recipe and one ingredient, against the base; leave: the full recipe without one, against it."""
    only: tuple[str, ...] = ()
    """Names of ingredients (default: seven to add, all six of the full recipe to leave out)."""
    processes: int = 1
    """Runs to train at once on one device, each in a process of its own."""
    quick: bool = False
    """Run at a small scale on synthetic data; options given explicitly still apply."""
    workdir: str | None = None
    """Directory of the runs, in which they also resume (default: runs/ablation-add or runs/ablation-leave)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_processes(self)
        check_workdir(self)
        known = tuple(INGREDIENTS) if self.direction == "add" else FULL
        if unknown := [name for name in self.only if name not in known]:
            raise InputError(
                f"--only {' '.join(unknown)}: no such ingredient to {self.direction}: choose from {', '.join(known)}"
            )
        require(self, "validation", self.validation == 0, "a tenth of the training images is held out: leave it out")
        check_runs(self, "seeds", self.seeds * (1 + len(self.chosen)))

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the ingredients that are compared, each once."""
        default = FIRST if self.direction == "add" else FULL
        return tuple(dict.fromkeys(self.only or (QUICK_ONLY[self.direction] if self.quick else default)))

    @property
    def directory(self) -> pathlib.Path:
        """The directory of the runs."""
        default = f"runs/{NAME}-{self.direction}{'-quick' if self.quick else ''}"
        return local_path(self.workdir or default, "--workdir")


def run(arguments: list[str]) -> None:
    """Parse the options, train every setting and seed, and write the table and the page."""
    options = parse(arguments)
    changes = settings(options)
    experiment = Experiment(
        name=NAME,
        section="",
        title={"add": "Ingredients added to a base recipe", "leave": "Ingredients left out of the full recipe"}[
            options.direction
        ],
        settings=tuple(Setting(label, changed(options, label, values)) for label, values in changes.items()),
    )
    workers.check(options)
    console = cli.make_console()
    dataset = options.load(console).fold(PARTS, 0)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    groups = {
        setting.label: [runs.study_run(NAME, setting.config, seed, dataset, options.directory) for seed in seeds]
        for setting in experiment.settings
    }
    seed_by_seed = [run for of_seed in zip(*groups.values(), strict=True) for run in of_seed]
    runs.check(seed_by_seed, options.directory)
    progress = Progress(console, options.processes)
    command = cli.command(PROGRAM, arguments)
    with resumable(command), hold(options.directory, shared=True):
        progress.train(seed_by_seed, groups)
        outcome = collect(experiment, groups, dataset, options, command, progress)
        conclude(outcome, options.directory, progress)
    progress.raise_failures(command)


def parse(arguments: Sequence[str]) -> Options:
    """Options from the command line; --quick changes their defaults to the small scale's."""
    return study_options.parse(PROGRAM, BASE, arguments, Options, QUICK_SCALE)


def settings(options: Options) -> dict[str, dict[str, Any]]:
    """The options that each setting changes of the base, by its label; the reference comes first."""
    full = {name: value for key in FULL for name, value in INGREDIENTS[key].changes.items()}
    if options.direction == "add":
        return {"base": {}} | {INGREDIENTS[key].label: dict(INGREDIENTS[key].changes) for key in options.chosen}
    left = {
        f"without {INGREDIENTS[key].label}": {
            name: value for name, value in full.items() if name not in INGREDIENTS[key].changes
        }
        for key in options.chosen
    }
    return {"full": full} | left


def changed(options: Options, label: str, changes: Mapping[str, Any]) -> Config:
    """The configuration of a setting; InputError if the options have what it changes already."""
    if overlap := [name for name, value in changes.items() if getattr(options.config, name) == value]:
        rule = f"is what {label} changes: leave it out, or choose other ingredients with --only"
        require(options, overlap[0], False, rule)
    return dataclasses.replace(options.config, **changes)


def collect(
    experiment: Experiment,
    groups: Mapping[str, Sequence[StudyRun]],
    dataset: Dataset,
    options: Options,
    command: str,
    progress: Progress,
) -> Outcome:
    """The results of the ablation, complete or partial."""
    cells = tuple(progress.cell(setting, groups[setting.label]) for setting in experiment.settings)
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
    progress.console.print(ingredients.table(ingredients.compare([(c.setting.label, c.records) for c in cells])))
    for path in page.write(outcome, workdir):
        progress.say(str(path))


main = partial(cli.run_program, run)

if __name__ == "__main__":
    raise SystemExit(main())
