"""The compiled training programs, and a run in progress: its state on the devices and its position."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Split
from jresnet.data.pipeline import Batch, Chunk, Input, make_input
from jresnet.errors import Diverged
from jresnet.models import ResNet
from jresnet.parallel import distributed
from jresnet.parallel.compiler import compile_cache, run_once_options
from jresnet.parallel.devices import Devices
from jresnet.records.files import Record
from jresnet.records.log import RunLog
from jresnet.records.run import Run
from jresnet.train import memory
from jresnet.train.checkpoint import Checkpoints, Meta
from jresnet.train.evaluate import CACHED_PROGRAMS, Evaluator
from jresnet.train.layout import TREES, VectorLayout, resized
from jresnet.train.optim import rates, schedule, shared_optimizer, with_rates
from jresnet.train.pace import next_steps
from jresnet.train.signals import StopSignal
from jresnet.train.state import TrainState, create_train_state
from jresnet.train.step import PLAIN, Metrics, StepOptions, make_train_step

_log = logging.getLogger(__name__)


@lru_cache(CACHED_PROGRAMS)
def init_program(
    model: ResNet, tx: optax.GradientTransformation, image_shape: tuple[int, int, int], averages: bool = False
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compile `(seed, *rates) -> (state, metrics)`: the start of a run, or a checkpoint's shapes; see `with_rates`.

    The model has no mapped axis, and `tx` holds its rates in its state, see `optim.shared_optimizer`. With `averages`
    the state has these, too.
    """

    def program(seed: jax.Array, *own: jax.Array | None) -> tuple[TrainState, Metrics]:
        state = create_train_state(model, tx, seed, image_shape, averages)
        return state.replace(opt_state=with_rates(state.opt_state, *own)), Metrics.zero()

    return jax.jit(program, compiler_options=run_once_options())


@lru_cache(CACHED_PROGRAMS)
def train_program(
    model: ResNet,
    tx: optax.GradientTransformation,
    get_batch: Callable[[Any, jax.Array], Batch],
    devices: Devices,
    channel_multiple: int = 1,
    steps: int | None = None,
    options: StepOptions = PLAIN,
) -> jax.stages.Wrapped:
    """Compile the function that `make_train_program` makes for these devices; the state is donated."""
    program = make_train_program(
        model, tx, get_batch, devices.platform, devices.axis_name, channel_multiple, steps, options
    )
    return devices.compile(program, donate=(0,), broadcast=(3, 4))


