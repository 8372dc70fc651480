"""The directory of a run: config.json, result.json, predictions.npz, and their checksums."""

import hashlib
import os
import pathlib
import secrets
from collections.abc import Sequence

import numpy as np

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.records.files import Record, atomic_write, json_bytes, read_json, write_bytes, write_json
from jresnet.records.log import METRICS
from jresnet.records.run import Run, differences

CONFIG, RESULT, CURVES, CHECKPOINTS = "config.json", "result.json", "curves.png", "checkpoints"
PREDICTIONS, SUMS = "predictions.npz", "sha256sums.txt"


def check(workdir: pathlib.Path, config: Config, seed: int, sha256: str, resume: bool) -> Record | None:
    """Check, without writing, that `workdir` can be the directory of this run; with `resume` it may already hold it.

    `config` is the run's, its defaults filled in, `sha256` that of the data before validation images are held out.

    Returns:
      The content of `result.json` if the run is finished there, else None.

    Raises:
      InputError: the directory cannot be written, holds another run, or holds this one and `resume` is false.
    """
    check_writable(workdir)
    path = workdir / CONFIG
    if not os.path.exists(path):
        return None
    record = read_json(path)
    if not all(isinstance(record.get(name), dict) for name in ("config", "dataset")):
        raise InputError(f"--workdir {workdir}: {path} is not the record of a run: choose another directory")
    try:
        different = differences(record, config, seed, sha256)
    except TypeError as error:
        raise InputError(
            f"--workdir {workdir}: {path} is not a record of this version ({error}): choose another directory"
        ) from None
    if different:
        raise InputError(
            f"--workdir {workdir}: holds another run ({'; '.join(different)}): "
            "choose another directory, or that run's own options with --resume"
        )
    if not resume:
        raise InputError(
            f"--workdir {workdir}: already holds this run: add --resume to continue it, or choose another directory"
        )
    result = workdir / RESULT
    return read_json(result) if result.exists() else None


def create(workdir: pathlib.Path, run: Run) -> None:
    """Create the directory of a run that `check` has accepted, unless it exists."""
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / CONFIG).exists():
        write_json(workdir / CONFIG, run.to_json())


def read_run(workdir: pathlib.Path) -> Run:
    """The run that a directory records; InputError if it records none, or one of another version."""
    return Run.from_json(read_json(workdir / CONFIG), workdir / CONFIG)


def write_predictions(workdir: pathlib.Path, predictions: np.ndarray, confidences: np.ndarray) -> None:
    """Write the final network's predictions of the test images, in the split's order.

    The predictions are int32 [images], the most probable classes, the confidences float32 [images], their softmax
    probabilities.
    """
    with atomic_write(workdir / PREDICTIONS) as file:
        np.savez(file, test_predictions=predictions, test_confidences=confidences)


def finish(workdir: pathlib.Path, result: Record) -> None:
    """Write the checksums of a run's records, then `result.json`, which marks the run as finished.

    `sha256sums.txt` has coreutils' format: `sha256sum -c` checks it, too.
    """
    data = json_bytes(result)
    paths = [workdir / name for name in (CONFIG, METRICS, PREDICTIONS)]
    records = {path.name: path.read_bytes() for path in paths if path.exists()} | {RESULT: data}
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in records.items()]
    write_bytes(workdir / SUMS, "".join(lines).encode())
    write_bytes(workdir / RESULT, data)


def verify(workdir: pathlib.Path) -> None:
    """Check a finished run's records against their checksums; InputError if these or a record are not as written."""
    for name, problem in altered(workdir).items():
        raise InputError(f"{workdir / name}: {problem}: restore it, or move {workdir} away to repeat the run")


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
    problems = {}
    for name in names or dict.fromkeys((CONFIG, METRICS, RESULT, *sums)):
        try:
            if hashlib.sha256((workdir / name).read_bytes()).hexdigest() != sums.get(name):
                problems[name] = "not as the run wrote it (truncated or edited)"
        except OSError:
            problems[name] = "missing"
    return problems


def check_writable(workdir: pathlib.Path) -> None:
    """Raise InputError unless files can be created in `workdir`, or in its nearest parent that exists."""
    parent = next((path for path in (workdir, *workdir.parents) if os.path.exists(path)), pathlib.Path())
    if not parent.is_dir():
        raise InputError(f"--workdir {workdir}: {parent} is not a directory: choose another")
    # By trying: for root, os.access allows writing on a read-only file system.
    probe = parent / f".jresnet-{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        raise InputError(f"--workdir {workdir}: {parent} is not writable: choose another directory") from None
    try:
        os.stat(workdir)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"--workdir {workdir}: {error.strerror}: choose another directory") from None
