"""What experiments are made of, and the program of a single one: options -> runs over seeds -> a table."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from jresnet import cli, models
from jresnet.config import Config, require
from jresnet.data.datasets import load_dataset
from jresnet.errors import InputError, Interrupted
from jresnet.parallel import distributed
from jresnet.parallel.distributed import ProcessOptions
from jresnet.records import run_directory
from jresnet.records.files import write_bytes
from jresnet.records.tables import markdown_table, results_table
from jresnet.train import loop

# The experiment at a size for a first look: about a minute on two cores, on data the program draws itself.
QUICK: dict[str, Any] = {
    "dataset": "synthetic",
    "width": 8,
    "blocks": (1, 1, 1, 1),
    "learning_rate": 0.05,
    "epochs": 5,
    "batch_size": 64,
}


@dataclasses.dataclass(frozen=True)
class Options(Config):
    """Options of an experiment: those of its configuration, and how to run it."""

    seeds: int = 1
    """Runs, with seeds from --first-seed on."""
    first_seed: int = 0
    """Seed of the first run."""
    train_images: int | None = None
    """Use only this many training images, the same share of every class."""
    test_images: int | None = None
    """Use only this many test images, the same share of every class."""
    workdir: str | None = None
    """Directory of the run, or of the runs where there are several (default: a new one below runs/)."""
    resume: bool = False
    """Go on in --workdir, or in the latest default directory; finished runs are kept."""
    quick: bool = False
    """Run at a small scale on synthetic data; other options still count."""

    def __post_init__(self):
        """Check the options beyond the configuration, and the configuration."""
        super().__post_init__()
        require(self, "seeds", self.seeds >= 1, "must be at least 1")
        require(
            self,
            "first_seed",
            0 <= self.first_seed <= 2**32 - self.seeds,
            "seeds must lie from 0 to 2**32 - 1",
        )

    @property
    def config(self) -> Config:
        """The configuration alone."""
        return Config(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Config)})


Kind = TypeVar("Kind", bound=Options)


@dataclasses.dataclass(frozen=True)
class SingleOptions(ProcessOptions, Options):
    """Options of a single experiment, which several processes may train together."""


def main(experiment: str, config: Config, arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line.

    Args:
      experiment: its name, that of its module in this package.
      config: what it runs unless options say otherwise.
      arguments: the words after the program's name; None for this process's own.

    Returns:
      The exit status, see `jresnet.cli.exit_status`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    return cli.exit_status(lambda: run(experiment, config, words))


def run(experiment: str, config: Config, arguments: list[str]) -> None:
    """Parse the options, train every seed, and print the table and the paths."""
    program = f"python -m experiments.{experiment}"
    options = parse(program, config, arguments, SingleOptions)
    distributed.initialize(options)
    workdir = pathlib.Path(options.workdir) if options.workdir else default_workdir(experiment, options)
    dataset = load_dataset(options.dataset, options.data_dir).subset(options.train_images, options.test_images)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    places = {seed: workdir if options.seeds == 1 else workdir / f"seed-{seed}" for seed in seeds}
    with distributed.lost_peers():
        distributed.require_equal({"--seeds": options.seeds, "--first-seed": options.first_seed}, {})
    check_layout(workdir, options.seeds)
    if options.seeds > 1:  # every directory, before the first run is trained
        config = models.explicit(options.config)
        for seed, place in places.items():
            run_directory.check(place, config, seed, dataset.sha256, options.resume)
    console = cli.make_console(quiet=not distributed.is_primary())
    try:
        results = [
            loop.fit(
                options.config,
                dataset,
                place,
                seed=seed,
                experiment=experiment,
                resume=options.resume,
                console=console,
            )
            for seed, place in places.items()
        ]
    except Interrupted as stop:
        again = cli.command(program, resumed(arguments, options, workdir))
        raise Interrupted(f"{stop}; go on with: {again}", stop.signal) from None
    records = [result.to_json() for result in results]
    if distributed.is_primary():
        write_bytes(workdir / "table.md", markdown_table(records).encode())
    console.print(results_table(records))
    for path in written(workdir, list(places.values())):
        console.print(str(path), highlight=False, soft_wrap=True)


def check_layout(workdir: pathlib.Path, seeds: int) -> None:
    """Raise InputError if one run lies where several would, or several where one would."""
    try:
        several = any(workdir.glob("seed-*/config.json"))
        one = (workdir / "config.json").exists()
    except OSError:
        return  # the runs' own checks say what is wrong with the directory
    if one and seeds > 1:
        raise InputError(f"--workdir {workdir}: holds a single run: choose another directory for {seeds} seeds")
    if several and seeds == 1:
        raise InputError(f"--workdir {workdir}: holds runs of several seeds: choose another directory for one")


def parse(program: str, config: Config, arguments: list[str], kind: type[Kind]) -> Kind:
    """Options with the experiment's values as defaults, or, with --quick, the small scale's."""
    options = cli.parse(kind, arguments, program, kind(**vars(config)))
    if not options.quick:
        return options
    return cli.parse(kind, arguments, program, kind(**vars(dataclasses.replace(config, **QUICK))))


def default_workdir(experiment: str, options: Options) -> pathlib.Path:
    """runs/NAME, runs/NAME-2, ...: the first that is free, or on --resume the last that is not."""
    name = f"{experiment}-quick" if options.quick else experiment
    path, number = pathlib.Path("runs", name), 1
    latest = path
    while path.exists():
        latest, number = path, number + 1
        path = path.with_name(f"{name}-{number}")
    return latest if options.resume else path


def resumed(arguments: list[str], options: Options, workdir: pathlib.Path) -> list[str]:
    """The arguments that go on with an interrupted experiment."""
    place = [] if options.workdir else ["--workdir", str(workdir)]
    return [*arguments, *place, *([] if options.resume else ["--resume"])]


def written(workdir: pathlib.Path, places: list[pathlib.Path]) -> list[pathlib.Path]:
    """What the experiment wrote, as a user would look for it."""
    names = (
        "config.json", "metrics.jsonl", "result.json", "predictions.npz", "sha256sums.txt", "curves.png", "checkpoints",
        "events.*",
    )  # fmt: skip
    files = [path for place in places for name in names for path in sorted(place.glob(name))]
    return [workdir / "table.md", *files]
