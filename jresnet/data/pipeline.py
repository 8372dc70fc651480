"""The same training batches from two inputs: `resident` gathers on the device, `tfds` on the host.

Both execute the epoch's `Plan`, and a run resumes at any step by starting there.

`resident` augments and normalises inside the training program, `tfds` inside tf.data, so that the device receives
finished batches. Cutout, and the operators of TrivialAugment and RandAugment with the normalisation after them, are
left to the program with either: for operators tf.data sends uint8.

XLA compiles both: on a CPU `get_batch` by itself yields the same bits, for every colour as gray too, in all but a few
shapes. In those, within the training program and on other devices XLA may order the arithmetic otherwise; then pixels
differ by a rounding or two of float32, 5e-7 with CIFAR-10's statistics.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jresnet.config import Config
from jresnet.data import memory
from jresnet.data.augment import Augmentations, Statistics, augment, augment_levels, check, cut_out, normalise
from jresnet.data.datasets import Split
from jresnet.data.mapped import Images, MappedImages, size
from jresnet.data.plan import Plan, batches_of, plan_for
from jresnet.data.policies import Space, operate
from jresnet.data.tf_augment import compiled_finish
from jresnet.data.tfds_reader import import_tensorflow
from jresnet.errors import InputError
from jresnet.parallel.devices import Devices

# Images per call when they are streamed: enough to hide the overhead of a call and of tf.data's operations.
STREAMED_IMAGES = 512
# `--input auto` keeps the images on the device while they take at most this fraction of its memory.
RESIDENT_FRACTION = 0.25

Batch = dict[str, Any]
"""What a training step takes, see `make_train_step`."""
Pace = Callable[[int], int]
"""Steps left in the epoch -> steps for the next call."""


class Chunk(NamedTuple):
    """The work of one call of the training program: steps `first` to `last` (exclusive) over `arrays`.

    The arrays are what the input's `get_batch` takes; the steps are indices into their leading axis.
    """

    arrays: Any
    first: int
    last: int


class Input(Protocol):
    """The training images of one run, as chunks for the compiled program; `--input` selects it by its name."""

    name: str

    @property
    def steps_per_chunk(self) -> int | None:
        """Steps of every chunk but an epoch's last ones, if the input decides; None: as `pace` says."""

    @property
    def get_batch(self) -> Callable[[Any, jax.Array], Batch]:
        """`(arrays, i) -> batch i`, a dict as `make_train_step` takes it; traced inside the program.

        Inputs with equal `get_batch` share a compiled program.
        """

    def epoch(self, epoch: int, first_step: int, pace: Pace) -> Iterator[Chunk]:
        """The chunks of an epoch from `first_step` on; `pace` chooses the number of steps per chunk."""


def take(arrays: Any, i: jax.Array) -> Any:
    """Every array at the non-negative index i; `get_batch` of streamed images, which tf.data has finished."""
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False, allow_negative_indices=False), arrays)


@dataclasses.dataclass(frozen=True)
class GatherAndAugment:
    """`get_batch` of resident images; arrays = ((images, labels, mean, std), plan, mask or None).

    The attributes are those of `Augmentations`; there is no other constant in the program.
    """

    padding: int
    space: Space | None = None
    cutout: int = 0

    def __call__(self, arrays: Any, i: jax.Array) -> Batch:
        """See `Input.get_batch`."""
        (images, labels, mean, std), plan, mask = arrays
        # `augment` and the training step check the rest.
        check("labels", labels, jnp.int32, images.shape[:1])
        check("order", plan.order, jnp.int32, (None, None))
        chex.assert_tree_shape_prefix((plan, mask), plan.order.shape)
        order, draws = take(plan, i)
        if self.space is None:
            augmented = normalise(augment(images[order], draws, self.padding), mean, std)
        else:
            augmented = augment_levels(images[order], draws, self.padding)
        finished = finish(augmented, draws.operators, draws.centres, self.space, self.cutout, (mean, std))
        batch = {"images": finished, "labels": labels[order]}
        optional = {"mask": None if mask is None else take(mask, i), "mix": draws.mix}
        return batch | {name: rows for name, rows in optional.items() if rows is not None}


