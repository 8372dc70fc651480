"""The compiled training programs, and a run in progress: its state on the devices and its position."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jresnet import models
from jresnet.data.datasets import Split
from jresnet.data.pipeline import Batch, Chunk, Input, make_input
from jresnet.errors import Diverged
from jresnet.models import ResNet
from jresnet.parallel import distributed
from jresnet.parallel.compiler import run_once_options
from jresnet.parallel.devices import Devices
from jresnet.records.log import RunLog
from jresnet.records.run import Run
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.evaluate import CACHED_PROGRAMS, Evaluator
from jresnet.train.optim import schedule, shared_optimizer, with_rates
from jresnet.train.signals import StopSignal
from jresnet.train.state import TrainState, create_train_state
from jresnet.train.step import Metrics, make_train_step

# Target duration of one call of the program: long enough to hide its overhead, short enough to answer signals.
CALL_SECONDS = 1.0


@lru_cache(CACHED_PROGRAMS)
def init_program(
    model: ResNet, tx: optax.GradientTransformation, image_shape: tuple[int, int, int]
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compile `(seed, learning_rate, weight_decay) -> (state, metrics)`: the start of a run, or a checkpoint's shapes.

    The model has no mapped axis, and `tx` holds its rates in its state, see `optim.shared_optimizer`.
    """

    def program(seed: jax.Array, learning_rate: jax.Array, weight_decay: jax.Array) -> tuple[TrainState, Metrics]:
        state = create_train_state(model, tx, seed, image_shape)
        return state.replace(opt_state=with_rates(state.opt_state, learning_rate, weight_decay)), Metrics.zero()

    return jax.jit(program, compiler_options=run_once_options())


