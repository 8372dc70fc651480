"""`fit`: the loop over epochs. The calls within an epoch are in `Trainer.train_epoch`, the steps in `train_program`."""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from functools import partial

import jax
import rich.console

from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Dataset, dataset_record
from jresnet.errors import CannotWrite, InputError, Interrupted
from jresnet.parallel import distributed
from jresnet.parallel.compiler import enable_compile_cache
from jresnet.parallel.devices import Devices
from jresnet.records import environment, run_directory
from jresnet.records.figures import curves
from jresnet.records.files import Record, local_path
from jresnet.records.lock import Lock, check_free, hold
from jresnet.records.log import RunLog
from jresnet.records.result import Result
from jresnet.records.run import Run, Weights
from jresnet.rules import flag, require
from jresnet.train import best, initial, memory
from jresnet.train.checkpoint import Checkpoints, has_brackets
from jresnet.train.evaluate import Outputs
from jresnet.train.signals import StopSignal, catch_stop_signals
from jresnet.train.summary import epoch_record, summarise_run
from jresnet.train.trainer import Trainer

CHECKPOINT_SECONDS = 30.0
"""Minimum seconds of training between two checkpoints: writing one takes tenths of a second, as a short epoch does."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def without_x64() -> Iterator[None]:
    """Turn `jax_enable_x64` off: with it JAX draws other random numbers, on which a run's result would depend."""
    with jax.enable_x64(False):
        yield


@without_x64()
@distributed.lost_peers()
def fit(
    config: Config,
    dataset: Dataset,
    workdir: str | os.PathLike[str],
    *,
    seed: int = 0,
    experiment: str = "train",
    resume: bool = True,
    keep: int | None = 2,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    console: rich.console.Console | None = None,
    on_epoch: Callable[[Record], None] | None = None,
) -> Result:
    """Train one network, evaluate it after every epoch, and record the run in `workdir`.

    With `config.test_after` "training" only validation images are evaluated before the last epoch, with "never" after
    it, too.

    The result is a function of (config, seed, data): a run that is interrupted and resumed ends with the same
    parameters. The bits depend on how sums are divided, too: on the kind and number of devices, on jit or pmap, and on
    a CPU on the number of cores; `Result.execution` records them, and a warning says if they differ on resume. On a
    GPU equal bits need `config.deterministic`. With several processes (`jax.distributed`), all call this with
    the same arguments, train one run together, and process 0 writes its records.

    >>> import tempfile, jresnet
    >>> dataset = jresnet.load_dataset("synthetic").subset(train=64, test=32)
    >>> config = jresnet.Config(width=2, blocks=(1,), pool_size=8, epochs=2, batch_size=32)
    >>> result = jresnet.fit(config, dataset, tempfile.mkdtemp())
    >>> result.epochs, result.parameters
    (2, 468)

    Args:
      config: the configuration; its `validation` images are held out of the training split.
      dataset: the data.
      workdir: the run's directory, created if necessary.
      seed: decides initial weights, validation split, order and augmentation; from 0 to 2**32 - 1.
      experiment: name of the run in its records.
      resume: continue from the latest checkpoint in `workdir`; if the run is finished, return its result. A run with
        a constant learning rate may be given more epochs, unless it is finished with `test_after` "training", or
        before it is finished fewer: it ends as if it had had them from the start.
      keep: how many checkpoints to keep; None for all.
      checkpoint_seconds: at least so many seconds of training lie between two checkpoints, so that epochs that take
        longer are all saved; the first epoch, the last, with `keep_best` every one that is the best so far, and the
        state at a stop signal are saved in any case.
      console: where to print progress; None for nowhere.
      on_epoch: called in process 0 with the record of each epoch, as in `metrics.jsonl` but without `version`, that is
        recorded in this call. What it raises ends the run, which can be resumed from its latest checkpoint. With
        several processes the others then end as `Lost`, and a checkpoint that is being written may be lost, too.

    Raises:
      InputError: config, data and workdir do not go together; nothing was written.
      InUse: another process trains in `workdir`.
      CannotWrite: a file of the run cannot be written; what is on disk is sound, and a later call goes on from there.
      Diverged: the loss became non-finite; the last good checkpoint is kept.
      Interrupted: SIGINT or SIGTERM arrived, here or in another process of the run; the state is saved.
      Lost: another process of the run is gone.
    """
    directory = local_path(workdir, "--workdir")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: must lie from 0 to 2**32 - 1")
    if has_brackets(directory) and jax.process_count() > 1:
        raise InputError(f"--workdir {workdir}: several processes cannot share a path with brackets: choose another")
    sha256, dataset = dataset.sha256, dataset.hold_out(config.validation, seed)
    best.check_validation(config, dataset)
    start = initial.read(config, directory)
    config = initial.adopted(config, start)
    parameters = models.check_network(config, len(dataset.classes), dataset.image_size)
    devices = Devices(config)
    pooled = devices.platform == "gpu" and models.from_config(config, 2).pools_first
    rule = "max pooling has no deterministic gradient on GPUs: choose another --model, or --stem small"
    require(config, "deterministic", not (config.deterministic and pooled), rule, value="")
    models.check_training(config, dataset, devices.count)
    run = describe(config, dataset, sha256, seed, experiment, start and start.record)
    check = partial(run_directory.check, directory, run.config, seed, sha256, resume, run.initial_weights)
    finished = check()
    check_processes_agree(run, directory, finished)
    if finished is not None:
        return finished
    memory.check_state(parameters, config)
    warn_of_single_images(config, len(dataset.train), devices.count)
    if distributed.is_primary():
        check_free(directory)  # `hold` checks it again; here before the devices' memory is needed
    commit = environment.commit()  # now, not at the end: the checkout may change during a long run
    enable_compile_cache(config.deterministic)
    with catch_stop_signals() as signal, memory.limited():
        trainer = Trainer(run, dataset.train, devices)
        goes_on = bool(run_directory.steps(directory / run_directory.CHECKPOINTS))
        trainer.start(None if goes_on else initial.starting_weights(start, trainer.shapes[0].variables, run.classes))
        del start  # a copy of all weights, for which a long run has no use
        trainer.prepare()
        held = hold(directory) if distributed.is_primary() else contextlib.nullcontext()
        with held as lock:
            # Another process may have used the directory since the first check.
            finished = check() if lock else None
            if distributed.process_max([finished is not None]) == [1.0]:
                return finished or run_directory.read_result(directory)
            create_directory(directory, run, trainer)
            try:
                return train(
                    trainer, dataset, directory, commit, lock, keep, checkpoint_seconds, console, signal, on_epoch
                )
            except CannotWrite as error:
                if lock and lock.lost:  # what is there now is not this run's
                    raise
                raise CannotWrite(f"{error}; {what_is_left(directory)}") from None