@dataclasses.dataclass(frozen=True)
class FinishStreamed:
    """`get_batch` of streamed images that the device has to finish; arrays = (statistics, stack of batches).

    Batches hold `operators` and `centres`, those of `Draws`, where there are any; with operators the statistics are
    (mean, std), otherwise None. The attributes are those of `Augmentations`.
    """

    space: Space | None
    cutout: int

    def __call__(self, arrays: Any, i: jax.Array) -> Batch:
        """See `Input.get_batch`."""
        statistics, stack = arrays
        batch: Batch = take(stack, i)
        draws = batch.pop("operators", None), batch.pop("centres", None)
        return batch | {"images": finish(batch["images"], *draws, self.space, self.cutout, statistics)}


def finish(
    images: jax.Array, operators: Any, centres: jax.Array | None, space: Space | None, cutout: int, statistics: Any
) -> jax.Array:  # fmt: skip
    """What is left to do after crop, flip and grayscale: float32 [batch, height, width, 3], normalised.

    Args:
      images: with a space of operators uint8, on which these and the normalisation by (mean, std) follow, else
        normalised; cutout, where there is any, comes last.
      operators, centres: those of `Draws`.
      space, cutout: those of `Augmentations`.
      statistics: (mean, std), float32 [3] each; read with operators alone.
    """
    if space is not None:
        images = normalise(operate(images, operators, space), *statistics)
    return images if centres is None else cut_out(images, centres, cutout)


class Resident:
    """Images kept on the device as uint8; shuffled, augmented and normalised inside the compiled program."""

    name = "resident"
    steps_per_chunk = None

    def __init__(self, split: Split, config: Config, seed: int, statistics: Statistics, devices: Devices):
        self.images, self.config, self.seed, self.devices = len(split), config, seed, devices
        augmentation = Augmentations.of(config)
        self.get_batch = GatherAndAugment(augmentation.padding, augmentation.space, augmentation.cutout)
        mean, std = np.asarray(statistics, np.float32)
        # Copied by jnp.array: on a CPU device_put can share the memory of a NumPy array.
        self.data = devices.replicate(jax.tree.map(jnp.array, (np.asarray(split.images), split.labels, mean, std)))

    def epoch(self, epoch: int, first_step: int, pace: Pace) -> Iterator[Chunk]:
        """See `Input.epoch`."""
        plan = plan_for(self.config, self.seed, epoch, self.images)
        full, tail, mask = batches_of(plan, self.config.batch_size, self.devices.count * self.config.accumulate)
        steps = len(full.order)
        arrays = (self.data, self.devices.split(self.devices.local_shard(full)), None)
        step = first_step
        while step < steps:
            last = step + pace(steps - step)
            yield Chunk(arrays, step, last)
            step = last
        if tail.order.size and step == steps:
            arrays = (self.data, *self.devices.split(self.devices.local_shard((tail, mask))))
            yield Chunk(arrays, 0, 1)


