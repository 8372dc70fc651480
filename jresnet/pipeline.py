"""Batches two ways with one meaning: gathered on the device (`resident`), or made on the host by tf.data (`tfds`).

An epoch is planned before it runs: a `Plan` holds the order of the images and every random number of
their augmentation, as a function of (seed, epoch) alone. Both inputs carry out the same plan, so they
yield the same batches, and a run goes on from any step by starting there in the plan.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jresnet.augment import GRAY_WEIGHTS, Draws, augment, draw, normalise
from jresnet.config import Config
from jresnet.datasets import Split
from jresnet.errors import InputError
from jresnet.parallel import Devices
from jresnet.tfds_reader import import_tensorflow

# Images per call where they come from the host: enough to hide the cost of a call.
STREAMED_IMAGES = 1024
# `auto` keeps the images on the device while they take at most this share of its memory.
RESIDENT_SHARE = 0.25

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
Pace = Callable[[int], int]


class Plan(NamedTuple):
    """One epoch, decided: which image comes when, and how each is augmented.

    Attributes:
      order: int32 [images], a permutation.
      draws: the augmentations of the images, in that order.
    """

    order: jax.Array
    draws: Draws


class Work(NamedTuple):
    """Steps `first` to `last` (excluded) of `arrays`, `images` images in all, for one call of the program."""

    arrays: Any
    first: int
    last: int
    images: int


class Input(Protocol):
    """The training images of one run, as work for the compiled program."""

    @property
    def fetch(self) -> Callable[[Any, jax.Array], dict]:
        """Traced in the program: the i-th batch of a work's arrays, a dict as `step.make_train_step` takes.

        Runs whose batches are made alike have equal ones, and so share a compiled program.
        """

    def epoch(self, epoch: int, first_step: int, pace: Pace) -> Iterator[Work]:
        """The work of an epoch from `first_step` on; `pace(left)` says how many of the steps left go in one call."""


@partial(jax.jit, static_argnums=(2, 3))
def epoch_plan(seed: int, epoch: int, images: int, padding: int, flip: float, grayscale: float) -> Plan:
    """Plan an epoch over `images` training images with these augmentations; see `augment.draw`."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), epoch)
    order_key, draw_key = jax.random.split(key)
    order = jax.random.permutation(order_key, images).astype(jnp.int32)
    return Plan(order, draw(draw_key, images, padding, flip, grayscale))


def batches_of(plan: Plan, batch: int, devices: int) -> tuple[Plan, Plan, jax.Array | None]:
    """Cut a plan into batches, every image in exactly one.

    Returns:
      The full batches, [steps, batch, ...]; the last, smaller one, [1, rest, ...], rest 0 if there is
      none; and its mask, bool [1, rest], where repeated images pad it so that `devices` divides it.
    """
    images = plan.order.shape[0]
    steps, rest = divmod(images, batch)
    full = jax.tree.map(lambda a: a[: steps * batch].reshape(steps, batch, *a.shape[1:]), plan)
    missing = -rest % devices
    places = np.minimum(np.arange(rest + missing), rest - 1) + steps * batch if rest else np.arange(0)
    tail = jax.tree.map(lambda a: a[places][None], plan)
    return full, tail, (jnp.arange(rest + missing) < rest)[None] if missing else None


@dataclasses.dataclass(frozen=True)
class Gather:
    """Gathers, augments and normalises batches of arrays = ((images, labels, mean, std), plan, mask or None).

    Attributes:
      padding: pixels of zeros around the images that are cropped.
    """

    padding: int

    def __call__(self, arrays: Any, i: jax.Array) -> dict:
        """See `Input.fetch`."""
        (images, labels, mean, std), plan, mask = arrays
        order, draws = jax.tree.map(lambda a: a[i], plan)
        pixels = augment(images[order], draws, self.padding)
        batch = {"images": normalise(pixels, mean, std), "labels": labels[order]}
        return batch if mask is None else batch | {"mask": mask[i]}


def pick(arrays: Any, i: jax.Array) -> dict:
    """Batch i of arrays, a dict of stacked batches; see `Input.fetch`."""
    return jax.tree.map(lambda a: a[i], arrays)


class Resident:
    """Images kept on the device as uint8; shuffled, augmented and normalised inside the compiled program."""

    def __init__(self, split: Split, config: Config, seed: int, statistics: Statistics, devices: Devices):
        self.images, self.config, self.seed = len(split), config, seed
        self.fetch, self.devices = Gather(config.crop_padding), devices
        mean, std = np.asarray(statistics, np.float32)
        self.data = devices.replicate((split.images, split.labels, mean, std))

    def epoch(self, epoch: int, first_step: int, pace: Pace) -> Iterator[Work]:
        """See `Input.epoch`."""
        full, tail, mask = batches_of(
            plan_for(self.config, self.seed, epoch, self.images), self.config.batch_size, self.devices.count
        )
        steps, batch = full.order.shape
        arrays = (self.data, self.devices.split(self.devices.own(full)), None)
        step = first_step
        while step < steps:
            last = step + pace(steps - step)
            yield Work(arrays, step, last, (last - step) * batch)
            step = last
        if self.images > steps * batch and step == steps:
            arrays = (self.data, *self.devices.split(self.devices.own((tail, mask))))
            yield Work(arrays, 0, 1, self.images - steps * batch)


