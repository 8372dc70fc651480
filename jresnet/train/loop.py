"""`fit`: one run from its configuration to its result, on disk and returned."""

import dataclasses
import logging
import math
import os
import pathlib
import statistics
import time

import jax
import rich.console

from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Dataset, dataset_record
from jresnet.data.pipeline import Statistics, make_input
from jresnet.errors import Diverged, InputError, Interrupted
from jresnet.parallel import distributed
from jresnet.parallel.compiler import enable_compile_cache
from jresnet.parallel.devices import Devices
from jresnet.records import environment, run_directory
from jresnet.records.figures import curves
from jresnet.records.log import RunLog
from jresnet.train import signals
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.trainer import Outputs, Training, figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One run's outcome, the content of `result.json`.

    Losses are mean cross-entropies in nats, accuracies shares of correctly classified images.
    `train_*` are averages over the last epoch as it was trained, on augmented images; `test_*` and
    `validation_*` are of the final parameters, each image counted once. `test_accuracy_batch_mean`
    averages the accuracies of test batches of the training batch's size, as the report did.
    `seconds` is the time spent on epochs, `compile_seconds` what compilation took besides.
    """

    experiment: str
    config: dict
    seed: int
    parameters: int
    epochs: int
    train_loss: float
    train_accuracy: float
    test_loss: float | None = None
    test_accuracy: float | None = None
    test_accuracy_batch_mean: float | None = None
    dataset: dict
    device: str
    versions: dict
    commit: str | None
    seconds: float
    compile_seconds: float
    images_per_second: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None

    def record(self) -> dict:
        """The result as `result.json` holds it; without validation or test images it has no figures of them."""
        return {name: value for name, value in vars(self).items() if value is not None or name == "commit"}


def fit(
    config: Config,
    dataset: Dataset,
    workdir: str | os.PathLike,
    *,
    seed: int = 0,
    experiment: str = "train",
    resume: bool = True,
    keep: int | None = 2,
    console: rich.console.Console | None = None,
) -> Result:
    """Train one network, evaluate it after every epoch, and record everything in `workdir`.

    The run is a function of (config, seed, dataset): interrupted and resumed, it ends in the same
    parameters, bit for bit on the same device. Several processes that have met by `jax.distributed` train
    one run together: each calls this with the same arguments, and the first writes the records.

    Args:
      config: the configuration; its `validation` images are held out of the training split here.
      dataset: the data.
      workdir: the run's directory, made if need be.
      seed: decides initial weights, validation split, order and augmentation; below 2**32.
      experiment: the run's name in its records.
      resume: go on from the latest checkpoint in workdir, or return the result if the run is finished.
      keep: how many checkpoints stay; None for all.
      console: where to show progress; None for silence.

    Raises:
      InputError: config, data and workdir do not go together; nothing was written.
      Diverged: the loss became non-finite; the last good checkpoint stays.
      Interrupted: SIGINT or SIGTERM came, here or in another process of the run; the state is saved.
      Lost: another process of the run is gone.
    """
    directory = pathlib.Path(workdir)
    run, dataset, finished = check(config, dataset, directory, seed, experiment, resume)
    with distributed.together():
        agree(run, directory, finished)
    if finished is not None:
        return finished
    # Now, not at the end: a checkout may move on while a long run lasts.
    commit = environment.commit()
    devices = Devices(config)
    enable_compile_cache()
    training = prepare(config, dataset, seed, devices, (tuple(run["mean"]), tuple(run["std"])))
    with distributed.together():
        claim(directory, run, training)
    with (
        distributed.together(),
        signals.stop_flag() as flag,
        Checkpoints(directory / run_directory.CHECKPOINTS, keep) as checkpoints,
        RunLog(
            directory,
            epochs=config.epochs,
            steps_per_epoch=training.steps,
            console=console,
            label=f"{experiment} seed {seed}",
            writes=distributed.primary(),
        ) as log,
    ):
        run_epochs(training, dataset, directory, flag, checkpoints, log)
        result = summarise(training, run, log.history, commit)
    if distributed.primary():
        curves(log.history, directory / run_directory.CURVES, title(result))
        run_directory.finish(directory, result.record())
    return result


def claim(directory: pathlib.Path, run: dict, training: Training) -> None:
    """Make the directory this run's, and see that all processes have the same one and the same kind of input.

    Raises:
      InputError: they have not.
    """
    if distributed.primary():
        run_directory.claim(directory, run)
    distributed.compare({"--input": type(training.source).__name__.lower()}, {})
    if not distributed.seen_by_all(directory / run_directory.CONFIG):
        raise InputError(f"--workdir {directory}: is not one directory for all processes: choose one that they share")


def agree(run: dict, directory: pathlib.Path, finished: Result | None) -> None:
    """See that all processes are about to go on with the same run from the same place.

    Raises:
      InputError: one of them has other options or data, or sees other files in the run's directory.
    """
    config = {f"--{name.replace('_', '-')}": value for name, value in run["config"].items() if name != "data_dir"}
    checkpoints = sorted(
        path.name for path in (directory / run_directory.CHECKPOINTS).glob("[0-9]*") if path.name.isdigit()
    )
    shared = config | {
        "the seed": run["seed"],
        "the data's sha256": run["dataset"]["sha256"],
        f"checkpoints in {directory}": checkpoints,
        f"{directory / run_directory.RESULT} there": finished is not None,
    }
    for warning in distributed.compare(shared, environment.versions()):
        logging.getLogger(__name__).warning(warning)


def check(
    config: Config, dataset: Dataset, workdir: pathlib.Path, seed: int, experiment: str, resume: bool
) -> tuple[dict, Dataset, Result | None]:
    """Check everything that `fit` would refuse, without writing; the arguments are those of `fit`.

    Returns:
      The run as `config.json` holds it, the data set with validation images held out, and the recorded
      result where the run is finished.

    Raises:
      InputError: config, data and workdir do not go together.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: must lie from 0 to 2**32 - 1")
    models.check_network(config, len(dataset.classes), dataset.image_size)
    Devices(config)
    held_out = dataset.hold_out(config.validation, seed)
    run = describe(models.explicit(config), held_out, dataset.sha256, seed, experiment)
    finished = run_directory.look(workdir, run, resume)
    return run, held_out, None if finished is None else recorded_result(finished, workdir / run_directory.RESULT)