class Streamed:
    """Images kept on the host; tf.data gathers, augments and normalises them while the device computes.

    With several processes, each makes only its own part of every batch.
    """

    name = "tfds"

    def __init__(self, split: Split, config: Config, seed: int, statistics: Statistics, devices: Devices):
        if importlib.util.find_spec("tensorflow") is None:
            raise InputError(
                "--input tfds: needs TensorFlow, which is not installed: install it, or choose --input resident"
            )
        self.images, self.config, self.seed, self.devices = len(split), config, seed, devices
        self.steps_per_chunk = max(1, STREAMED_IMAGES // config.batch_size)
        self.tf = import_tensorflow()
        augmentation = Augmentations.of(config)
        levels = augmentation.space is not None
        self.finish = compiled_finish(augmentation.padding, None if levels else statistics)
        self.get_batch: Callable[[Any, jax.Array], Batch] = take
        if levels or augmentation.cutout:
            self.get_batch = FinishStreamed(augmentation.space, augmentation.cutout)
        self.statistics = devices.replicate(tuple(np.asarray(statistics, np.float32))) if levels else None
        self.image_shape, self.labels = split.images.shape[1:], self._variable(split.labels)
        self.gather = self._gather(split.images)

    def _variable(self, array: np.ndarray) -> Any:
        """An array of TensorFlow's: a data set's graph would copy a constant for each iterator, 0.14 s per epoch."""
        with self.tf.device("cpu"):
            return self.tf.Variable(array, trainable=False)

    def _gather(self, images: Images) -> Callable[[Any], Any]:
        """`order -> images[order]`, int32 [n] to uint8 [n, height, width, 3], inside tf.data."""
        tf = self.tf
        if not isinstance(images, MappedImages):
            return partial(tf.gather, self._variable(images))

        def gather(order: Any) -> Any:
            pixels = tf.numpy_function(lambda rows: images[rows], [order], tf.uint8, stateful=False)
            return tf.ensure_shape(pixels, (None, *images.shape[1:]))

        return gather

    def epoch(self, epoch: int, first_step: int, pace: Pace) -> Iterator[Chunk]:
        """See `Input.epoch`; the host's buffers decide the size of a chunk, so `pace` is ignored."""
        plan = plan_for(self.config, self.seed, epoch, self.images)
        full, tail, mask = batches_of(plan, self.config.batch_size, self.devices.count * self.config.accumulate)
        left = max(0, len(full.order) - first_step)
        # Extra batches, of the first image, fill the last stack: all have one shape, and the programs compile once.
        rest = jax.tree.map(lambda a: pad_rows(np.asarray(a[first_step:]), left + -left % self.steps_per_chunk), full)
        for stack in self.host_batches(self.devices.local_shard(rest)):
            yield Chunk(self._arrays(stack), 0, min(left, self.steps_per_chunk))
            left -= self.steps_per_chunk
        if tail.order.size and first_step <= len(full.order):
            (stack,) = self.host_batches(self.devices.local_shard(tail))
            stack = stack if mask is None else stack | {"mask": self.devices.local_shard(mask)}
            yield Chunk(self._arrays(stack), 0, 1)

    def _arrays(self, stack: Any) -> Any:
        """What `get_batch` takes, on the devices."""
        on_devices = self.devices.split(stack)
        return on_devices if self.get_batch is take else (self.statistics, on_devices)

    def host_batches(self, plan: Plan) -> Iterator[dict[str, Any]]:
        """Execute a plan cut into batches with tf.data, deterministically and ahead of use.

        Yields stacks of up to `steps_per_chunk` batches: images, float32 [stack, batch, height, width, 3], normalised,
        or uint8 before operators; labels, int32 [stack, batch]; the draws that are left to the device, if any.
        """
        tf = self.tf
        order, draws = jax.tree.map(np.asarray, plan)
        by_host = draws.offsets, draws.flips, draws.grays
        on_device = {"operators": draws.operators, "centres": draws.centres, "mix": draws.mix}
        rest = {name: rows for name, rows in on_device.items() if rows is not None}

        def make_stack(order: Any, *draws: Any) -> dict[str, Any]:
            each = [tf.reshape(array, (-1, *array.shape[2:])) for array in (order, *draws)]
            finished = self.finish(self.gather(each[0]), *each[1:])
            shape = tf.concat([tf.shape(order), self.image_shape], 0)
            return {"images": tf.reshape(finished, shape), "labels": tf.gather(self.labels, order)}

        source = tf.data.Dataset.from_tensor_slices((order, *by_host))
        stacks = source.batch(self.steps_per_chunk)
        stacks = stacks.map(make_stack, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        # tf.data's autotuner can delay an iterator's shutdown by up to an epoch. Without it, map runs a call per core.
        options = tf.data.Options()
        options.autotune.enabled = False
        for i, stack in enumerate(stacks.prefetch(2).with_options(options).as_numpy_iterator()):
            first = i * self.steps_per_chunk
            yield stack | jax.tree.map(lambda a, first=first: a[first : first + self.steps_per_chunk], rest)


def pad_rows(array: np.ndarray, length: int) -> np.ndarray:
    """Append zeros along the first axis to make it `length` long."""
    missing = length - len(array)
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array


def make_input(split: Split, config: Config, seed: int, statistics: Statistics, devices: Devices) -> Input:
    """The input that `config.input` asks for; `auto` is resident if the images are in memory and fit the device well.

    Raises:
      InputError: `tfds` is asked for or needed, and TensorFlow is not installed; or `resident` is, for images in a file
        that do not fit into memory.
    """
    if config.input == "resident" and isinstance(split.images, MappedImages):
        # On their way to the device they are copied twice.
        words = f"--input resident: {len(split):,} training images of {size(split.images)}"
        memory.check(words, 2 * split.images.nbytes, "choose --input tfds, which reads them from their file")
    resident = config.input == "resident" or (config.input == "auto" and fits_on_device(split))
    return (Resident if resident else Streamed)(split, config, seed, statistics, devices)


def fits_on_device(split: Split) -> bool:
    """Whether the images take at most RESIDENT_FRACTION of the device's memory; true if its size is unknown (CPUs).

    Images that stay in a file do not.
    """
    if isinstance(split.images, MappedImages):
        return False
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit is None or split.images.nbytes <= RESIDENT_FRACTION * limit
