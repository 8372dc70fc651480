"""The program of a sweep: every setting of an experiment over seeds -> a table and a verdict.

Its options are those of a single experiment; they hold for every setting, except for what the sweep varies.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from experiments import report
from experiments.study import runs, statistics, workers
from experiments.study.experiment import Experiment
from experiments.study.options import QUICK, check_runs, parse, seeds_of
from experiments.study.progress import Progress
from experiments.study.results import results_table
from experiments.study.runs import StudyRun
from experiments.study.single import Options
from jresnet import cli
from jresnet.cli.runs import resumable
from jresnet.errors import InputError
from jresnet.records.files import write_bytes
from jresnet.records.lock import hold
from jresnet.rules import flag


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> int:
    """Run a sweep from the command line; returns the exit status, see `jresnet.cli.exit_status`."""
    return cli.run_program(partial(run, experiment), arguments)


def run(experiment: Experiment, arguments: list[str]) -> None:
    """Parse the options, train every setting and seed, and print the table, the verdict and the directories."""
    program = f"python -m experiments.{experiment.name}"
    options, experiment = configure(program, experiment, arguments)
    check_runs(options, "seeds", options.seeds * len(experiment.settings))
    workers.check(options)
    workdir = options.directory(experiment.name)
    console = cli.make_console()
    dataset = options.load(console)
    groups = {
        setting.label: runs.over_seeds(experiment.name, setting.config, seeds_of(options), dataset, workdir)
        for setting in experiment.settings
    }
    seed_by_seed = [run for of_seed in zip(*groups.values(), strict=True) for run in of_seed]
    runs.check(seed_by_seed, workdir)
    if not options.resume and any(run.directory.exists() for run in seed_by_seed):
        raise InputError(f"--workdir {workdir}: already holds runs of this experiment: add --resume to continue them")
    progress = Progress(console, options.processes)
    command = options.resuming(program, arguments, workdir)
    with resumable(command), hold(workdir, shared=True):
        progress.train(seed_by_seed, groups)
        conclude(experiment, groups, workdir, progress)
    progress.raise_failures(command)


def configure(program: str, experiment: Experiment, arguments: list[str]) -> tuple[Options, Experiment]:
    """The options, and the experiment with those given applied to every setting; refuses the one that it varies."""
    configs = [setting.config for setting in experiment.settings]
    varying = {name for name in vars(configs[0]) if len({getattr(config, name) for config in configs}) > 1}
    options = parse(program, configs[0], arguments, Options)
    quick: dict[str, Any] = QUICK if options.quick else {}
    default = dataclasses.replace(configs[0], **quick)
    given = {name: value for name, value in vars(options.config).items() if value != getattr(default, name)}
    if clash := sorted(given.keys() & varying):
        labels = ", ".join(setting.label for setting in experiment.settings)
        raise InputError(f"{flag(clash[0])}: is what this experiment varies ({labels}): leave it out")
    changes = {name: value for name, value in quick.items() if name not in varying} | given
    configs = [dataclasses.replace(config, **changes) for config in configs]
    if options.quick and "width" in varying:
        scale = QUICK["width"] / cast(int, report.INITIAL.width)  # the widths keep their proportions
        configs = [dataclasses.replace(c, width=round(cast(int, c.width) * scale)) for c in configs]
    return options, experiment.with_configs(configs)


def conclude(
    experiment: Experiment, groups: Mapping[str, Sequence[StudyRun]], workdir: pathlib.Path, progress: Progress
) -> None:
    """Write and print the table, the verdict and the runs' directories."""
    cells = [progress.cell(setting, groups[setting.label]) for setting in experiment.settings]
    records = [record | {"experiment": experiment.name} for cell in cells for record in cell.records]
    if records:
        table = results_table(records)
        write_bytes(workdir / "table.md", table.markdown().encode())
        progress.console.print(table)
    if (verdict := statistics.judge(experiment, cells)) is not None:
        progress.say(verdict.sentence)
    for path in [workdir / "table.md", *(directory for cell in cells for directory in cell.directories)]:
        progress.say(str(path))
