"""Data augmentation in pure JAX: random numbers drawn apart, then applied to a batch (report section 3.2).

Drawing and applying are separate, so that every input path applies the same draws.
Semantics are torchvision's, in the report's order: RandomCrop(padding), RandomHorizontalFlip,
RandomGrayscale, ToTensor, Normalize.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from numpy.typing import ArrayLike

# Weights of red, green and blue in torchvision's rgb_to_grayscale (ITU-R BT.601, rounded as there).
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)


class Draws(NamedTuple):
    """The random numbers one batch of augmentations needs.

    Attributes:
      offsets: int32 [..., 2], row and column of the crop in the zero-padded image, 0 to 2 x padding.
      flips: bool [...], mirror the image left to right.
      grays: bool [...], make the image gray.
    """

    offsets: jax.Array
    flips: jax.Array
    grays: jax.Array


def draw(key: jax.Array, images: int, padding: int, flip: float, grayscale: float) -> Draws:
    """Draw augmentations, each image's apart from the others'.

    Args:
      key: typed PRNG key; decides everything.
      images: how many draws.
      padding: pixels of zeros on every border, 4 in the report; all (2 x padding + 1)^2 crops are equally likely.
      flip: probability of a flip, 0.5 in the report.
      grayscale: probability of gray, 0.5 in the report (section 3.2, all three).

    Returns:
      Draws of shapes [images, 2], [images] and [images].
    """
    crop_key, flip_key, gray_key = jax.random.split(key, 3)
    return Draws(
        offsets=jax.random.randint(crop_key, (images, 2), 0, 2 * padding + 1),
        flips=jax.random.bernoulli(flip_key, flip, (images,)),
        grays=jax.random.bernoulli(gray_key, grayscale, (images,)),
    )


def augment(images: jax.Array, draws: Draws, padding: int) -> jax.Array:
    """Crop out of a border of zeros, then flip, then make gray.

    Args:
      images: uint8 [batch, height, width, 3].
      draws: one draw per image.
      padding: pixels of zeros on every border before the crop.

    Returns:
      float32 [batch, height, width, 3], 0 to 255, not normalised.
    """
    cropped = crop(images, draws.offsets, padding) if padding else images
    flipped = jnp.where(draws.flips[:, None, None, None], cropped[:, :, ::-1], cropped)
    return grayscale(flipped, draws.grays)


def crop(images: jax.Array, offsets: jax.Array, padding: int) -> jax.Array:
    """Cut [batch, height, width, channels] windows at `offsets`, int32 [batch, 2], out of the zero-padded images."""
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, border)
    return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (*offset, 0), images.shape[1:]))(padded, offsets)


def grayscale(images: jax.Array, grays: jax.Array) -> jax.Array:
    """Make the images of [batch, height, width, 3] gray where `grays`, bool [batch], says so.

    Returns:
      float32, 0 to 255.
    """
    pixels = images.astype(jnp.float32)
    # Written out, because XLA:CPU takes ten times as long for a sum over an axis of three.
    red, green, blue = (weight * pixels[..., channel] for channel, weight in enumerate(GRAY_WEIGHTS))
    return jnp.where(grays[:, None, None, None], (red + green + blue)[..., None], pixels)


def normalise(pixels: jax.Array, mean: ArrayLike, std: ArrayLike) -> jax.Array:
    """Scale pixels from 0..255 to 0..1, subtract the channels' mean and divide by their standard deviation.

    Args:
      pixels: uint8 or float32 [batch, height, width, channels].
      mean: [channels], on the scale 0..1.
      std: [channels], on the scale 0..1.

    Returns:
      float32 [batch, height, width, channels].
    """
    mean_row = jnp.asarray(mean, jnp.float32)[None, None, None, :]
    std_row = jnp.asarray(std, jnp.float32)[None, None, None, :]
    return (pixels.astype(jnp.float32) / 255 - mean_row) / std_row
