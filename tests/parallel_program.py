"""Trains and evaluates one small network in float64 on 1, 2, 4 and 8 emulated devices: `parallel_program.py FOLDER`.

A process of its own, because the number of emulated devices must be known before JAX starts. Every way
of running writes FOLDER/WAY.npz: parameters, statistics and momenta, sums and figures.
"""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
from jax.extend import backend

from jresnet import models
from jresnet.checkpoint import Checkpoints
from jresnet.config import Config
from jresnet.datasets import Dataset, Split
from jresnet.interrupt import Flag
from jresnet.parallel import Devices
from jresnet.pipeline import make_input
from jresnet.training import Training

EPOCHS = 2
CONFIG = Config(width=3, blocks=(1,), batch_size=16, epochs=EPOCHS, learning_rate=0.05, input="resident")


class Silent:
    """A record that keeps nothing."""

    def advance(self, *place):
        pass


def make_dataset() -> Dataset:
    """38 training and 21 test images: neither the last batch nor the evaluation divides among 4 or 8 devices."""
    rng = np.random.default_rng(0)

    def split(images):
        return Split(rng.integers(0, 256, (images, 8, 8, 3), np.uint8), rng.integers(0, 3, images).astype(np.int32))

    return Dataset("made", split(38), split(0), split(21), ("a", "b", "c"))


def make_training(config: Config, dataset: Dataset) -> Training:
    devices = Devices(config)
    statistics = dataset.channel_statistics()
    return Training(
        config=config,
        seed=0,
        model=models.from_config(config, 3).clone(dtype=np.dtype("float64"), param_dtype=np.dtype("float64")),
        source=make_input(dataset.train, config, 0, statistics, devices),
        statistics=statistics,
        image_shape=(8, 8, 3),
        images=len(dataset.train),
        devices=devices,
    )


def record(training: Training, dataset: Dataset, path: pathlib.Path) -> None:
    state, sums = training.devices.unreplicate((training.state, training.sums))
    outputs = training.evaluator(training.state.variables, dataset.test)
    arrays = {
        jax.tree_util.keystr(place): leaf
        for place, leaf in jax.tree_util.tree_leaves_with_path((state.variables, state.opt_state, state.step))
    }
    np.savez(path, **jax.device_get(arrays | sums._asdict() | outputs._asdict()))


def run(way: str, parallel: str, devices: int, folder: pathlib.Path) -> None:
    """Train and evaluate on this many devices; write what came of it to FOLDER/WAY.npz."""
    backend.clear_backends()
    jax.config.update("jax_num_cpu_devices", devices)
    dataset = make_dataset()
    training = make_training(dataclasses.replace(CONFIG, parallel=parallel), dataset)
    assert training.devices.count == (devices if parallel == "pmap" else 1)
    with Checkpoints(folder / way) as checkpoints:
        training.start(checkpoints)
        for epoch in range(EPOCHS):
            training.train_epoch(epoch, Silent(), Flag())
    record(training, dataset, folder / f"{way}.npz")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    run("jit", "jit", 1, pathlib.Path(sys.argv[1]))
    for count in (1, 2, 4, 8):
        run(f"pmap{count}", "pmap", count, pathlib.Path(sys.argv[1]))