def train(
    trainer: Trainer,
    dataset: Dataset,
    directory: pathlib.Path,
    commit: str | None,
    lock: Lock | None,
    keep: int | None,
    checkpoint_seconds: float,
    console: rich.console.Console | None,
    signal: StopSignal,
    on_epoch: Callable[[Record], None] | None,
) -> Result:
    """Train from where the directory, which this process or another of the run holds, says; see `fit`."""
    run, config = trainer.run, trainer.run.config
    runs = run_directory.read_run(directory).fingerprints
    with (
        Checkpoints(directory / run_directory.CHECKPOINTS, keep, runs=runs) as checkpoints,
        Checkpoints(directory / run_directory.BEST, 1, runs=runs) as best_checkpoint,
        RunLog(
            directory,
            epochs=config.epochs,
            steps_per_epoch=trainer.steps_per_epoch,
            console=console,
            label=f"{run.experiment} seed {run.seed}",
            writes=distributed.is_primary(),
        ) as log,
    ):
        history = trainer.resume(checkpoints)
        log.begin(trainer.epoch, trainer.step_in_epoch, history)
        if config.keep_best:
            best.begin(best_checkpoint, trainer, log.history)
        unsaved = math.inf  # seconds of training since the latest checkpoint, the same in all processes
        for epoch in range(trainer.epoch, config.epochs):
            trainer.train_epoch(epoch, log, signal)
            if lock:
                lock.check()
            stop_if_signalled(trainer, checkpoints, log)
            unsaved += trainer.seconds
            # Saved before the evaluation: a run that resumes here evaluates again, with the same result. Epochs that
            # are recorded after the latest checkpoint are trained again, with the same result too.
            if unsaved >= checkpoint_seconds or epoch + 1 == config.epochs:
                trainer.save(checkpoints, log.history)
                unsaved = 0.0
            else:
                trainer.check_finite()
            started, compiled = time.perf_counter(), trainer.evaluator.compile_seconds
            outputs = evaluate(trainer, dataset, epoch, signal, checkpoints, log)
            if epoch + 1 == config.epochs and "test" in outputs and distributed.is_primary():
                found, test = outputs["test"], dataset.test
                run_directory.write_predictions(
                    directory, found.predictions, found.confidences, test.labels, test.names
                )
            seconds = time.perf_counter() - started - (trainer.evaluator.compile_seconds - compiled)
            log.epoch(epoch_record(trainer, dataset, epoch, outputs, seconds))
            if config.keep_best and best.keep(best_checkpoint, checkpoints, trainer, log.history):
                unsaved = 0.0
            if on_epoch and distributed.is_primary():
                on_epoch({name: value for name, value in log.history[-1].items() if name != "version"})
        result = summarise_run(trainer, log.history, commit).at(directory)
    if distributed.is_primary():
        if lock:
            lock.check()
        curves(log.history, directory / run_directory.CURVES, result.title)
        run_directory.finish(directory, result.to_json(), log.history)
    return result


