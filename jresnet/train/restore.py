"""The weights of a run, from its directory."""

import pathlib
from typing import Any, NamedTuple

import jax

from jresnet import models
from jresnet.errors import InputError
from jresnet.records import run_directory
from jresnet.records.epoch import METRICS, best_epoch, read_metrics
from jresnet.records.run import Run
from jresnet.train import optim
from jresnet.train.checkpoint import Checkpoints, Damaged
from jresnet.train.trainer import init_program

_REMEDY = "restore it from a copy, or use the last epoch"


class Trained(NamedTuple):
    """A run with the weights of one of its checkpoints.

    Attributes:
      run: its record.
      network: its network.
      variables: `params` and `batch_stats`, the averages of a run that has them.
      step: updates done before the checkpoint.
    """

    run: Run
    network: models.ResNet
    variables: Any
    step: int


def restore(place: pathlib.Path) -> Trained:
    """Restore the newest sound checkpoint of a run, finished or not; damaged ones are named in a warning.

    Args:
      place: the run's directory, or `best/` in it for the checkpoint of its best epoch on the validation images, by the
        records of the epochs so far.

    Raises:
      InputError: the directory holds no run or no sound checkpoint, or none of the best epoch.
    """
    best = place.name == run_directory.BEST and not (place / run_directory.CONFIG).exists()
    directory = place.parent if best else place
    run = run_directory.read_run(directory)
    best_step = _best_step(directory, run) if best else None
    try:
        network = models.from_config(run.config, len(run.classes))
        models.check_network(run.config, len(run.classes), run.image_size)
    except InputError as error:
        raise InputError(f"{directory / run_directory.CONFIG}: {error}") from None
    # The shapes depend neither on the seed nor on the number of steps.
    tx, averages = optim.shared_optimizer(run.config, 1), run.config.ema_decay is not None
    program = init_program(network, tx, (*run.image_size, 3), averages)
    shapes = jax.eval_shape(program, 0, *optim.rates(run.config))
    saved = place if best else directory / run_directory.CHECKPOINTS
    with Checkpoints(saved, read_only=True, runs=run.fingerprints) as checkpoints:
        restored = (
            checkpoints.restore_newest(shapes) if best_step is None else _restored(checkpoints, best_step, shapes)
        )
    if restored is None:
        raise InputError(f"{directory}: this run has no checkpoint yet: let it train for an epoch first")
    (state, _), _ = restored
    return Trained(run, network, state.variables, int(state.step))


def _best_step(directory: pathlib.Path, run: Run) -> int:
    """Updates after the best epoch; InputError if its checkpoint is not there."""
    place = directory / run_directory.BEST
    if run.config.keep_best is None:
        raise InputError(f"{place}: this run has kept no best epoch: train it with --keep-best validation")
    path = directory / METRICS
    epoch = best_epoch(read_metrics(path)) if path.exists() else None
    if epoch is None:
        raise InputError(f"{place}: this run has no best epoch yet: let it train for an epoch first")
    step = (epoch + 1) * run.config.steps_per_epoch(run.dataset["train"])
    if step not in run_directory.steps(place):
        if not (directory / run_directory.RESULT).exists():
            raise InputError(f"{place}: lacks the checkpoint of epoch {epoch}: try again when the run has gone on")
        raise InputError(f"{place}: lacks the checkpoint of epoch {epoch}: {_REMEDY}")
    return step


def _restored(checkpoints: Checkpoints, step: int, shapes: Any) -> tuple[Any, Any]:
    """The checkpoint of the best epoch; InputError with its own remedy if it is damaged."""
    try:
        return checkpoints.restore(step, shapes)
    except Damaged as error:
        raise InputError(f"{error}: {_REMEDY}") from None