def recorded_result(record: dict, path: pathlib.Path) -> Result:
    """The result a `result.json` holds.

    Raises:
      InputError: it lacks fields, or has others.
    """
    try:
        return Result(**record)
    except TypeError as error:
        raise InputError(
            f"{path}: not a run's result ({error}): choose another directory, or delete the file"
        ) from None


def prepare(config: Config, dataset: Dataset, seed: int, devices: Devices, channels: Statistics) -> Training:
    """Build network, optimizer, input and programs of a run on a data set whose validation images are held out."""
    images = len(dataset.train)
    return Training(
        config=config,
        seed=seed,
        model=models.from_config(config, len(dataset.classes)).clone(
            conv_general_dilated_cls=models.conv_for(jax.default_backend())
        ),
        source=make_input(dataset.train, config, seed, channels, devices),
        statistics=channels,
        image_shape=(*dataset.image_size, 3),
        images=images,
        devices=devices,
    )


def run_epochs(
    training: Training, dataset: Dataset, directory: pathlib.Path, flag: signals.Flag, checkpoints: Checkpoints,
    log: RunLog,
) -> None:  # fmt: skip
    """Train, save, evaluate and record epoch after epoch, from the latest checkpoint on.

    The checkpoint of an epoch is written before its evaluation: a run that resumes from it evaluates
    again, to the same figures, so that no epoch is recorded that could be lost.
    """
    training.start(checkpoints)
    log.begin(training.epoch, training.step_in_epoch)
    for epoch in range(training.epoch, training.config.epochs):
        training.train_epoch(epoch, log, flag)
        training.save(checkpoints)
        stop_if_asked(training)
        started = time.perf_counter()
        outputs = evaluate_all(training, dataset, epoch, flag, log)
        seconds = time.perf_counter() - started
        if distributed.primary() and epoch + 1 == training.config.epochs and "test" in outputs:
            run_directory.write_predictions(directory, outputs["test"].predictions, outputs["test"].confidences)
        log.epoch(epoch_record(training, dataset, epoch, outputs, seconds))


