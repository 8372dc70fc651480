"""The operators of TrivialAugment and RandAugment for batches of 8-bit images, each image with an operator of its own.

The operators, magnitudes and pixels are those of torchvision's TrivialAugmentWide and RandAugment for PIL images, with
nearest interpolation and black outside of the image; except that bin 15 of TrivialAugmentWide's translations moves 16
pixels here, and 15 in torchvision, whose float32 rounds 16 down.

A batch goes through three stages, of which an operator is one and leaves the others as they are: a move of pixels
(shears, translations, rotation), a blend with another image (brightness, color, contrast, sharpness), and a table of
levels (posterize, solarize, autocontrast, equalize). So the cost is that of three operators, not of fourteen.

All arithmetic is in integers: every device and every input gets the same pixels. Geometric operators have Pillow's own
16.16 fixed point numbers; blends and autocontrast, which Pillow computes in floating point numbers and truncates, may
be one level off.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

OPERATORS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
MAGNITUDES = 31
"""Magnitudes of an operator, from none or almost none, 0, to the greatest, 30."""

LUMA_WEIGHTS = (19595, 38470, 7471)
"""Of red, green and blue, in units of 2**-16, in Pillow's conversion to gray."""

_CODES = {name: code for code, name in enumerate(OPERATORS)}
_LEVELS = 256
# Fractional bits of a blend's factor, below 2: times a difference of levels it still fits into 32 bits. The margin, in
# these units, is far below the distance of a product that is no whole number from the next one, at least 1/1000.
_FACTOR_BITS, _MARGIN = 22, 2**8


@dataclasses.dataclass(frozen=True)
class Space:
    """The greatest magnitudes of the operators; a constant of the program that applies them.

    Attributes:
      shear: columns per row, or rows per column.
      translation: pixels; with `relative`, a share of the image's width or height. Cut to whole pixels.
      relative: see `translation`.
      rotation: degrees.
      factor: of brightness, color, contrast and sharpness: 1 plus or minus so much.
      bits: fewest bits that posterize leaves of 8.
    """

    shear: float
    translation: float
    relative: bool
    rotation: float
    factor: float
    bits: int


TRIVIALAUGMENT = Space(shear=0.99, translation=32.0, relative=False, rotation=135.0, factor=0.99, bits=2)
"""torchvision's TrivialAugmentWide (Mueller and Hutter 2021, table 1, "wide")."""
RANDAUGMENT = Space(shear=0.3, translation=150 / 331, relative=True, rotation=30.0, factor=0.9, bits=4)
"""torchvision's RandAugment (Cubuk et al. 2019)."""


class Choices(NamedTuple):
    """The operators of each image, one after another.

    Attributes:
      operators: int32 [images, rounds], places in OPERATORS.
      magnitudes: int32 [images, rounds], 0 to 30.
      negative: bool [images, rounds], whether a shear, translation, rotation or blend goes the other way.
    """

    operators: jax.Array
    magnitudes: jax.Array
    negative: jax.Array


def draw_choices(key: jax.Array, images: int, rounds: int, magnitude: int | None) -> Choices:
    """Draw `rounds` operators per image, with replacement, of this magnitude or, without one, of any; and signs."""
    operator_key, magnitude_key, sign_key = jax.random.split(key, 3)
    shape = images, rounds
    low, high = (0, MAGNITUDES) if magnitude is None else (magnitude, magnitude + 1)
    return Choices(
        operators=jax.random.randint(operator_key, shape, 0, len(OPERATORS), jnp.int32),
        magnitudes=jax.random.randint(magnitude_key, shape, low, high, jnp.int32),
        negative=jax.random.bernoulli(sign_key, 0.5, shape),
    )


def operate(images: jax.Array, choices: Choices, space: Space) -> jax.Array:
    """Apply each image's operators, in their order, to images, uint8 [batch, height, width, 3]; returns the same."""
    chex.assert_type(images, jnp.uint8, custom_message="images")
    chex.assert_shape(images, (None, None, None, 3), custom_message="images")
    chex.assert_type(list(choices), [jnp.int32, jnp.int32, jnp.bool_], custom_message="choices")
    chex.assert_shape(list(choices), (len(images), None), custom_message="choices")

    def once(images: jax.Array, choice: Choices) -> tuple[jax.Array, None]:
        return operate_once(images, choice, space), None

    return lax.scan(once, images, jax.tree.map(jnp.transpose, choices))[0]


