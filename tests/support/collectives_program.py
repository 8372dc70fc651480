"""Counts the all-reduces of a training step at width 42 as compiled for two devices: `WAY COUNT BYTES` per line."""

import math
import re

import jax
import jax.numpy as jnp

from jresnet import models
from jresnet.config import Config
from jresnet.parallel.devices import Devices
from jresnet.train import optim
from jresnet.train.step import make_train_step
from jresnet.train.trainer import init_program


def reduced(config):
    """Bytes of every all-reduce in the compiled step."""
    devices, model = Devices(config), models.from_config(config, 10)
    tx = optim.shared_optimizer(config, 10)
    state, _ = init_program(model, tx, (32, 32, 3))(0, *optim.rates(config))
    step = jax.pmap(make_train_step(model.clone(axis_name=devices.axis_name), tx, devices.axis_name), devices.axis_name)
    batch = {"images": jnp.zeros((2, 16, 32, 32, 3)), "labels": jnp.zeros((2, 16), jnp.int32)}
    text = step.lower(devices.replicate(state), batch).compile().as_text()
    operations = re.findall(r"= (\S.*?) all-reduce(?:-start)?\(", text)
    shapes = (re.findall(r"[fsu]32\[([\d,]*)\]", operation) for operation in operations)
    return [sum(4 * math.prod(int(side) for side in one.split(",") if side) for one in found) for found in shapes]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    for way in ("synchronised", "local"):
        sizes = reduced(Config(width=42, batch_size=32, batch_norm=way))
        print(way, len(sizes), sum(sizes))
