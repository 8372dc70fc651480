"""A run's directory: whose it is (`config.json`), what came of it (`result.json`), whether it is still as written."""

import hashlib
import io
import json
import os
import pathlib
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.records.files import json_bytes, read_json, write_bytes, write_json
from jresnet.records.log import METRICS

CONFIG, RESULT, CURVES, CHECKPOINTS = "config.json", "result.json", "curves.png", "checkpoints"
PREDICTIONS, SUMS = "predictions.npz", "sha256sums.txt"

# What may differ between the sessions of one run: where data lies and how it is carried, not what is computed.
FREE = ("data_dir", "input", "parallel")


def config_of(run: dict) -> Config:
    """The configuration a `config.json` or `result.json` holds; options that came after it have their defaults."""
    values: dict[str, Any] = {}
    for name, value in run["config"].items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return Config(**values)


def look(workdir: pathlib.Path, run: dict, resume: bool) -> dict | None:
    """See, without writing, whether `workdir` can be this run's directory.

    Returns:
      The result, if the run is already finished there; else None.

    Raises:
      InputError: the directory cannot be written, or holds another run, or holds this one and
        `resume` is false.
    """
    check_writable(workdir)
    path = workdir / CONFIG
    if not os.path.exists(path):
        return None
    recorded = read_json(path)
    if not all(isinstance(recorded.get(name), dict) for name in ("config", "dataset")):
        raise InputError(f"--workdir {workdir}: {path} is not a record of a run: choose another directory")
    found = differences(recorded, run)
    if found:
        raise InputError(
            f"--workdir {workdir}: holds another run ({'; '.join(found)}): "
            "choose another directory, or the run's own options with --resume"
        )
    if not resume:
        raise InputError(
            f"--workdir {workdir}: already holds this run: add --resume to go on with it, or choose another directory"
        )
    result = workdir / RESULT
    return read_json(result) if result.exists() else None


def claim(workdir: pathlib.Path, run: dict) -> None:
    """Make `workdir` the directory of this run, which `look` has found possible."""
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / CONFIG).exists():
        write_json(workdir / CONFIG, run)


def write_predictions(workdir: pathlib.Path, predictions: np.ndarray, confidences: np.ndarray) -> None:
    """Keep what the final parameters say of the test images, in the split's order.

    Args:
      workdir: the run's directory.
      predictions: int32 [images], the most probable class.
      confidences: float32 [images], its softmax probability.
    """
    archive = io.BytesIO()
    np.savez(archive, test_predictions=predictions, test_confidences=confidences)
    write_bytes(workdir / PREDICTIONS, archive.getvalue())


def finish(workdir: pathlib.Path, result: dict) -> None:
    """Write `result.json`, which says that the run is finished, and before it the sums of the run's records.

    `sha256sums.txt` has the form of coreutils' sha256sum, so that `sha256sum -c` checks it too.
    """
    data = json_bytes(result)
    records = {
        name: (workdir / name).read_bytes() for name in (CONFIG, METRICS, PREDICTIONS) if (workdir / name).exists()
    }
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in (records | {RESULT: data}).items()]
    write_bytes(workdir / SUMS, "".join(lines).encode())
    write_bytes(workdir / RESULT, data)


def verify(workdir: pathlib.Path) -> None:
    """Check that a finished run's records are as the run wrote them.

    Raises:
      InputError: one is missing, truncated or edited, or there are no sums to tell by.
    """
    for name, what in altered(workdir).items():
        raise InputError(f"{workdir / name}: {what}: restore it, or move {workdir} away to repeat the run")


def altered(workdir: pathlib.Path, names: Sequence[str] | None = None) -> dict[str, str]:
    """What is wrong with a finished run's records, by their sums.

    Args:
      workdir: the run's directory, or a copy of some of it.
      names: the records to look at; None for all that the run left.

    Returns:
      Name -> what is wrong with that record; empty where nothing is.

    Raises:
      InputError: there are no sums to tell by.
    """
    try:
        lines = (workdir / SUMS).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        raise InputError(
            f"{workdir / SUMS}: missing or unreadable: choose another directory, or repeat the run"
        ) from None
    wrong = {}
    for name in names or dict.fromkeys((CONFIG, METRICS, RESULT, *sums)):
        try:
            found = hashlib.sha256((workdir / name).read_bytes()).hexdigest()
        except OSError:
            wrong[name] = "missing"
            continue
        if found != sums.get(name):
            wrong[name] = "not as the run wrote it (truncated or edited)"
    return wrong


def check_writable(workdir: pathlib.Path) -> None:
    """Raise InputError unless files can be made in `workdir`, or in the nearest directory that it would be made in."""
    place = workdir
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"--workdir {workdir}: {place} is not a directory: choose another")
    if not os.access(place, os.W_OK | os.X_OK) or _read_only(place):
        raise InputError(f"--workdir {workdir}: {place} is not writable: choose another directory")
    try:
        os.stat(workdir)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"--workdir {workdir}: {error.strerror}: choose another directory") from None


def differences(recorded: dict, run: dict) -> list[str]:
    """What sets two runs apart, in words, "width 8, not 16"; as JSON sees them."""
    run = json.loads(json.dumps(run))
    old = vars(Config()) | recorded["config"]
    pairs: list[tuple[str, Any, Any]] = [
        (name, old.get(name), value) for name, value in run["config"].items() if name not in FREE
    ]
    pairs.append(("seed", recorded.get("seed"), run["seed"]))
    pairs.append(("data sha256", recorded["dataset"].get("sha256"), run["dataset"]["sha256"]))
    return [f"{name} {old}, not {new}" for name, old, new in pairs if old != new]


def _read_only(place: pathlib.Path) -> bool:
    """Whether writing fails where `os.access` promises it, as for root on a read-only file system."""
    probe = place / f".jresnet-{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return True
    return False
