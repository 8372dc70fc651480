"""The epochs of one run: training, exact evaluation, saving and stopping."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jresnet.config import Config
from jresnet.data.datasets import Split
from jresnet.data.pipeline import STREAMED_IMAGES, Input, Statistics
from jresnet.errors import Diverged
from jresnet.models import ResNet
from jresnet.parallel import distributed
from jresnet.parallel.devices import Devices, placement
from jresnet.records.log import RunLog
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.optim import schedule, shared_optimizer
from jresnet.train.programs import all_finite, eval_program, init_program, train_program
from jresnet.train.signals import Flag
from jresnet.train.state import TrainState
from jresnet.train.step import Sums

# Images per evaluation step; without effect on results, which are per image.
EVAL_BATCH = 256
# Seconds one call of the program should take: long enough to hide the call, short enough to answer signals.
CALL_SECONDS = 1.0


class Figures(NamedTuple):
    """What an evaluation found: mean loss in nats, share of correct images, and that share averaged over batches."""

    loss: float
    accuracy: float
    accuracy_batch_mean: float


class Outputs(NamedTuple):
    """An evaluation's findings, image by image in the split's order; see `step.make_predict_step`.

    Attributes:
      losses: float32 [images], in nats.
      predictions: int32 [images].
      confidences: float32 [images].
    """

    losses: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray


class Pace:
    """How many steps to do in one call, so that it takes about CALL_SECONDS; without effect on results."""

    def __init__(self):
        self._steps = 1

    def __call__(self, left: int) -> int:
        """Steps for the next call, when `left` are left."""
        return min(left, self._steps)

    def observe(self, steps: int, seconds: float) -> None:
        """Learn that `steps` steps took `seconds`; grow at most fourfold at once, as one reading may mislead."""
        fitting = int(steps * CALL_SECONDS / max(seconds, 1e-6))
        self._steps = max(1, min(4 * self._steps, fitting))


class Evaluator:
    """Evaluates variables on splits, every image exactly once.

    Args:
      model: the network.
      statistics: mean and standard deviation of the channels.
      devices: where it runs.
    """

    def __init__(self, model: ResNet, statistics: Statistics, devices: Devices):
        self.program, self.devices = eval_program(model, devices), devices
        self.mean, self.std = np.asarray(statistics, np.float32)

    def __call__(self, variables: Any, split: Split, between: Callable[[], None] = lambda: None) -> Outputs:
        """Evaluate replicated variables on a split, calling `between` after every piece of work."""
        pieces = []
        for images, labels in self._pieces(split):
            arrays = self.devices.split(self.devices.own((images, labels)))
            outputs = self.program(variables, self.mean, self.std, *arrays)
            pieces.append([self.devices.join(output).reshape(-1) for output in outputs])
            between()
        found = Outputs(*(np.concatenate(column)[: len(split)] for column in zip(*pieces, strict=True)))
        if len(found.losses) != len(split):
            raise AssertionError(f"evaluated {len(found.losses)} of {len(split)} images")
        return found

    def _pieces(self, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The split as arrays [steps, batch, ...] of one shape, the last filled up with zeros."""
        batch = -(-min(EVAL_BATCH, len(split)) // self.devices.count) * self.devices.count
        steps = max(1, min(STREAMED_IMAGES, len(split)) // batch)
        for start in range(0, len(split), steps * batch):
            piece = []
            for array in (split.images, split.labels):
                part = array[start : start + steps * batch]
                missing = [(0, steps * batch - len(part))] + [(0, 0)] * (part.ndim - 1)
                piece.append(np.pad(part, missing).reshape(steps, batch, *part.shape[1:]))
            yield piece[0], piece[1]


def figures(losses: np.ndarray, correct: np.ndarray, batch_size: int) -> Figures:
    """Figures from every image's loss and correctness, both [images], in the split's order."""
    starts = np.arange(0, len(correct), batch_size)
    batch_means = np.add.reduceat(correct, starts, dtype=np.float64) / np.diff([*starts, len(correct)])
    return Figures(float(np.mean(losses, dtype=np.float64)), float(np.mean(correct)), float(batch_means.mean()))


def restored(checkpoints: Checkpoints, step: int, shapes: tuple[TrainState, Sums]) -> tuple[tuple, dict]:
    """The state and sums saved under `step`, on this process's first device, and the checkpoint's record.

    All processes must call it together.

    Raises:
      InputError: the checkpoint is damaged or holds another network's state.
    """
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement()), shapes)
    found, meta = checkpoints.restore(step, like)
    state, sums = jax.tree.map(lambda leaf: leaf.addressable_data(0), found)
    return (TrainState(**vars(state)), Sums(*sums)), meta


