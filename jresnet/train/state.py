"""What training changes: one pytree, made in one jitted call."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jresnet.models import ResNet, initialiser


class TrainState(flax.struct.PyTreeNode):
    """The whole state of a run after `step` updates.

    Attributes:
      step: int32 [], updates done.
      params: the network's parameters.
      batch_stats: the running statistics of batch normalisation.
      opt_state: the optimizer's state, learning rate and weight decay included.
      key: typed PRNG key [] of the run; never advanced: a step's randomness is fold_in(key, step).
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array

    @property
    def variables(self) -> dict:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    model: ResNet, tx: optax.GradientTransformation, seed: int | jax.Array, image_shape: tuple[int, int, int]
) -> TrainState:
    """The initial state of a run; as a pure function of `seed`, fit for `jax.jit` and `jax.eval_shape`.

    Args:
      model: the network; initialised without a mapped axis.
      tx: the optimizer.
      seed: decides the weights and every later random number of the run.
      image_shape: (height, width, channels).
    """
    key = jax.random.key(seed)
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = initialiser(model)(jax.random.fold_in(key, 0), images)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        key=jax.random.fold_in(key, 1),
    )
