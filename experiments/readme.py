"""The tables in README.md and docs/, generated from committed records, and that of the records' fields from their code.

    python -m experiments.readme                # rewrite them
    python -m experiments.reproduce --check     # fail if they differ from the records, or a record contradicts itself

docs/results.md has every study in experiments/results/. README.md has the final model at the report's scale, as soon as
it is among them, and the speed recorded in benchmarks/results/; results at a reduced scale do not appear there.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import timing
from experiments import final, report
from experiments.study import committed, statistics
from experiments.study.committed import Setting, Study
from experiments.study.experiment import ExperimentRecord, SettingRecord, StudyRecord
from experiments.study.results import data_name, provenance
from jresnet import cli
from jresnet.errors import InputError
from jresnet.records import schema
from jresnet.records.environment import Execution
from jresnet.records.epoch import Epoch
from jresnet.records.files import write_bytes
from jresnet.records.result import Result
from jresnet.records.run import CHANGEABLE, Data, Run, config_from_json
from jresnet.records.tables import Column, Row, Table, interval, number, spread, text

ROOT = pathlib.Path(__file__).resolve().parent.parent

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
_FINAL_COLUMNS = (
    text("final model", "source"),
    text("device", "device"),
    text("data", "data"),
    number("n", "n", "d"),
    spread("test accuracy (%)", f"{report.COMPARED}_mean", f"{report.COMPARED}_std", ".2f", 100),
    spread("time (h)", "seconds_mean", "seconds_std", ".2f", 1 / 3600),
    number("parameters", "parameters", ",d"),
)
_SPEED_COLUMNS = (
    number("width", "width", "d"),
    number("batch", "batch_size", "d"),
    number("images/s", "rate", ".0f"),
    timing.spread("x PyTorch eager", "torch eager", ".2f", missing="n/a"),
    timing.spread("x PyTorch compile", "torch compile", ".2f", missing="n/a"),
)


class Block(NamedTuple):
    """Generated lines of a file, between two comments."""

    path: str
    name: str
    lines: Callable[[Sequence[Study], dict], list[str]]  # of the studies and the record of speed

    @property
    def begin(self) -> str:
        """The comment before the lines."""
        return f"<!-- {self.name}: begin; generated from committed records by `python -m experiments.readme` -->"

    @property
    def end(self) -> str:
        """The comment after the lines."""
        return f"<!-- {self.name}: end -->"

    def split(self, root: pathlib.Path) -> tuple[str, str, str]:
        """The text before, between and after the comments, which belong to the outer two."""
        path = root / self.path
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}: run this in a checkout of the source") from None
        parts = re.fullmatch(f"(.*^{re.escape(self.begin)}\n)(.*)(^{re.escape(self.end)}$.*)", text, re.DOTALL | re.M)
        if parts is None or text.count(self.begin) != 1 or text.count(self.end) != 1:
            raise InputError(f"{path}: lacks its markers: restore the lines {self.begin!r} and {self.end!r}, once each")
        return parts[1], parts[2], parts[3]


def check(root: pathlib.Path = ROOT) -> list[str]:
    """Compare the generated tables with the records, and each record with its own raw data: a line per difference.

    Raises:
      InputError: a file is missing or lacks its markers, or a record is missing or damaged.
    """
    studies, speed = committed.read_studies(root), committed.read_speed(root)
    drifts = record_drifts(studies, speed, root)
    for block in BLOCKS:
        written = block.split(root)[1].splitlines()
        for old, new in itertools.zip_longest(written, block.lines(studies, speed), fillvalue="nothing"):
            if old != new:
                drifts.append(f"{block.path}: says {old!r}, the records give {new!r}: run python -m experiments.readme")
    return drifts


def record_drifts(studies: Sequence[Study], speed: dict, root: pathlib.Path) -> list[str]:
    """Where the records contradict themselves or their checksums, one line each."""
    drifts = [line for study in studies for line in committed.study_drifts(study, root)]
    return drifts + committed.speed_drifts(speed)


def update(root: pathlib.Path = ROOT) -> None:
    """Rewrite the generated tables from the records.

    Raises:
      InputError: as `check`, or a record contradicts itself; nothing was written.
    """
    studies, speed = committed.read_studies(root), committed.read_speed(root)
    if drifts := record_drifts(studies, speed, root):
        raise InputError(drifts[0])
    pages = {}
    for block in BLOCKS:
        before, _, after = block.split(root)
        pages[root / block.path] = before + "\n".join([*block.lines(studies, speed), after])
    for path, page in pages.items():
        write_bytes(path, page.encode())


def results(studies: Sequence[Study], _: dict) -> list[str]:
    """For each study what was run, a table, and where and how it was made."""
    lines: list[str] = []
    for study in studies:
        settings = [setting for setting in study.settings if setting.runs]
        records = [record for setting in settings for record in setting.runs.values()]
        if not records:
            continue
        rows = [
            {"experiment": setting.title, "setting": _label(setting)} | _summaries(list(setting.runs.values()))
            for setting in settings
        ]
        origin = (f"{name}: {value}." for name, value in provenance(records).items() if name != "Data")
        lines += [
            "", f"**{study.name}**: {_caption(records)}", "", *_markdown(_COLUMNS, rows), "",
            "Last epoch; test accuracy counts every image once; ± is the standard deviation over n seeds. "
            f"Command: `{study.command}`.",
            " ".join(origin), "",
        ]  # fmt: skip
    return lines


def headline(studies: Sequence[Study], speed: dict) -> list[str]:
    """The final model at the report's scale beside the report's, and a step's speed against PyTorch's."""
    reported = final.EXPERIMENT.reported["final"]
    accuracy = {f"{report.COMPARED}_mean": reported[report.COMPARED]}
    rows = [{"source": "report", "data": "CIFAR-10", "n": 1, "parameters": reported["parameters"]} | accuracy]
    # Runs on another copy of the data or another device are another row.
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for setting in (setting for study in studies for setting in study.settings if setting.experiment == "final"):
        for record in filter(_full_scale, setting.runs.values()):
            key = (data_name(record["dataset"]), record["dataset"]["sha256"], record["device"])
            groups.setdefault(key, []).append(record)
    for (data, _, device), records in groups.items():
        rows.append({"source": "jresnet", "device": device, "data": data} | _summaries(records))
    state = "Time is that of one run."
    if not groups:
        state = (
            "Not run yet: the final model at full scale (two CPU cores need about ten minutes an epoch), and "
            "anything on a GPU."
        )
    return [
        "", *_markdown(_FINAL_COLUMNS, rows), "",
        f"The report's final model; test accuracy is the mean over test batches, as the report computes it. {state}",
        "", *_speed(speed, cases=[case for case in speed["cases"] if case["width"] == report.FINAL.width]), "",
    ]  # fmt: skip


def all_speeds(_: Sequence[Study], speed: dict) -> list[str]:
    """The speed of a step against PyTorch's, at every width and batch size of the record."""
    return ["", *_speed(speed, speed["cases"]), ""]