def make_train_program(
    model: ResNet,
    tx: optax.GradientTransformation,
    get_batch: Callable[[Any, jax.Array], Batch],
    platform: str,
    axis_name: str | None = None,
    channel_multiple: int = 1,
    steps: int | None = None,
    options: StepOptions = PLAIN,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Make `(state, metrics, arrays, first, last) -> (state, metrics)`: training steps `first` to `last`, exclusive.

    The bounds are data, unless `steps` is given: one program serves calls of any length. Learning rate, weight decay,
    seed and channel statistics are data too, so a study compiles one program per network, batch shape, augmentation and
    options of the step, and on GPUs a second one for calls of a fixed length. Nothing is fetched between steps.

    Args:
      model: without a mapped axis.
      tx: the optimizer; on a GPU it has all parameters in one vector if the options say that it is elementwise.
      get_batch: `(arrays, i) -> batch i`, see `pipeline.Input`.
      platform: of the devices, "cpu" or "gpu": it decides how the steps compute, not what.
      axis_name: the mapped axis whose devices share each batch, or None.
      channel_multiple: pad the network's channels to a multiple of this with zeros, which stay zero.
      steps: the number of steps of every call, `last - first`, if it is fixed. On a GPU the loop then need not wait for
        the host, which otherwise looks at the loop's condition before every step.
      options: of the steps, see `make_train_step`.
    """
    wide = models.padded(model, channel_multiple)
    network = wide.clone(
        axis_name=axis_name, conv_general_dilated_cls=models.conv_for(platform),
        norm_cls=models.norm_for(platform, model.dtype),
    )  # fmt: skip

    def program(state: TrainState, metrics: Metrics, arrays: Any, first: jax.Array, last: jax.Array) -> Any:
        image_shape = jax.eval_shape(get_batch, arrays, first)["images"].shape[1:]
        averages = options.ema_decay is not None
        shapes = jax.eval_shape(lambda: create_train_state(wide, tx, 0, image_shape, averages))
        padded_state = resized(state, shapes)
        vector = platform == "gpu" and options.elementwise
        layout = VectorLayout(padded_state, model.dtype) if vector else TREES
        train_step = make_train_step(network, tx, axis_name, layout, options)

        def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            state, step_metrics = train_step(state, get_batch(arrays, i))
            return state, metrics + step_metrics

        start = layout.pack(padded_state), metrics
        if steps is None:
            packed, metrics = lax.fori_loop(first, last, body, start)
        else:
            packed, metrics = lax.fori_loop(0, steps, lambda i, carry: body(first + i, carry), start)
        return resized(layout.unpack(packed), state), metrics

    return program


def run_programs(
    config: Config, seed: int, model: ResNet, labels: np.ndarray, image_shape: tuple[int, int, int], source: Input,
    devices: Devices,
) -> tuple[Callable[..., jax.stages.Wrapped], partial[tuple[TrainState, Metrics]]]:  # fmt: skip
    """What a run of this configuration compiles, on training images with these labels, int32 [images].

    Returns:
      `(steps) -> train_program`, for calls of that many steps or, with None, of any number, and `() -> (state,
      metrics)`, its start on one device.
    """
    tx = shared_optimizer(config, config.steps_per_epoch(len(labels)))
    options = StepOptions.of(config, labels, model.num_classes)
    program = partial(train_program, model, tx, source.get_batch, devices, config.channel_multiple, options=options)
    create = init_program(model, tx, image_shape, config.ema_decay is not None)
    # JAX takes Python's integers for int32, and seeds go beyond.
    return program, partial(create, np.uint32(seed), *rates(config))


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers of all arrays are finite, bool []."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def fixes_steps(config: Config, devices: Devices) -> bool:
    """Whether a run has a second program, for calls of a fixed length, see `train_program`.

    Two programs might add in different orders: with --deterministic there is one.
    """
    return devices.platform == "gpu" and not config.deterministic


def fixed_steps(chunk: Chunk, fixed: int | None) -> int | None:
    """The `steps` of the program for a chunk, if programs exist for calls of `fixed` steps: None for one of any length.

    XLA unrolls a loop of one step, which then might round otherwise.
    """
    return fixed if fixed is not None and chunk.last - chunk.first == fixed > 1 else None


class Trainer:
    """A run in progress on the training images of `split`; network and input are the configuration's by default.

    Attributes:
      state: the train state, on every device.
      metrics: sums over the epoch's steps so far, on every device.
      step: updates done.
      steps_per_epoch: updates in one epoch.
      seconds: training time of the current epoch so far, without compilation; the same in all processes.
      shapes: of `state` and `metrics` on one device.
      parameters: trainable parameters of the network, those of frozen stages included.
      program: called with a number of steps or None, the compiled `train_program` for calls of that length or any.
      compile_seconds: time spent on compiling the training program in this session.
      compile_cache: what JAX's cache of compiled programs was before.
      resumed: whether it goes on from a checkpoint.
      stop_signal: the signal that any process received, as of the latest call; None if there was none.
    """

    def __init__(
        self, run: Run, split: Split, devices: Devices, model: ResNet | None = None, source: Input | None = None
    ):
        self.compile_cache = compile_cache()
        config, statistics = run.config, (run.mean, run.std)
        self.run, self.devices, self.images = run, devices, len(split)
        self.steps_per_epoch = config.steps_per_epoch(self.images)
        model = model or models.from_config(config, len(run.classes))
        self.source = source or make_input(split, config, run.seed, statistics, devices)
        self.program, self._create = run_programs(
            config, run.seed, model, split.labels, (*run.image_size, 3), self.source, devices
        )
        self.evaluator = Evaluator(model, statistics, devices)
        self._steps_per_call = 1
        self._fixes = fixes_steps(config, devices)
        # Steps of the calls whose loop has a fixed number of them; None while their duration is not known.
        self._fixed_steps = self.source.steps_per_chunk
        # Keys of the programs, see `_key`.
        self._compiled: set[tuple[Any, ...]] = set()
        self._called: set[tuple[Any, ...]] = set()
        self.shapes = jax.eval_shape(self._create.func, *self._create.args)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.shapes[0].params))
        self.compile_seconds = 0.0
        self.resumed = False
        self.stop_signal: int | None = None

    def start(self, weights: Any = None) -> None:
        """Start from the initial state, or from it with these parts of `params` and `batch_stats` in their place.

        Does not wait until it is computed.
        """
        state, metrics = self._create()
        if weights is not None:
            state = state.with_weights(**{name: parts | weights[name] for name, parts in state.raw.items()})
        self._begin_at((state, metrics), step=0, seconds=0.0)

    def prepare(self) -> None:
        """Compile the program of the first call; InputError if a call needs more memory than there is. A collective."""
        chunk = next(self.source.epoch(0, 0, lambda left: 1))
        memory.check_step(self._compile(chunk), self.run.config, self.devices)

    def resume(self, checkpoints: Checkpoints) -> Sequence[Record] | None:
        """Go on from the newest sound checkpoint, if there is one, else from the state as it is.

        Returns:
          The records of the epochs before the current one; None if the checkpoint does not have them.
        """
        restored = checkpoints.restore_newest(self.shapes)
        if restored is None:
            return ()
        state, meta = restored
        self._begin_at(state, int(state[0].step), meta.seconds)
        self.resumed = True
        if meta.execution and (different := meta.execution.differences(self.devices.execution)):
            _log.warning(f"resumed with {', '.join(different)}: sums may round otherwise, and the last bits differ")
        return meta.history

    def _begin_at(self, state: tuple[TrainState, Metrics], step: int, seconds: float) -> None:
        self.step, self.seconds = step, seconds
        self.state, self.metrics = self.devices.replicate(state)

    @property
    def epoch(self) -> int:
        """The epoch of the latest step: a finished epoch stays the current one until the next begins."""
        return max(self.step - 1, 0) // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """Steps of the current epoch that are done."""
        return self.step - self.epoch * self.steps_per_epoch

    def save(self, checkpoints: Checkpoints, history: Sequence[Record] = ()) -> None:
        """Write a checkpoint of the current state in the background, unless `check_finite` raises Diverged.

        `history` are the records of the epochs before the current one.
        """
        self.check_finite()
        state = self.devices.unreplicate((self.state, self.metrics))
        meta = Meta(seconds=self.seconds, history=tuple(history), execution=self.devices.execution)
        checkpoints.save(self.step, state, meta)

    def check_finite(self) -> None:
        """Raise Diverged if a parameter, a batch statistic or an average of these is not finite."""
        if not all_finite(self.devices.unreplicate((self.state.raw, self.state.average))):
            raise self._diverged("a parameter or running statistic", self.step - 1)

    def train_epoch(self, epoch: int, log: RunLog, signal: StopSignal) -> None:
        """Train the remaining steps of `epoch`, or fewer if any process receives a stop signal.

        Raises:
          Diverged: a loss was not finite.
        """
        first_step = epoch * self.steps_per_epoch
        if self.step == first_step:
            self.metrics, self.seconds = self.devices.replicate(Metrics.zero()), 0.0
        for chunk in self.source.epoch(epoch, self.step - first_step, lambda left: min(left, self._steps_per_call)):
            key = self._key(chunk)
            if key not in self._compiled:
                log.advance(self.step - first_step, epoch, "compile")
                self._compile(chunk)
            program = self.program(key[0])
            started = time.perf_counter()
            self.state, self.metrics = program(self.state, self.metrics, *chunk)
            bad_step = int(self.devices.unreplicate(self.metrics.bad_step))
            seconds = self.synchronise(signal, time.perf_counter() - started)
            steps = chunk.last - chunk.first
            self.seconds += seconds
            self.step += steps
            if key in self._called:  # a program's first call also sets up the device's libraries
                self._choose_steps(steps, seconds)
            self._called.add(key)
            log.advance(self.step - first_step, epoch, "train")
            if bad_step >= 0:
                raise self._diverged("the loss", bad_step)
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

    def _choose_steps(self, steps: int, seconds: float) -> None:
        """Choose the number of steps of the next calls after one of `steps` that took so many seconds.

        On a GPU the choice is final once it no longer grows: the epoch in 1, 2, 4, ... equal calls. So few steps are
        left over, and runs that differ little in speed share a program.
        """
        if self._fixed_steps is not None:
            return
        epoch = max(1, self.images // self.run.config.batch_size)
        before, self._steps_per_call = self._steps_per_call, next_steps(self._steps_per_call, steps, seconds, epoch)
        settled = self._steps_per_call == epoch or (steps >= before and self._steps_per_call < 4 * before)
        if self._fixes and settled and self._steps_per_call > 1:
            calls = 1 << (-(-epoch // self._steps_per_call) - 1).bit_length()
            self._fixed_steps = self._steps_per_call = max(1, epoch // calls)

    def _key(self, chunk: Chunk) -> tuple[Any, ...]:
        """What decides the compiled program for a chunk: its fixed number of steps, if any, and its shapes."""
        length = fixed_steps(chunk, self._fixed_steps if self._fixes else None)
        return length, *(leaf.shape for leaf in jax.tree.leaves(chunk.arrays))

    def _compile(self, chunk: Chunk) -> jax.stages.Compiled:
        """Compile the program for this chunk, apart from the time of training."""
        started = time.perf_counter()
        compiled = self.program(self._key(chunk)[0]).lower(self.state, self.metrics, *chunk).compile()
        self.compile_seconds += time.perf_counter() - started
        self._compiled.add(self._key(chunk))
        return compiled

    def _diverged(self, what: str, step: int) -> Diverged:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        return Diverged(
            f"{what} is not finite at epoch {epoch}, step {step_in_epoch} (update {step}): "
            "lower --learning-rate or add --warmup-epochs; the last good checkpoint is kept"
        )
