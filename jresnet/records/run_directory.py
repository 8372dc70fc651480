"""The directory of a run: config.json, result.json, predictions.npz, and their checksums."""

import dataclasses
import hashlib
import math
import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.records.epoch import METRIC_PREFIXES, METRICS, best_figures, read_metrics
from jresnet.records.files import (
    Record,
    atomic_write,
    check_creatable,
    file_sha256,
    json_bytes,
    read_json,
    temporary_name,
    write_bytes,
    write_json,
    writing,
)  # fmt: skip
from jresnet.records.lock import LOCK
from jresnet.records.result import Result
from jresnet.records.run import Run, Weights, config_from_json, differences, is_replanned

CONFIG, RESULT, CURVES, CHECKPOINTS = "config.json", "result.json", "curves.png", "checkpoints"
PREDICTIONS, SUMS, EARLIER = "predictions.npz", "sha256sums.txt", "earlier"
BEST = "best"
"""Directory of the checkpoint of the best epoch."""


def check(
    workdir: pathlib.Path, config: Config, seed: int, sha256: str, resume: bool, weights: Weights | None = None
) -> Result | None:
    """Check, without writing, that `workdir` can be the directory of this run; with `resume` it may already hold it.

    `config` is the run's, its defaults filled in, `sha256` that of the data before validation images are held out,
    `weights` those it starts from.

    Returns:
      The verified result if the run is finished there, else None.

    Raises:
      InputError: the directory cannot be written, holds another run, a damaged one, or this one and `resume` is false.
      CannotWrite: there is no room.
    """
    check_writable(workdir)
    if not os.path.exists(workdir / CONFIG):
        if os.path.exists(workdir / RESULT):
            raise InputError(f"--workdir {workdir}: holds {RESULT} but no {CONFIG}: restore it, or choose another")
        return None
    run = read_run(workdir)
    replanned = is_replanned(config, run.config) and _can_replan(workdir, run, config.epochs)
    planned = dataclasses.replace(config, epochs=run.config.epochs) if replanned else config
    different = differences(run.to_json(), planned, seed, sha256)
    if (recorded := run.initial_weights and run.initial_weights.sha256) != (given := weights and weights.sha256):
        different.append(f"initial weights {recorded or 'random'}, not {given or 'random'}")
    if different:
        raise InputError(
            f"--workdir {workdir}: holds another run ({'; '.join(different)}): "
            "choose another directory, or that run's own options with --resume"
        )
    if not resume:
        planned_for = f" with {run.config.epochs} epochs" if replanned else ""
        raise InputError(
            f"--workdir {workdir}: already holds this run{planned_for}: add --resume to continue it, or choose another "
            "directory"
        )
    result = read_result(workdir) if os.path.exists(workdir / RESULT) else None
    return None if replanned else result


def create(workdir: pathlib.Path, run: Run) -> None:
    """Create the directory of a run that `check` has accepted, or change the number of epochs of the run in it.

    The records of a finished run that gets more epochs are kept in `earlier/N-epochs/`.

    Raises:
      InputError: what it records of the images is not what they are.
      CannotWrite: it cannot be written.
    """
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / CONFIG).exists():
        write_json(workdir / CONFIG, run.to_json())
        return
    recorded = read_run(workdir)
    earlier = (*(recorded.earlier_epochs or ()), recorded.config.epochs)
    replanned = is_replanned(run.config, recorded.config)
    expected = dataclasses.replace(run, earlier_epochs=earlier if replanned else recorded.earlier_epochs)
    if recorded.fingerprint != expected.fingerprints[1 if replanned else 0]:
        raise InputError(
            f"{workdir / CONFIG}: sizes, classes, mean or std are not those of the data: restore it, or move "
            f"{workdir} away to train again"
        )
    if replanned:
        if (workdir / RESULT).exists():
            _keep(workdir, workdir / EARLIER / f"{recorded.config.epochs}-epochs")
            with writing(workdir):
                (workdir / RESULT).unlink()
        write_json(workdir / CONFIG, dataclasses.replace(expected, jresnet=recorded.jresnet).to_json())


