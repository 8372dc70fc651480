"""Gradients of a batch: computed in parts, one after another, or those of sharpness-aware minimisation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jresnet.data.pipeline import Batch

Evaluated = tuple[tuple[jax.Array, tuple[jax.Array, Any]], Any]
"""((loss [], (logits [batch, classes], batch statistics)), gradients)."""


def in_parts(
    evaluate: Callable[[Any, Batch, jax.Array | None], Evaluated], parts: int
) -> Callable[[Any, Batch], Evaluated]:
    """Make `(batch_stats, batch) -> Evaluated` of `evaluate(batch_stats, part, number)`: sums over a batch's parts.

    Part j has the images j, j + parts, j + 2 parts, ..., so that padding at a batch's end is shared by all of them, and
    the number of devices does not change which images belong together. Each part begins with the batch statistics
    that the one before it left. The whole batch is one part without a number.

    Args:
      evaluate: `number` is int32 [], that of the part.
      parts: they divide the batch.
    """
    if parts == 1:
        return lambda batch_stats, batch: evaluate(batch_stats, batch, None)

    def evaluate_all(batch_stats: Any, batch: Batch) -> Evaluated:
        cut = jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), batch)

        def add(sums: tuple[jax.Array, Any, Any], numbered: tuple[jax.Array, Batch]) -> Any:
            loss, grads, batch_stats = sums
            number, part = numbered
            (part_loss, (logits, batch_stats)), part_grads = evaluate(batch_stats, part, number)
            return (loss + part_loss, jax.tree.map(jnp.add, grads, part_grads), batch_stats), logits

        numbers = jnp.arange(parts, dtype=jnp.int32)
        shapes = jax.eval_shape(evaluate, batch_stats, jax.tree.map(lambda a: a[0], cut), numbers[0])
        loss, grads = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes[0][0], shapes[1]))
        (loss, grads, batch_stats), logits = lax.scan(add, (loss, grads, batch_stats), (numbers, cut))
        return (loss, (logits.swapaxes(0, 1).reshape(-1, logits.shape[-1]), batch_stats)), grads

    return evaluate_all


def sharpness_aware(rho: float, gradients: Callable[[Any], Any], params: Any, grads: Any) -> Any:
    """The gradients at `params` + `rho` x `grads` / their norm (Foret et al. 2020, arXiv 2010.01412, algorithm 1).

    Where all gradients are zero, those at `params`.

    Args:
      rho: radius, in the norm over all parameters.
      gradients: of the same batch, for other parameters.
      params: the parameters.
      grads: the batch's gradients at `params`.
    """
    # Not optax.contrib.normalize, which makes NaN of gradients that are all zero.
    uphill = optax.chain(optax.stateless(_normalised), optax.sgd(rho))
    # Around no optimizer, so that it has no state, and what it passes on to that one are the gradients.
    sam = optax.contrib.sam(optax.identity(), uphill, opaque_mode=True)
    return sam.update(grads, sam.init(params), params, grad_fn=lambda params, _: gradients(params))[0]


def _normalised(grads: Any, _: Any) -> Any:
    """The gradients over their norm, to which 1e-12 is added as in the implementations for PyTorch."""
    norm = optax.tree.norm(grads) + 1e-12
    return jax.tree.map(lambda grad: grad / norm, grads)
