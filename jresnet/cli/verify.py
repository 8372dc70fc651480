"""`python -m jresnet verify`: whether runs are as they were written."""

import contextlib
import dataclasses
import pathlib

import tyro.conf

from jresnet.cli.program import make_console
from jresnet.errors import InputError, visible
from jresnet.records import run_directory
from jresnet.records.epoch import METRICS, read_metrics
from jresnet.records.files import read_json
from jresnet.records.lock import is_held
from jresnet.records.result import Result
from jresnet.train.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check every run in a directory: the checksums and fields of its records, and the digests of its checkpoints."""

    directory: tyro.conf.Positional[str]
    """A run's directory, or one with runs below it, as a study's."""


def run(options: Verify) -> None:
    """Print a line for each run; InputError if one is damaged."""
    directory = pathlib.Path(options.directory)
    names = (run_directory.CONFIG, run_directory.RESULT)
    runs: list[pathlib.Path] = []
    with contextlib.suppress(OSError):  # as of a name that is too long
        runs = sorted({path.parent for name in names for path in directory.rglob(name)})
    if not (options.directory and runs):
        shown = options.directory or "''"
        raise InputError(f"{shown}: there is no run in it: choose a run's directory, or a study's")
    console, damaged = make_console(), []
    for path in runs:
        try:
            line = f"{path}: {verified(path)}"
        except InputError as error:
            damaged.append(line := str(error))
        console.print(visible(line), markup=False, emoji=False, highlight=False, soft_wrap=True)
    if damaged:
        raise InputError(f"{len(damaged)} of {len(runs)} runs in {directory} are damaged, the first: {damaged[0]}")


def verified(directory: pathlib.Path) -> str:
    """What was found sound in a run's directory, in words; InputError if something is not."""
    if is_held(directory):
        return "is trained at this moment: not checked"
    name = None
    if (directory / run_directory.CONFIG).exists():
        name = run_directory.read_run(directory).name
        finished = (directory / run_directory.RESULT).exists()
        if finished:
            run_directory.read_result(directory)
        elif (directory / METRICS).exists():
            read_metrics(directory / METRICS)
        records = "finished, records sound" if finished else "not finished, records readable"
    else:
        verify_copy(directory)
        records = "copy of a result, sound"
    with Checkpoints(directory / run_directory.CHECKPOINTS, read_only=True, run=name) as checkpoints:
        metas = [checkpoints.restore(step)[1] for step in checkpoints.steps()]
    old = sum(meta.history is None for meta in metas)
    unverified = f", {old} of them without digests to verify" if old else ""
    return f"{records}; {len(metas)} checkpoints sound{unverified}" if metas else records


def verify_copy(directory: pathlib.Path) -> None:
    """Check a directory with a run's `result.json`, `metrics.jsonl` and checksums alone."""
    path = directory / run_directory.RESULT
    record = read_json(path)
    Result.from_json(record, path)
    problems = run_directory.contradictions(record, read_metrics(directory / METRICS))
    altered = run_directory.altered(directory, (METRICS, run_directory.RESULT))
    problems += [f"{name} is {problem}" for name, problem in altered.items()]
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}: restore it")
