"""Cross-validation (the report's abstract promises it): every setting of a grid on every fold of the training set.

    python -m experiments.cross_validation --folds 5 --grid learning-rate=0.01,0.005,0.001 batch-size=32,64
    python -m experiments.cross_validation --quick --folds 3 --grid learning-rate=0.05,0.01

Settings start from the final model; options and then the grid change it. The folds are stratified, and the test
images are taken away before them: no fold's run can see one. The setting with the best mean accuracy over the
folds is then trained on all training images, and that one run is evaluated on the test set. The same command
goes on where it was stopped, and may run in several processes that share --workdir.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence

import rich.box
import rich.table

from experiments import report
from experiments.study import runs, single, statistics
from experiments.study.progress import Ledger
from experiments.study.runs import Run
from experiments.study.statistics import Summary
from jresnet import cli, models
from jresnet.config import Config, require
from jresnet.data.datasets import Dataset, load_dataset
from jresnet.errors import Diverged, InputError, Interrupted
from jresnet.records.files import write_bytes

NAME = "cross_validation"
PROGRAM = f"python -m experiments.{NAME}"
HEADS = ("mean accuracy (%)", "std", "95 % interval", "folds")
NOTE = "The interval is Student's over folds; as folds share training images, it is somewhat too narrow."

Grid = dict[tuple[str, ...], Config]


@dataclasses.dataclass(frozen=True)
class Options(Config):
    """Options of a cross-validation: those of its settings, and how to run it."""

    folds: int = 5
    """Parts of the training set, each left out of training once."""
    grid: tuple[str, ...] = ()
    """What to compare, as in learning-rate=0.01,0.005 blocks="1 1 1 1,2 2 2 2": every combination is a setting."""
    seed: int = 0
    """Seed of the folds and of every run."""
    train_images: int | None = None
    """Use only this many training images, the same share of every class."""
    test_images: int | None = None
    """Use only this many test images, the same share of every class."""
    workdir: str | None = None
    """Directory of the runs, which go on where they were (default: runs/cross_validation)."""
    quick: bool = False
    """Run at a small scale on synthetic data; other options still count."""

    def __post_init__(self):
        """Check the options beyond the configuration, and the configuration."""
        super().__post_init__()
        require(self, "folds", self.folds >= 2, "must be at least 2")
        require(self, "seed", 0 <= self.seed < 2**32, "must lie from 0 to 2**32 - 1")
        require(self, "validation", self.validation == 0, "each fold is its own validation split: leave it out")

    @property
    def config(self) -> Config:
        """The configuration alone."""
        return Config(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Config)})

    @property
    def place(self) -> pathlib.Path:
        """The directory of the runs."""
        return pathlib.Path(self.workdir or f"runs/{NAME}{'-quick' if self.quick else ''}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Cross-validate from the command line; returns the exit status, see `jresnet.cli.exit_status`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return cli.exit_status(lambda: run(words))


def run(arguments: list[str]) -> None:
    """Parse the options, train every setting on every fold, retrain the winner, and print the table."""
    options = parse(arguments)
    names, grid = parse_grid(options)
    dataset = load_dataset(options.dataset, options.data_dir).subset(options.train_images, options.test_images)
    folds = [dataset.fold(options.folds, index, options.seed) for index in range(options.folds)]
    groups = {
        shown(names, values): [runs.make(NAME, config, options.seed, fold, options.place) for fold in folds]
        for values, config in grid.items()
    }
    finals = [runs.make(NAME, config, options.seed, dataset, options.place) for config in grid.values()]
    check(grid, dataset, [*itertools.chain(*groups.values()), *finals], options.place)
    ledger = Ledger(cli.make_console())
    try:
        ledger.train([run for of_fold in zip(*groups.values(), strict=True) for run in of_fold], groups)
        best = winner(groups, ledger)
        if best is not None:
            again = finals[list(groups).index(best)]
            ledger.say(f"Best on the folds: {best}; now trained on all training images")
            ledger.train([again], {"winner": [again]})
    except Interrupted as stop:
        raise Interrupted(f"{stop}; go on with: {cli.command(PROGRAM, arguments)}", stop.signal) from None
    conclude(options, names, grid, groups, None if best is None else (best, ledger.result(again)), ledger)


def parse(arguments: list[str]) -> Options:
    """Options with the final model's values as defaults, or, with --quick, the small scale's."""
    options = cli.parse(Options, arguments, PROGRAM, Options(**vars(report.final())))
    if not options.quick:
        return options
    return cli.parse(Options, arguments, PROGRAM, Options(**vars(dataclasses.replace(report.final(), **single.QUICK))))


def parse_grid(options: Options) -> tuple[tuple[str, ...], Grid]:
    """The names of the options that the grid varies, and their values -> the configuration, in the grid's order.

    Raises:
      InputError: a word of the grid is no option with values, names one twice, or gives it an unusable value.
    """
    axes: dict[str, list[str]] = {}
    known = {field.name.replace("_", "-") for field in dataclasses.fields(Config)} - {
        "dataset",
        "data-dir",
        "validation",
    }
    for word in options.grid:
        name, equals, values = word.partition("=")
        name = name.replace("_", "-")
        if not equals or name not in known:
            raise InputError(f"--grid {word}: must be an option and its values, as in learning-rate=0.01,0.005")
        if name in axes:
            raise InputError(f"--grid {word}: {name} is there twice: give all its values together")
        axes[name] = [value.strip() for value in values.split(",")]
    grid: Grid = {}
    settings = list(itertools.product(*axes.values()))
    for setting in settings:
        words = [part for name, value in zip(axes, setting, strict=True) for part in (f"--{name}", *value.split())]
        grid[setting] = cli.parse(Config, words, PROGRAM, options.config)
    if len(set(grid.values())) < len(settings):
        raise InputError(f"--grid {' '.join(options.grid)}: two of its settings are the same: give every value once")
    return tuple(axes), grid


def check(grid: Grid, dataset: Dataset, every: Sequence[Run], place: pathlib.Path) -> None:
    """Check all that can be checked before the first run is trained; nothing is written.

    Raises:
      InputError: a network is impossible or over its budget, or the directory cannot be used.
    """
    for config in grid.values():
        models.check_network(config, len(dataset.classes), dataset.image_size)
    runs.check(every, place)


def winner(groups: dict[str, list[Run]], ledger: Ledger) -> str | None:
    """The setting with the best mean accuracy; None while a fold is missing that could still make another the best.

    A setting that diverged on a fold cannot win.
    """
    diverged = {name for name, of_folds in groups.items() if any(str(run.place) in ledger.failed for run in of_folds)}
    left = [name for name in groups if name not in diverged]
    if not left or not all(ledger.finished(groups[name]) for name in left):
        return None
    return max(left, key=lambda name: summary(groups[name], ledger).mean)


def summary(of_folds: Sequence[Run], ledger: Ledger) -> Summary:
    """The held-out accuracies of a setting's finished folds, summed up."""
    records = [record for run in of_folds if (record := ledger.result(run)) is not None]
    return statistics.summarise(record["validation_accuracy"] for record in records)


