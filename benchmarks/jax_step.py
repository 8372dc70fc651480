"""The library's training step for the benchmarks: the program that `jresnet.fit` compiles, on random images."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from benchmarks.timing import POOL_IMAGES, Case, Device, Rival
from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Split
from jresnet.data.pipeline import Input, make_input
from jresnet.parallel.devices import Devices
from jresnet.train.trainer import fixed_steps, fixes_steps, run_programs

CLASSES = 10
IMAGE_SIZE = (32, 32)
STATISTICS = ((0.5,) * 3, (0.25,) * 3)
"""Mean and standard deviation of the channels of `pool`, about."""
STEPS: dict[Device, int] = {"cpu": 3, "gpu": 128}
"""Training steps per timed call; on a GPU a divisor of an epoch over POOL_IMAGES or a multiple."""
Source = Literal["resident", "tfds"]


class Step(NamedTuple):
    """A compiled training step and what it starts from.

    Attributes:
      source: the training images.
      devices: where the step runs.
      program: `(steps) -> ((state, metrics, arrays, first, last) -> (state, metrics))`, the compiled program for calls
        of that many steps, or for None of any number; see `trainer.train_program`.
      fixed: steps of the calls that have a program of their own, as in a run on a GPU; None if none have.
      create: `() -> (state, metrics)`, the initial ones on one device.
    """

    source: Input
    devices: Devices
    program: Callable
    fixed: int | None
    create: Callable[[], tuple]


def pool(images: int) -> Split:
    """Random images, uint8 [images, 32, 32, 3], with random labels, int32 [images], of ten classes."""
    rng = np.random.default_rng(0)
    return Split(
        rng.integers(0, 256, (images, *IMAGE_SIZE, 3), np.uint8),
        rng.integers(0, CLASSES, images).astype(np.int32),
    )


def training_step(
    case: Case,
    devices: int | None = None,
    source: Source = "resident",
    images: int = POOL_IMAGES,
    seed: int = 0,
    learning_rate: float = 0.01,
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
) -> Step:
    """The library's training step: gather, crop, flip, grayscale, normalise, forward, backward and update.

    Args:
      case: the work of one step.
      devices: the number that share each batch under pmap; None: the jitted step of one device.
      source: where the images are, as `--input` says.
      images: images of an epoch, rounded down to whole batches.
      seed: decides initial weights, order and augmentation.
      learning_rate: of every step.
      changes: other values for fields of the configuration.
      options: of the compiler; they override the library's own.
    """
    config = Config(
        width=case.width, batch_size=case.batch_size, precision=case.precision, learning_rate=learning_rate, epochs=1,
        parallel="jit" if devices is None else "pmap", input=source,
    )  # fmt: skip
    config = dataclasses.replace(config, **(changes or {}))
    steps_per_epoch = max(1, images // case.batch_size)
    shared = Devices(config, jax.devices()[: devices or 1], options)
    split = pool(steps_per_epoch * case.batch_size)
    fed = make_input(split, config, seed, STATISTICS, shared)
    model = models.from_config(config, CLASSES)
    program, create = run_programs(config, seed, model, split.labels, (*IMAGE_SIZE, 3), fed, shared)
    fixed = min(STEPS["gpu"], steps_per_epoch) if fixes_steps(config, shared) else None
    return Step(fed, shared, program, fixed, create)


def jax_rival(
    case: Case,
    devices: int | None = None,
    source: Source = "resident",
    images: int = POOL_IMAGES,
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
) -> Rival:
    """The library's `training_step` as a rival; with tfds a call must end where a stack of batches does."""
    step = training_step(case, devices, source, images, changes=changes, options=options)
    state, zero = step.devices.replicate(step.create())
    left = 0
    epochs = (step.source.epoch(epoch, 0, lambda in_epoch: min(in_epoch, left)) for epoch in itertools.count())
    work_ahead = itertools.chain.from_iterable(epochs)

    def run(steps: int) -> None:
        nonlocal state, left
        left = steps
        while left:
            chunk = next(work_ahead)
            state, metrics = step.program(fixed_steps(chunk, step.fixed))(state, zero, *chunk)
            left -= chunk.last - chunk.first
        jax.block_until_ready(metrics)

    return Rival(run)
