"""One training step and one evaluation step: pure functions whose metrics are sums and counts."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jresnet.data.pipeline import Batch
from jresnet.models import ResNet
from jresnet.models.layers import psum_over
from jresnet.train.layout import TREES, Layout
from jresnet.train.state import TrainState, check_state


class Metrics(NamedTuple):
    """Sums over training steps.

    Attributes:
      loss: float32 [], sum of the images' cross-entropies in nats.
      correct: int32 [], images classified correctly.
      images: int32 [], images seen.
      bad_step: int32 [], first update whose loss was not finite; -1 if there was none.
    """

    loss: jax.Array
    correct: jax.Array
    images: jax.Array
    bad_step: jax.Array

    @classmethod
    def zero(cls) -> "Metrics":
        """Metrics of no steps."""
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(-1))

    def __add__(self, other: "Metrics") -> "Metrics":  # type: ignore[override]
        """Metrics of these steps followed by the other's."""
        bad_step = jnp.where(self.bad_step >= 0, self.bad_step, other.bad_step)
        return Metrics(self.loss + other.loss, self.correct + other.correct, self.images + other.images, bad_step)


def make_train_step(
    model: ResNet, tx: optax.GradientTransformation, axis_name: str | None = None, layout: Layout = TREES
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Make `train_step(state, batch) -> (state, metrics)`, a pure function.

    The batch is a dict: images, float32 [batch, height, width, channels], normalised; labels, int32 [batch]; optionally
    mask, bool [batch], false for images that are padding. Shapes and dtypes are checked while tracing.

    Under the mapped axis `axis_name` each device gets its share of one batch; gradients, statistics and metrics are
    those of the whole batch. With the model's `local_norm` each device normalises by the statistics of its own share,
    and the running ones are the first device's, as under torch.nn.DataParallel.

    The state is packed in `layout`, by default the state as it is.
    """

    total = partial(psum_over, axis_name=axis_name)

    def of_first_device(tree: Any) -> Any:
        return total(jax.tree.map(lambda a: jnp.where(lax.axis_index(axis_name) == 0, a, jnp.zeros_like(a)), tree))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        check_batch(batch)
        check_state(state)
        mask = batch.get("mask")
        weights = jnp.ones(batch["labels"].shape, bool) if mask is None else mask
        images = total(weights.sum())

        def mean_loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            rngs = {"dropout": jax.random.fold_in(state.key, state.step)}
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats}, batch["images"],
                train=True, mask=mask, mutable=["batch_stats"], rngs=rngs,
            )  # fmt: skip
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
            loss = jnp.sum(jnp.where(weights, losses, 0)) / images.astype(losses.dtype)
            return loss, (logits, updates["batch_stats"])

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(mean_loss, has_aux=True)(layout.params(state.params))
        loss, grads = total((loss, layout.gradients(grads)))
        if model.local_norm and axis_name is not None:
            batch_stats = of_first_device(batch_stats)
        master = layout.master(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, master)
        params = layout.updated(optax.apply_updates(master, updates))
        correct = total(jnp.sum((logits.argmax(-1).astype(jnp.int32) == batch["labels"]) & weights))
        metrics = Metrics(
            (loss * images.astype(loss.dtype)).astype(jnp.float32),
            correct.astype(jnp.int32),
            images.astype(jnp.int32),
            jnp.where(jnp.isfinite(loss), -1, state.step),
        )
        state = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
        return state, metrics

    return train_step


def make_predict_step(model: ResNet) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    """Make `predict_step(variables, images, labels) -> (losses, predictions, confidences)`, a pure function.

    Images are float32 [batch, height, width, channels], normalised, and labels int32 [batch]. Losses are float32
    [batch], in nats; predictions int32 [batch]; confidences float32 [batch], the predictions' softmax probabilities.
    All outputs are per image, so that the caller can count each image exactly once.
    """

    def predict_step(variables: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        check_batch({"images": images, "labels": labels})
        logits: jax.Array = model.apply(variables, images, train=False)  # type: ignore[assignment]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses, logits.argmax(-1).astype(jnp.int32), jax.nn.softmax(logits).max(-1).astype(jnp.float32)

    return predict_step


def make_eval_step(model: ResNet) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Make `eval_step(variables, images, labels) -> (losses, predictions)`: `make_predict_step` without confidences."""
    predict_step = make_predict_step(model)
    return lambda variables, images, labels: predict_step(variables, images, labels)[:2]


def check_batch(batch: Batch) -> None:
    """Assert while tracing that a batch has the shapes and dtypes that `make_train_step` documents."""
    message = "a batch holds images float [batch, height, width, channels] and labels int32 [batch]"
    images, labels = batch["images"], batch["labels"]
    chex.assert_rank([images, labels], [4, 1], custom_message=message)
    chex.assert_equal_shape_prefix([images, labels], 1, custom_message=message)
    chex.assert_type([images, labels], [float, jnp.int32], custom_message=message)
    if (mask := batch.get("mask")) is not None:
        message = "a batch's mask is bool [batch]"
        chex.assert_shape(mask, labels.shape, custom_message=message)
        chex.assert_type(mask, bool, custom_message=message)