def _can_replan(workdir: pathlib.Path, run: Run, epochs: int) -> bool:
    """Whether the run in a directory can go on to more epochs, or end after fewer than it was to have.

    Raises:
      InputError: it is finished, and has no checkpoint from which it could go on, or has evaluated its test images
        once, as `test_after` says, and would do so again.
    """
    saved, finished = steps(workdir / CHECKPOINTS), (workdir / RESULT).exists()
    if epochs > run.config.epochs:
        if finished and run.config.test_after == "training":
            raise InputError(
                f"--epochs {epochs}: {workdir} holds the run with {run.config.epochs} epochs, whose test images have "
                "been evaluated (--test-after training): choose another directory"
            )
        if finished and not saved:
            raise InputError(
                f"--epochs {epochs}: {workdir} holds the run with {run.config.epochs} epochs, but no checkpoint of it: "
                "restore its checkpoints to go on, or choose another directory to train anew"
            )
        return True
    done = -(-saved[-1] // run.config.steps_per_epoch(run.dataset.get("train", 1))) if saved else 0
    return not finished and done <= epochs


def _keep(workdir: pathlib.Path, copy: pathlib.Path) -> None:
    """Copy the records of a finished run, complete or not at all; a copy that is there is one of the same records."""
    with writing(copy):
        copy.parent.mkdir(exist_ok=True)
        if copy.exists():
            return
        unfinished = temporary_name(copy)
        unfinished.mkdir()
        for name in (CONFIG, METRICS, PREDICTIONS, SUMS, RESULT):
            if (workdir / name).exists():
                shutil.copy2(workdir / name, unfinished / name)
        unfinished.rename(copy)


def steps(checkpoints: pathlib.Path) -> list[int]:
    """The steps of all complete checkpoints in a directory, ascending."""
    return sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal() and path.is_dir())


def read_run(workdir: pathlib.Path) -> Run:
    """The run that a directory records; InputError if it records none, or one of another version."""
    return Run.from_json(read_json(workdir / CONFIG), workdir / CONFIG)


def read_result(workdir: pathlib.Path) -> Result:
    """The result of a finished run, whose records match their checksums, have valid fields, and agree with one another.

    Raises:
      InputError: they are not as the run wrote them.
    """
    for name, problem in altered(workdir).items():
        raise InputError(f"{workdir / name}: {problem}: restore it, or move {workdir} away to repeat the run")
    run, result = read_run(workdir), Result.from_json(read_json(workdir / RESULT), workdir / RESULT)
    different = differences(result.to_json(), run.config, run.seed, run.dataset.get("sha256", ""))
    different += contradictions(result.to_json(), read_metrics(workdir / METRICS))
    if result.initial_weights != run.initial_weights:
        different.append(f"its initial weights are not those of {CONFIG}")
    if different:
        raise InputError(f"{workdir / RESULT}: contradicts the other records ({'; '.join(different)}): restore it")
    return result.at(workdir)


def read_copy(directory: pathlib.Path) -> Result:
    """The result in a copy of a run's `result.json`, `metrics.jsonl` and checksums, or more of its files.

    Raises:
      InputError: they are not as the run wrote them, or the directory is a run's that has lost its `config.json`.
    """
    path = directory / RESULT
    if any((directory / name).exists() for name in (CHECKPOINTS, LOCK, PREDICTIONS)):
        raise InputError(f"{directory}: holds a run without its {CONFIG}: restore it")
    result = Result.from_json(read_json(path), path)
    problems = contradictions(result.to_json(), read_metrics(directory / METRICS))
    problems += [f"{name} is {problem}" for name, problem in altered(directory, (METRICS, RESULT)).items()]
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}: restore it")
    return result.at(directory)