class Training:
    """A run under way: its state on the devices and its place in the run.

    Attributes:
      parameters: trainable parameters of the network.
      compile_seconds: spent compiling the training program in this session.
      asked: the signal by which any process was asked to stop, as of the latest call.
    """

    def __init__(
        self, config: Config, seed: int, model: ResNet, source: Input, statistics: Statistics,
        image_shape: tuple[int, int, int], images: int, devices: Devices,
    ):  # fmt: skip
        self.config, self.source, self.devices, self.images = config, source, devices, images
        self.steps = config.steps_per_epoch(images)
        tx = shared_optimizer(config, self.steps)
        self.program = train_program(model.clone(axis_name=devices.axis_name), tx, source.fetch, devices)
        self.evaluator = Evaluator(model, statistics, devices)
        create, inputs = init_program(model, tx, image_shape), (seed, config.learning_rate, config.weight_decay)
        self._create = partial(create, *inputs)
        self._pace, self._compiled = Pace(), set[tuple]()
        # Of the program itself: compiler options allow no function around it here.
        self.shapes = jax.eval_shape(create, *inputs)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.shapes[0].params))
        self.compile_seconds = 0.0
        self.asked: int | None = None

    def start(self, checkpoints: Checkpoints | None = None) -> None:
        """Begin where the latest checkpoint ended, or at the beginning where there is none."""
        found = checkpoints.steps() if checkpoints else []
        if checkpoints and found:
            (state, sums), meta = restored(checkpoints, found[-1], self.shapes)
        else:
            (state, sums), meta = self._create(), {"seconds": 0.0}
        self.step = int(state.step)
        self.seconds = meta["seconds"]
        self.state, self.sums = self.devices.replicate((state, sums))

    @property
    def epoch(self) -> int:
        """The epoch the latest step belongs to; a whole epoch stays the current one until the next one begins."""
        return max(self.step - 1, 0) // self.steps

    @property
    def step_in_epoch(self) -> int:
        """Steps of that epoch done."""
        return self.step - self.epoch * self.steps

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint of this moment in the background.

        Raises:
          Diverged: a parameter is not finite; no checkpoint is written.
        """
        state, sums = self.devices.unreplicate((self.state, self.sums))
        if not all_finite((state.params, state.batch_stats)):
            raise self._diverged(self.step - 1)
        # A copy: training goes on and gives the state's buffers away while the files are written.
        snapshot = jax.tree.map(jnp.copy, (state, sums))
        checkpoints.save(self.step, self.devices.shared(snapshot), {"seconds": self.seconds})

    def train_epoch(self, epoch: int, log: RunLog, flag: Flag) -> None:
        """Train on the rest of `epoch`; stop early if the flag is raised in any process.

        Raises:
          Diverged: a loss was not finite.
        """
        if self.step == epoch * self.steps:
            self.sums, self.seconds = self.devices.replicate(Sums.zero()), 0.0
        for work in self.source.epoch(epoch, self.step - epoch * self.steps, self._pace):
            self._compile(work, epoch, log)
            started = time.perf_counter()
            self.state, self.sums = self.program(self.state, self.sums, *work[:3])
            bad_step = int(self.devices.unreplicate(self.sums.bad_step))
            elapsed = self.agree(flag, time.perf_counter() - started)
            self.seconds += elapsed
            self.step += work.last - work.first
            self._pace.observe(work.last - work.first, elapsed)
            log.advance(self.step - epoch * self.steps, epoch, "train")
            if bad_step >= 0:
                raise self._diverged(bad_step)
            if self.asked is not None:
                return

    def agree(self, flag: Flag, seconds: float = 0.0) -> float:
        """See whether any process was asked to stop; the processes call this together, so that all stop at one step.

        Returns:
          The longest of their `seconds`, by which all do equally many steps in their next call.
        """
        longest, signal = distributed.most((seconds, flag.signal or 0))
        self.asked = int(signal) or None
        return longest

    def train_figures(self) -> tuple[float, float]:
        """Mean loss in nats and accuracy over the epoch's training images so far."""
        sums = jax.device_get(self.devices.unreplicate(self.sums))
        return float(sums.loss) / int(sums.images), int(sums.correct) / int(sums.images)

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of the epoch's last step."""
        course = schedule(self.config, self.steps)
        return self.config.learning_rate * float(course((epoch + 1) * self.steps - 1))

    def _compile(self, work, epoch: int, log: RunLog) -> None:
        """Compile the program for this work's shapes by a call of no steps, apart from the epoch's time."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(work.arrays))
        if shapes in self._compiled:
            return
        log.advance(self.step - epoch * self.steps, epoch, "compile")
        started = time.perf_counter()
        self.state, self.sums = self.program(self.state, self.sums, work.arrays, 0, 0)
        jax.block_until_ready(self.sums)
        self.compile_seconds += time.perf_counter() - started
        self._compiled.add(shapes)

    def _diverged(self, step: int) -> Diverged:
        epoch, step_in_epoch = divmod(step, self.steps)
        return Diverged(
            f"the loss is not finite at epoch {epoch}, step {step_in_epoch} (update {step}): "
            "lower --learning-rate or add --warmup-epochs; the last good checkpoint is kept"
        )
