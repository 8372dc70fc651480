"""The committed records: studies in experiments/results/ and the speed in benchmarks/results/, read and verified.

A directory in experiments/results/ is a study: outcome.json, as `experiments.page` writes it, names its experiments,
settings and runs; each run has result.json, metrics.jsonl and sha256sums.txt. Nothing else is read.
"""

import dataclasses
import pathlib
from typing import NamedTuple

from benchmarks import timing
from benchmarks.variants import DEFAULT
from experiments.study.experiment import OUTCOME, StudyRecord
from jresnet.errors import InputError
from jresnet.records import run_directory, schema
from jresnet.records.epoch import METRICS, read_metrics
from jresnet.records.files import read_json
from jresnet.records.result import Result

RESULTS = pathlib.Path("experiments", "results")
SPEED = pathlib.Path("benchmarks", "results", "throughput-cpu.json")
INGREDIENTS, NETWORKS = (SPEED.with_name(f"{name}-cpu.json") for name in ("ingredients", "networks"))


class Setting(NamedTuple):
    """One setting of a committed study: the experiment's name and title, the label, and the runs."""

    experiment: str
    title: str
    label: str
    runs: dict[pathlib.Path, dict]  # directory -> result.json


class Study(NamedTuple):
    """A committed study: the name of its directory, the command that made it, its settings."""

    name: str
    command: str
    settings: list[Setting]


def read_studies(root: pathlib.Path) -> list[Study]:
    """The studies in a source tree, by name.

    Raises:
      InputError: a record is missing or damaged.
    """
    return [_read_study(path) for path in sorted((root / RESULTS).iterdir()) if path.is_dir()]


def _read_study(directory: pathlib.Path) -> Study:
    outcome = schema.parse(StudyRecord, read_json(directory / OUTCOME), directory / OUTCOME)
    settings = [
        Setting(
            experiment.name,
            f"{experiment.section} {experiment.title}".strip(),  # those beyond the report have no section
            setting.label,
            {path: _read_result(path) for path in (_below(directory, run) for run in setting.runs)},
        )
        for experiment in outcome.experiments
        for setting in experiment.settings
    ]
    return Study(directory.name, outcome.command, settings)


def _below(directory: pathlib.Path, run: str) -> pathlib.Path:
    """The directory of a run that a study names; InputError if it is not below the study's own."""
    path = directory / run
    try:
        below = path.resolve().is_relative_to(directory.resolve())
    except (ValueError, OSError, RuntimeError):  # as of a name with a NUL, or of links in a circle
        below = False
    if not below:
        raise InputError(f"{directory / OUTCOME}: names {run[:100]!a}, outside of its directory: restore the file")
    return path


def _read_result(run: pathlib.Path) -> dict:
    path = run / run_directory.RESULT
    record = read_json(path)
    result = Result.from_json(record, path)
    if not {"name", "train", "test", "sha256"} <= result.dataset.keys() or result.config.get("width") is None:
        raise InputError(f"{path}: does not name its data set and width: copy the file from the run again")
    return record


def study_drifts(study: Study, root: pathlib.Path) -> list[str]:
    """Where a study's records contradict their epochs, or else their checksums, one line each."""
    runs = {run: record for setting in study.settings for run, record in setting.runs.items()}
    return [line for run, record in runs.items() for line in _run_drifts(run.relative_to(root), record, root)]


def _run_drifts(run: pathlib.Path, record: dict, root: pathlib.Path) -> list[str]:
    contradictions = run_directory.contradictions(record, read_metrics(root / run / METRICS))
    if contradictions:
        return [f"{run / run_directory.RESULT}: {line}: restore the file" for line in contradictions]
    altered = run_directory.altered(root / run, (METRICS, run_directory.RESULT))
    return [f"{run / name}: {what}: restore the file" for name, what in altered.items()]


def read_speed(root: pathlib.Path) -> dict:
    """The throughput record of a source tree.

    Raises:
      InputError: it is missing or damaged.
    """
    record = read_json(root / SPEED)
    try:
        environment = record["environment"]
        environment["versions"]["torch"], environment["device"], environment["commit"]  # which the tables name
        speed_drifts(record)  # reads all the rest
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{root / SPEED}: not a throughput record ({error!r}): restore the file") from None
    return record


def speed_drifts(record: dict) -> list[str]:
    """Where the throughput record's summaries differ from those of the seconds of its rounds, one line each."""
    drifts = []
    for case in record["cases"]:
        ours = case["rivals"]["jax"]["seconds"]
        for rival, recorded in case["rivals"].items():
            spread = timing.summary(recorded["seconds"])
            computed = {
                "seconds_per_step": dataclasses.asdict(spread),
                "images_per_second": case["batch_size"] / spread.median,
            }
            if rival != "jax":
                computed["speed_of_jax_over"] = timing.compared(ours, recorded["seconds"])
                recorded = recorded | {"speed_of_jax_over": case["speed_of_jax_over"].get(rival)}
            drifts += [
                f"{SPEED}: {name} over {rival} at width {case['width']}, batch {case['batch_size']} is "
                f"{recorded.get(name)}, its rounds give {value}: restore the file"
                for name, value in computed.items()
                if recorded.get(name) != value
            ]
    return drifts


def read_costs(root: pathlib.Path, path: pathlib.Path) -> dict | None:
    """A record of `benchmarks.ingredients` in a source tree; None if there is none.

    Raises:
      InputError: it is damaged.
    """
    if not (root / path).exists():
        return None
    record = read_json(root / path)
    try:
        environment, options = record["environment"], record["options"]
        environment["device"], environment["cores"], environment["commit"][:12], options["rounds"]  # in the tables
        record["cases"][0]["width"], record["cases"][0]["precision"]
        cost_drifts(record, path)  # reads all the rest
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{root / path}: not a record of ingredients ({error!r}): restore the file") from None
    return record


def cost_drifts(record: dict, path: pathlib.Path) -> list[str]:
    """Where the summaries of costs differ from those of the seconds of their rounds, one line each."""
    drifts = []
    for case in record["cases"]:
        default = case["rivals"][DEFAULT]["seconds"]
        for name, recorded in case["rivals"].items():
            computed: dict = {}
            if recorded["seconds"]:
                computed["seconds_per_step"] = dataclasses.asdict(timing.summary(recorded["seconds"]))
            if name != DEFAULT:
                computed["cost"] = timing.compared(default, recorded["seconds"])
            drifts += [
                f"{path}: {key} of {name} at batch {case['batch_size']} is {recorded.get(key)}, its rounds give "
                f"{value}: restore the file"
                for key, value in computed.items()
                if recorded.get(key) != value
            ]
    return drifts