def stop_if_asked(training: Training) -> None:
    """Raise Interrupted if a signal came; the state of this moment has been saved."""
    if training.asked is not None:
        place = f"epoch {training.epoch}, step {training.step_in_epoch} of {training.steps}"
        raise Interrupted(f"interrupted after {place}; the state is saved", training.asked)


def evaluate_all(training: Training, dataset: Dataset, epoch: int, flag, log: RunLog) -> dict[str, Outputs]:
    """What the network says of the validation and test splits, where there are any."""

    def between():
        log.advance(training.steps, epoch, "test")
        training.agree(flag)
        stop_if_asked(training)

    splits = {"validation": dataset.validation, "test": dataset.test}
    variables = training.state.variables
    return {name: training.evaluator(variables, split, between) for name, split in splits.items() if len(split)}


def epoch_record(
    training: Training, dataset: Dataset, epoch: int, outputs: dict[str, Outputs], eval_seconds: float
) -> dict:
    """One line of `metrics.jsonl`.

    Raises:
      Diverged: a test or validation loss is not finite.
    """
    train_loss, train_accuracy = training.train_figures()
    record = {"epoch": epoch, "train_loss": train_loss, "train_accuracy": train_accuracy}
    for name, output in outputs.items():
        correct = output.predictions == getattr(dataset, name).labels
        found = figures(output.losses, correct, training.config.batch_size)
        if not math.isfinite(found.loss):
            raise Diverged(f"the {name} loss is not finite after epoch {epoch}: lower --learning-rate")
        record |= {f"{name}_loss": found.loss, f"{name}_accuracy": found.accuracy}
        if name == "test":
            record["test_accuracy_batch_mean"] = found.accuracy_batch_mean
    return record | {
        "learning_rate": training.learning_rate(epoch),
        "images_per_second": training.images / training.seconds,
        "seconds": training.seconds + eval_seconds,
    }


def summarise(training: Training, run: dict, history: list[dict], commit: str | None) -> Result:
    """The result of a run whose last epoch is recorded: the last epoch's figures, whatever the others were."""
    last = history[-1]
    return Result(
        experiment=run["experiment"],
        config=run["config"],
        seed=run["seed"],
        dataset=run["dataset"],
        train_loss=last["train_loss"],
        train_accuracy=last["train_accuracy"],
        validation_loss=last.get("validation_loss"),
        validation_accuracy=last.get("validation_accuracy"),
        test_loss=last.get("test_loss"),
        test_accuracy=last.get("test_accuracy"),
        test_accuracy_batch_mean=last.get("test_accuracy_batch_mean"),
        parameters=training.parameters,
        epochs=len(history),
        device=environment.device(),
        versions=environment.versions(),
        commit=commit,
        seconds=sum(record["seconds"] for record in history),
        compile_seconds=training.compile_seconds,
        images_per_second=statistics.median(record["images_per_second"] for record in history),
    )


def title(result: Result) -> str:
    """What the curves' figure says above its panels."""
    network = f"width {result.config['width']}, {result.parameters:,} parameters"
    return f"{result.experiment}, seed {result.seed}: {network}, {result.dataset['name']}"


def describe(config: Config, dataset: Dataset, sha256: str, seed: int, experiment: str) -> dict:
    """The run as `config.json` holds it: everything that its result depends on, and what prediction needs.

    Args:
      config: the configuration, explicit (`models.explicit`).
      dataset: the data, validation images already held out.
      sha256: digest of the data before that.
      seed: of the run.
      experiment: its name in records.
    """
    mean, std = dataset.channel_statistics
    return {
        "experiment": experiment,
        "seed": seed,
        "config": {name: list(value) if isinstance(value, tuple) else value for name, value in vars(config).items()},
        "dataset": dataset_record(dataset, sha256),
        "classes": list(dataset.classes),
        "image_size": list(dataset.image_size),
        "mean": list(mean),
        "std": list(std),
    }
