"""An epoch planned before it runs: the order of its images and every random number of their augmentation.

A plan is a function of (seed, epoch) alone, made on the device in one program; both inputs execute it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jresnet.config import Config
from jresnet.data.augment import Augmentations, Draws, alternating_flips, draw


class Plan(NamedTuple):
    """The order of one epoch's images, a permutation int32 [images], and their augmentations in that order."""

    order: jax.Array
    draws: Draws


@partial(jax.jit, static_argnums=2)
def epoch_plan(seed: np.uint32, epoch: int, images: int, augmentation: Augmentations) -> Plan:
    """Plan an epoch over `images` training images; see `augment.draw`."""
    run_key = jax.random.key(seed)
    key = jax.random.fold_in(jax.random.fold_in(run_key, 2), epoch)
    order_key, draw_key = jax.random.split(key)
    order = jax.random.permutation(order_key, images).astype(jnp.int32)
    draws = draw(draw_key, images, augmentation)
    if augmentation.alternate_flip:
        draws = draws._replace(flips=alternating_flips(jax.random.fold_in(run_key, 3), images, epoch)[order])
    return Plan(order, draws)


def plan_for(config: Config, seed: int, epoch: int, images: int) -> Plan:
    """The plan of an epoch under a configuration."""
    # JAX takes Python's integers for int32, and seeds go beyond.
    plan: Plan = epoch_plan(np.uint32(seed), epoch, images, Augmentations.of(config))
    return plan


# Jitted as one program: compiling its operations one by one would take a second at start-up.
@partial(jax.jit, static_argnums=(1, 2))
def batches_of(plan: Plan, batch_size: int, parts: int) -> tuple[Plan, Plan, jax.Array | None]:
    """Cut a plan into batches, every image in exactly one.

    Returns the full batches, [steps, batch_size, ...]; the last, smaller batch, [1, remainder, ...], empty if there is
    no remainder; and the latter's mask, bool [1, remainder], if repeated images pad it to a multiple of `parts`, those
    in which the devices compute it.
    """
    images = plan.order.shape[0]
    steps, remainder = divmod(images, batch_size)
    full = jax.tree.map(lambda a: a[: steps * batch_size].reshape(steps, batch_size, *a.shape[1:]), plan)
    missing = -remainder % parts
    last = np.minimum(np.arange(remainder + missing), remainder - 1) + steps * batch_size
    tail = jax.tree.map(lambda a: a[last][None], plan)
    return full, tail, (jnp.arange(remainder + missing) < remainder)[None] if missing else None
