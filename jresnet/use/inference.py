"""What a trained network computes from images as they are read."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jresnet import models
from jresnet.data.augment import normalise
from jresnet.records.run import Run


def probabilities(network: models.ResNet, run: Run) -> Callable[[Any, jax.Array], jax.Array]:
    """The function `(variables, images) -> probabilities` of a network, with its run's normalisation inside.

    Images are uint8 [n, height, width, 3]; probabilities float32 [n, classes], each row sums to 1.
    """

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        logits: jax.Array = network.apply(variables, normalise(images, run.mean, run.std), train=False)  # type: ignore[assignment]
        return jax.nn.softmax(logits)

    return predict


def any_images(run: Run) -> jax.ShapeDtypeStruct:
    """What `probabilities` is traced with: uint8 [n, height, width, 3] for a symbolic number n."""
    (n,) = export.symbolic_shape("n")
    return jax.ShapeDtypeStruct((n, *run.image_size, 3), jnp.uint8)
