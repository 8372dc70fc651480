"""Batches two ways with one meaning: gathered on the device (`resident`), or cut on the host by tf.data (`tfds`).

An epoch is planned before it runs: a `Plan` holds the order of the images and every random number of
their augmentation, as a function of (seed, epoch) alone. Both inputs carry out the same plan, so they
yield the same batches, and a run goes on from any step by starting there in the plan.

The host only moves bytes: cut and mirrored images go to the device as uint8, a quarter of float32's size, and
become gray and normalised there, in the compiled program, by the functions that resident images go through.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jresnet.config import Config
from jresnet.data.augment import Draws, augment, draw, grayscale, normalise
from jresnet.data.datasets import Split
from jresnet.data.tfds_reader import import_tensorflow
from jresnet.errors import InputError
from jresnet.parallel.devices import Devices

# Images per call where they come from the host: enough to hide the cost of a call and of tf.data's operations.
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


@partial(jax.jit, static_argnums=(1, 2))
def batches_of(plan: Plan, batch: int, devices: int) -> tuple[Plan, Plan, jax.Array | None]:
    """Cut a plan into batches, every image in exactly one; jitted, as a program for each operation would cost a second.

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


def finish(arrays: Any, i: jax.Array) -> dict:
    """Batch i of arrays = ((mean, std), stack as `host_batches` yields it), made gray and normalised.

    See `Input.fetch`.
    """
    (mean, std), stack = arrays
    batch = pick(stack, i)
    pixels = grayscale(batch.pop("images"), batch.pop("grays"))
    return batch | {"images": normalise(pixels, mean, std)}


class Streamed:
    """Images kept on the host; tf.data gathers, crops and flips them while the device works.

    Of several processes each makes its own part of every batch.

    Raises:
      InputError: TensorFlow is not installed.
    """

    def __init__(self, split: Split, config: Config, seed: int, statistics: Statistics, devices: Devices):
        if importlib.util.find_spec("tensorflow") is None:
            raise InputError(
                "--input tfds: needs TensorFlow, which is not installed: install it, or choose --input resident"
            )
        self.images, self.config, self.seed, self.devices = len(split), config, seed, devices
        self.fetch, self.stack = finish, max(1, STREAMED_IMAGES // config.batch_size)
        self.statistics = devices.replicate(tuple(np.asarray(statistics, np.float32)))
        self.tf = import_tensorflow()
        # Variables, because a data set's graph would copy constants whenever an iterator is made: 0.14 s an epoch.
        with self.tf.device("cpu"):
            self.data = tuple(self.tf.Variable(array, trainable=False) for array in (split.images, split.labels))

    def epoch(self, epoch: int, first_step: int, pace: Pace) -> Iterator[Work]:
        """See `Input.epoch`; the work's size is fixed by the host's buffers, so `pace` is not asked."""
        plan = plan_for(self.config, self.seed, epoch, self.images)
        full, tail, mask = batches_of(plan, self.config.batch_size, self.devices.count)
        steps, batch = full.order.shape
        if first_step < steps:
            own = self.devices.own(jax.tree.map(lambda a: a[first_step:], full))
            for stack in self.host_batches(own):
                count = len(stack["labels"])
                yield self._work(padded(stack, self.stack), count, count * batch)
        if tail.order.size and first_step <= steps:
            (stack,) = self.host_batches(self.devices.own(tail))
            stack = stack if mask is None else stack | {"mask": self.devices.own(mask)}
            yield self._work(stack, 1, self.images - steps * batch)

    def _work(self, stack: dict, count: int, images: int) -> Work:
        return Work((self.statistics, self.devices.split(stack)), 0, count, images)

    def host_batches(self, plan: Plan) -> Iterator[dict]:
        """Carry out a plan of batches with tf.data, `stack` batches at a time, deterministically and ahead of use.

        Yields:
          dicts of numpy arrays: images, uint8 [stack, batch, height, width, 3], cropped and flipped; grays, bool
          [stack, batch], which of them are to be gray; labels, int32 [stack, batch]. The last stack may be shorter.
        """
        tf, (images, labels) = self.tf, self.data

        def carry_out(order, offsets, flips, grays):
            chosen = tf.gather(images, tf.reshape(order, [-1]))
            cut = tf_crop(tf, chosen, tf.reshape(offsets, [-1, 2]), tf.reshape(flips, [-1]), self.config.crop_padding)
            cut = tf.reshape(cut, tf.concat([tf.shape(order), images.shape[1:]], 0))
            return {"images": cut, "grays": grays, "labels": tf.gather(labels, order)}

        source = tf.data.Dataset.from_tensor_slices(tuple(map(np.asarray, (plan.order, *plan.draws))))
        stacks = source.batch(self.stack).map(carry_out, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        # The tuner may sleep on when an iterator ends, for up to as long as the epoch took; without it as many
        # calls run at once as there are cores.
        options = tf.data.Options()
        options.autotune.enabled = False
        yield from stacks.prefetch(2).with_options(options).as_numpy_iterator()


def plan_for(config: Config, seed: int, epoch: int, images: int) -> Plan:
    """The plan a configuration gives this epoch."""
    return epoch_plan(seed, epoch, images, config.crop_padding, config.flip, config.grayscale)


def padded(stack: dict, length: int) -> dict:
    """Zero batches after a stack's own, so that every stack has one shape and the program compiles once."""
    missing = length - len(stack["labels"])
    return (
        {name: np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) for name, a in stack.items()} if missing else stack
    )


def tf_crop(tf, images, offsets, flips, padding: int):
    """`augment.augment` up to gray in TensorFlow: crops and flips [batch, height, width, 3], whatever its dtype."""
    height, width = images.shape[1:3]
    columns = tf.where(flips[:, None], tf.range(width - 1, -1, -1), tf.range(width)) + offsets[:, 1:]
    border = tf.constant(((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows_cut = tf.gather(tf.pad(images, border), tf.range(height) + offsets[:, :1], axis=1, batch_dims=1)
    return tf.gather(rows_cut, columns, axis=2, batch_dims=1)


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
