"""The runs of a study: where each lies, whether it is done, and who trains it.

A run's directory is STUDY/runs/NAME-DIGEST/seed-K, where the digest is of everything its result depends on
besides the seed. So a run that several experiments need is made once, a study that was stopped finds what it
has, and processes that share the directory, on one machine or several, never train the same run: the one
that does holds a lock on it.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence

import rich.console

from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.errors import InputError
from jresnet.parallel.devices import Devices
from jresnet.records import run_directory
from jresnet.train import loop

RUNS, LOCK = "runs", "lock"

# Of a configuration, what does not change a run's result: how data is carried, and which networks are refused.
_FREE = (*run_directory.FREE, "budget")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One network to train.

    Attributes:
      experiment: the first that needs it; its name in the run's records.
      config: its configuration, explicit, without a budget.
      seed: its seed.
      dataset: its data, no validation images held out by `config` yet.
      place: its directory, which tells it from all others.
    """

    experiment: str
    config: Config
    seed: int
    dataset: Dataset
    place: pathlib.Path

    @property
    def work(self) -> float:
        """What training costs, up to a constant factor: parameters x images x epochs."""
        model = models.from_config(self.config, len(self.dataset.classes))
        parameters = models.parameter_count(model, self.dataset.image_size)
        return parameters * len(self.dataset.train) * self.config.epochs


def make(experiment: str, config: Config, seed: int, dataset: Dataset, study: pathlib.Path) -> Run:
    """The run of this configuration, seed and data in the study's directory."""
    config = models.explicit(dataclasses.replace(config, budget=None))
    place = study / RUNS / f"{name(config)}-{digest(config, dataset.sha256)}" / f"seed-{seed}"
    return Run(experiment, config, seed, dataset, place)


def name(config: Config) -> str:
    """What a reader looks for in a directory's name: the options that the report's experiments vary."""
    words = [f"width{config.width}", f"batch{config.batch_size}", f"rate{config.learning_rate:g}"]
    augmented = {"crop": config.crop_padding, "flip": config.flip, "gray": config.grayscale}
    others = {"blocks": "".join(map(str, config.blocks or ())), "kernel": config.kernel_size, "pool": config.pool_size}
    usual = {"blocks": "2222", "kernel": 3, "pool": 4}
    words += [f"{option}{value}" for option, value in others.items() if value != usual[option]]
    words += [f"{option}{value:g}" for option, value in augmented.items() if value] or ["plain"]
    return "-".join([*words, f"{config.epochs}epochs"])


def digest(config: Config, sha256: str) -> str:
    """Ten hex digits that change with whatever changes a run's result, besides its seed."""
    fields = {field: value for field, value in dataclasses.asdict(config).items() if field not in _FREE}
    return hashlib.sha256(json.dumps([fields, sha256], sort_keys=True).encode()).hexdigest()[:10]


def result(run: Run) -> dict | None:
    """The run's `result.json`, checked; None while it is not finished.

    Raises:
      InputError: the records are damaged or of another run.
    """
    if not (run.place / run_directory.RESULT).exists():
        return None
    run_directory.verify(run.place)
    record = run_directory.read_json(run.place / run_directory.RESULT)
    expected = {"config": dataclasses.asdict(run.config), "seed": run.seed, "dataset": {"sha256": run.dataset.sha256}}
    differences = run_directory.differences(record, expected)
    if differences:
        raise InputError(
            f"{run.place}: records of another run ({'; '.join(differences)}): move it away, or choose another --workdir"
        )
    return record


def running(run: Run) -> bool:
    """Whether a process is training the run at this moment."""
    try:
        with (run.place / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def held(run: Run) -> Iterator[bool]:
    """Hold the run's lock while the context lasts; yields False where another process has it.

    Raises:
      InputError: the file system knows no locks.
    """
    run.place.mkdir(parents=True, exist_ok=True)
    with (run.place / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise InputError(
                f"--workdir: {run.place} cannot be locked ({error.strerror}): choose a directory on another file system"
            ) from None
        yield True


def train(run: Run, console: rich.console.Console | None) -> bool:
    """Train the run from where it is to its end; False if another process is at it or has done it meanwhile.

    Raises:
      Diverged: the loss became non-finite.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    with held(run) as free:
        if not free or result(run) is not None:
            return False
        loop.fit(
            run.config, run.dataset, run.place, seed=run.seed, experiment=run.experiment, keep=1, console=console
        )  # fmt: skip
        return True


def check(runs: Sequence[Run], study: pathlib.Path) -> None:
    """Check all that can be checked before the first run is trained; nothing is written.

    Raises:
      InputError: a network, batch or validation split is impossible, the study's directory cannot be used,
        or holds records of other data, of another version, or damaged ones.
    """
    run_directory.check_writable(study)
    if (study / run_directory.CONFIG).exists() or any(study.glob("seed-*")):
        raise InputError(f"--workdir {study}: holds runs of a single experiment: choose another directory for a study")
    for run in {run.place.parent: run for run in runs}.values():
        models.check_network(run.config, len(run.dataset.classes), run.dataset.image_size)
        Devices(run.config)
    for dataset, config in {run.dataset.sha256: (run.dataset, run.config) for run in runs}.values():
        dataset.hold_out(config.validation, 0)
    known = {run.dataset.sha256 for run in runs}
    for path in sorted(study.glob(f"{RUNS}/*/seed-*/{run_directory.CONFIG}")):
        _check_record(study, path, known)
    for run in runs:
        result(run)


def _check_record(study: pathlib.Path, path: pathlib.Path, known: set[str]) -> None:
    """Raise InputError unless a `config.json` is of this version and of known data."""
    record = run_directory.read_json(path)
    config, dataset = record.get("config"), record.get("dataset")
    fields = {field.name for field in dataclasses.fields(Config)}
    if not isinstance(config, dict) or not isinstance(dataset, dict) or config.keys() != fields:
        raise InputError(
            f"--workdir {study}: {path} is not a record of this version's: choose another directory for this study"
        )
    if dataset.get("sha256") not in known:
        raise InputError(
            f"--workdir {study}: {path} is of other data ({dataset.get('name')}, sha256 "
            f"{str(dataset.get('sha256'))[:12]}): choose another directory for this study"
        )