class Streamed:
    """Images kept on the host; tf.data gathers, augments and normalises them while the device works.

    Of several processes each makes its own part of every batch.

    Raises:
      InputError: TensorFlow is not installed.
    """

    def __init__(self, split: Split, config: Config, seed: int, statistics: Statistics, devices: Devices):
        if importlib.util.find_spec("tensorflow") is None:
            raise InputError(
                "--input tfds: needs TensorFlow, which is not installed: install it, or choose --input resident"
            )
        self.split, self.config, self.seed = split, config, seed
        self.statistics, self.devices = statistics, devices
        self.fetch, self.stack = pick, max(1, STREAMED_IMAGES // config.batch_size)

    def epoch(self, epoch: int, first_step: int, pace: Pace) -> Iterator[Work]:
        """See `Input.epoch`; the work's size is fixed by the host's buffers, so `pace` is not asked."""
        plan = plan_for(self.config, self.seed, epoch, len(self.split))
        full, tail, mask = batches_of(plan, self.config.batch_size, self.devices.count)
        steps, batch = full.order.shape
        if first_step < steps:
            own = self.devices.own(jax.tree.map(lambda a: a[first_step:], full))
            for stack in host_batches(self.split, own, self, self.stack):
                count = len(stack["labels"])
                yield Work(self.devices.split(padded(stack, self.stack)), 0, count, count * batch)
        if tail.order.size and first_step <= steps:
            (stack,) = host_batches(self.split, self.devices.own(tail), self, 1)
            stack = stack if mask is None else stack | {"mask": self.devices.own(mask)}
            yield Work(self.devices.split(stack), 0, 1, len(self.split) - steps * batch)


def plan_for(config: Config, seed: int, epoch: int, images: int) -> Plan:
    """The plan a configuration gives this epoch."""
    return epoch_plan(seed, epoch, images, config.crop_padding, config.flip, config.grayscale)


def padded(stack: dict, length: int) -> dict:
    """Zero batches after a stack's own, so that every stack has one shape and the program compiles once."""
    missing = length - len(stack["labels"])
    return (
        {name: np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) for name, a in stack.items()} if missing else stack
    )


def host_batches(split: Split, plan: Plan, settings: Streamed, stack: int) -> Iterator[dict]:
    """Carry out a plan of batches with tf.data, `stack` batches at a time, deterministically and ahead of use.

    Yields:
      dicts of numpy arrays: images, float32 [stack, batch, height, width, 3], normalised; labels,
      int32 [stack, batch]; the last stack may be shorter.
    """
    tf = import_tensorflow()
    with tf.device("cpu"):
        images, labels = tf.constant(split.images), tf.constant(split.labels)

    def carry_out(order, draws):
        pixels = tf_augment(tf, tf.gather(images, order), draws, settings.config.crop_padding)
        mean, std = (tf.constant(row, tf.float32) for row in settings.statistics)
        return {"images": (pixels / 255 - mean) / std, "labels": tf.gather(labels, order)}

    source = tf.data.Dataset.from_tensor_slices((np.asarray(plan.order), tuple(map(np.asarray, plan.draws))))
    batches = source.map(carry_out, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    yield from batches.batch(stack).prefetch(2).as_numpy_iterator()


def tf_augment(tf, images, draws, padding: int):
    """`augment.augment` in TensorFlow: uint8 [batch, height, width, 3] -> float32 0 to 255, the same draws applied."""
    offsets, flips, grays = draws
    height, width = images.shape[1:3]
    columns = tf.where(flips[:, None], tf.range(width - 1, -1, -1), tf.range(width)) + offsets[:, 1:]
    border = tf.constant(((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows_cut = tf.gather(tf.pad(images, border), tf.range(height) + offsets[:, :1], axis=1, batch_dims=1)
    pixels = tf.cast(tf.gather(rows_cut, columns, axis=2, batch_dims=1), tf.float32)
    gray = tf.reduce_sum(pixels * tf.constant(GRAY_WEIGHTS), -1, keepdims=True)
    return tf.where(grays[:, None, None, None], gray, pixels)


def make_input(split: Split, config: Config, seed: int, statistics: Statistics, devices: Devices) -> Input:
    """The input the configuration asks for; `auto` is resident while the images fit the device well.

    Raises:
      InputError: `tfds` was asked for, or needed, and TensorFlow is not installed.
    """
    resident = config.input == "resident" or (config.input == "auto" and fits(split))
    return (Resident if resident else Streamed)(split, config, seed, statistics, devices)


def fits(split: Split) -> bool:
    """Whether the images take at most RESIDENT_SHARE of the device's memory (unknown, as on CPUs: yes)."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit is None or split.images.nbytes <= RESIDENT_SHARE * limit
