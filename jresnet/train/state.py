"""The train state: what a run carries from step to step, and what its checkpoints hold."""

from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jresnet.models import ResNet, init_fn


class TrainState(flax.struct.PyTreeNode):
    """The state of a run after `step` updates.

    Attributes:
      step: int32 [], updates done.
      params: parameters of the network.
      batch_stats: running statistics of batch normalisation.
      opt_state: state of the optimizer, learning rate and weight decay included.
      key: typed PRNG key []; constant: the randomness of a step comes from fold_in(key, step).
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_train_state(
    model: ResNet, tx: optax.GradientTransformation, seed: int | jax.Array, image_shape: tuple[int, int, int]
) -> TrainState:
    """The initial state of a run: a pure function of `seed`, fit for `jax.jit` and `jax.eval_shape`.

    The seed decides the initial weights and all later randomness; the model has no mapped axis, and `image_shape` is
    (height, width, channels).
    """
    key = jax.random.key(seed)
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = init_fn(model)(jax.random.fold_in(key, 0), images)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **variables,
        opt_state=tx.init(variables["params"]),
        key=jax.random.fold_in(key, 1),
    )


def check_state(state: TrainState) -> None:
    """Assert while tracing that a train state has the scalars that `TrainState` documents."""
    message = "a train state has step int32 [] and a typed PRNG key []"
    chex.assert_shape([state.step, state.key], (), custom_message=message)
    chex.assert_type(state.step, jnp.int32, custom_message=message)
    if not jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key):
        raise AssertionError(f"{message}, not a key of dtype {state.key.dtype}")
