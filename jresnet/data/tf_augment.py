"""Crop, flip, grayscale and normalisation of `augment` in TensorFlow, for images that tf.data streams."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from jresnet.data.augment import GRAY_WEIGHTS, Statistics
from jresnet.data.policies import LUMA_WEIGHTS
from jresnet.data.tfds_reader import import_tensorflow
from jresnet.records.environment import variable


@lru_cache
def compiled_finish(padding: int, statistics: Statistics | None) -> Callable[..., Any]:
    """`tf_finish` for this padding and these statistics, one for all runs of a process.

    XLA compiles it: several times as fast as TensorFlow's own operations, and it rounds as the JAX program does.
    """
    tf = import_tensorflow()
    # TensorFlow's own XLA reads the flags when it first compiles, and ends the process at one that it does not know.
    with variable("XLA_FLAGS", None):
        tf.function(lambda: tf.zeros(()), jit_compile=True)()
    finish: Callable[..., Any] = tf.function(partial(tf_finish, tf, padding, statistics), jit_compile=True)
    return finish


def tf_finish(
    tf: Any, padding: int, statistics: Statistics | None, images: Any, offsets: Any, flips: Any, grays: Any
) -> Any:
    """`augment.augment` and `augment.normalise` in TensorFlow; without statistics, `augment.augment_levels`.

    Like them except for the order of the arguments.
    """
    if statistics is None:
        return tf_augment_levels(tf, images, offsets, flips, grays, padding)
    mean, std = np.asarray(statistics, np.float32)
    return (tf_augment(tf, images, offsets, flips, grays, padding) / 255 - mean) / std


def tf_augment(tf: Any, images: Any, offsets: Any, flips: Any, grays: Any, padding: int) -> Any:
    """`augment.augment` in TensorFlow: uint8 to float32 [batch, height, width, 3]."""
    pixels = tf.cast(tf_crop_and_flip(tf, images, offsets, flips, padding), tf.float32)
    red, green, blue = (weight * pixels[..., channel] for channel, weight in enumerate(GRAY_WEIGHTS))
    return tf.where(grays[:, None, None, None], (red + green + blue)[..., None], pixels)


def tf_augment_levels(tf: Any, images: Any, offsets: Any, flips: Any, grays: Any, padding: int) -> Any:
    """`augment.augment_levels` in TensorFlow: uint8 to uint8 [batch, height, width, 3]."""
    pixels = tf_crop_and_flip(tf, images, offsets, flips, padding)
    whole = tf.cast(pixels, tf.int32)
    red, green, blue = (weight * whole[..., channel] for channel, weight in enumerate(LUMA_WEIGHTS))
    gray = tf.cast(tf.bitwise.right_shift(red + green + blue + 2**15, 16), tf.uint8)
    return tf.where(grays[:, None, None, None], gray[..., None], pixels)


def tf_crop_and_flip(tf: Any, images: Any, offsets: Any, flips: Any, padding: int) -> Any:
    """`augment.crop_and_flip` in TensorFlow: uint8 [batch, height, width, 3]."""
    height, width = images.shape[1:3]
    columns = tf.where(flips[:, None], tf.range(width - 1, -1, -1), tf.range(width)) + offsets[:, 1:]
    border = tf.constant(((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = tf.gather(tf.pad(images, border), tf.range(height) + offsets[:, :1], axis=1, batch_dims=1)
    return tf.gather(rows, columns, axis=2, batch_dims=1)
