"""Exact evaluation: every image of a split is counted once, on any number of devices."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jresnet.data.augment import normalise
from jresnet.data.datasets import Split
from jresnet.data.pipeline import STREAMED_IMAGES, Statistics, pad_rows
from jresnet.models import ResNet, conv_for
from jresnet.parallel.devices import Devices
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
def eval_program(model: ResNet, devices: Devices) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """Compile `(variables, mean, std, images, labels) -> (losses, predictions, confidences)`.

    Images are uint8 [steps, batch, height, width, 3] and labels int32 [steps, batch]; mean and std are float32
    [channels], those of the training pixels / 255. The outputs are those of `make_predict_step`, [steps, batch],
    gathered from all devices.
    """
    predict_step = make_predict_step(model.clone(conv_general_dilated_cls=conv_for(devices.platform)))

    def program(variables: Any, mean: jax.Array, std: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        def predict(batch: tuple[jax.Array, jax.Array]) -> Any:
            images, labels = batch
            return predict_step(variables, normalise(images, mean, std), labels)

        return devices.all_gather(lax.map(predict, (images, labels)))

    return devices.compile(program, broadcast=(1, 2))


class Evaluator:
    """Evaluates a network's variables on splits; the model has no mapped axis."""

    def __init__(self, model: ResNet, statistics: Statistics, devices: Devices):
        self.program, self.devices = eval_program(model, devices), devices
        self.mean, self.std = np.asarray(statistics, np.float32)

    def __call__(self, variables: Any, split: Split, after_chunk: Callable[[], None] = lambda: None) -> Outputs:
        """Evaluate replicated variables on a split, calling `after_chunk` after each call of the program."""
        chunks = []
        for images, labels in self._chunks(split):
            arrays = self.devices.split(self.devices.local_shard((images, labels)))
            outputs = self.program(variables, self.mean, self.std, *arrays)
            chunks.append([self.devices.join(output).reshape(-1) for output in outputs])
            after_chunk()
        columns = Outputs(*(np.concatenate(column)[: len(split)] for column in zip(*chunks, strict=True)))
        if len(columns.losses) != len(split):
            raise AssertionError(f"evaluated {len(columns.losses)} of {len(split)} images")
        return columns

    def _chunks(self, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The split as arrays [steps, batch, ...] of one shape, the last padded with zeros."""
        devices = self.devices.count
        batch_size = -(-min(EVAL_BATCH_SIZE, len(split)) // devices) * devices
        steps = max(1, min(STREAMED_IMAGES, len(split)) // batch_size)
        size = steps * batch_size
        for start in range(0, len(split), size):
            rows = slice(start, start + size)
            images, labels = pad_rows(split.images[rows], size), pad_rows(split.labels[rows], size)
            yield images.reshape(steps, batch_size, *images.shape[1:]), labels.reshape(steps, batch_size)


def summarise(losses: np.ndarray, correct: np.ndarray, batch_size: int) -> tuple[float, float, float]:
    """Mean loss in nats, accuracy from 0 to 1, and the mean over batches of their accuracies, as the report gives it.

    Takes the losses, float [images], and which images are classified correctly, bool [images], in the split's order;
    the last batch may be smaller than `batch_size`.
    """
    starts = np.arange(0, len(correct), batch_size)
    batch_means = np.add.reduceat(correct, starts, dtype=np.float64) / np.diff([*starts, len(correct)])
    return float(np.mean(losses, dtype=np.float64)), float(correct.mean()), float(batch_means.mean())
