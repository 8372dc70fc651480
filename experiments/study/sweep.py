"""A sweep's program: one experiment of the report, every setting over seeds -> a table and a verdict.

Its options are those of a single experiment; they hold for every setting, except for what the sweep varies.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, cast

from experiments import report
from experiments.study import runs, single, statistics
from experiments.study.experiment import Cell, Experiment, Setting
from experiments.study.progress import Ledger
from experiments.study.single import Options
from jresnet import cli
from jresnet.config import Config
from jresnet.data.datasets import load_dataset
from jresnet.errors import Diverged, InputError, Interrupted
from jresnet.records.files import write_bytes
from jresnet.records.tables import markdown_table, results_table


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run the sweep of this name from the command line; returns the exit status, see `jresnet.cli.exit_status`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return cli.exit_status(lambda: run(report.experiment(name), words))


def run(experiment: Experiment, arguments: list[str]) -> None:
    """Parse the options, train every setting and seed, and print the table, the verdict and the paths."""
    program = f"python -m experiments.{experiment.name}"
    options, experiment = parse(program, experiment, arguments)
    workdir = pathlib.Path(options.workdir) if options.workdir else single.default_workdir(experiment.name, options)
    dataset = load_dataset(options.dataset, options.data_dir).subset(options.train_images, options.test_images)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    groups = {
        setting.label: [runs.make(experiment.name, setting.config, seed, dataset, workdir) for seed in seeds]
        for setting in experiment.settings
    }
    every = [run for of_seed in zip(*groups.values(), strict=True) for run in of_seed]
    runs.check(every, workdir)
    if not options.resume and any(run.place.exists() for run in every):
        raise InputError(f"--workdir {workdir}: already holds runs of this experiment: add --resume to go on with them")
    ledger = Ledger(cli.make_console())
    try:
        ledger.train(every, groups)
    except Interrupted as stop:
        again = cli.command(program, single.resumed(arguments, options, workdir))
        raise Interrupted(f"{stop}; go on with: {again}", stop.signal) from None
    cells = [cell(setting.label, setting.config, groups[setting.label], ledger) for setting in experiment.settings]
    conclude(experiment, cells, workdir, ledger)


def parse(program: str, experiment: Experiment, arguments: list[str]) -> tuple[Options, Experiment]:
    """The options, and the experiment with those that were given put into every setting.

    Raises:
      InputError: an option is given that the experiment varies.
    """
    first = experiment.settings[0].config
    fields = [field.name for field in dataclasses.fields(Config)]
    varying = {name for name in fields if len({getattr(s.config, name) for s in experiment.settings}) > 1}
    options = single.parse(program, first, arguments, Options)
    quick: dict[str, Any] = single.QUICK if options.quick else {}
    default = dataclasses.replace(first, **quick)
    given = {name: getattr(options, name) for name in fields if getattr(options, name) != getattr(default, name)}
    if clash := sorted(given.keys() & varying):
        option = f"--{clash[0].replace('_', '-')}"
        labels = ", ".join(setting.label for setting in experiment.settings)
        raise InputError(f"{option}: is what this experiment varies ({labels}): leave it out")
    changes = {name: value for name, value in quick.items() if name not in varying} | given
    settings = [dataclasses.replace(s, config=dataclasses.replace(s.config, **changes)) for s in experiment.settings]
    if options.quick and "width" in varying:
        settings = [dataclasses.replace(s, config=_narrowed(s.config)) for s in settings]
    return options, dataclasses.replace(experiment, settings=tuple(settings))


def _narrowed(config: Config) -> Config:
    """At the small scale a sweep over widths keeps their proportions."""
    scale = single.QUICK["width"] / cast(int, report.INITIAL.width)
    return dataclasses.replace(config, width=round(cast(int, config.width) * scale))


def cell(label: str, config: Config, wanted: Sequence[runs.Run], ledger: Ledger) -> Cell:
    """What was run for a setting, as far as the verdict needs it."""
    done = [(run.place, record) for run in wanted if (record := ledger.result(run)) is not None]
    places, records = tuple(place for place, _ in done), tuple(record for _, record in done)
    return Cell(Setting(label, config), records, (), places, "")


def conclude(experiment: Experiment, cells: Sequence[Cell], workdir: pathlib.Path, ledger: Ledger) -> None:
    """Write and print the table, and say the verdict and where the runs lie.

    Raises:
      Diverged: a run did, after everything else has been said.
    """
    records = [record | {"experiment": experiment.name} for cell in cells for record in cell.records]
    if records:
        write_bytes(workdir / "table.md", markdown_table(records).encode())
        ledger.console.print(results_table(records))
    verdict = statistics.judge(experiment, cells)
    if verdict is not None:
        ledger.say(verdict.sentence)
    for path in [workdir / "table.md", *(place for cell in cells for place in cell.places)]:
        ledger.say(str(path))
    if ledger.failed:
        raise Diverged("; ".join(f"{place}: {why}" for place, why in ledger.failed.items()))
