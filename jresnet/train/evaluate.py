"""Exact evaluation: every image of a split is counted once, on any number of devices."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jresnet.data.augment import Statistics, normalise
from jresnet.data.datasets import Split
from jresnet.data.pipeline import STREAMED_IMAGES, fits_on_device, pad_rows
from jresnet.models import ResNet, conv_for
from jresnet.parallel.devices import Devices
from jresnet.train.pace import next_steps
from jresnet.train.step import make_predict_step

# Images per step; results do not depend on it, as they are per image.
EVAL_BATCH_SIZE = 256
# Compiled programs to keep of each kind: more than a study has shapes, few enough to bound a long search.
CACHED_PROGRAMS = 64


class Outputs(NamedTuple):
    """Outputs of an evaluation, as of `make_predict_step`: each [images], in the split's order."""

    losses: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray


@lru_cache(CACHED_PROGRAMS)
def eval_program(model: ResNet, devices: Devices) -> jax.stages.Wrapped:
    """Compile `(variables, mean, std, images, labels, first, last) -> (losses, predictions, confidences)`.

    Images are uint8 [steps, batch, height, width, 3] and labels int32 [steps, batch]; mean and std are float32
    [channels], those of the training pixels / 255. The outputs are those of `make_predict_step`, [steps, batch],
    gathered from all devices; they are zero but for the steps `first` to `last`, exclusive, which are data, so that
    one program serves calls of any length.
    """
    predict_step = make_predict_step(model.clone(conv_general_dilated_cls=conv_for(devices.platform)))

    def program(
        variables: Any, mean: jax.Array, std: jax.Array, images: jax.Array, labels: jax.Array,
        first: jax.Array, last: jax.Array,
    ) -> Any:  # fmt: skip
        def predict(i: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            return predict_step(variables, normalise(images[i], mean, std), labels[i])

        def body(i: jax.Array, outputs: Any) -> Any:
            return jax.tree.map(lambda rows, row: rows.at[i].set(row), outputs, predict(i))

        zeros = [jnp.zeros((len(images), *row.shape), row.dtype) for row in jax.eval_shape(predict, first)]
        return devices.all_gather(lax.fori_loop(first, last, body, tuple(zeros)))

    return devices.compile(program, broadcast=(1, 2, 5, 6))


class Evaluator:
    """Evaluates a network's variables on splits; the model has no mapped axis.

    The images of a split that fits the device well stay there from its first evaluation on.

    Attributes:
      compile_seconds: time spent on compiling in its calls.
    """

    def __init__(self, model: ResNet, statistics: Statistics, devices: Devices):
        self.program, self.devices = eval_program(model, devices), devices
        self.mean, self.std = np.asarray(statistics, np.float32)
        self._steps_per_call = 1
        self._resident: dict[Split, list[tuple[int, Any]]] = {}
        self._compiled: set[tuple[int, ...]] = set()  # shapes of the images
        self.compile_seconds = 0.0

    def __call__(
        self, variables: Any, split: Split, after_call: Callable[[float], float] = lambda seconds: seconds
    ) -> Outputs:
        """Evaluate replicated variables on a split.

        `after_call` is given the seconds of each call of the program and returns those by which the next call's length
        is chosen; with several processes it must return the same in all.
        """
        calls = []
        for steps, arrays in self._chunks(split):
            self._compile(variables, arrays)
            first = 0
            while first < steps:
                last = min(first + self._steps_per_call, steps)
                started = time.perf_counter()
                outputs = self.program(variables, self.mean, self.std, *arrays, first, last)
                calls.append([self.devices.join(output)[first:last].reshape(-1) for output in outputs])
                seconds = after_call(time.perf_counter() - started)
                self._steps_per_call = next_steps(self._steps_per_call, last - first, seconds, steps)
                first = last
        columns = Outputs(*(np.concatenate(column)[: len(split)] for column in zip(*calls, strict=True)))
        if len(columns.losses) != len(split):
            raise AssertionError(f"evaluated {len(columns.losses)} of {len(split)} images")
        return columns

    def _compile(self, variables: Any, arrays: Any) -> None:
        """Compile the program for a chunk, apart from the time of evaluation."""
        if arrays[0].shape not in self._compiled:
            started = time.perf_counter()
            self.program.lower(variables, self.mean, self.std, *arrays, 0, 1).compile()
            self.compile_seconds += time.perf_counter() - started
            self._compiled.add(arrays[0].shape)

    def _chunks(self, split: Split) -> Iterable[tuple[int, Any]]:
        """The split on the devices, as chunks of so many steps: all of them, or few at a time if they do not fit."""
        if split not in self._resident:
            if not fits_on_device(split):
                return self._uploaded(split, STREAMED_IMAGES)
            self._resident[split] = list(self._uploaded(split, len(split)))
        return self._resident[split]

    def _uploaded(self, split: Split, images: int) -> Iterator[tuple[int, Any]]:
        """The split as pairs (steps, arrays [steps, batch, ...] on the devices), of about `images` images each.

        All have one shape; the last is padded with zeros.
        """
        devices = self.devices.count
        batch_size = -(-min(EVAL_BATCH_SIZE, len(split)) // devices) * devices
        steps = -(-min(images, len(split)) // batch_size)
        size = steps * batch_size
        for start in range(0, len(split), size):
            rows = slice(start, start + size)
            chunk = pad_rows(split.images[rows], size), pad_rows(split.labels[rows], size)
            chunk = jax.tree.map(lambda rows: rows.reshape(steps, batch_size, *rows.shape[1:]), chunk)
            yield steps, self.devices.split(self.devices.local_shard(chunk))


def summarise(losses: np.ndarray, correct: np.ndarray, batch_size: int) -> tuple[float, float, float]:
    """Mean loss in nats, accuracy from 0 to 1, and the mean over batches of their accuracies, as the report gives it.

    Takes the losses, float [images], and which images are classified correctly, bool [images], in the split's order;
    the last batch may be smaller than `batch_size`.
    """
    starts = np.arange(0, len(correct), batch_size)
    batch_means = np.add.reduceat(correct, starts, dtype=np.float64) / np.diff([*starts, len(correct)])
    return float(np.mean(losses, dtype=np.float64)), float(correct.mean()), float(batch_means.mean())
