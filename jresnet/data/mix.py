"""The draws of mixup and cutmix: how each image of an epoch is mixed with another of its batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mix(NamedTuple):
    """How images are mixed, one row per image.

    Attributes:
      ratios: float32 [images], the share of an image that stays its own, 0 to 1.
      cuts: bool [images], cutmix, a rectangle is exchanged; or mixup, all pixels are averaged.
      centres: float32 [images, 2], row and column of the rectangle's centre, 0 to 1.
    """

    ratios: jax.Array
    cuts: jax.Array
    centres: jax.Array


def draw_mix(key: jax.Array, images: int, mixup: float, cutmix: float) -> Mix:
    """Draw how `images` images are mixed; with both alphas above 0 each image is cut with probability 1/2."""
    ratio_key, cut_key, centre_key = jax.random.split(key, 3)
    cuts = jax.random.bernoulli(cut_key, 0.5 if mixup and cutmix else float(cutmix > 0), (images,))
    alphas = jnp.where(cuts, jnp.float32(cutmix or 1), jnp.float32(mixup or 1))
    ratios = jax.random.beta(ratio_key, alphas, alphas, (images,), jnp.float32)
    return Mix(ratios, cuts, jax.random.uniform(centre_key, (images, 2), jnp.float32))
