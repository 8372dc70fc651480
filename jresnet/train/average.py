"""Exponential moving averages of a run's weights, which evaluation takes in place of the latest ones."""

import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from jresnet.train.freeze import kept, marks
from jresnet.train.layout import Layout
from jresnet.train.state import TrainState


def averaged(state: TrainState, decay: float, layout: Layout, frozen: Collection[str] = ()) -> TrainState:
    """The packed state after an update, with its averages brought up to date.

    After t updates to x_1, ..., x_t the average is (1 - d) (x_t + d x_(t-1) + ... + d^(t-1) x_1) / (1 - d^t), d being
    `decay`: that of `optax.ema(d, debias=True)`, in which the initial weights have no part. It moves towards x_t by the
    share (1 - d) / (1 - d^t) of their difference, so no division by 1 - d^t is left for its users.

    Running statistics of batch normalisation have the same weights. A statistic s(x) of the activations is smooth in
    the parameters, so that s(mean of x) = mean of s(x) + O(variance of x): to first order they are those of the network
    with the averaged parameters. The latest running statistics are those of the latest parameters instead.

    Args:
      state: after the update; `average` is still that before it.
      decay: d, above 0 and below 1.
      layout: of the state.
      frozen: parts of the network that keep their parameters and statistics, bit for bit.
    """
    old = state.average

    def towards(mean: jax.Array, latest: jax.Array) -> jax.Array:
        return mean + share(decay, state.step, mean.dtype) * (latest - mean)

    params = jax.tree.map(towards, old["params"], layout.master(state.params))
    if frozen:
        tree = jax.eval_shape(layout.params, state.params)
        params = jax.tree.map(jnp.where, layout.spread(marks(tree, frozen)), old["params"], params)
    stats = kept(old["batch_stats"], jax.tree.map(towards, old["batch_stats"], state.batch_stats), frozen)
    return state.replace(average={"params": params, "batch_stats": stats})


def share(decay: float, updates: jax.Array, dtype: Any) -> jax.Array:
    """The share of the latest weights in the average after so many updates, (1 - d) / (1 - d^updates), of this dtype.

    1 - d^updates is an expm1, as float32 would round it to too few digits while it is small.
    """
    return (1 - decay) / -jnp.expm1(math.log(decay) * updates.astype(dtype))
