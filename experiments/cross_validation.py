"""Cross-validation, which the report's abstract promises: every setting of a grid on every fold of the training set.

    python -m experiments.cross_validation --folds 5 --grid learning-rate=0.01,0.005,0.001 batch-size=32,64
    python -m experiments.cross_validation --quick --folds 3 --grid learning-rate=0.05,0.01

Settings start from the final model; options and then the grid change it. The folds are stratified and taken from the
training images, so that no run on a fold sees a test image. The setting with the best mean accuracy over the folds is
then trained on all training images, and only that run is evaluated on the test set. The same command resumes an
interrupted cross-validation, and several processes that share --workdir may run it.

Not yet run here.
"""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import ClassVar

from experiments import report
from experiments.study import runs, statistics, workers
from experiments.study.options import RunsOptions, check_runs, directory_of, parse
from experiments.study.progress import Progress
from experiments.study.runs import StudyRun
from jresnet import cli
from jresnet.cli.runs import resumable
from jresnet.config import Config, Source
from jresnet.errors import InputError
from jresnet.records.files import write_bytes
from jresnet.records.lock import hold
from jresnet.records.tables import Row, Table, interval, number
from jresnet.rules import require

NAME = "cross_validation"
PROGRAM = f"python -m experiments.{NAME}"
MAX_FOLDS = 100
"""Every fold is a copy of the training images, and all are in memory at once."""


@dataclasses.dataclass(frozen=True)
class Options(RunsOptions):
    """Options of a cross-validation: those of its settings, and how to run it."""

    GROUP: ClassVar = "record"

    folds: int = 5
    """Parts of the training set, each left out of training once; at most 100."""
    grid: tuple[str, ...] = ()
    """What to compare, as in learning-rate=0.01,0.005 blocks="1 1 1 1,2 2 2 2": every combination is a setting."""
    seed: int = 0
    """Seed of the folds and of every run."""

    def __post_init__(self):
        super().__post_init__()
        require(self, "folds", self.folds >= 2, "must be at least 2")
        require(self, "folds", self.folds <= MAX_FOLDS, f"must be at most {MAX_FOLDS}")
        require(self, "seed", 0 <= self.seed < 2**32, "must lie from 0 to 2**32 - 1")
        require(self, "validation", self.validation == 0, "each fold is its own validation split: leave it out")

    @property
    def directory(self) -> pathlib.Path:
        """The directory of the runs."""
        return directory_of(self, NAME)


def run(arguments: list[str]) -> None:
    """Parse the options, train every setting on every fold and the best one on all images, and print the table."""
    options = parse_options(arguments)
    settings = parse_grid(options)
    workers.check(options)
    console = cli.make_console()
    dataset = options.load(console)
    folds = [dataset.fold(options.folds, index, options.seed) for index in range(options.folds)]
    groups: dict[str, list[StudyRun]] = {}
    finals: dict[str, StudyRun] = {}
    for values, config in settings:
        setting = ", ".join(f"{name} {value}" for name, value in values.items()) or "as configured"
        *groups[setting], finals[setting] = (
            runs.study_run(NAME, config, options.seed, data, options.directory) for data in (*folds, dataset)
        )
    runs.check([*itertools.chain(*groups.values()), *finals.values()], options.directory)
    progress = Progress(console, options.processes)
    command = cli.command(PROGRAM, arguments)
    with resumable(command), hold(options.directory, shared=True):
        progress.train([run for of_fold in zip(*groups.values(), strict=True) for run in of_fold], groups)
        best = winner(groups, progress)
        if best is not None:
            progress.say(f"Best on the folds: {best}; now trained on all training images")
            progress.train([finals[best]], {"winner": [finals[best]]})
    notes = [
        f"{options.folds} stratified folds of {options.dataset}, seed {options.seed}. The interval is Student's over "
        "folds; as folds share training images, it is somewhat too narrow."
    ]
    if best is None:
        notes.append("Not every fold is done yet: run the same command again; the test set is untouched.")
    elif (final := progress.result(finals[best])) is not None:
        notes.append(
            f"Best: {best}. Trained on all {final['dataset']['train']:,} training images: test accuracy "
            f"{100 * final['test_accuracy']:.2f} %, test loss {final['test_loss']:.4f}."
        )
    rows: list[Row] = []
    for (values, _), of_folds in zip(settings, groups.values(), strict=True):
        held_out = accuracies(of_folds, progress)
        rows.append(values | (vars(statistics.summarise(held_out)) if held_out else {"n": 0}))
    conclude(list(settings[0][0]), rows, notes, options.directory / "table.md", progress)
    progress.raise_failures(command)