@lru_cache(CACHED_PROGRAMS)
def train_program(
    model: ResNet, tx: optax.GradientTransformation, get_batch: Callable[[Any, jax.Array], Batch], devices: Devices
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compile `(state, metrics, arrays, first, last) -> (state, metrics)`: training steps `first` to `last`, exclusive.

    The bounds are data: one program serves calls of any length, and a call of no steps compiles it. Learning rate,
    weight decay, seed and channel statistics are data too, so a study compiles one program per network, batch shape and
    crop. The state is donated, and nothing is fetched between steps. For `get_batch` see `pipeline.Input`.
    """
    model = model.clone(axis_name=devices.axis_name, conv_general_dilated_cls=models.conv_for(devices.platform))
    train_step = make_train_step(model, tx, devices.axis_name)

    def program(state: TrainState, metrics: Metrics, arrays: Any, first: jax.Array, last: jax.Array) -> Any:
        def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            state, step_metrics = train_step(state, get_batch(arrays, i))
            return state, metrics + step_metrics

        return lax.fori_loop(first, last, body, (state, metrics))

    return devices.compile(program, donate=(0,), broadcast=(3, 4))


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers of all arrays are finite, bool []."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


class Trainer:
    """A run in progress on the training images of `split`; network and input are the configuration's by default.

    Attributes:
      state: the train state, on every device.
      metrics: sums over the epoch's steps so far, on every device.
      step: updates done.
      steps_per_epoch: updates in one epoch.
      seconds: training time of the current epoch so far, without compilation; the same in all processes.
      parameters: trainable parameters of the network.
      compile_seconds: time spent on compiling the training program in this session.
      stop_signal: the signal that any process received, as of the latest call; None if there was none.
    """

    def __init__(
        self, run: Run, split: Split, devices: Devices, model: ResNet | None = None, source: Input | None = None
    ):
        config, statistics = run.config, (run.mean, run.std)
        self.run, self.devices, self.images = run, devices, len(split)
        self.steps_per_epoch = config.steps_per_epoch(self.images)
        model = model or models.from_config(config, len(run.classes))
        self.source = source or make_input(split, config, run.seed, statistics, devices)
        tx = shared_optimizer(config, self.steps_per_epoch)
        self.program = train_program(model, tx, self.source.get_batch, devices)
        self.evaluator = Evaluator(model, statistics, devices)
        self._init = init_program(model, tx, (*run.image_size, 3))
        # JAX takes Python's integers for int32, and seeds go beyond.
        self._init_arguments = (np.uint32(run.seed), config.learning_rate, config.weight_decay)
        self._steps_per_call = 1
        self._compiled: set[tuple[Any, ...]] = set()
        self._shapes = jax.eval_shape(self._init, *self._init_arguments)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._shapes[0].params))
        self.compile_seconds = 0.0
        self.stop_signal: int | None = None

    def start(self, checkpoints: Checkpoints | None = None) -> None:
        """Start from the latest checkpoint, or from the initial state if there is none."""
        steps = checkpoints.steps() if checkpoints else []
        if checkpoints and steps:
            (state, metrics), meta = checkpoints.restore(steps[-1], self._shapes)
        else:
            (state, metrics), meta = self._init(*self._init_arguments), {"seconds": 0.0}
        self.step = int(state.step)
        self.seconds = meta["seconds"]
        self.state, self.metrics = self.devices.replicate((state, metrics))

    @property
    def epoch(self) -> int:
        """The epoch of the latest step: a finished epoch stays the current one until the next begins."""
        return max(self.step - 1, 0) // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """Steps of the current epoch that are done."""
        return self.step - self.epoch * self.steps_per_epoch

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint of the current state in the background, unless `check_finite` raises Diverged."""
        self.check_finite()
        state = self.devices.unreplicate((self.state, self.metrics))
        checkpoints.save(self.step, state, {"seconds": self.seconds})

    def check_finite(self) -> None:
        """Raise Diverged if a parameter or a batch statistic is not finite."""
        if not all_finite(self.devices.unreplicate(self.state.variables)):
            raise self._diverged(self.step - 1)

    def train_epoch(self, epoch: int, log: RunLog, signal: StopSignal) -> None:
        """Train the remaining steps of `epoch`, or fewer if any process receives a stop signal.

        Raises:
          Diverged: a loss was not finite.
        """
        first_step = epoch * self.steps_per_epoch
        if self.step == first_step:
            self.metrics, self.seconds = self.devices.replicate(Metrics.zero()), 0.0
        for chunk in self.source.epoch(epoch, self.step - first_step, lambda left: min(left, self._steps_per_call)):
            self._compile(chunk, epoch, log)
            started = time.perf_counter()
            self.state, self.metrics = self.program(self.state, self.metrics, chunk.arrays, chunk.first, chunk.last)
            bad_step = int(self.devices.unreplicate(self.metrics.bad_step))
            seconds = self.synchronise(signal, time.perf_counter() - started)
            steps = chunk.last - chunk.first
            self.seconds += seconds
            self.step += steps
            # Results do not depend on the steps per call. They grow at most fourfold: one timing may mislead.
            target = int(steps * CALL_SECONDS / max(seconds, 1e-6))
            self._steps_per_call = max(1, min(4 * self._steps_per_call, target))
            log.advance(self.step - first_step, epoch, "train")
            if bad_step >= 0:
                raise self._diverged(bad_step)
            if self.stop_signal is not None:
                return

    def synchronise(self, signal: StopSignal, seconds: float = 0.0) -> float:
        """Set `stop_signal` if any process received one; a collective, so that all processes stop at the same step.

        Returns the maximum of their `seconds`, so that all choose the same number of steps for their next call.
        """
        longest, number = distributed.process_max((seconds, signal.number or 0))
        self.stop_signal = int(number) or None
        return longest

    def epoch_metrics(self) -> tuple[float, float]:
        """Mean loss in nats and accuracy over the epoch's training images so far."""
        metrics = jax.device_get(self.devices.unreplicate(self.metrics))
        return float(metrics.loss) / int(metrics.images), int(metrics.correct) / int(metrics.images)

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of the epoch's last step."""
        config = self.run.config
        fraction = schedule(config, self.steps_per_epoch)((epoch + 1) * self.steps_per_epoch - 1)
        return config.learning_rate * float(fraction)

    def _compile(self, chunk: Chunk, epoch: int, log: RunLog) -> None:
        """Compile the program for this chunk's shapes by a call of no steps, so that compilation is timed apart."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(chunk.arrays))
        if shapes in self._compiled:
            return
        log.advance(self.step - epoch * self.steps_per_epoch, epoch, "compile")
        started = time.perf_counter()
        self.state, self.metrics = self.program(self.state, self.metrics, chunk.arrays, 0, 0)
        jax.block_until_ready(self.metrics)
        self.compile_seconds += time.perf_counter() - started
        self._compiled.add(shapes)

    def _diverged(self, step: int) -> Diverged:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        return Diverged(
            f"the loss is not finite at epoch {epoch}, step {step_in_epoch} (update {step}): "
            "lower --learning-rate or add --warmup-epochs; the last good checkpoint is kept"
        )
