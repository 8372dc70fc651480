"""The program of a single experiment: it trains one configuration with one or more seeds and prints a table."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial

from experiments.study import workers
from experiments.study.options import RunsOptions, SeedOptions, parse, seeds_of
from experiments.study.progress import Progress
from experiments.study.results import results_table
from experiments.study.runs import StudyRun
from jresnet import cli, models
from jresnet.cli.runs import default_directory, resumable
from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.errors import InputError
from jresnet.parallel import distributed
from jresnet.parallel.devices import Devices
from jresnet.parallel.distributed import ProcessOptions
from jresnet.records import run_directory
from jresnet.records.epoch import METRICS
from jresnet.records.files import Record, local_path, write_bytes
from jresnet.records.lock import hold
from jresnet.rules import require
from jresnet.train import initial, loop


@dataclasses.dataclass(frozen=True)
class Options(RunsOptions, SeedOptions):
    """Options of an experiment: its configuration, and how to run it."""

    workdir: str | None = None
    """Directory of the run, or of the runs if there are several (default: a new one below runs/)."""
    resume: bool = False
    """Continue in --workdir, or in the latest default directory; finished runs are kept."""

    def directory(self, experiment: str) -> pathlib.Path:
        """--workdir, or a directory of its own below runs/, see `cli.train.default_directory`."""
        if self.workdir:
            return local_path(self.workdir, "--workdir")
        return default_directory(f"{experiment}-quick" if self.quick else experiment, self.resume)

    def resuming(self, program: str, arguments: Sequence[str], directory: pathlib.Path) -> str:
        """The command that resumes the experiment after an interruption."""
        workdir = [] if self.workdir else ["--workdir", str(directory)]
        return cli.command(program, [*arguments, *workdir, *([] if self.resume else ["--resume"])])


@dataclasses.dataclass(frozen=True)
class SingleOptions(ProcessOptions, Options):
    """Options of a single experiment, which several processes may train together."""


def main(experiment: str, config: Config, arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line; returns the exit status, see `jresnet.cli.exit_status`.

    It is named after its module in `experiments`; `config` has the defaults of the configuration's options.
    """
    return cli.run_program(partial(run, experiment, config), arguments)


def run(experiment: str, config: Config, arguments: list[str]) -> None:
    """Parse the options, train every seed, and print the table and the files written."""
    program = f"python -m experiments.{experiment}"
    options = parse(program, config, arguments, SingleOptions)
    check_runs_apart(options)
    distributed.initialize(options)
    workers.check(options)
    workdir = options.directory(experiment)
    console = cli.make_console(quiet=not distributed.is_primary())
    dataset = options.load(console)
    seeds = seeds_of(options)
    directories = {seed: workdir if options.seeds == 1 else workdir / f"seed-{seed}" for seed in seeds}
    with distributed.lost_peers():
        distributed.require_equal({"--seeds": options.seeds, "--first-seed": options.first_seed}, {})
    check_layout(workdir, options.seeds)
    if options.seeds > 1:  # every directory, before the first run is trained
        held_out = dataset.hold_out(options.validation, options.first_seed)
        needing = [directory for directory in directories.values() if not initial.has_begun(directory)]
        start = initial.read(options.config, (needing or [workdir / f"seed-{options.first_seed}"])[0])
        config = initial.adopted(options.config, start)
        models.check_network(config, len(dataset.classes), dataset.image_size)
        models.check_training(config, held_out, Devices(config).count)
        config = models.fill_defaults(config)
        for seed, directory in directories.items():
            run_directory.check(directory, config, seed, dataset.sha256, options.resume, start and start.record)
    command = options.resuming(program, arguments, workdir)
    # A single run's directory is held by `fit`.
    held = hold(workdir) if options.seeds > 1 and distributed.is_primary() else contextlib.nullcontext()
    with resumable(command), held:
        if options.processes > 1:
            progress = Progress(console, options.processes)
            records = train_at_once(experiment, config, dataset, directories, progress, command)
        else:
            records = [
                loop.fit(
                    options.config, dataset, directory,
                    seed=seed, experiment=experiment, resume=options.resume, console=console,
                ).to_json()
                for seed, directory in directories.items()
            ]  # fmt: skip
    table = results_table(records)
    if distributed.is_primary():
        write_bytes(workdir / "table.md", table.markdown().encode())
    console.print(table)
    for path in written(workdir, list(directories.values())):
        console.out(path, highlight=False)


def check_runs_apart(options: SingleOptions) -> None:
    """Raise InputError if there are fewer runs than processes, or several processes for each run."""
    rule = f"must be at most --seeds {options.seeds}, the number of runs"
    require(options, "processes", options.processes <= options.seeds, rule)
    together = distributed.num_processes_and_id(options, os.environ)[0]
    rule = f"trains runs apart, but {together} processes train each run together: choose one of the two"
    require(options, "processes", options.processes == 1 or together == 1, rule)


def train_at_once(
    experiment: str,
    config: Config,
    dataset: Dataset,
    directories: Mapping[int, pathlib.Path],
    progress: Progress,
    command: str,
) -> list[Record]:
    """Train every seed in its directory, several at once; returns the records of their results.

    Raises:
      InputError: another process trains one of them.
    """
    runs = [StudyRun(path, experiment, config, seed, dataset, 1, keep=2) for seed, path in directories.items()]
    progress.train(runs, {experiment: runs})
    progress.raise_failures(command)
    results = progress.finished(runs)
    for run in runs:
        if run not in results:
            raise InputError(f"{run.directory}: another process trains this run: go on when it is done with: {command}")
    return list(results.values())


def check_layout(workdir: pathlib.Path, seeds: int) -> None:
    """Raise InputError if `workdir` holds one run and several are to be made in it, or the reverse."""
    with contextlib.suppress(OSError):  # the runs' own checks report what is wrong with the directory
        if seeds > 1 and (workdir / run_directory.CONFIG).exists():
            raise InputError(f"--workdir {workdir}: holds a single run: choose another directory for {seeds} seeds")
        if seeds == 1 and any(workdir.glob(f"seed-*/{run_directory.CONFIG}")):
            raise InputError(f"--workdir {workdir}: holds runs of several seeds: choose another directory for one")


def written(workdir: pathlib.Path, directories: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The files of the experiment, the most useful first."""
    names = (
        run_directory.CONFIG, METRICS, run_directory.RESULT, run_directory.PREDICTIONS, run_directory.SUMS,
        run_directory.CURVES, run_directory.CHECKPOINTS, "events.*",
    )  # fmt: skip
    files = [path for directory in directories for name in names for path in sorted(directory.glob(name))]
    return [workdir / "table.md", *files]
