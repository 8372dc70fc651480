"""The train state: what a run carries from step to step, and what its checkpoints hold."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jresnet.models import ResNet, init_fn


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a run after `step` updates.

    Attributes:
      step: int32 [], updates done.
      params: parameters of the network.
      batch_stats: running statistics of batch normalisation.
      opt_state: state of the optimizer, learning rate and weight decay included.
      key: typed PRNG key []; constant: the randomness of a step comes from fold_in(key, step).
      average: `params` and `batch_stats` averaged over the updates, see `average.averaged`, and before the first one
        the initial ones; None for none, and then no node of the pytree.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array
    average: Any = None

    replace = dataclasses.replace

    @property
    def raw(self) -> dict[str, Any]:
        """What the latest update made, as `model.apply` takes it."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes for evaluation: the averages where there are any."""
        return self.raw if self.average is None else self.average

    def with_weights(self, params: Any, batch_stats: Any) -> "TrainState":
        """The state of a run that starts from these weights."""
        state: TrainState = self.replace(params=params, batch_stats=batch_stats)
        # Copies: training donates every array.
        return state if self.average is None else state.replace(average=jax.tree.map(jnp.copy, state.raw))

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """See `jax.tree_util.register_pytree_with_keys_class`."""
        # For Orbax a None is a node: it would not restore the checkpoints of versions without averages.
        names = [
            field.name for field in dataclasses.fields(self) if field.name != "average" or self.average is not None
        ]
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], tuple(names)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], children: Sequence[Any]) -> "TrainState":
        """See `jax.tree_util.register_pytree_with_keys_class`."""
        return cls(**dict(zip(names, children, strict=True)))


def create_train_state(
    model: ResNet,
    tx: optax.GradientTransformation,
    seed: int | jax.Array,
    image_shape: tuple[int, int, int],
    averages: bool = False,
) -> TrainState:
    """The initial state of a run: a pure function of `seed`, fit for `jax.jit` and `jax.eval_shape`.

    The seed decides the initial weights and all later randomness; the model has no mapped axis, and `image_shape` is
    (height, width, channels). With `averages` it has these, too, at the initial weights: exactly what steps with an
    `ema_decay` need, see `make_train_step`.
    """
    key = jax.random.key(seed)
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = init_fn(model)(jax.random.fold_in(key, 0), images)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **variables,
        opt_state=tx.init(variables["params"]),
        key=jax.random.fold_in(key, 1),
        average=jax.tree.map(jnp.copy, dict(variables)) if averages else None,
    )


def check_state(state: TrainState, averages: bool = False) -> None:
    """Assert while tracing that a train state has the scalars that `TrainState` documents, and averages or none."""
    message = "a train state has step int32 [] and a typed PRNG key []"
    chex.assert_shape([state.step, state.key], (), custom_message=message)
    chex.assert_type(state.step, jnp.int32, custom_message=message)
    if not jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key):
        raise AssertionError(f"{message}, not a key of dtype {state.key.dtype}")
    if averages != (state.average is not None):
        raise AssertionError("a train state has averages exactly where its steps have an ema_decay")
