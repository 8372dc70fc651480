"""README's table of results, made from the records in experiments/results/: `check` compares, `update` rewrites.

    python -m experiments.readme        # rewrite it

A directory there is one study: outcome.json, as `experiments.page` writes it, names its experiments, settings and
runs; a run's directory holds result.json, metrics.jsonl and their sha256sums.txt. Nothing else is read.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import report
from experiments.page import tables
from experiments.page.page import OUTCOME
from experiments.page.tables import Column, Row
from experiments.study import statistics
from jresnet import cli
from jresnet.errors import InputError
from jresnet.records import run_directory
from jresnet.records.files import write_bytes
from jresnet.records.log import METRICS, read_metrics
from jresnet.records.tables import data_name, provenance
from jresnet.train import loop

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS, README = pathlib.Path("experiments", "results"), "README.md"
BEGIN = "<!-- results: begin; made from experiments/results by `python -m experiments.readme` -->"
END = "<!-- results: end -->"

_FIGURES = ("_loss", "_accuracy", "_batch_mean")  # endings of what result.json repeats of the last epoch

_COLUMNS = (
    tables.plain("experiment", "experiment"),
    tables.plain("setting", "setting"),
    tables.number("parameters", "parameters", ",d"),
    tables.plain("n", "n"),
    tables.spread("test accuracy (%)", "accuracy_mean", "accuracy_std", ".2f", 100),
    tables.interval("95 % CI (%)", "accuracy_low", "accuracy_high", ".2f", 100),
    tables.spread("mean of test batches (%)", "batches_mean", "batches_std", ".2f", 100),
    tables.spread("test loss", "loss_mean", "loss_std", ".4f"),
)


def check(root: pathlib.Path = ROOT) -> list[str]:
    """Compare README's table with the records, and each record with its own epochs and its sum.

    Args:
      root: the source tree.

    Returns:
      A line per drift: which file, what it says, what it should say. Empty where all agree.

    Raises:
      InputError: README lacks its markers, or a record is missing or damaged.
    """
    drifts = [line for directory in _studies(root) for line in _contradictions(directory, root)]
    _, shown, _ = _split(root)
    for line in range(max(len(shown), len(made := _block(root)))):
        old, new = (lines[line] if line < len(lines) else "nothing" for lines in (shown, made))
        if old != new:
            drifts.append(f"{README}: says {old!r}, the records give {new!r}: run python -m experiments.readme")
    return drifts


def update(root: pathlib.Path = ROOT) -> None:
    """Rewrite README's table from the records.

    Raises:
      InputError: as `check`; nothing was written.
    """
    before, _, after = _split(root)
    write_bytes(root / README, "\n".join([*before, BEGIN, *_block(root), END, *after]).encode())


def _split(root: pathlib.Path) -> tuple[list[str], list[str], list[str]]:
    """README's lines before, between and after the markers."""
    path = root / README
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: run this from a checkout of the source") from None
    if [lines.count(BEGIN), lines.count(END)] != [1, 1] or lines.index(BEGIN) > lines.index(END):
        raise InputError(f"{path}: lacks its markers: put back the lines {BEGIN!r} and {END!r}, once each")
    begin, end = lines.index(BEGIN), lines.index(END)
    return lines[:begin], lines[begin + 1 : end], lines[end + 1 :]


def _block(root: pathlib.Path) -> list[str]:
    """The lines between the markers: per study what was run, the table, where and how."""
    return [line for directory in _studies(root) for line in _study(directory)]


def _studies(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in (root / RESULTS).iterdir() if path.is_dir())


def _study(directory: pathlib.Path) -> list[str]:
    outcome, cells = _read(directory)
    records = [record for _, _, records in cells for record in records]
    if not records:
        return []
    origin = [f"{name}: {value}." for name, value in provenance(records).items() if name != "Data"]
    rows = [_row(title, label, records) for title, label, records in cells if records]
    return [
        "", f"**{directory.name}**: {_caption(records)}", "", *_markdown(_COLUMNS, rows), "",
        f"Last epoch; test accuracy counts every image once; ± is the standard deviation over n seeds. "
        f"Command: `{outcome['command']}`.",
        " ".join(origin), "",
    ]  # fmt: skip


