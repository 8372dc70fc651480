"""The weights that a run starts from instead of random ones: those of another run, or of a file."""

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jresnet import models
from jresnet.config import Config
from jresnet.data.checks import numbered
from jresnet.errors import InputError
from jresnet.models import weights_file
from jresnet.models.weights.recognise import OPTIONS
from jresnet.parallel import distributed
from jresnet.records import run_directory
from jresnet.records.files import local_path
from jresnet.records.run import Weights
from jresnet.rules import as_typed, require
from jresnet.train.checkpoint import digests
from jresnet.train.freeze import HEAD
from jresnet.train.restore import restore

NETWORK = ("model", *OPTIONS, "dropout")
"""Options of the network, which a configuration that does not give them takes from the weights."""
FREE = ("pool_size", "dropout")
"""Options that change no weights but the linear layer's; they may differ from the source's."""

_log = logging.getLogger(__name__)


class Initial(NamedTuple):
    """The weights of `--init-from`.

    Attributes:
      record: what the run records of them.
      config: the configuration of their network, its defaults filled in.
      classes: names of their classes, in the order of the logits; numbers where there are no names.
      variables: `params` and `batch_stats`, float32, on the host; None if the run goes on
        without them, from a checkpoint of its own.
    """

    record: Weights
    config: Config
    classes: tuple[str, ...]
    variables: Any


def read(config: Config, directory: pathlib.Path) -> Initial | None:
    """The weights that a configuration starts from, for a run in `directory`; None for random ones. A collective.

    A run that has a checkpoint needs them no longer: what it recorded of them counts if they are gone, and whatever has
    become of them since, as when their own run goes on training, if they are given by the path that it began with.

    Raises:
      InputError: there are none, or they cannot be read, are of a newer version or fit no network of the family.
    """
    if config.init_from is None:
        return None
    place = local_path(config.init_from, "--init-from")
    recorded = _recorded(place, directory)
    kind = "recorded" if recorded else "a run's" if place.is_dir() else "a file's" if place.exists() else "missing"
    # Restoring those of a run is a collective, too.
    distributed.require_equal({"the kind of the weights of --init-from": kind}, {})
    if recorded is not None:
        return recorded
    if not place.exists():
        raise InputError(f"--init-from {place}: does not exist: give the directory of a run, or a file of weights")
    return _of_run(place) if place.is_dir() else _of_file(place, config)


def has_begun(directory: pathlib.Path) -> bool:
    """Whether the run in a directory goes on, or is finished, without the weights that it started from."""
    return (
        bool(run_directory.steps(directory / run_directory.CHECKPOINTS)) or (directory / run_directory.RESULT).exists()
    )


def _of_run(place: pathlib.Path) -> Initial:
    try:
        trained = restore(place)
    except InputError as error:  # which begins with the path
        raise InputError(f"--init-from {error}") from None
    config, network = trained.run.config, trained.network
    _log.warning(f"--init-from {place}: {config.model}, width {network.width}, after {trained.step:,} updates")
    # On the host: the devices have room for what trains.
    variables = jax.device_get(trained.variables)
    return Initial(_described(place, variables, trained.step), config, trained.run.classes, variables)


def _of_file(place: pathlib.Path, config: Config) -> Initial:
    given = {name: value for name in OPTIONS if name not in FREE and (value := getattr(config, name)) is not None}
    model = None if config.model == Config.model else config.model
    try:
        weights = weights_file.read(str(place), model=model, given=given)
        variables = jax.device_get(weights.variables())
    except InputError as error:
        problem = str(error).removeprefix(f"{place}: ")
        convert = "; jresnet convert --key writes a file of one of them" if "--key" in problem else ""
        raise InputError(f"--init-from {place}: {problem}{convert}") from None
    weights.announce()
    classes = numbered(weights.num_classes)
    return Initial(_described(place, variables), models.fill_defaults(weights.config), classes, variables)


def _recorded(place: pathlib.Path, directory: pathlib.Path) -> Initial | None:
    """What a run with checkpoints in this directory recorded of weights that it need not read, see `read`; or None."""
    run = run_directory.read_run(directory) if has_begun(directory) else None
    if run is None or run.initial_weights is None or run.config.init_from is None:
        return None
    if place.exists() and place.resolve() != local_path(run.config.init_from).resolve():
        return None
    return Initial(run.initial_weights, run.config, run.classes, None)


def _described(place: pathlib.Path, variables: Any, updates: int | None = None) -> Weights:
    return Weights(place.resolve().name, digest(variables), updates)


def digest(variables: Any) -> str:
    """The SHA-256 of weights: of the names, dtypes, shapes and values of all arrays."""
    return hashlib.sha256(json.dumps(digests(variables), sort_keys=True).encode()).hexdigest()


def adopted(config: Config, initial: Initial | None) -> Config:
    """The configuration with the network of the weights that it starts from, if it starts from any.

    Options of the network that are at their defaults are the weights'; the others must agree with them.

    Raises:
      InputError: they do not.
    """
    if initial is None:
        return config
    theirs = {name: getattr(initial.config, name) for name in NETWORK}
    silent = {name: value for name, value in theirs.items() if getattr(config, name) == getattr(Config, name)}
    config = dataclasses.replace(config, **silent)
    filled = models.fill_defaults(config)
    for name, value in theirs.items():
        own = "its network's own" if value is None else as_typed(value)
        rule = f"that of --init-from {config.init_from} is {own}: leave it out, or start from other weights"
        require(config, name, name in FREE or getattr(filled, name) == value, rule)
    return config


def starting_weights(initial: Initial | None, shapes: Any, classes: Sequence[str]) -> Any:
    """The weights with which a network starts: those of all its layers that do as before.

    Args:
      initial: the weights, of the same network but for the linear layer; None for random ones.
      shapes: the network's own `params` and `batch_stats`, or their shapes.
      classes: names of the classes, in the order of its logits.

    Returns:
      `params` and `batch_stats`; None if there are none. If the linear layer is of other classes or of another shape,
      it is left out, and a warning says so; another says if classes that are only numbered are taken for the others.
    """
    if initial is None or initial.variables is None:
        return None
    weights = jax.tree.map(jnp.array, initial.variables)  # copies: training donates them
    reason = _why_new(initial, weights["params"][HEAD], shapes["params"][HEAD], tuple(classes))
    if reason:
        _log.warning(f"--init-from {initial.record.name}: the linear layer is a new one, as {reason}")
        del weights["params"][HEAD]
    elif initial.classes != tuple(classes):
        _log.warning(f"--init-from {initial.record.name}: the linear layer is kept: one side numbers its classes only")
    return weights


def _why_new(initial: Initial, head: Any, like: Any, classes: tuple[str, ...]) -> str:
    """Why the linear layer of the weights is not the network's, in words; "" if it is."""
    (inputs, outputs), (own_inputs, own_outputs) = head["kernel"].shape, like["kernel"].shape
    if outputs != own_outputs:
        return f"the weights are of {outputs} classes, the data of {own_outputs}"
    if initial.classes != classes and numbered(outputs) not in (initial.classes, classes):
        return "the weights are of other classes than the data"
    if inputs != own_inputs:
        return f"that of the weights has {inputs} inputs, and images of this size make {own_inputs}"
    return ""
