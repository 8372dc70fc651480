"""The library's own training step as a rival: the program that `jresnet.fit` runs, on random images."""

import itertools
from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np

from benchmarks.timing import POOL_IMAGES, Case, Rival
from jresnet import models
from jresnet.config import Config, Parallel
from jresnet.data.datasets import Split
from jresnet.data.pipeline import Work, make_input
from jresnet.parallel.devices import Devices
from jresnet.train import optim
from jresnet.train.programs import init_program, train_program
from jresnet.train.step import Sums

STATISTICS = ((0.5,) * 3, (0.25,) * 3)


def jax_rival(
    case: Case,
    devices: int | None = None,
    source: Literal["resident", "tfds"] = "resident",
    images: int = POOL_IMAGES,
) -> Rival:
    """The library's training step on `case`: shuffling, augmentation, forward, backward and update in one program.

    Args:
      case: what it works on.
      devices: how many share each batch under pmap; None: the jitted step of one device.
      source: where the images lie, as `--input` says it. A call must end where a stack of tfds does, as epochs do.
      images: how many an epoch has, rounded down to whole batches.
    """
    parallel: Parallel = "jit" if devices is None else "pmap"
    config = Config(
        width=case.width,
        batch_size=case.batch_size,
        precision=case.precision,
        epochs=1,
        parallel=parallel,
        input=source,
    )
    steps_per_epoch = max(1, images // case.batch_size)
    shared = Devices(config, jax.devices()[: devices or 1])
    fed = make_input(pool(steps_per_epoch * case.batch_size), config, 0, STATISTICS, shared)
    model = models.from_config(config, 10).clone(conv_general_dilated_cls=models.conv_for(jax.default_backend()))
    tx = optim.shared_optimizer(config, steps_per_epoch)
    program = train_program(model.clone(axis_name=shared.axis_name), tx, fed.fetch, shared)
    initial, _ = init_program(model, tx, (32, 32, 3))(0, config.learning_rate, config.weight_decay)
    state, zero = shared.replicate((initial, Sums.zero()))
    left = 0

    def works() -> Iterator[Work]:
        for epoch in itertools.count():
            yield from fed.epoch(epoch, 0, lambda in_epoch: min(in_epoch, left))

    endless = works()

    def run(steps: int) -> None:
        nonlocal state, left
        left = steps
        while left:
            work = next(endless)
            state, sums = program(state, zero, work.arrays, work.first, work.last)
            left -= work.last - work.first
        jax.block_until_ready(sums)

    return Rival("jresnet", run)


def pool(images: int) -> Split:
    """Random images, uint8 [images, 32, 32, 3], with random labels of ten classes."""
    rng = np.random.default_rng(0)
    return Split(
        rng.integers(0, 256, (images, 32, 32, 3), np.uint8),
        rng.integers(0, 10, images).astype(np.int32),
    )