def write_predictions(
    workdir: pathlib.Path, predictions: np.ndarray, confidences: np.ndarray, labels: np.ndarray,
    names: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Write the final network's predictions of the test images, in the split's order.

    The predictions are int32 [images], the most probable classes, the confidences float32 [images], their softmax
    probabilities; the labels are int32 [images], and the names those of the images, if they have names.
    """
    arrays = {"predictions": predictions, "confidences": confidences, "labels": labels}
    if names is not None:
        arrays["names"] = np.array(names, str)
    with atomic_write(workdir / PREDICTIONS) as file:
        np.savez(file, **{f"test_{name}": array for name, array in arrays.items()})  # type: ignore[arg-type]


def finish(workdir: pathlib.Path, result: Record, history: Sequence[Record]) -> None:
    """Write the checksums of a run's records, then `result.json`, which marks the run as finished.

    `sha256sums.txt` has coreutils' format: `sha256sum -c` checks it, too. `history` are the epochs as they were logged.

    Raises:
      InputError: `metrics.jsonl` is not what was logged.
      CannotWrite: a file cannot be written.
    """
    if read_metrics(workdir / METRICS) != list(history):
        raise InputError(f"{workdir / METRICS}: was changed while the run trained: add --resume to write it again")
    data = json_bytes(result)
    paths = [workdir / name for name in (CONFIG, METRICS, PREDICTIONS)]
    records = {path.name: path.read_bytes() for path in paths if path.exists()} | {RESULT: data}
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in records.items()]
    write_bytes(workdir / SUMS, "".join(lines).encode())
    write_bytes(workdir / RESULT, data)


def contradictions(result: Record, history: Sequence[Record]) -> list[str]:
    """Where the content of a `result.json` contradicts that of the `metrics.jsonl` beside it; empty if nowhere."""
    config = config_from_json(result["config"])
    if not len(history) == result["epochs"] == config.epochs:
        return [f"epochs is {result['epochs']} of {config.epochs}, {METRICS} has {len(history)}"]
    expected = {name: history[-1].get(name) for name in result if name.startswith(METRIC_PREFIXES)}
    expected |= {name: None for name in result if name.startswith("best_")}
    expected |= best_figures(history) if config.keep_best else {}
    without = {"epochs": [], "training": history[:-1], "never": history}[config.test_after]
    seen = [line["epoch"] for line in without if any(name.startswith("test_") for name in line)]
    if seen:
        return [f"test_after is {config.test_after}, {METRICS} has test figures of epoch {seen[0]}"]
    seconds = sum(record["seconds"] for record in history)
    # How a sum of floats rounds depends on Python's version.
    expected["seconds"] = result["seconds"] if math.isclose(result["seconds"], seconds, rel_tol=1e-14) else seconds
    return [
        f"{name} is {result.get(name)}, its epochs give {value}"
        for name, value in expected.items()
        if result.get(name) != value
    ]


def altered(workdir: pathlib.Path, names: Sequence[str] | None = None) -> dict[str, str]:
    """The records of a finished run that do not match their checksums: name -> what is wrong.

    `workdir` may be a copy of part of the run's directory; `names` are then the records to check, not all of them.
    InputError if the checksums are missing or unreadable.
    """
    try:
        lines = (workdir / SUMS).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        raise InputError(
            f"{workdir / SUMS}: missing or unreadable: choose another directory, or repeat the run"
        ) from None
    if names is None:
        predicted = PREDICTIONS in sums or (workdir / PREDICTIONS).exists()
        names = [CONFIG, METRICS, RESULT] + [PREDICTIONS] * predicted
    problems = {}
    for name in names:
        try:
            digest = file_sha256(workdir / name)
        except OSError:
            problems[name] = "missing"
            continue
        if digest != sums.get(name):
            problems[name] = "not as the run wrote it (truncated or edited)"
    return problems


def check_writable(workdir: pathlib.Path) -> None:
    """Raise InputError unless files can be created in `workdir`, or in its nearest parent that exists.

    CannotWrite if there is no room for them.
    """
    parent = next((path for path in (workdir, *workdir.parents) if os.path.exists(path)), pathlib.Path())
    if not parent.is_dir():
        raise InputError(f"--workdir {workdir}: {parent} is not a directory: choose another")
    check_creatable(parent, f"--workdir {workdir}")
    try:
        os.stat(workdir)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"--workdir {workdir}: {error.strerror}: choose another directory") from None
