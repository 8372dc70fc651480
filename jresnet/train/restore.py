"""The weights of a run, from its directory."""

import pathlib
from typing import Any, NamedTuple

import jax

from jresnet import models
from jresnet.errors import InputError
from jresnet.records import run_directory
from jresnet.records.run import Run
from jresnet.train import optim
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.trainer import init_program


class Trained(NamedTuple):
    """A run with the weights of one of its checkpoints.

    Attributes:
      run: its record.
      network: its network.
      variables: `params` and `batch_stats`.
      step: updates done before the checkpoint.
    """

    run: Run
    network: models.ResNet
    variables: Any
    step: int


def restore(directory: pathlib.Path, best: bool = False) -> Trained:
    """Restore the newest sound checkpoint in a run's directory, finished or not; damaged ones are named in a warning.

    With `best` it is that of the best epoch on the validation images, as of then if the run is not finished.

    Raises:
      InputError: the directory holds no run or no sound checkpoint, or with `best` none of the best epoch.
    """
    run = run_directory.read_run(directory)
    try:
        network = models.from_config(run.config, len(run.classes))
        models.check_network(run.config, len(run.classes), run.image_size)
    except InputError as error:
        raise InputError(f"{directory / run_directory.CONFIG}: {error}") from None
    # The shapes depend neither on the seed nor on the number of steps.
    program = init_program(network, optim.shared_optimizer(run.config, 1), (*run.image_size, 3))
    shapes = jax.eval_shape(program, 0, run.config.learning_rate, run.config.weight_decay)
    place = directory / (run_directory.BEST if best else run_directory.CHECKPOINTS)
    with Checkpoints(place, read_only=True, runs=run.fingerprints) as checkpoints:
        restored = checkpoints.restore_newest(shapes)
    if restored is None and best:
        raise InputError(f"{place}: this run has kept no best epoch: train it with --keep-best validation")
    if restored is None:
        raise InputError(f"{directory}: this run has no checkpoint yet: let it train for an epoch first")
    (state, _), _ = restored
    return Trained(run, network, state.variables, int(state.step))