def parse_options(arguments: list[str]) -> Options:
    """The options; their defaults are the final model's configuration."""
    return parse(PROGRAM, report.FINAL, arguments, Options)


def parse_grid(options: Options) -> list[tuple[dict[str, str], Config]]:
    """The values of the options that the grid varies, and the configuration, of every setting in the grid's order."""
    axes: dict[str, list[str]] = {}
    fixed = {"validation", *(field.name for field in dataclasses.fields(Source))}
    known = {field.name.replace("_", "-") for field in dataclasses.fields(Config) if field.name not in fixed}
    for word in options.grid:
        name, equals, listed = word.partition("=")
        name = name.replace("_", "-")
        if not equals or name not in known:
            raise InputError(f"--grid {word}: must be an option and its values, as in learning-rate=0.01,0.005")
        if any(part.startswith("-") and not part[1:2].isdigit() for part in listed.replace(",", " ").split()):
            raise InputError(f"--grid {word}: must hold values only: give each option a word of its own")
        if name in axes:
            raise InputError(f"--grid {word}: {name} is given twice: list all its values together")
        axes[name] = [value.strip() for value in listed.split(",")]
    check_runs(options, "grid", math.prod(map(len, axes.values())) * (options.folds + 1))
    settings = []
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        words = [part for name, value in values.items() for part in (f"--{name}", *value.split())]
        settings.append((values, cli.parse(Config, words, PROGRAM, options.config)))
    if len({config for _, config in settings}) < len(settings):
        raise InputError(f"--grid {' '.join(options.grid)}: two of its settings are the same: give every value once")
    return settings


def winner(groups: dict[str, list[StudyRun]], progress: Progress) -> str | None:
    """The setting with the best mean accuracy; None while a missing fold could still change it.

    A setting that diverged on a fold cannot win.
    """
    means: dict[str, float] = {}
    for name, of_folds in groups.items():
        if any(run in progress.failed for run in of_folds):
            continue
        held_out = accuracies(of_folds, progress)
        if len(held_out) < len(of_folds):
            return None
        means[name] = statistics.summarise(held_out).mean
    return max(means, key=lambda name: means[name]) if means else None


def accuracies(of_folds: Sequence[StudyRun], progress: Progress) -> list[float]:
    """The held-out accuracies of a setting's finished folds."""
    return [record["validation_accuracy"] for record in progress.finished(of_folds).values()]


def conclude(
    names: Sequence[str], rows: Sequence[Row], notes: Sequence[str], path: pathlib.Path, progress: Progress
) -> None:
    """Write the table to `path` and print it with its notes."""
    columns = [
        *(number(name, name) for name in names),
        number("mean accuracy (%)", "mean", ".2f", 100, missing=""),
        number("std", "std", ".2f", 100, missing=""),
        interval("95 % interval", "low", "high", ".2f", 100, missing=""),
        number("folds", "n", "d"),
    ]
    write_bytes(path, Table(columns, rows, "\n".join(notes)).markdown().encode())
    progress.console.print(Table(columns, rows))
    for line in [*notes, str(path)]:
        progress.say(line)


main = functools.partial(cli.run_program, run)

if __name__ == "__main__":
    raise SystemExit(main())