def shown(names: Sequence[str], values: Sequence[str]) -> str:
    """A setting in words: "learning-rate 0.01, batch-size 32"."""
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True)) or "as configured"


def conclude(
    options: Options, names: Sequence[str], grid: Grid, groups: dict[str, list[Run]],
    best: tuple[str, dict | None] | None, ledger: Ledger,
) -> None:  # fmt: skip
    """Write and print the table, and say what became of the winner.

    Raises:
      Diverged: a run did, after everything else has been said.
    """
    rows = []
    for values, of_folds in zip(grid, groups.values(), strict=True):
        done = any(ledger.result(run) is not None for run in of_folds)
        rows.append([*values, *(cells(summary(of_folds, ledger)) if done else ("", "", "", "0"))])
    lines = [f"{options.folds} stratified folds of {options.dataset}, seed {options.seed}. {NOTE}"]
    if best is None:
        lines.append("Not every fold is done yet: run the same command again; the test set is untouched.")
    elif best[1] is not None:
        found = best[1]
        lines.append(
            f"Best: {best[0]}. Trained on all {found['dataset']['train']:,} training images: test accuracy "
            f"{100 * found['test_accuracy']:.2f} %, test loss {found['test_loss']:.4f}."
        )
    heads = [*names, *HEADS]
    markdown = [heads, ["--:"] * len(heads), *rows]
    text = "\n".join(["| " + " | ".join(row) + " |" for row in markdown] + ["", *(f"- {line}" for line in lines)])
    write_bytes(options.place / "table.md", f"{text}\n".encode())
    table = rich.table.Table(*heads, box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    ledger.console.print(table)
    for line in [*lines, str(options.place / "table.md")]:
        ledger.say(line)
    if ledger.failed:
        raise Diverged("; ".join(f"{place}: {why}" for place, why in ledger.failed.items()))


def cells(found: Summary) -> tuple[str, str, str, str]:
    """A summary of accuracies as the table shows it, in percent."""
    if found.std is None or found.low is None or found.high is None:
        return f"{100 * found.mean:.2f}", "", "", str(found.n)
    interval = f"{100 * found.low:.2f} to {100 * found.high:.2f}"
    return f"{100 * found.mean:.2f}", f"{100 * found.std:.2f}", interval, str(found.n)


if __name__ == "__main__":
    raise SystemExit(main())
