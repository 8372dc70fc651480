"""The whole report from one command: every experiment, repeated, beside the report's own figures, as one page.

    python -m experiments.reproduce                              # at full scale: days of one GPU
    python -m experiments.reproduce --shard 2/8 --workdir SHARED # an eighth of it; so in each of an array's jobs
    python -m experiments.reproduce --width-scale 0.125 --epochs 5 --seeds 2
    python -m experiments.reproduce --quick                      # minutes: tiny networks, synthetic images

The same command goes on where a study was stopped; runs that are recorded are not repeated.
"""

import sys
from collections.abc import Sequence

from experiments import report
from experiments.page import page
from experiments.study import plan, statistics
from experiments.study.experiment import Cell, Experiment, Outcome
from experiments.study.plan import Plan, StudyOptions
from experiments.study.progress import Ledger
from jresnet import cli
from jresnet.data.datasets import dataset_record, load_dataset
from jresnet.errors import Diverged, InputError, Interrupted
from jresnet.records.tables import data_name

PROGRAM = "python -m experiments.reproduce"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study from the command line; returns the exit status, see `jresnet.cli.exit_status`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return cli.exit_status(lambda: run(words))


def run(arguments: list[str]) -> None:
    """Parse the options, train what is missing, write the page, and say what it comes to."""
    options = plan.parse(arguments, PROGRAM)
    if options.check:
        check_readme()
        return
    dataset = load_dataset(options.dataset, options.data_dir).subset(options.train_images, options.test_images)
    ledger = Ledger(cli.make_console())
    study = Plan(options, dataset, ledger)
    study.check()
    try:
        waiting = train(study, ledger)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; go on with: {cli.command(PROGRAM, arguments)}", stop.signal) from None
    outcome = collect(study, cli.command(PROGRAM, arguments))
    conclude(outcome, waiting, ledger)
    for path in page.write(outcome, options.place):
        ledger.say(str(path))
    if ledger.failed:
        count = len(ledger.failed)
        failures = "; ".join(f"{place}: {why}" for place, why in ledger.failed.items())
        raise Diverged(f"{count} run{'s' if count > 1 else ''} diverged, {failures}")


def train(study: Plan, ledger: Ledger) -> dict[str, str]:
    """Train this process's share until nothing of it is left that could be; returns what waits for what."""
    while True:
        stages, waiting = study.ready()
        experiments = [experiment for stage in stages for experiment in stage]
        groups, mine = study.groups(experiments), study.mine(stages)
        ledger.console.print(ledger.table(groups, mine))
        ledger.train(mine, groups)
        if not waiting or study.ready()[1] == waiting:
            return waiting


def collect(study: Plan, command: str) -> Outcome:
    """The study as far as it has come."""
    order = {name: place for place, name in enumerate(report.NAMES)}
    known = sorted((e for stage in study.ready()[0] for e in stage), key=lambda experiment: order[experiment.name])
    results = tuple((experiment, study.cells(experiment)) for experiment in known)
    options = study.options
    return Outcome(
        results, study.dataset, options.seeds, options.select, options.follow, command, caption(study, results)
    )  # fmt: skip


def caption(study: Plan, results: Sequence[tuple[Experiment, tuple[Cell, ...]]]) -> str:
    """What was really run, in words: data, scale, repetition and devices."""
    options, dataset = study.options, study.dataset
    held_out = study.changes["validation"]
    train = f"{len(dataset.train):,} training images"
    if held_out:
        train += f", {held_out:,} of them held out for validation"
    widths = sorted({cell.setting.config.width or 0 for _, cells in results for cell in cells})
    channels = "the report's channels"
    if options.width_scale != 1:
        channels = f"{', '.join(map(str, widths))} channels (the report's times {options.width_scale:g})"
    if options.blocks is not None:
        channels += f"; {' '.join(map(str, options.blocks))} blocks per stage in place of 2 2 2 2"
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''} per setting"
    devices = sorted({record["device"] for _, cells in results for cell in cells for record in cell.records})
    scale = _scale(options)
    name = data_name(dataset_record(dataset, dataset.sha256))
    parts = [f"{scale}: {name}", train, f"{len(dataset.test):,} test images", f"{options.epochs} epochs"]
    return "; ".join([*parts, channels, seeds, "on " + (" and ".join(devices) or "no device yet")])


def _scale(options: StudyOptions) -> str:
    full = plan.StudyOptions()
    names = ("dataset", "epochs", "width_scale", "blocks", "train_images", "test_images")
    same = all(getattr(options, name) == getattr(full, name) for name in names)
    return "The report's scale" if same else "Not the report's scale"


def conclude(outcome: Outcome, waiting: dict[str, str], ledger: Ledger) -> None:
    """Say the verdicts, and what is missing."""
    ledger.say(outcome.caption)
    for experiment, cells in outcome.experiments:
        verdict = statistics.judge(experiment, cells)
        if verdict is not None:
            ledger.say(f"{experiment.title}: {verdict.sentence}")
    for name, needed in waiting.items():
        ledger.say(f"{name} waits for {needed}, which is not finished: run the same command again when it is")


def check_readme() -> None:
    """Raise InputError if README's results table is not what the committed records say."""
    from experiments import readme

    problems = readme.check()
    if problems:
        raise InputError("; ".join(problems))


if __name__ == "__main__":
    raise SystemExit(main())
