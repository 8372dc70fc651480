"""The compiled programs of runs: one serves all runs of equal shape, and what those differ in is its input.

Learning rate, weight decay, seed, channel statistics and the probabilities of augmentation are data. Each
factory here returns the same compiled function for equal arguments, so that a study compiles once per
network, batch shape and crop, however many runs it has.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jresnet.data.augment import normalise
from jresnet.models import ResNet
from jresnet.parallel.compiler import once_options
from jresnet.parallel.devices import Devices
from jresnet.train.optim import with_rates
from jresnet.train.state import TrainState, create
from jresnet.train.step import Sums, make_predict_step, make_train_step

# Programs kept of each kind: more than a study has shapes, few enough that a long search stays bounded.
KEPT = 64


@lru_cache(KEPT)
def init_program(model: ResNet, tx: optax.GradientTransformation, image_shape: tuple[int, int, int]) -> Callable:
    """Compile `(seed, learning_rate, weight_decay) -> (state, sums)`: what a run starts from and a checkpoint holds.

    Args:
      model: the network, without a mapped axis.
      tx: an optimizer with rates in its state, see `optim.shared_optimizer`.
      image_shape: (height, width, channels).
    """

    def program(seed, learning_rate, weight_decay) -> tuple[TrainState, Sums]:
        state = create(model, tx, seed, image_shape)
        return state.replace(opt_state=with_rates(state.opt_state, learning_rate, weight_decay)), Sums.zero()

    return jax.jit(program, compiler_options=once_options())


@lru_cache(KEPT)
def train_program(model: ResNet, tx: optax.GradientTransformation, fetch: Callable, devices: Devices) -> Callable:
    """Compile `(state, sums, arrays, first, last) -> (state, sums)`: steps first to last of a work's arrays.

    The bounds are data, so one program serves calls of any length, and a call of no steps compiles it.
    The state is donated; nothing is fetched between steps.

    Args:
      model: the network, with the devices' mapped axis.
      tx: the optimizer.
      fetch: the i-th batch of a work's arrays, see `pipeline.Input`.
      devices: where it runs.
    """
    train_step = make_train_step(model, tx, devices.axis_name)

    def program(state, sums, arrays, first, last):
        def body(i, carry):
            state, sums = carry
            state, more = train_step(state, fetch(arrays, i))
            return state, sums + more

        return lax.fori_loop(first, last, body, (state, sums))

    return devices.compile(program, donate=(0,), broadcast=(3, 4))


@lru_cache(KEPT)
def eval_program(model: ResNet, devices: Devices) -> Callable:
    """Compile `(variables, mean, std, images, labels) -> (losses, predictions, confidences)`.

    Images are uint8 [steps, batch, height, width, channels]; mean and std, float32 [channels], those of the
    training pixels / 255; the outputs are those of `step.make_predict_step`, [steps, batch], gathered from
    all devices.
    """
    predict_step = make_predict_step(model)

    def program(variables, mean, std, images, labels):
        return devices.gather(
            lax.map(lambda batch: predict_step(variables, normalise(batch[0], mean, std), batch[1]), (images, labels))
        )

    return devices.compile(program, broadcast=(1, 2))


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every number of every array is finite, bool []."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
