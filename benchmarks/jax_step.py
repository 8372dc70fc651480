"""The library's own training step as a rival: the program that `jresnet.fit` runs, on images in device memory."""

import itertools
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.timing import POOL_IMAGES, Case, Rival
from jresnet import models, optim
from jresnet.config import Config
from jresnet.datasets import Split
from jresnet.parallel import Devices
from jresnet.pipeline import Resident, Work
from jresnet.state import create
from jresnet.step import Sums
from jresnet.training import train_program


def jax_rival(case: Case) -> Rival:
    """The library's training step on `case`: shuffling, augmentation, forward, backward and update in one program."""
    config = Config(width=case.width, batch_size=case.batch_size, precision=case.precision, parallel="jit", epochs=1)
    steps_per_epoch = max(1, POOL_IMAGES // case.batch_size)
    source = Resident(pool(steps_per_epoch * case.batch_size), config, 0, ((0.5,) * 3, (0.25,) * 3), Devices(config))
    model = models.from_config(config, 10)
    tx = optim.optimizer(config, steps_per_epoch)
    program = train_program(model, tx, source, Devices(config))
    state = jax.jit(lambda seed: create(model, tx, seed, (32, 32, 3)))(0)
    left = 0

    def works() -> Iterator[Work]:
        for epoch in itertools.count():
            yield from source.epoch(epoch, 0, lambda in_epoch: min(in_epoch, left))

    endless = works()

    def run(steps: int) -> None:
        nonlocal state, left
        left = steps
        while left:
            work = next(endless)
            state, sums = program(state, Sums.zero(), work.arrays, work.first, work.last)
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
