"""Data augmentation in JAX: random draws, and their application to a batch of images (report section 3.2).

Drawing and applying are separate, so that every input pipeline can apply the same draws. The semantics are
torchvision's, in the report's order: RandomCrop(padding), RandomHorizontalFlip, RandomGrayscale, ToTensor, Normalize.
All functions check shapes and dtypes when they are traced, and raise AssertionError.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

# Weights of red, green and blue in torchvision's rgb_to_grayscale (ITU-R BT.601, rounded as there).
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)


class Draws(NamedTuple):
    """The random draws for a batch of images.

    Attributes:
      offsets: int32 [batch, 2], row and column of the crop in the padded image, from 0 to 2 * padding.
      flips: bool [batch], whether to flip the image horizontally.
      grays: bool [batch], whether to convert the image to grayscale.
    """

    offsets: jax.Array
    flips: jax.Array
    grays: jax.Array


def draw(key: jax.Array, images: int, padding: int, flip: float, grayscale: float) -> Draws:
    """Draw the augmentations of `images` images, independently of each other, from a typed PRNG key.

    With zero padding of `padding` pixels on each side (4 in the report) all (2 * padding + 1)**2 crops are equally
    likely; `flip` and `grayscale` are probabilities (both 0.5 in the report).
    """
    chex.assert_shape(key, (), custom_message="key must be one typed PRNG key")
    crop_key, flip_key, gray_key = jax.random.split(key, 3)
    return Draws(
        offsets=jax.random.randint(crop_key, (images, 2), 0, 2 * padding + 1, jnp.int32),
        flips=jax.random.bernoulli(flip_key, flip, (images,)),
        grays=jax.random.bernoulli(gray_key, grayscale, (images,)),
    )


def augment(images: jax.Array, draws: Draws, padding: int) -> jax.Array:
    """Crop from the images zero-padded by `padding` pixels on each side, then flip, then convert to grayscale.

    Takes uint8 [batch, height, width, 3]; returns float32 of that shape, from 0 to 255, not normalised.
    """
    check("images", images, jnp.uint8, (None, None, None, 3))
    check("flips", draws.flips, jnp.bool_, (len(images),))
    cropped = crop(images, draws.offsets, padding) if padding else images
    flipped = jnp.where(draws.flips[:, None, None, None], cropped[:, :, ::-1], cropped)
    return grayscale(flipped, draws.grays)


def crop(images: jax.Array, offsets: jax.Array, padding: int) -> jax.Array:
    """Crop images, uint8 [batch, height, width, 3], to their own size at `Draws.offsets` in the zero-padded images."""
    check("images", images, jnp.uint8, (None, None, None, 3))
    check("offsets", offsets, jnp.int32, (len(images), 2))
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (*offset, np.int32(0)), images.shape[1:]))(
        padded, offsets
    )


def grayscale(images: jax.Array, grays: jax.Array) -> jax.Array:
    """Convert the images that `grays`, bool [batch], marks to grayscale with 3 equal channels, without rounding.

    Takes uint8 [batch, height, width, 3]; returns float32 of that shape, from 0 to 255.
    """
    check("images", images, jnp.uint8, (None, None, None, 3))
    check("grays", grays, jnp.bool_, (len(images),))
    pixels = images.astype(jnp.float32)
    # Written out because a sum over an axis of length 3 takes ten times as long on XLA:CPU.
    red, green, blue = (weight * pixels[..., channel] for channel, weight in enumerate(GRAY_WEIGHTS))
    return jnp.where(grays[:, None, None, None], (red + green + blue)[..., None], pixels)


def normalise(pixels: jax.Array, mean: ArrayLike, std: ArrayLike) -> jax.Array:
    """Scale pixels to 0..1, subtract the channels' mean and divide by their standard deviation.

    Takes uint8 or float32 [batch, height, width, 3], from 0 to 255, and the [3] statistics of pixels scaled to 0..1;
    returns float32 [batch, height, width, 3].
    """
    check("pixels", pixels, jnp.uint8 if pixels.dtype == jnp.uint8 else jnp.float32, (None, None, None, 3))
    means, stds = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    chex.assert_shape([means, stds], (3,), custom_message="mean and std must have shape (3,)")
    return (pixels.astype(jnp.float32) / 255 - means[None, None, None, :]) / stds[None, None, None, :]


def check(name: str, array: jax.Array, dtype: Any, shape: tuple[int | None, ...]) -> None:
    """Assert dtype and shape, where None matches any size; the message names the argument."""
    chex.assert_type(array, dtype, custom_message=name)
    chex.assert_shape(array, shape, custom_message=name)
