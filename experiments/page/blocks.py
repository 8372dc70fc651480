"""The tables in README.md and docs/ that committed records give, and that of the records' fields from their code."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from experiments import costs, final, published, report
from experiments.anchors import Anchor
from experiments.page import beyond, fastest
from experiments.page.beyond import Candidate
from experiments.records import Records
from experiments.study import paired, speedruns, statistics
from experiments.study.committed import RESULTS, Setting
from experiments.study.experiment import ExperimentRecord, SettingRecord, StudyRecord
from experiments.study.results import data_name, markdown_lines, provenance
from experiments.study.stopped import STOPPED
from jresnet.cli.help import field_docstrings
from jresnet.records import schema
from jresnet.records.environment import Execution
from jresnet.records.epoch import Epoch
from jresnet.records.result import Result
from jresnet.records.run import CHANGEABLE, Data, Run, config_from_json
from jresnet.records.tables import Row, interval, number, spread, text

_COLUMNS = (
    text("experiment", "experiment"),
    text("setting", "setting"),
    number("parameters", "parameters", ",d"),
    number("n", "n", "d"),
    spread("test accuracy (%)", "test_accuracy_mean", "test_accuracy_std", ".2f", 100),
    interval("95 % CI (%)", "test_accuracy_low", "test_accuracy_high", ".2f", 100),
    spread("mean of test batches (%)", f"{report.COMPARED}_mean", f"{report.COMPARED}_std", ".2f", 100),
    spread("test loss", "test_loss_mean", "test_loss_std", ".4f"),
)
_FLIP_COLUMNS = (
    text("setting", "setting"),
    number("n", "n", "d"),
    spread("test accuracy with flip (%)", "mean", "std", ".2f", 100),
    interval("95 % CI (%)", "low", "high", ".2f", 100),
)
_FINAL_COLUMNS = (
    text("final model", "source"),
    text("device", "device"),
    text("data", "data"),
    number("n", "n", "d"),
    spread("test accuracy (%)", f"{report.COMPARED}_mean", f"{report.COMPARED}_std", ".2f", 100),
    spread("time (h)", "seconds_mean", "seconds_std", ".2f", 1 / 3600),
    number("parameters", "parameters", ",d"),
)


def results(records: Records) -> list[str]:
    """For each study what was run, a table, and where and how it was made."""
    lines: list[str] = []
    for study in records.studies:
        settings = [setting for setting in study.settings if setting.runs]
        runs = list(study.runs.values())
        if not runs:
            continue
        tested = any("test_accuracy" in record for record in runs)
        table, note = _tested(settings) if tested else _validated(settings)
        origin = (f"{name}: {value}." for name, value in provenance(runs).items() if name != "Data")
        lines += [
            "", f"**{study.name}**: {_caption(runs, tested)}", "", *table, "", *_flips(settings),
            *(_speedrun(study.speedrun) if study.speedrun else []), f"{note} Command: `{study.command}`.",
            " ".join(origin), "",
        ]  # fmt: skip
    return lines


def _flips(settings: Sequence[Setting]) -> list[str]:
    """Accuracies with test-time flip, which are apart from those to quote."""
    flips = {_label(setting): [flip.accuracy for flip in setting.flips.values()] for setting in settings}
    rows = [{"setting": label} | vars(statistics.summarise(found)) for label, found in flips.items() if found]
    how = "With the probabilities of each image and its mirror image together, apart from the accuracies to quote:"
    return [how, "", *markdown_lines(_FLIP_COLUMNS, rows), ""] if rows else []


def _speedrun(record: speedruns.Record) -> list[str]:
    """The record of a speedrun."""
    return [*markdown_lines(speedruns.COLUMNS, [speedruns.row(record)]), "", speedruns.NOTE, ""]


def _tested(settings: Sequence[Setting]) -> tuple[list[str], str]:
    """The table of settings by their test figures, and what to say of it."""
    rows = [
        {"experiment": setting.title, "setting": _label(setting)} | _summaries(list(setting.runs.values()))
        for setting in settings
    ]
    note = "Last epoch; test accuracy counts every image once; ± is the standard deviation over n seeds."
    return markdown_lines(_COLUMNS, rows), note


def _validated(settings: Sequence[Setting]) -> tuple[list[str], str]:
    """The same of a study that has evaluated no test image: each experiment's settings against its first."""
    rows: list[Row] = []
    for title, group in itertools.groupby(settings, lambda setting: setting.title):
        cells = [(_label(setting), list(setting.runs.values())) for setting in group]
        rows += [{"experiment": title, **row} for row in paired.compare(cells)]
    return markdown_lines((_COLUMNS[0], *paired.COLUMNS), rows), paired.NOTE


