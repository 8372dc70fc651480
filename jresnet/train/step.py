"""One training step and one evaluation step: pure functions; their metrics are sums and counts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jresnet.models import ResNet
from jresnet.train.state import TrainState


class Sums(NamedTuple):
    """What training steps add up.

    Attributes:
      loss: float32 [], cross-entropy in nats, summed over images.
      correct: int32 [], images whose largest logit is their label's.
      images: int32 [], images seen.
      bad_step: int32 [], the first update whose loss was not finite, -1 if there was none.
    """

    loss: jax.Array
    correct: jax.Array
    images: jax.Array
    bad_step: jax.Array

    @classmethod
    def zero(cls) -> "Sums":
        """Nothing seen yet."""
        return cls(jnp.zeros(()), jnp.int32(0), jnp.int32(0), jnp.int32(-1))

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override]
        """The sums over both; of the bad steps the earlier."""
        bad_step = jnp.where(self.bad_step >= 0, self.bad_step, other.bad_step)
        return Sums(self.loss + other.loss, self.correct + other.correct, self.images + other.images, bad_step)


def make_train_step(model: ResNet, tx: optax.GradientTransformation, axis_name: str | None = None) -> Callable:
    """The step for this network and optimizer: `train_step(state, batch) -> (state, sums)`, pure.

    The batch is a dict: images, float32 [batch, height, width, channels], normalised; labels, int32
    [batch]; and, where some images are padding, mask, bool [batch], false for those. Under a mapped
    axis each device holds its share of one batch, and gradients, statistics and sums are of all. With
    the model's `local_norm` each device normalises by its share's statistics, and the running ones are
    the first device's, as under torch.nn.DataParallel.
    """

    def total(tree):
        return tree if axis_name is None else lax.psum(tree, axis_name)

    def of_first(tree):
        return total(jax.tree.map(lambda a: jnp.where(lax.axis_index(axis_name) == 0, a, 0), tree))

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, Sums]:
        mask = batch.get("mask")
        weights = jnp.ones(batch["labels"].shape, bool) if mask is None else mask
        images = total(weights.sum())

        def mean_loss(params):
            rngs = {"dropout": jax.random.fold_in(state.key, state.step)}
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats}, batch["images"],
                train=True, mask=mask, mutable=["batch_stats"], rngs=rngs,
            )  # fmt: skip
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
            return jnp.sum(jnp.where(weights, losses, 0)) / images, (logits, updates["batch_stats"])

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        loss, grads = total((loss, grads))
        if model.local_norm and axis_name is not None:
            batch_stats = of_first(batch_stats)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        correct = total(jnp.sum((logits.argmax(-1) == batch["labels"]) & weights))
        sums = Sums(
            (loss * images).astype(jnp.float32),
            correct.astype(jnp.int32),
            images.astype(jnp.int32),
            jnp.where(jnp.isfinite(loss), -1, state.step),
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state), sums

    return train_step


def make_predict_step(model: ResNet) -> Callable:
    """The step for this network: `predict_step(variables, images, labels) -> (losses, predictions, confidences)`, pure.

    Images are float32 [batch, height, width, channels], normalised; losses float32 [batch], in nats;
    predictions int32 [batch]; confidences float32 [batch], the predictions' softmax probabilities. Every
    image has its own entries, so that the caller counts each once.
    """

    def predict_step(variables, images, labels):
        logits: jax.Array = model.apply(variables, images, train=False)  # type: ignore[assignment]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses, logits.argmax(-1).astype(jnp.int32), jax.nn.softmax(logits).max(-1).astype(jnp.float32)

    return predict_step


def make_eval_step(model: ResNet) -> Callable:
    """The step for this network: `eval_step(variables, images, labels) -> (losses, predictions)`.

    As `make_predict_step`, without the confidences.
    """
    predict_step = make_predict_step(model)
    return lambda variables, images, labels: predict_step(variables, images, labels)[:2]