def _caption(records: Sequence[dict]) -> str:
    """Width, epochs and data set of what was really run."""
    widths = sorted({record["config"]["width"] for record in records})
    epochs = sorted({record["epochs"] for record in records})
    data = [record["dataset"] for record in records]
    names = ", ".join(sorted({data_name(one) for one in data}))
    images = " or ".join(f"{count:,}" for count in sorted({one["train"] for one in data}))
    return (
        f"width {_listed(widths)}, {_listed(epochs)} epochs on {names}, {images} training and {data[0]['test']:,} test "
        f"images (sha256 {', '.join(sorted({one['sha256'][:12] for one in data}))})."
    )


def _row(title: str, label: str, records: Sequence[dict]) -> Row:
    row: dict[str, Any] = {
        "experiment": title, "setting": label, "n": len(records), "parameters": records[0]["parameters"],
    }  # fmt: skip
    figures = {"accuracy": "test_accuracy", "batches": report.COMPARED, "loss": "test_loss"}
    for name, key in figures.items():
        found = statistics.summarise([record[key] for record in records])
        row |= {f"{name}_{part}": getattr(found, part) for part in ("mean", "std", "low", "high")}
    return row


def _markdown(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    return tables.Table("results", "", tuple(columns), tuple(rows)).markdown().strip().split("\n")


def _read(directory: pathlib.Path) -> tuple[dict, list[tuple[str, str, list[dict]]]]:
    """A study's outcome.json, and its cells: title of the experiment, label of the setting, records."""
    outcome = run_directory.read_json(directory / OUTCOME)
    try:
        cells = []
        for experiment in outcome["experiments"]:
            for setting in experiment["settings"]:
                records = [_record(directory / run) for run in setting["runs"]]
                label = _label(experiment["name"], setting["label"], records)
                cells.append((f"{experiment['section']} {experiment['title']}", label, records))
        outcome["command"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{directory / OUTCOME}: not a study's ({error!r}): take it from the study again") from None
    return outcome, cells


def _label(experiment: str, label: str, records: Sequence[dict]) -> str:
    """The setting's label; where a reduced study's channels are other than it says, with those."""
    widths = {str(record["config"]["width"]) for record in records} - {label}
    return f"{label} (here {', '.join(sorted(widths))})" if experiment == "width" and widths else label


def _record(run: pathlib.Path) -> dict:
    """A run's result.json, with everything that this module reads of it."""
    path = run / run_directory.RESULT
    record = run_directory.read_json(path)
    loop.Result.from_json(record, path)
    if not {"name", "train", "test", "sha256"} <= record["dataset"].keys() or "width" not in record["config"]:
        raise InputError(f"{path}: does not name its data set and width: take the file from the run again")
    return record


def _contradictions(directory: pathlib.Path, root: pathlib.Path) -> list[str]:
    """Where a study's records differ from what their epochs say, or else from what their runs wrote, one line each."""
    outcome, _ = _read(directory)
    settings = [setting for experiment in outcome["experiments"] for setting in experiment["settings"]]
    runs = dict.fromkeys(directory / run for setting in settings for run in setting["runs"])
    lines: list[str] = []
    for run in runs:
        before = len(lines)
        record, history = _record(run), read_metrics(run / METRICS)
        if [line["epoch"] for line in history] != list(range(record["epochs"])):
            lines.append(f"{(run / METRICS).relative_to(root)}: not the {record['epochs']} epochs of its result.json")
            continue
        expected = {name: history[-1].get(name) for name in record if name.endswith(_FIGURES)}
        seconds = sum(line["seconds"] for line in history)
        # How a sum of floats rounds depends on Python's version.
        expected["seconds"] = record["seconds"] if math.isclose(record["seconds"], seconds, rel_tol=1e-14) else seconds
        for name, value in expected.items():
            if record[name] != value:
                where = (run / run_directory.RESULT).relative_to(root)
                lines.append(f"{where}: {name} is {record[name]}, its epochs give {value}: restore the file")
        if len(lines) == before:
            altered = run_directory.altered(run, (METRICS, run_directory.RESULT))
            lines += [f"{(run / name).relative_to(root)}: {what}: restore the file" for name, what in altered.items()]
    return lines


def _listed(values: Sequence[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)


if __name__ == "__main__":
    raise SystemExit(cli.exit_status(update))