def headline(records: Records) -> list[str]:
    """The final model at the report's scale beside the report's, published weights, and a step's speed."""
    reported = final.EXPERIMENT.reported["final"]
    accuracy = {f"{report.COMPARED}_mean": reported[report.COMPARED]}
    rows = [{"source": "report", "data": "CIFAR-10", "n": 1, "parameters": reported["parameters"]} | accuracy]
    # Runs on another copy of the data or another device are another row.
    groups: dict[tuple[str, str, str], list[dict]] = {}
    settings = itertools.chain.from_iterable(study.settings for study in records.studies)
    for setting in (setting for setting in settings if setting.experiment == "final"):
        for record in filter(_full_scale, setting.runs.values()):
            key = (data_name(record["dataset"]), record["dataset"]["sha256"], record["device"])
            groups.setdefault(key, []).append(record)
    for (data, _, device), runs in groups.items():
        rows.append({"source": "jresnet", "device": device, "data": data} | _summaries(runs))
    state = "Time is that of one run."
    if not groups:
        run, epochs = records.stopped, records.stopped.epochs
        reached, seconds = epochs[-1].test_accuracy_batch_mean, sum(epoch.seconds for epoch in epochs)
        place = f"{data_name(dict(run.dataset))}, {run.device}, {STOPPED.as_posix()}"
        done = f"{len(epochs)} of {run.planned} epochs in {seconds:.0f} s"
        state = f"Here it was stopped at {reached:.2%}, after {done}: {place}."
    return [
        "", *markdown_lines(_FINAL_COLUMNS, rows), "",
        f"The report's final model; test accuracy is the mean over test batches, as the report computes it. {state}",
        "", _accuracies(records.published), "", *costs.speeds(records.speed, report.FINAL.width), "",
    ]  # fmt: skip


def _accuracies(record: published.Record) -> str:
    """What published weights reach here, on one line."""
    networks = ", ".join(
        f"{network.network} {100 * network.accuracy:.2f} % (published: {100 * network.published:.2f} %)"
        for network in record.networks
    )
    return (
        f"Published weights of {record.source}, converted and evaluated on {record.dataset['name']}: {networks}. "
        f"Device: {record.device}. Commit {(record.commit or 'unknown')[:12]}."
    )


def accuracy(records: Records) -> list[str]:
    """Published results, and ours on all of CIFAR-10, as a figure and a table."""
    table = beyond.table(marks(records))
    return [
        "", f"![Test accuracy against arithmetic and seconds of training]({beyond.FIGURE.name})", "",
        *markdown_lines(table.columns, table.rows), "", table.caption, "",
    ]  # fmt: skip


def marks(records: Records) -> dict[str, Anchor]:
    """The results that `beyond` shows."""
    candidates = (
        Candidate(
            f"{study.name}, {setting.label}", (RESULTS / study.name).as_posix(), setting.chosen_on_test, setting.runs
        )
        for study in records.studies
        for setting in study.settings
    )
    stopped = beyond.of_stopped(records.stopped, STOPPED.as_posix())
    return beyond.marks([stopped, *beyond.ours(candidates)])


def curve(records: Records) -> Sequence[Sequence[dict]]:
    """The epochs of the best speedrun."""
    return fastest.histories(fastest.find(records.studies))


def _full_scale(record: dict) -> bool:
    """Whether a run has the final model's configuration and the report's numbers of images."""
    free = (*CHANGEABLE, "validation", "budget", "test_after")
    changes: dict[str, Any] = {name: getattr(report.FINAL, name) for name in free}
    same = dataclasses.replace(config_from_json(record["config"]), **changes) == report.FINAL
    data = record["dataset"]
    return same and (data["train"] + data["validation"], data["test"]) == (report.TRAIN_IMAGES, report.TEST_IMAGES)


def _summaries(records: Sequence[dict]) -> dict[str, Any]:
    """Number of runs, parameters, and the spread of each measure, as entries of a row."""
    measures = ("test_accuracy", report.COMPARED, "test_loss", "seconds")
    return {"n": len(records), "parameters": records[0]["parameters"]} | statistics.spreads(records, measures)


def _caption(records: Sequence[dict], tested: bool) -> str:
    """Width, epochs and data set of the runs."""
    widths = ", ".join(f"{width:,}" for width in sorted({record["config"]["width"] for record in records}))
    epochs = ", ".join(f"{count:,}" for count in sorted({record["epochs"] for record in records}))
    data = [record["dataset"] for record in records]
    names = ", ".join(sorted({data_name(dataset) for dataset in data}))
    images = " or ".join(f"{count:,}" for count in sorted({dataset["train"] for dataset in data}))
    split = "test" if tested else "validation"
    return (
        f"width {widths}, {epochs} epochs on {names}, {images} training and {data[0][split]:,} {split} "
        f"images (sha256 {', '.join(sorted({dataset['sha256'][:12] for dataset in data}))})."
    )


def _label(setting: Setting) -> str:
    """The setting's label, with the channels of a reduced study where they differ from it."""
    widths = {str(record["config"]["width"]) for record in setting.runs.values()} - {setting.label}
    scaled = setting.experiment == "width" and widths
    return f"{setting.label} (here {', '.join(sorted(widths))})" if scaled else setting.label


def fields(*_: Any) -> list[str]:
    """For each record of a run and of a study a table of its fields."""
    kinds = {
        "config.json": Run, "metrics.jsonl, one line per epoch": Epoch, "result.json": Result, "`dataset`": Data,
        "`execution`": Execution, "outcome.json": StudyRecord, "an experiment of outcome.json": ExperimentRecord,
        "a setting of it": SettingRecord,
    }  # fmt: skip
    lines: list[str] = []
    for title, kind in kinds.items():
        rows: list[Row] = []
        meanings = field_docstrings(kind)
        for field in dataclasses.fields(kind):
            values = schema.describe(schema.hints(kind)[field.name])
            if field.default is None:
                values = f"{values.removesuffix(' or null')}, or left out"
            rows.append({"field": f"`{field.name}`", "value": values, "meaning": meanings[field.name]})
        columns = [text("field", "field"), text("value", "value"), text("meaning", "meaning")]
        lines += ["", f"**{title}**", "", *markdown_lines(columns, rows)]
    return [*lines, ""]
