"""The runs of a study: the directory of each, whether it is finished, and which process trains it.

A run's directory is STUDY/runs/NAME-DIGEST/seed-K. The digest covers everything that the result depends on except the
seed, so a run that several experiments need is trained once, and a study that was stopped finds its finished runs.
Processes that share the directory, on one machine or several, never train the same run: the one that does holds a lock.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Container, Iterable, Sequence

import rich.console

from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.errors import InputError, InUse
from jresnet.parallel.devices import Devices
from jresnet.records import run_directory
from jresnet.records.lock import is_held
from jresnet.records.run import differences, digest
from jresnet.rules import as_typed, require
from jresnet.train import loop
from jresnet.train.best import check_validation

RUNS = "runs"

# Options beyond the report's, which names show where they are not at their defaults. Older options, which names do not
# show, must not join them: a run would not be found in the directory that it was begun in.
_INGREDIENTS = (
    "alternate_flip", "trivialaugment", "randaugment", "cutout", "mixup", "cutmix", "zero_init", "optimizer",
    "muon_learning_rate", "weight_decay_on", "label_smoothing", "ema_decay", "clip_norm", "accumulate", "sam",
    "test_after",
)  # fmt: skip


LONGEST = 244
"""Characters of a setting's name: file systems take 255, of which the digest needs 11."""


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """One run of a study; runs with the same directory are equal.

    Attributes:
      directory: its directory, unique to it.
      experiment: the first experiment that needs it; its name in the run's records.
      config: its configuration, with the network's defaults filled in and without a budget.
      seed: its seed.
      dataset: its data, before `config.validation` images are held out.
      work: relative cost of training: parameters x images x epochs.
      keep: how many checkpoints to keep.
    """

    directory: pathlib.Path
    experiment: str = dataclasses.field(compare=False)
    config: Config = dataclasses.field(compare=False)
    seed: int = dataclasses.field(compare=False)
    dataset: Dataset = dataclasses.field(compare=False)
    work: int = dataclasses.field(compare=False)
    keep: int = dataclasses.field(default=1, compare=False)


def study_run(experiment: str, config: Config, seed: int, dataset: Dataset, study: pathlib.Path) -> StudyRun:
    """The run of this configuration, seed and data in the study's directory; its network is checked.

    Raises:
      InputError: the network is impossible, or the run would start from weights, which directories do not tell apart.
    """
    rule = "the runs of a study start from random weights: leave it out, or fine-tune with jresnet train"
    require(config, "init_from", config.init_from is None, rule)
    parameters = models.check_network(config, len(dataset.classes), dataset.image_size)
    config = models.fill_defaults(dataclasses.replace(config, budget=None))
    directory = seeds_directory(study, config, dataset.sha256) / f"seed-{seed}"
    return StudyRun(directory, experiment, config, seed, dataset, parameters * len(dataset.train) * config.epochs)


def over_seeds(
    experiment: str, config: Config, seeds: Iterable[int], dataset: Dataset, study: pathlib.Path
) -> list[StudyRun]:
    """The runs of a setting, see `study_run`, in the order of their seeds."""
    return [study_run(experiment, config, seed, dataset, study) for seed in seeds]


def seeds_directory(study: pathlib.Path, config: Config, sha256: str) -> pathlib.Path:
    """The directory of a configuration's runs over seeds: the one that already holds such runs, else NAME-DIGEST.

    Existing records take precedence, so that a run begun by a version with another digest, or with the data at another
    path, is continued.
    """
    for path in sorted((study / RUNS).glob(f"{name(config)}-*/seed-*/{run_directory.CONFIG}")):
        with contextlib.suppress(InputError):  # `check` reports unusable records
            run = run_directory.read_run(path.parent)
            if not differences(run.to_json(), config, run.seed, sha256):
                return path.parent.parent
    return study / RUNS / f"{name(config)}-{digest(config, sha256)[:10]}"


def name(config: Config) -> str:
    """The readable part of a directory's name: the options that the report's experiments vary, and those beyond it.

    It has at most LONGEST characters; what is cut off still is in the digest.
    """
    words = [f"width{config.width}", f"batch{config.batch_size}", f"rate{config.learning_rate:g}"]
    augmented = {"crop": config.crop_padding, "flip": config.flip, "gray": config.grayscale}
    others = {"blocks": "".join(map(str, config.blocks or ())), "kernel": config.kernel_size, "pool": config.pool_size}
    usual = {"blocks": "2222", "kernel": 3, "pool": 4}
    words += [f"{option}{value}" for option, value in others.items() if value != usual[option]]
    words += [f"{option}{value:g}" for option, value in augmented.items() if value] or ["plain"]
    words += ["onecycle"] * (config.schedule == "one-cycle")
    defaults = Config()
    for option in _INGREDIENTS:
        value = getattr(config, option)
        if value != getattr(defaults, option):
            words.append(option.replace("_", "") + ("" if value is True else as_typed(value).replace(" ", "x")))
    epochs = f"-{config.epochs}epochs"
    return "-".join(words)[: LONGEST - len(epochs)] + epochs


def result(run: StudyRun) -> dict | None:
    """The verified `result.json` of a run, None while unfinished; InputError if it is damaged or another run's."""
    if not (run.directory / run_directory.RESULT).exists():
        return None
    record = run_directory.read_result(run.directory).to_json()
    if different := differences(record, run.config, run.seed, run.dataset.sha256):
        raise InputError(
            f"{run.directory}: holds another run ({'; '.join(different)}): move it away, or choose another --workdir"
        )
    return record


def running(run: StudyRun) -> bool:
    """Whether a process is training the run at this moment."""
    return is_held(run.directory)


def train(run: StudyRun, console: rich.console.Console | None) -> bool:
    """Train the run to its end, from its latest checkpoint; False if another process is doing so or has done so."""
    if result(run) is not None:
        return False
    try:
        loop.fit(
            run.config, run.dataset, run.directory,
            seed=run.seed, experiment=run.experiment, keep=run.keep, console=console,
        )  # fmt: skip
    except InUse:
        return False
    return True


def check(runs: Sequence[StudyRun], study: pathlib.Path) -> None:
    """Check, without writing, everything that can be checked before the first run is trained.

    Raises InputError if a batch or validation split is impossible, there are no images to choose or evaluate by, or
    the study's directory cannot be used or holds records that are damaged, of other data, or of a later version.
    """
    run_directory.check_writable(study)
    if (study / run_directory.CONFIG).exists() or any(study.glob("seed-*")):
        raise InputError(f"--workdir {study}: holds runs of a single experiment: choose another directory for a study")
    of_data: dict[str, Dataset] = {}
    for run in runs:
        if run.dataset.sha256 not in of_data:
            of_data[run.dataset.sha256] = run.dataset.hold_out(run.config.validation, 0)
        models.check_training(run.config, of_data[run.dataset.sha256], Devices(run.config).count)
        check_validation(run.config, of_data[run.dataset.sha256])
    for path in sorted(study.glob(f"{RUNS}/*/seed-*/{run_directory.CONFIG}")):
        _check_record(study, path, of_data.keys())
    for run in runs:
        result(run)


def _check_record(study: pathlib.Path, path: pathlib.Path, known: Container[str]) -> None:
    """Raise InputError unless a `config.json` is a run's, of this version, and of known data."""
    dataset = run_directory.read_run(path.parent).dataset
    if (sha256 := dataset.get("sha256")) not in known:
        raise InputError(
            f"--workdir {study}: {path} is of other data ({dataset['name']}, sha256 {str(sha256)[:12]}): "
            "choose another directory for this study"
        )
