"""`jresnet verify`: whether runs are as they were written."""

import dataclasses
import os
import pathlib

import tyro.conf

from jresnet.cli.program import make_console
from jresnet.errors import InputError, visible
from jresnet.records import run_directory
from jresnet.records.epoch import METRICS, best_epoch, read_metrics
from jresnet.records.files import local_path
from jresnet.records.lock import is_held
from jresnet.train.checkpoint import Checkpoints, Meta


@dataclasses.dataclass(frozen=True)
class Options:
    """Check every run in a directory: the checksums and fields of its records, and the digests of its checkpoints."""

    directory: tyro.conf.Positional[str]
    """A run's directory, or one with runs below it, as a study's."""


def run(options: Options) -> None:
    """Print a line for each run; InputError if one is damaged."""
    directory = local_path(options.directory)
    runs = runs_in(directory) if options.directory and os.path.isdir(directory) else []
    if not runs:
        shown = options.directory or "''"
        raise InputError(f"{shown}: there is no run in it: choose a run's directory, or a study's")
    console, damaged = make_console(), []
    for path in runs:
        try:
            line = f"{path}: {verified(path)}"
        except InputError as error:
            damaged.append(line := str(error))
        console.out(visible(line), highlight=False)
    if damaged:
        raise InputError(f"{len(damaged)} of {len(runs)} runs in {directory} are damaged, the first: {damaged[0]}")


def runs_in(directory: pathlib.Path) -> list[pathlib.Path]:
    """The directories of runs, or of copies of their results; InputError if part of the directory cannot be read."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}): check its permissions")

    marks = {run_directory.CONFIG, run_directory.RESULT}
    return sorted(pathlib.Path(path) for path, _, files in os.walk(directory, onerror=refuse) if marks & {*files})


def verified(directory: pathlib.Path) -> str:
    """What was found sound in a run's directory, in words; InputError if something is not."""
    if is_held(directory):
        return "training in progress: not checked"
    if not (directory / run_directory.CONFIG).exists():
        run_directory.read_copy(directory)
        return "copy of a result, sound"
    run = run_directory.read_run(directory)
    finished = (directory / run_directory.RESULT).exists()
    if finished:
        run_directory.read_result(directory)
    path = directory / METRICS
    epochs = read_metrics(path) if path.exists() else []
    records = "finished, records sound" if finished else "not finished, records readable"
    metas: dict[str, Meta] = {}
    for place in (run_directory.CHECKPOINTS, run_directory.BEST):
        with Checkpoints(directory / place, read_only=True, runs=run.fingerprints) as checkpoints:
            metas |= {f"{place}/{step}": checkpoints.restore(step)[1] for step in checkpoints.steps()}
    for name, meta in metas.items():
        if meta.history is not None and list(meta.history) != epochs[: len(meta.history)]:
            raise InputError(f"{path}: does not begin with the epochs of {name}: --resume writes it again")
    # A copy of a run's records, as in earlier/, has no checkpoints at all.
    whole = finished and (directory / run_directory.CHECKPOINTS).exists()
    if whole and run.config.keep_best and (epoch := best_epoch(epochs)) is not None:
        step = (epoch + 1) * run.config.steps_per_epoch(run.dataset["train"])
        if f"{run_directory.BEST}/{step}" not in metas:
            raise InputError(f"{directory / run_directory.BEST}: lacks the checkpoint of epoch {epoch}: restore it")
    old = sum(meta.history is None for meta in metas.values())
    unverified = f", {old} of them without digests to verify" if old else ""
    return f"{records}; {len(metas)} checkpoints sound{unverified}" if metas else records