def operate_once(images: jax.Array, choice: Choices, space: Space) -> jax.Array:
    """Apply one operator to each image, uint8 [batch, height, width, 3]; the arrays of `choice` are [batch]."""
    operators, magnitudes, negative = choice
    tables = make_tables(space, *images.shape[1:3])
    matrices, factors, masks, thresholds = (
        jnp.asarray(table)[operators, magnitudes, negative.astype(jnp.int32)] for table in tables
    )
    pixels = move(images, matrices).astype(jnp.int32)
    blended = blend(others(pixels, operators), pixels, factors[:, None, None, None])
    return look_up(blended, operators, masks, thresholds)


class Tables(NamedTuple):
    """What the operators do, by operator, magnitude and sign: arrays [14, 31, 2, ...], int32.

    Attributes:
      matrices: [..., 6], where the pixel at row 0 and column 0 comes from, and the next in a row and in a column, see
        `move`.
      factors: the blends' factors, times 2**22.
      masks: of posterize, the bits that stay of a level.
      thresholds: of solarize, the first level that is inverted.
    """

    matrices: np.ndarray
    factors: np.ndarray
    masks: np.ndarray
    thresholds: np.ndarray


@lru_cache
def make_tables(space: Space, height: int, width: int) -> Tables:
    """The tables for images of this size; where an operator has no use for one, what there changes nothing."""
    shape = len(OPERATORS), MAGNITUDES, 2
    tables = Tables(
        matrices=np.tile(_fixed(np.array([1, 0, 0, 0, 1, 0])), (*shape, 1)),
        factors=np.full(shape, 1 << _FACTOR_BITS, np.int32),
        masks=np.full(shape, _LEVELS - 1, np.int32),
        thresholds=np.full(shape, _LEVELS, np.int32),
    )
    for sign, direction in enumerate((1, -1)):
        for bin, share in enumerate(np.linspace(0, 1, MAGNITUDES)):
            for name, matrix in _matrices(space, height, width, direction * share):
                tables.matrices[_CODES[name], bin, sign] = _fixed(matrix)
            factor = 1 + direction * share * space.factor
            for name in ("Brightness", "Color", "Contrast", "Sharpness"):
                tables.factors[_CODES[name], bin, sign] = round(factor * 2**_FACTOR_BITS)
            dropped = round(share * (8 - space.bits))
            tables.masks[_CODES["Posterize"], bin, sign] = _LEVELS - (1 << dropped)
            tables.thresholds[_CODES["Solarize"], bin, sign] = -(-255 * (MAGNITUDES - 1 - bin) // (MAGNITUDES - 1))
    return tables


def _matrices(space: Space, height: int, width: int, share: float) -> Iterator[tuple[str, np.ndarray]]:
    """Operators with their matrices, from a place in the result, in pixels, to the one in the image it comes from."""
    across, down = (space.translation * (side if space.relative else 1) for side in (width, height))
    shear, angle = share * space.shear, math.radians(share * space.rotation)
    # Rounded so that a right angle has a cosine of zero.
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    yield "ShearX", np.array([1, shear, 0, 0, 1, 0])
    yield "ShearY", np.array([1, 0, 0, shear, 1, 0])
    yield "TranslateX", np.array([1, 0, -int(share * across), 0, 1, 0])
    yield "TranslateY", np.array([1, 0, 0, 0, 1, -int(share * down)])
    x, y = width / 2, height / 2
    yield "Rotate", np.array([cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y])


def _fixed(matrix: np.ndarray) -> np.ndarray:
    """A matrix in 16.16 fixed point numbers, its offsets those of the centre of the first pixel."""
    centred = matrix + np.array([0, 0, (matrix[0] + matrix[1]) / 2, 0, 0, (matrix[3] + matrix[4]) / 2])
    fixed: np.ndarray = np.floor(centred * 2**16 + 0.5).astype(np.int32)
    return fixed


def move(images: jax.Array, matrices: jax.Array) -> jax.Array:
    """Move the pixels of images, [batch, height, width, 3], black where they come from outside; keeps the dtype.

    With a, b, c, d, e, f an image's row of `matrices`, int32 [batch, 6] in units of 2**-16 pixels, the pixel at row y
    and column x comes from column (a * x + b * y + c) and row (d * x + e * y + f), rounded down. The coordinates of
    images of up to 2**14 pixels a side fit into 32 bits.
    """
    batch, height, width, channels = images.shape
    x, y = jnp.arange(width, dtype=jnp.int32)[None, None, :], jnp.arange(height, dtype=jnp.int32)[None, :, None]
    a, b, c, d, e, f = (matrices[:, None, None, place] for place in range(6))
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    places = jnp.where(inside, row * width + column, 0).reshape(batch, height * width)
    moved = jax.vmap(lambda pixels, place: pixels.at[place].get(mode="promise_in_bounds"))(
        images.reshape(batch, height * width, channels), places
    )
    return jnp.where(inside[..., None], moved.reshape(images.shape), jnp.zeros((), images.dtype))


def others(pixels: jax.Array, operators: jax.Array) -> jax.Array:
    """What each image, int32 [batch, height, width, 3], is blended with; black where its operator is no blend."""
    gray = luma(pixels)
    total, count = gray.sum((1, 2), dtype=jnp.int32), np.int32(gray[0].size)
    mean = lax.div(total, count) + (2 * lax.rem(total, count) >= count).astype(jnp.int32)
    operators = operators[:, None, None, None]
    other = jnp.where(operators == _CODES["Color"], gray[..., None], 0)
    other = jnp.where(operators == _CODES["Contrast"], mean[:, None, None, None], other)
    return jnp.where(operators == _CODES["Sharpness"], smooth(pixels), other)


def luma(pixels: jax.Array) -> jax.Array:
    """Pillow's conversion to gray, ITU-R BT.601 rounded to whole levels: int32 [..., 3] to int32 [...]."""
    red, green, blue = (weight * pixels[..., channel] for channel, weight in enumerate(LUMA_WEIGHTS))
    return (red + green + blue + 2**15) >> 16


def smooth(pixels: jax.Array) -> jax.Array:
    """Pillow's SMOOTH: the mean of 3 x 3 pixels, int32, the middle one weighing 5 times; the outermost stay."""
    height, width = pixels.shape[1:3]
    padded = jnp.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * pixels
    inner = np.zeros((1, height, width, 1), bool)
    inner[:, 1:-1, 1:-1] = True
    return jnp.where(inner, lax.div(total + 6, np.int32(13)), pixels)


def blend(other: jax.Array, pixels: jax.Array, factors: jax.Array) -> jax.Array:
    """`other` + factor * (pixels - other), cut to whole levels from 0 to 255; int32, factors in units of 2**-22."""
    return jnp.clip(other + ((factors * (pixels - other) + _MARGIN) >> _FACTOR_BITS), 0, _LEVELS - 1)


def look_up(pixels: jax.Array, operators: jax.Array, masks: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Replace levels by those of a table for each image and channel: posterize, solarize, autocontrast or equalize.

    Takes int32 [batch, height, width, 3], and returns uint8.
    """
    batch, channels = pixels.shape[::3]
    levels = jnp.arange(_LEVELS, dtype=jnp.int32)[None, None, :]
    fixed = jnp.where(levels >= thresholds[:, None, None], 255 - levels, levels) & masks[:, None, None]
    # The place of each pixel's level in the flattened tables.
    tables = jnp.arange(batch * channels, dtype=jnp.int32).reshape(batch, 1, 1, channels)
    places = _LEVELS * tables + pixels
    operators = operators[:, None, None]
    low, high = (limit(pixels, axis=(1, 2))[..., None] for limit in (jnp.min, jnp.max))
    table = jnp.where(operators == _CODES["AutoContrast"], stretched(levels, low, high), fixed)
    counts = jnp.zeros(batch * channels * _LEVELS, jnp.int32).at[places.reshape(-1)].add(1, mode="promise_in_bounds")
    equal = equalized(levels, counts.reshape(batch, channels, _LEVELS), high)
    table = jnp.where(operators == _CODES["Equalize"], equal, table).astype(jnp.uint8)
    return table.reshape(-1).at[places].get(mode="promise_in_bounds")


def stretched(levels: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Pillow's autocontrast of levels [1, 1, 256]: `low` to `high`, [batch, 3, 1], become 0 to 255; one alone stays."""
    scaled = lax.div(jnp.clip(levels - low, 0, high - low) * 255, jnp.maximum(high - low, 1))
    return jnp.where(high > low, scaled, levels)


def equalized(levels: jax.Array, counts: jax.Array, high: jax.Array) -> jax.Array:
    """Pillow's equalize of levels [1, 1, 256], by their counts, [batch, 3, 256], and highest ones, [batch, 3, 1].

    They stay as they are where the pixels below the highest level are fewer than 255.
    """
    upto = jnp.cumsum(counts, axis=-1, dtype=jnp.int32)
    below = upto - counts
    step = lax.div(jnp.take_along_axis(below, high, axis=-1), np.int32(255))
    equal = jnp.minimum(lax.div((step >> 1) + below, jnp.maximum(step, 1)), 255)
    return jnp.where(step > 0, equal, levels)
