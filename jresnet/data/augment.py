"""Data augmentation in JAX: random draws, and their application to a batch of images (report section 3.2).

Drawing and applying are separate, so that every input pipeline can apply the same draws. The semantics are
torchvision's, in the report's order: RandomCrop(padding), RandomHorizontalFlip, RandomGrayscale, ToTensor, Normalize.
Beyond the report, the operators of TrivialAugment or RandAugment come before ToTensor, cutout after Normalize, and
mixup and cutmix, of whole batches, in the training step.
All functions check shapes and dtypes when they are traced, and raise AssertionError.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from jresnet.config import Config
from jresnet.data.mix import Mix, draw_mix
from jresnet.data.policies import RANDAUGMENT, TRIVIALAUGMENT, Choices, Space, draw_choices, luma

# Weights of red, green and blue in torchvision's rgb_to_grayscale (ITU-R BT.601, rounded as there).
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each colour channel, on a scale of 0 to 1."""


@partial(jax.tree_util.register_dataclass, data_fields=("flip", "grayscale"), meta_fields=(
    "padding", "alternate_flip", "space", "operators", "magnitude", "cutout", "mixup", "cutmix",
))  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Augmentations:
    """Which augmentations there are; as an argument of a compiled function, a constant but for two probabilities.

    Attributes:
      flip: probability of a horizontal flip (0.5 in the report).
      grayscale: probability of a conversion to grayscale (0.5 in the report).
      padding: pixels of zeros on each side before the crop (4 in the report); 0: no crop.
      alternate_flip: flip every image in every second epoch, see `alternating_flips`.
      space: of the operators; None: there are none.
      operators: how many for each image.
      magnitude: of all of them, 0 to 30; None: each has any.
      cutout: side of the square in pixels, see `cut_out`; 0: none.
      mixup: see `draw_mix`; 0: never.
      cutmix: see `draw_mix`; 0: never.
    """

    flip: float = 0.0
    grayscale: float = 0.0
    padding: int = 0
    alternate_flip: bool = False
    space: Space | None = None
    operators: int = 1
    magnitude: int | None = None
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def of(cls, config: Config) -> "Augmentations":
        """Those of a configuration."""
        space, operators, magnitude = (TRIVIALAUGMENT if config.trivialaugment else None), 1, None
        if config.randaugment is not None:
            space, (operators, magnitude) = RANDAUGMENT, config.randaugment
        return cls(
            config.flip, config.grayscale, config.crop_padding, config.alternate_flip, space, operators, magnitude,
            config.cutout, config.mixup, config.cutmix,
        )  # fmt: skip


class Draws(NamedTuple):
    """The random draws for a batch of images; those beyond the report's are None where the augmentation is off.

    Attributes:
      offsets: int32 [batch, 2], row and column of the crop in the padded image, from 0 to 2 * padding.
      flips: bool [batch], whether to flip the image horizontally.
      grays: bool [batch], whether to convert the image to grayscale.
      operators: the operators of TrivialAugment or RandAugment.
      centres: float32 [batch, 2], row and column of cutout's centre, as shares of height and width, below 1.
      mix: how the image is mixed with another.
    """

    offsets: jax.Array
    flips: jax.Array
    grays: jax.Array
    operators: Choices | None = None
    centres: jax.Array | None = None
    mix: Mix | None = None


