"""The committed records: studies in experiments/results/ and the speed in benchmarks/results/, read and verified.

A directory in experiments/results/ is a study: outcome.json, as `experiments.page` writes it, names its experiments,
settings and runs; each run has result.json, metrics.jsonl and sha256sums.txt. Nothing else is read.
"""

import dataclasses
import math
import pathlib
from typing import NamedTuple

from benchmarks import timing
from experiments.study.experiment import OUTCOME
from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.records import run_directory
from jresnet.records.files import read_json
from jresnet.records.log import METRICS, read_metrics
from jresnet.records.result import Result

RESULTS = pathlib.Path("experiments", "results")
SPEED = pathlib.Path("benchmarks", "results", "throughput-cpu.json")

_REPEATED = ("_loss", "_accuracy", "_batch_mean")  # endings of the keys that result.json repeats from the last epoch


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
    outcome = read_json(directory / OUTCOME)
    try:
        settings = [
            Setting(
                experiment["name"],
                f"{experiment['section']} {experiment['title']}",
                setting["label"],
                {directory / run: _read_result(directory / run) for run in setting["runs"]},
            )
            for experiment in outcome["experiments"]
            for setting in experiment["settings"]
        ]
        return Study(directory.name, outcome["command"], settings)
    except (KeyError, TypeError) as error:
        raise InputError(f"{directory / OUTCOME}: not a study's ({error!r}): copy it from the study again") from None


def _read_result(run: pathlib.Path) -> dict:
    path = run / run_directory.RESULT
    record = read_json(path)
    Result.from_json(record, path)
    known = record["config"].keys() <= vars(Config()).keys() and "width" in record["config"]
    if not known or not {"name", "train", "test", "sha256"} <= record["dataset"].keys():
        raise InputError(f"{path}: does not name its data set and width: copy the file from the run again")
    return record


def study_drifts(study: Study, root: pathlib.Path) -> list[str]:
    """Where a study's records contradict their epochs, or else their checksums, one line each."""
    runs = {run: record for setting in study.settings for run, record in setting.runs.items()}
    return [line for run, record in runs.items() for line in _run_drifts(run.relative_to(root), record, root)]


def _run_drifts(run: pathlib.Path, record: dict, root: pathlib.Path) -> list[str]:
    history = read_metrics(root / run / METRICS)
    if [line["epoch"] for line in history] != list(range(record["epochs"])):
        return [f"{run / METRICS}: not the {record['epochs']} epochs of its result.json"]
    expected = {name: history[-1].get(name) for name in record if name.endswith(_REPEATED)}
    seconds = sum(line["seconds"] for line in history)
    # How a sum of floats rounds depends on Python's version.
    expected["seconds"] = record["seconds"] if math.isclose(record["seconds"], seconds, rel_tol=1e-14) else seconds
    lines = [
        f"{run / run_directory.RESULT}: {name} is {record[name]}, its epochs give {value}: restore the file"
        for name, value in expected.items()
        if record[name] != value
    ]
    if lines:
        return lines
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
    except (KeyError, TypeError, ValueError) as error:
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
