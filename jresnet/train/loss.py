"""The loss of a training step: cross-entropy with class weights, label smoothing and the labels of mixed images."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jresnet.data.pipeline import Batch


def mean_loss(
    logits: jax.Array, batch: Batch, counted: jax.Array, images: jax.Array, total: Callable[[jax.Array], jax.Array],
    class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0,
) -> jax.Array:  # fmt: skip
    """This device's part of a batch's mean loss in nats: what torch.nn.CrossEntropyLoss(weight, label_smoothing) gives.

    An image mixed of two has the loss of both their labels, each by its share.

    Args:
      logits: float [batch, classes].
      batch: labels, int32 [batch]; for mixed images also `partners` and `ratios`, see `mix.mixed`.
      counted: bool [batch], false for padding.
      images: counted images on all devices, [].
      total: sums over the devices.
      class_weights: [classes], not for mixed images; None: all weigh the same.
      label_smoothing: share of each label that is spread over all classes.
    """
    labels = batch["labels"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if "partners" in batch:
        if class_weights is not None:
            raise ValueError("class_weights: a pair of mixed images has no one class to weigh it by")
        ratios = batch["ratios"].astype(losses.dtype)
        others = optax.softmax_cross_entropy_with_integer_labels(logits, batch["partners"])
        losses = ratios * losses + (1 - ratios) * others
    weights = None
    if class_weights is not None:
        weights = jnp.where(counted, jnp.asarray(class_weights, losses.dtype)[labels], 0)
        losses = weights * losses
    if label_smoothing:
        losses = (1 - label_smoothing) * losses + label_smoothing * _of_all_classes(logits, class_weights)
    summed = jnp.sum(jnp.where(counted, losses, 0))
    return summed / (images.astype(losses.dtype) if weights is None else total(weights.sum()))


def _of_all_classes(logits: jax.Array, class_weights: Sequence[float] | None) -> jax.Array:
    """The mean over all classes of their weighted cross-entropies, [batch]."""
    losses = -jax.nn.log_softmax(logits)
    if class_weights is not None:
        losses = losses * jnp.asarray(class_weights, losses.dtype)[None]
    return losses.mean(-1)


def likeliest(batch: Batch) -> jax.Array:
    """The label with the larger share of each image, int32 [batch]; the image's own if it is not mixed."""
    if "partners" not in batch:
        return batch["labels"]
    return jnp.where(batch["ratios"] >= 0.5, batch["labels"], batch["partners"])


def balanced_weights(labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """A weight for each class, images / (classes x images of the class); every class must have some.

    >>> balanced_weights(np.array([0, 1, 1, 1]), 2)
    (2.0, 0.6666666666666666)
    """
    counts = np.bincount(labels, minlength=classes)
    return tuple((len(labels) / (classes * counts)).tolist())
