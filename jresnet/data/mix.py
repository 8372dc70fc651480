"""Mixup and cutmix: every image of a batch together with another one, by random numbers drawn ahead.

Image i of the batch goes with image n-1-i, as the order of the images is random already. Each has a ratio and, for
cutmix, a box of its own.
"""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

SMALLEST_ALPHA = 1e-30
"""Of a Beta distribution whose ratios are 0 or 1; below it the logarithms from which they are drawn overflow."""


class Mix(NamedTuple):
    """How each image of a batch is mixed.

    Attributes:
      ratios: float32 [batch], the share that each image keeps, from 0 to 1; with cutmix, before its box is clipped.
      cuts: bool [batch], true for cutmix and false for mixup.
      centres: float32 [batch, 2], row and column of the box's centre, as fractions of height and width below 1.
    """

    ratios: jax.Array
    cuts: jax.Array
    centres: jax.Array


def draw_mix(key: jax.Array, images: int, mixup: ArrayLike, cutmix: ArrayLike) -> Mix:
    """Draw how so many images are mixed: a pure function of a typed key.

    Args:
      key: typed PRNG key [].
      images: how many.
      mixup, cutmix: alpha, as which the ratio of an image of that kind is drawn from Beta(alpha, alpha); 0 for never,
        and one of them is above 0. If both are, each image is of either kind with probability 1/2.
    """
    keys = jax.random.split(key, 3)
    alphas = jnp.asarray(mixup, jnp.float32), jnp.asarray(cutmix, jnp.float32)
    either = jax.random.bernoulli(keys[0], 0.5, (images,))
    cuts = (alphas[1] > 0)[None] & ((alphas[0] <= 0)[None] | either)
    alpha = jnp.maximum(jnp.where(cuts, alphas[1], alphas[0]), SMALLEST_ALPHA)
    ratios = jax.random.beta(keys[1], alpha, alpha, dtype=jnp.float32)
    return Mix(ratios, cuts, jax.random.uniform(keys[2], (images, 2), jnp.float32))


def mixed(batch: dict[str, Any], axis_name: str | None = None) -> dict[str, jax.Array]:
    """Mix a batch as its `mix` says; a batch without one is returned as it is.

    Image x_i becomes ratio x_i + (1 - ratio) x_j with mixup (Zhang et al. 2017, arXiv 1710.09412). With cutmix (Yun et
    al. 2019, arXiv 1905.04899) a box of sqrt(1 - ratio) times height and width, cut off at the image's borders, comes
    from x_j, and the ratio becomes the share of pixels that stay; the box's sides are even numbers of pixels before
    they are cut off, as in torchvision's CutMix. Here j = n-1-i, and n is the number of real images of the whole batch.

    Args:
      batch: images, float [batch, height, width, channels]; labels, int32 [batch]; mix, a `Mix` of [batch]; optionally
        mask, bool [batch], false for padding, which is at the end of the whole batch and stays as it is.
      axis_name: the mapped axis whose devices hold consecutive shares of the whole batch, or None.

    Returns:
      The batch without `mix`, with the mixed images, and with `partners`, the labels of x_j, int32 [batch], and
      `ratios`, of the images' dtype [batch], the share of each image's own label.
    """
    mix: Mix | None = batch.get("mix")
    if mix is None:
        return batch
    rest = {name: value for name, value in batch.items() if name != "mix"}
    images, labels = batch["images"], batch["labels"]
    others, partners = _partners(images, labels, batch.get("mask"), axis_name)
    cuts, ratios = mix.cuts, mix.ratios.astype(images.dtype)
    stays, shares = _kept(mix, images.shape[1:3])
    weights = ratios[:, None, None, None]
    averaged = weights * images + (1 - weights) * others
    exchanged = jnp.where(stays[..., None], images, others)
    blended = jnp.where(cuts[:, None, None, None], exchanged, averaged)
    if (mask := batch.get("mask")) is not None:
        blended = jnp.where(mask[:, None, None, None], blended, images)
    return rest | {
        "images": blended,
        "partners": partners,
        "ratios": jnp.where(cuts, shares.astype(ratios.dtype), ratios),
    }


def _partners(
    images: jax.Array, labels: jax.Array, mask: jax.Array | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """Image and label n-1-i of the whole batch for each image i of this device's share."""
    rows = jnp.arange(len(labels), dtype=jnp.int32)
    count = jnp.int32(len(labels)) if mask is None else mask.sum(dtype=jnp.int32)
    if axis_name is not None:
        rows += lax.axis_index(axis_name).astype(jnp.int32) * np.int32(len(labels))
        count = lax.psum(count, axis_name)
        images, labels = lax.all_gather((images, labels), axis_name, tiled=True)
    found = jnp.where(rows < count, count - 1 - rows, rows)
    return images[found], labels[found]


def _kept(mix: Mix, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Which pixels lie outside each image's box, bool [batch, height, width], and their share, float32 [batch]."""
    sides = jnp.array(size, jnp.int32)[None]
    halves = (jnp.sqrt(1 - mix.ratios)[:, None] * sides.astype(jnp.float32) / 2).astype(jnp.int32)
    centres = (mix.centres * sides.astype(jnp.float32)).astype(jnp.int32)
    first, last = jnp.maximum(centres - halves, 0), jnp.minimum(centres + halves, sides)
    rows, columns = (_between(first[:, axis], last[:, axis], side) for axis, side in enumerate(size))
    area = (last - first).prod(axis=1, dtype=jnp.int32)
    return ~(rows[:, :, None] & columns[:, None, :]), 1 - area.astype(jnp.float32) / math.prod(size)


def _between(first: jax.Array, last: jax.Array, side: int) -> jax.Array:
    """For bounds [batch], which of so many positions lie from the first to the last, exclusive, bool [batch, side]."""
    positions = jnp.arange(side, dtype=jnp.int32)[None]
    return (first[:, None] <= positions) & (positions < last[:, None])


def check_mix(mix: Any, labels: jax.Array) -> None:
    """Assert while tracing that a batch with these labels has a `Mix` of the shapes and dtypes that it documents."""
    message = "a batch's mix is a Mix of ratios float32 [batch], cuts bool [batch] and centres float32 [batch, 2]"
    chex.assert_shape(
        [mix.ratios, mix.cuts, mix.centres], [labels.shape, labels.shape, (*labels.shape, 2)], custom_message=message
    )
    chex.assert_type([mix.ratios, mix.cuts, mix.centres], [jnp.float32, bool, jnp.float32], custom_message=message)
