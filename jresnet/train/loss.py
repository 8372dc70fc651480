"""The loss of a training step: cross-entropy with class weights, label smoothing and the labels of mixed images."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jresnet.data.pipeline import Batch


def mean_loss(
    logits: jax.Array, part: Batch, weight: jax.Array, class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:  # fmt: skip
    """What these images contribute to the mean loss of their batch, in nats [].

    The mean is that of torch.nn.CrossEntropyLoss(weight, label_smoothing=label_smoothing). An image mixed of two has
    the loss of both their labels, each by its share.

    Args:
      logits: float [images, classes].
      part: labels, int32 [images]; counted, bool [images], false for padding; for mixed images also `partners` and
        `ratios`, see `mix.mixed`.
      weight: [], of all images of the batch, see `batch_weight`.
      class_weights: [classes], not for mixed images; None: all weigh the same.
      label_smoothing: share of each label that is spread over all classes.
    """
    labels, counted = part["labels"], part["counted"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if "partners" in part:
        if class_weights is not None:
            raise ValueError("class_weights: a pair of mixed images has no one class to weigh it by")
        ratios = part["ratios"].astype(losses.dtype)
        others = optax.softmax_cross_entropy_with_integer_labels(logits, part["partners"])
        losses = ratios * losses + (1 - ratios) * others
    if class_weights is not None:
        losses = _weights(labels, counted, class_weights, losses.dtype) * losses
    if label_smoothing:
        losses = (1 - label_smoothing) * losses + label_smoothing * _of_all_classes(logits, class_weights)
    return jnp.sum(jnp.where(counted, losses, 0)) / weight.astype(losses.dtype)


def batch_weight(
    labels: jax.Array, counted: jax.Array, images: jax.Array, class_weights: Sequence[float] | None, dtype: Any,
    total: Callable[[jax.Array], jax.Array],
) -> jax.Array:  # fmt: skip
    """The weight [] of all images of a batch: their number, int32, or the sum of their classes' weights, of `dtype`.

    Takes labels, int32 [batch]; bool [batch], false for padding; the number of the others on all devices, int32 []; and
    what sums over devices.
    """
    return images if class_weights is None else total(_weights(labels, counted, class_weights, dtype).sum())


def _weights(labels: jax.Array, counted: jax.Array, class_weights: Sequence[float], dtype: Any) -> jax.Array:
    """The weights of images, [batch]; 0 for padding."""
    return jnp.where(counted, jnp.asarray(class_weights, dtype)[labels], 0)


def _of_all_classes(logits: jax.Array, class_weights: Sequence[float] | None) -> jax.Array:
    """The mean over all classes of their weighted cross-entropies, [batch]."""
    losses = -jax.nn.log_softmax(logits)
    if class_weights is not None:
        losses = losses * jnp.asarray(class_weights, losses.dtype)[None]
    return losses.mean(-1)


def likeliest(batch: Batch) -> jax.Array:
    """The label with the larger share of each image, int32 [batch]; the image's own if it is not mixed."""
    labels: jax.Array = batch["labels"]
    return jnp.where(batch["ratios"] >= 0.5, labels, batch["partners"]) if "partners" in batch else labels


def balanced_weights(labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """A weight for each class, images / (classes x images of the class); every class must have some.

    >>> balanced_weights(np.array([0, 1, 1, 1]), 2)
    (2.0, 0.6666666666666666)
    """
    counts = np.bincount(labels, minlength=classes)
    return tuple((len(labels) / (classes * counts)).tolist())