def _speed(speed: dict, cases: Sequence[dict]) -> list[str]:
    rows = [case | case["speed_of_jax_over"] | {"rate": case["rivals"]["jax"]["images_per_second"]} for case in cases]
    environment = speed["environment"]
    return [
        *_markdown(_SPEED_COLUMNS, rows), "",
        f"Speed of a training step in float32 on {environment['cores']} cores ({environment['device']}), and its ratio "
        f"to PyTorch {environment['versions']['torch']}, eager and compiled: median [quartiles] over "
        f"{speed['options']['rounds']} rounds in which they alternate. Commit {environment['commit'][:12]}.",
    ]  # fmt: skip


def _full_scale(record: dict) -> bool:
    """Whether a run has the final model's configuration and the report's numbers of images."""
    free = (*CHANGEABLE, "validation", "budget")
    changes: dict[str, Any] = {name: getattr(report.FINAL, name) for name in free}
    same = dataclasses.replace(config_from_json(record["config"]), **changes) == report.FINAL
    data = record["dataset"]
    return same and (data["train"] + data["validation"], data["test"]) == (report.TRAIN_IMAGES, report.TEST_IMAGES)


def _summaries(records: Sequence[dict]) -> dict[str, Any]:
    """Number of runs, parameters, and the spread of each measure, as entries of a row."""
    measures = ("test_accuracy", report.COMPARED, "test_loss", "seconds")
    return {"n": len(records), "parameters": records[0]["parameters"]} | statistics.spreads(records, measures)


def _caption(records: Sequence[dict]) -> str:
    """Width, epochs and data set of the runs."""
    widths = ", ".join(f"{width:,}" for width in sorted({record["config"]["width"] for record in records}))
    epochs = ", ".join(f"{count:,}" for count in sorted({record["epochs"] for record in records}))
    data = [record["dataset"] for record in records]
    names = ", ".join(sorted({data_name(dataset) for dataset in data}))
    images = " or ".join(f"{count:,}" for count in sorted({dataset["train"] for dataset in data}))
    return (
        f"width {widths}, {epochs} epochs on {names}, {images} training and {data[0]['test']:,} test "
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
        for field in schema.documentation(kind):
            values = f"{field.values.removesuffix(' or null')}, or left out" if field.optional else field.values
            rows.append({"field": f"`{field.name}`", "value": values, "meaning": field.meaning})
        columns = [text("field", "field"), text("value", "value"), text("meaning", "meaning")]
        lines += ["", f"**{title}**", "", *_markdown(columns, rows)]
    return [*lines, ""]


def _markdown(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    return Table(columns, rows).markdown().splitlines()


BLOCKS = (
    Block("README.md", "headline", headline),
    Block("docs/results.md", "results", results),
    Block("docs/performance.md", "speed", all_speeds),
    Block("docs/runs.md", "fields", fields),
)

if __name__ == "__main__":
    raise SystemExit(cli.exit_status(update))