def draw(key: jax.Array, images: int, augmentation: Augmentations) -> Draws:
    """Draw the augmentations of `images` images, independently of each other, from a typed PRNG key.

    With zero padding of `padding` pixels on each side all (2 * padding + 1)**2 crops are equally likely. The flips are
    those without `alternate_flip`, which needs the images' order.
    """
    chex.assert_shape(key, (), custom_message="key must be one typed PRNG key")
    crop_key, flip_key, gray_key = jax.random.split(key, 3)
    # split makes the keys that fold_in makes of 0, 1 and 2.
    operator_key, centre_key, mix_key = (jax.random.fold_in(key, number) for number in (3, 4, 5))
    chosen = augmentation.operators, augmentation.magnitude
    alphas = augmentation.mixup, augmentation.cutmix
    return Draws(
        offsets=jax.random.randint(crop_key, (images, 2), 0, 2 * augmentation.padding + 1, jnp.int32),
        flips=jax.random.bernoulli(flip_key, augmentation.flip, (images,)),
        grays=jax.random.bernoulli(gray_key, augmentation.grayscale, (images,)),
        operators=draw_choices(operator_key, images, *chosen) if augmentation.space is not None else None,
        centres=jax.random.uniform(centre_key, (images, 2), jnp.float32) if augmentation.cutout else None,
        mix=draw_mix(mix_key, images, *alphas) if any(alphas) else None,
    )


def alternating_flips(key: jax.Array, images: int, epoch: ArrayLike) -> jax.Array:
    """Whether to flip each image in an epoch, bool [images]: in every second one, the first by a fair coin.

    The key must be the same in all epochs (Jordan 2024, arXiv 2404.00498, section 3.6).
    """
    return jax.random.bernoulli(key, 0.5, (images,)) ^ (jnp.asarray(epoch) % 2 == 1)[None]


def augment(images: jax.Array, draws: Draws, padding: int) -> jax.Array:
    """Crop from the images zero-padded by `padding` pixels on each side, then flip, then convert to grayscale.

    Takes uint8 [batch, height, width, 3]; returns float32 of that shape, from 0 to 255, not normalised.
    """
    return grayscale(crop_and_flip(images, draws, padding), draws.grays)


def augment_levels(images: jax.Array, draws: Draws, padding: int) -> jax.Array:
    """`augment` to whole levels, uint8, as the operators take them: gray ones are Pillow's, rounded."""
    flipped = crop_and_flip(images, draws, padding)
    check("grays", draws.grays, jnp.bool_, (len(images),))
    gray = luma(flipped.astype(jnp.int32)).astype(jnp.uint8)
    return jnp.where(draws.grays[:, None, None, None], gray[..., None], flipped)


def crop_and_flip(images: jax.Array, draws: Draws, padding: int) -> jax.Array:
    """Crop from the zero-padded images, uint8 [batch, height, width, 3], then flip; returns the same."""
    check("images", images, jnp.uint8, (None, None, None, 3))
    check("flips", draws.flips, jnp.bool_, (len(images),))
    cropped = crop(images, draws.offsets, padding) if padding else images
    return jnp.where(draws.flips[:, None, None, None], cropped[:, :, ::-1], cropped)


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


def cut_out(images: jax.Array, centres: jax.Array, side: int) -> jax.Array:
    """Set a square of each image, float32 [batch, height, width, 3] and normalised, to zero, the mean colour.

    Its centre is the pixel at `Draws.centres`, so that all are equally likely. It begins side // 2 rows above and as
    many columns left of there: an even square reaches a pixel further up and left than down and right, as in the
    authors' code. What lies outside of the image is cut off (DeVries and Taylor 2017, arXiv 1708.04552).
    """
    check("images", images, jnp.float32, (None, None, None, 3))
    check("centres", centres, jnp.float32, (len(images), 2))

    def within(axis: int) -> jax.Array:
        pixels = images.shape[1 + axis]
        # A float32 below 1 times a whole number does not round up to it.
        first = (centres[:, axis] * pixels).astype(jnp.int32) - side // 2
        distance = jnp.arange(pixels, dtype=jnp.int32)[None] - first[:, None]
        return (distance >= 0) & (distance < side)

    square = within(0)[:, :, None, None] & within(1)[:, None, :, None]
    return jnp.where(square, jnp.float32(0), images)


def check(name: str, array: jax.Array, dtype: Any, shape: tuple[int | None, ...]) -> None:
    """Assert dtype and shape, where None matches any size; the message names the argument."""
    chex.assert_type(array, dtype, custom_message=name)
    chex.assert_shape(array, shape, custom_message=name)
