"""The whole report from one command: every experiment, repeated, beside the report's own values, as one page.

    python -m experiments.reproduce                              # at full scale: days of one GPU
    python -m experiments.reproduce --shard 2/8 --workdir SHARED # one eighth of it, for example in a job array
    python -m experiments.reproduce --processes 4                # four runs at once on one GPU
    python -m experiments.reproduce --width-scale 0.125 --epochs 5 --seeds 2
    python -m experiments.reproduce --quick                      # minutes: tiny networks, synthetic images

The same command resumes an interrupted study; finished runs are not repeated.

Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from collections.abc import Sequence
from functools import partial

from experiments import readme
from experiments.page import page
from experiments.study import plan, statistics, workers
from experiments.study.experiment import Cell, Experiment, Outcome
from experiments.study.plan import NAMES, Plan, StudyOptions
from experiments.study.progress import Progress
from experiments.study.results import data_name
from jresnet import cli
from jresnet.cli.runs import resumable
from jresnet.data.datasets import dataset_record, load_dataset
from jresnet.errors import InputError
from jresnet.records.lock import hold

PROGRAM = "python -m experiments.reproduce"


def run(arguments: list[str]) -> None:
    """Parse the options, train missing runs, write the page, and print the conclusions."""
    options = plan.parse(arguments, PROGRAM)
    if options.check:
        if drifts := readme.check():
            raise InputError("; ".join(drifts))
        return
    workers.check(options)
    console = cli.make_console()
    dataset = load_dataset(options, console=console).subset(options.train_images, options.test_images)
    progress = Progress(console, options.processes)
    study = Plan(options, dataset, progress)
    study.check()
    command = cli.command(PROGRAM, arguments)
    with resumable(command), hold(options.directory, shared=True):
        waiting = train(study, progress)
        outcome = collect(study, command)
        conclude(outcome, waiting, progress)
        for path in page.write(outcome, options.directory):
            progress.say(str(path))
    progress.raise_failures(command)


def train(study: Plan, progress: Progress) -> dict[str, str]:
    """Train this process's share as far as that is possible; returns experiment -> the unfinished one it waits for."""
    while True:
        stages, waiting = study.ready()
        groups = study.groups([experiment for stage in stages for experiment in stage])
        mine = study.mine(stages)
        progress.console.print(progress.table(groups, mine))
        progress.train(mine, groups)
        if not waiting or study.ready()[1] == waiting:
            return waiting


def collect(study: Plan, command: str) -> Outcome:
    """The results of the study, complete or partial."""
    known = [experiment for stage in study.ready()[0] for experiment in stage]
    experiments = tuple((e, study.cells(e)) for e in sorted(known, key=lambda e: NAMES.index(e.name)))
    options = study.options
    return Outcome(
        experiments, study.dataset, options.seeds, options.select, options.follow, command, caption(study, experiments)
    )  # fmt: skip


def caption(study: Plan, experiments: Sequence[tuple[Experiment, tuple[Cell, ...]]]) -> str:
    """Data, scale, repetition and devices of the study, in words."""
    options, dataset = study.options, study.dataset
    cells = [cell for _, cells in experiments for cell in cells]
    train = f"{len(dataset.train):,} training images"
    if held_out := study.changes["validation"]:
        train += f", {held_out:,} of them held out for validation"
    channels = "the report's channels"
    if options.width_scale != 1:
        widths = sorted({cell.setting.config.width or 0 for cell in cells})
        channels = f"{', '.join(map(str, widths))} channels (the report's times {options.width_scale:g})"
    if options.blocks is not None:
        channels += f"; {' '.join(map(str, options.blocks))} blocks per stage in place of 2 2 2 2"
    names = ("dataset", "epochs", "width_scale", "blocks", "train_images", "test_images")
    full = all(getattr(options, name) == getattr(StudyOptions(), name) for name in names)
    devices = sorted({record["device"] for cell in cells for record in cell.records})
    parts = [
        f"{'The' if full else 'Not the'} report's scale: {data_name(dataset_record(dataset, dataset.sha256))}",
        train,
        f"{len(dataset.test):,} test images",
        f"{options.epochs} epochs",
        channels,
        f"{options.seeds} seed{'s' if options.seeds > 1 else ''} per setting",
        "on " + (" and ".join(devices) or "no device yet"),
    ]
    return "; ".join(parts)


def conclude(outcome: Outcome, waiting: dict[str, str], progress: Progress) -> None:
    """Print the verdicts, and which experiments still wait for others."""
    progress.say(outcome.caption)
    for experiment, cells in outcome.experiments:
        if (verdict := statistics.judge(experiment, cells)) is not None:
            progress.say(f"{experiment.title}: {verdict.sentence}")
    for name, needed in waiting.items():
        progress.say(f"{name} waits for {needed}, which is not finished: run the same command again when it is")


main = partial(cli.run_program, run)

if __name__ == "__main__":
    raise SystemExit(main())
