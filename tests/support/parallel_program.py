"""Trains and evaluates one small network on emulated devices: `parallel_program.py FOLDER DTYPE OPTIONS WAY...`.

A process of its own, because the number of emulated devices must be known before JAX starts. Every way
of running writes FOLDER/WAY.npz: parameters, statistics and momenta, sums and figures. OPTIONS is a JSON object of
values other than CONFIG's.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
from jax.extend import backend

from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Dataset, Split
from jresnet.data.pipeline import Chunk
from jresnet.data.plan import batches_of, plan_for
from jresnet.parallel.devices import Devices
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.loop import describe
from jresnet.train.signals import StopSignal
from jresnet.train.trainer import Trainer
from tests.support.runs import Silent

EPOCHS = 4  # 12 steps
CONFIG = Config(width=3, blocks=(1,), batch_size=16, epochs=EPOCHS, learning_rate=0.05, dropout=0.1, input="resident")


class Doubles:
    """The epochs' plans as batches of float64 images, not augmented: any difference is then the devices' own."""

    name = "test"
    steps_per_chunk = None
    get_batch = staticmethod(lambda arrays, i: jax.tree.map(lambda a: a[i], arrays))

    def __init__(self, split: Split, config: Config, devices: Devices):
        self.split, self.config, self.devices = split, config, devices
        self.images = (split.images / 255 - 0.5) / 0.25

    def epoch(self, epoch, first_step, pace):
        plan = plan_for(self.config, 0, epoch, len(self.split))
        full, tail, mask = batches_of(plan, self.config.batch_size, self.devices.count)
        steps = full.order.shape[0]
        if first_step < steps:
            yield self.work(full.order, None, first_step, steps)
        yield self.work(tail.order, mask, 0, 1)

    def work(self, order, mask, first, last):
        order = np.asarray(order)
        batches = {"images": self.images[order], "labels": self.split.labels[order]}
        batches |= {} if mask is None else {"mask": np.asarray(mask)}
        return Chunk(self.devices.split(self.devices.local_shard(batches)), first, last)


def make_dataset() -> Dataset:
    """38 training and 21 test images: neither the last batch nor the evaluation divides among 4 or 8 devices."""
    rng = np.random.default_rng(0)

    def split(images):
        return Split(rng.integers(0, 256, (images, 8, 8, 3), np.uint8), rng.integers(0, 3, images).astype(np.int32))

    return Dataset("made", split(38), split(0), split(21), ("a", "b", "c"))


def make_trainer(config: Config, dataset: Dataset, dtype: str) -> Trainer:
    devices = Devices(config)
    model = models.from_config(config, 3).clone(dtype=np.dtype(dtype), param_dtype=np.dtype(dtype))
    source = Doubles(dataset.train, config, devices) if dtype == "float64" else None
    run = describe(config, dataset, dataset.sha256, 0, "test")
    return Trainer(run, dataset.train, devices, model, source)


def check_join(devices: Devices) -> None:
    """What split, all_gather and join return is what they were given."""
    rows = np.arange(2 * 16 * 3).reshape(2, 16, 3)
    gather = devices.compile(lambda array: devices.all_gather(array))
    np.testing.assert_array_equal(devices.join(gather(devices.split(devices.local_shard(rows)))), rows)


def arrays_of(trainer: Trainer) -> dict:
    """The state and the epoch's sums by name, as one device holds them."""
    state, metrics = trainer.devices.unreplicate((trainer.state, trainer.metrics))
    leaves = jax.tree_util.tree_leaves_with_path((state.variables, state.opt_state, state.step))
    return jax.device_get({jax.tree_util.keystr(place): leaf for place, leaf in leaves} | metrics._asdict())


def run(way: str, folder: pathlib.Path, dtype: str, config: Config) -> None:
    """Train and evaluate one way, "jit" or "pmap4"; write what came of it to FOLDER/WAY.npz.

    Every way saves its state after half of the epochs, FOLDER/WAY-saved.npz; "pmap4-jit" goes on with jit from
    what pmap4 has saved, and writes what it found to FOLDER/WAY-restored.npz.
    """
    source, target = way.partition("-")[0], way.rpartition("-")[2]
    devices = int(target.removeprefix("pmap")) if target != "jit" else 1
    backend.clear_backends()
    jax.config.update("jax_num_cpu_devices", devices)
    dataset = make_dataset()
    trainer = make_trainer(dataclasses.replace(config, parallel=target.rstrip("0123456789")), dataset, dtype)
    assert trainer.devices.count == devices
    check_join(trainer.devices)
    with Checkpoints(folder / source) as checkpoints:
        trainer.start()
        trainer.resume(checkpoints)
        if trainer.step:
            np.savez(folder / f"{way}-restored.npz", **arrays_of(trainer))
        for epoch in range(trainer.step // trainer.steps_per_epoch, EPOCHS):
            trainer.train_epoch(epoch, Silent(), StopSignal())
            if epoch + 1 == EPOCHS // 2:
                trainer.save(checkpoints)
                np.savez(folder / f"{way}-saved.npz", **arrays_of(trainer))
    outputs = trainer.evaluator(trainer.state.variables, dataset.test)
    np.savez(folder / f"{way}.npz", **arrays_of(trainer) | outputs._asdict())


if __name__ == "__main__":
    place, dtype, options, *ways = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", dtype == "float64")
    for way in ways:
        run(way, pathlib.Path(place), dtype, dataclasses.replace(CONFIG, **json.loads(options)))
