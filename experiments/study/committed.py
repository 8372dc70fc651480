"""The committed studies in experiments/results/, read and verified.

A directory there is a study: outcome.json names its experiments, settings and runs; each run has result.json,
metrics.jsonl and sha256sums.txt, and evaluation-flip.json if it was evaluated with test-time flip, too. A speedrun has
speedrun.json beside outcome.json. Nothing else is read.
"""

import math
import pathlib
from typing import Any, NamedTuple

from experiments.study import flip, speedruns
from experiments.study.experiment import OUTCOME, StudyRecord, chosen_on_test
from experiments.study.flip import FLIP, Flip
from jresnet.errors import InputError
from jresnet.records import run_directory, schema
from jresnet.records.epoch import METRICS, read_metrics
from jresnet.records.files import read_json
from jresnet.records.result import Result

RESULTS = pathlib.Path("experiments", "results")


class Setting(NamedTuple):
    """One setting of a committed study.

    Attributes:
      experiment: its name.
      title: the experiment's, after its section of the report.
      label: the setting's.
      chosen_on_test: whether test images chose the experiment's settings.
      runs: the content of `result.json` by the run's directory.
      flips: of those runs that have one, by the run's directory.
    """

    experiment: str
    title: str
    label: str
    chosen_on_test: bool
    runs: dict[pathlib.Path, dict]
    flips: dict[pathlib.Path, Flip]


class Study(NamedTuple):
    """A committed study.

    Attributes:
      name: of its directory.
      command: that made it.
      settings: of all its experiments.
      speedrun: a speedrun's record.
    """

    name: str
    command: str
    settings: list[Setting]
    speedrun: speedruns.Record | None = None

    @property
    def runs(self) -> dict[pathlib.Path, dict]:
        """The runs of all settings, each once."""
        return {run: record for setting in self.settings for run, record in setting.runs.items()}


def read_studies(root: pathlib.Path) -> list[Study]:
    """The studies in a source tree, by name.

    Raises:
      InputError: a record is missing or damaged.
    """
    return [_read_study(path) for path in sorted((root / RESULTS).iterdir()) if path.is_dir()]


def _read_study(directory: pathlib.Path) -> Study:
    outcome = schema.parse(StudyRecord, read_json(directory / OUTCOME), directory / OUTCOME)
    settings = []
    for experiment in outcome.experiments:
        on_test = chosen_on_test(experiment.section, outcome.select, outcome.follow)
        for setting in experiment.settings:
            runs = [_below(directory, run) for run in setting.runs]
            results = {run: _read_result(run) for run in runs}
            flips = {run: flip.read(run) for run in runs if (run / FLIP).exists()}
            title = f"{experiment.section} {experiment.title}".strip()  # those beyond the report have no section
            settings.append(Setting(experiment.name, title, setting.label, on_test, results, flips))
    path = directory / speedruns.RECORD
    speedrun = schema.parse(speedruns.Record, read_json(path), path) if path.exists() else None
    return Study(directory.name, outcome.command, settings, speedrun)


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
    """Where a study's records contradict their epochs, or else their checksums or each other, one line each."""
    runs = study.runs
    drifts = [line for run, record in runs.items() for line in _run_drifts(run.relative_to(root), record, root)]
    flips = {run: found for setting in study.settings for run, found in setting.flips.items()}
    drifts += [
        line for run, found in flips.items() for line in flip.drifts((run / FLIP).relative_to(root), found, runs[run])
    ]
    return drifts + (_speedrun_drifts(study, list(runs.values())) if study.speedrun else [])


def _speedrun_drifts(study: Study, results: list[dict]) -> list[str]:
    """Where the record of a speedrun differs from what the results of its runs give."""
    record, path = study.speedrun, RESULTS / study.name / speedruns.RECORD
    if record is None or not results:
        return [f"{path}: {speedruns.RECORD} has no runs in {OUTCOME}: restore the file"]
    try:
        made = speedruns.summarise(
            record.target, results, record.command, record.image_size, record.diverged, record.cache
        )  # fmt: skip
    except LookupError as error:
        return [f"{path}: the results of its runs have no {error}: restore the files"]
    computed, recorded = schema.to_json(made), schema.to_json(record)
    return [
        f"{path}: {name} is {recorded.get(name)}, its runs give {computed.get(name)}: restore the file"
        for name in dict.fromkeys([*computed, *recorded])
        if not _equal(computed.get(name), recorded.get(name))
    ]


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are equal, numbers but for the rounding of statistics, which depends on scipy's version."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return one == other


def _run_drifts(run: pathlib.Path, record: dict, root: pathlib.Path) -> list[str]:
    contradictions = run_directory.contradictions(record, read_metrics(root / run / METRICS))
    if contradictions:
        return [f"{run / run_directory.RESULT}: {line}: restore the file" for line in contradictions]
    altered = run_directory.altered(root / run, (METRICS, run_directory.RESULT))
    return [f"{run / name}: {what}: restore the file" for name, what in altered.items()]