def what_is_left(directory: pathlib.Path) -> str:
    """What a run that cannot write has left, and how to go on, in words."""
    complete = run_directory.steps(directory / run_directory.CHECKPOINTS)
    if not complete:
        return "no checkpoint is complete yet: --resume starts it from the beginning"
    return f"its checkpoint of update {complete[-1]} is complete: go on from there with --resume"


def describe(
    config: Config, dataset: Dataset, sha256: str, seed: int, experiment: str, weights: Weights | None = None
) -> Run:
    """The run on a data set whose validation images are held out already; `sha256` is that of the data before.

    `weights` are those that it starts from, None for random ones.
    """
    mean, std = dataset.channel_statistics
    source = {} if dataset.source is None else vars(dataset.source)
    config = dataclasses.replace(models.fill_defaults(config), **source | {"dataset": dataset.name})
    return Run(
        experiment, seed, config, dataset_record(dataset, sha256), dataset.classes, dataset.image_size, mean, std,
        jresnet=environment.versions().get("jresnet"), initial_weights=weights,
    )  # fmt: skip


def warn_of_single_images(config: Config, images: int, devices: int) -> None:
    """Say if batch normalisation has only one image somewhere; `check_training` refuses a single value per channel."""
    if models.smallest_batch(config, images, devices) == 1:
        together = "a batch" if config.accumulate == 1 else "a part of a batch"
        _log.warning(
            f"--batch-size {config.batch_size}: leaves 1 of {images:,} training images for {together}, which is "
            "normalised by its own pixels alone"
        )


def check_processes_agree(run: Run, directory: pathlib.Path, finished: Result | None) -> None:
    """Raise InputError unless all processes have the same options and data and see the same checkpoints.

    A collective: every process calls it.
    """
    # The sha256 of data and weights decide, not the paths at which each process finds them.
    paths = ("dataset", "data_dir", "init_from")
    options = {flag(name): value for name, value in vars(run.config).items() if name not in paths}
    settings = options | {
        "the seed": run.seed,
        "the data's sha256": run.dataset["sha256"],
        "the initial weights' sha256": run.initial_weights and run.initial_weights.sha256,
        f"the list of checkpoints in {directory}": run_directory.steps(directory / run_directory.CHECKPOINTS),
        f"the existence of {directory / run_directory.RESULT}": finished is not None,
    }
    for warning in distributed.require_equal(settings, environment.versions()):
        _log.warning(warning)


def create_directory(directory: pathlib.Path, run: Run, trainer: Trainer) -> None:
    """Create the run's directory; raise InputError unless all processes share it and have the same kind of input.

    A collective: every process calls it.
    """
    if distributed.is_primary():
        run_directory.create(directory, run)
    distributed.require_equal({"--input": trainer.source.name}, {})
    if not distributed.visible_to_all(directory / run_directory.CONFIG):
        raise InputError(
            f"--workdir {directory}: is not the same directory in all processes: choose one that they share"
        )


def stop_if_signalled(trainer: Trainer, checkpoints: Checkpoints, log: RunLog) -> None:
    """Save the current state and raise Interrupted if any process has received a stop signal."""
    if trainer.stop_signal is not None:
        trainer.save(checkpoints, log.history)
        position = f"epoch {trainer.epoch}, step {trainer.step_in_epoch} of {trainer.steps_per_epoch}"
        raise Interrupted(f"interrupted after {position}; the state is saved", trainer.stop_signal)


def evaluate(
    trainer: Trainer, dataset: Dataset, epoch: int, signal: StopSignal, checkpoints: Checkpoints, log: RunLog
) -> dict[str, Outputs]:
    """Evaluate the splits other than the training split that have images; stop on a signal, see `stop_if_signalled`.

    The test split is left out before the last epoch if the run's test images are to be seen after training only, and
    after it, too, if never.
    """

    def after_call(seconds: float) -> float:
        log.advance(trainer.steps_per_epoch, epoch, "test")
        longest = trainer.synchronise(signal, seconds)
        stop_if_signalled(trainer, checkpoints, log)
        return longest

    config, splits = trainer.run.config, {"validation": dataset.validation}
    if config.test_after == "epochs" or (config.test_after == "training" and epoch + 1 == config.epochs):
        splits["test"] = dataset.test
    variables = trainer.state.variables
    return {name: trainer.evaluator(variables, split, after_call) for name, split in splits.items() if len(split)}
