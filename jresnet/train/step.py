"""One training step and one evaluation step: pure functions whose metrics are sums and counts."""

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jresnet.config import Config
from jresnet.data.mix import check_mix, mixed
from jresnet.data.pipeline import Batch
from jresnet.models import ResNet
from jresnet.models.layers import psum_over
from jresnet.train.average import averaged
from jresnet.train.freeze import HEAD, frozen_parts, kept, marks, stopped
from jresnet.train.gradients import Evaluated, in_parts, sharpness_aware
from jresnet.train.layout import TREES, Layout
from jresnet.train.loss import balanced_weights, batch_weight, likeliest, mean_loss
from jresnet.train.optim import head_factor
from jresnet.train.state import TrainState, check_state


class Metrics(NamedTuple):
    """Sums over training steps.

    Attributes:
      loss: float32 [], sum of the images' cross-entropies in nats, with smoothed labels if they are, and with those of
        both images of a mixed one; with class weights, of the steps' weighted means times their images.
      correct: int32 [], images classified correctly: mixed ones as that which has the larger share, the image itself
        if the shares are equal.
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


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step does beyond the report's; constants of its program, so that each set of them is compiled apart.

    Attributes:
      class_weights: [classes]: the loss is that of torch.nn.CrossEntropyLoss(weight): each image weighs as its class
        does, and the sum is divided by the weights' sum; None: all weigh the same.
      label_smoothing: the share of each label that is spread over all classes, as in torch.nn.CrossEntropyLoss.
      ema_decay: of the averages in the state, see `average.averaged`; None for a state without.
      kernel_decay: weight decay acts on kernels of convolutions and linear layers alone, arrays of at least two axes.
      sam: radius of sharpness-aware minimisation, see `sharpness_aware`; 0: without.
      accumulate: parts in which a batch is computed, see `in_parts`.
      elementwise: the optimizer does not look at the shapes of arrays, so that it may work on one vector of all
        parameters.
    """

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    kernel_decay: bool = False
    sam: float = 0.0
    accumulate: int = 1
    elementwise: bool = True

    @classmethod
    def of(cls, config: Config, labels: np.ndarray, classes: int) -> "StepOptions":
        """Those of a configuration, for training images with these labels, int32 [images]."""
        return cls(
            class_weights=balanced_weights(labels, classes) if config.class_weights else None,
            label_smoothing=config.label_smoothing,
            ema_decay=config.ema_decay,
            kernel_decay=config.weight_decay_on == "kernels",
            sam=config.sam,
            accumulate=config.accumulate,
            elementwise=config.optimizer != "muon",
        )


PLAIN = StepOptions()
"""The report's step."""


def make_train_step(
    model: ResNet, tx: optax.GradientTransformation, axis_name: str | None = None, layout: Layout = TREES,
    options: StepOptions = PLAIN,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:  # fmt: skip
    """Make `train_step(state, batch) -> (state, metrics)`, a pure function.

    The batch is a dict: images, float32 [batch, height, width, channels], normalised; labels, int32 [batch]; optionally
    mask, bool [batch], false for images that are padding; and optionally mix, a `Mix` by which the images are mixed
    first, with padding at the end alone, see `mix.mixed`. Shapes and dtypes are checked while tracing.

    Under the mapped axis `axis_name` each device gets its share of one batch; gradients, statistics and metrics are
    those of the whole batch. With the model's `local_norm` each device normalises by the statistics of its own share,
    and the running ones are the first device's, as under torch.nn.DataParallel.

    Stages that the model has `frozen` keep their parameters and statistics, bit for bit, and have no gradients.

    With `accumulate` each device computes its share in parts, which must divide it, and batch statistics are those of
    each part over all devices. With `sam` they, and the metrics, are those of the weights before the ascent; dropout
    has the same masks in both passes.

    The state is packed in `layout`, by default the state as it is.
    """

    total = partial(psum_over, axis_name=axis_name)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        check_batch(batch)
        check_state(state, averages=options.ema_decay is not None)
        batch = mixed(batch, axis_name)
        labels, mask = likeliest(batch), batch.get("mask")
        counted = jnp.ones(labels.shape, bool) if mask is None else mask
        images = total(counted.sum())
        params = layout.params(state.params)
        frozen = frozen_parts(params, model.frozen)

        weight = batch_weight(batch["labels"], counted, images, options.class_weights, model.param_dtype, total)

        def loss_of(
            params: Any, batch_stats: Any, part: Batch, number: jax.Array | None
        ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            """What the images of this part of the batch contribute to its mean loss."""
            key = jax.random.fold_in(state.key, state.step)
            rngs = {"dropout": key if number is None else jax.random.fold_in(key, number)}
            logits, updates = model.apply(
                {"params": stopped(params, frozen), "batch_stats": batch_stats}, part["images"],
                train=True, mask=part.get("mask"), mutable=["batch_stats"], rngs=rngs,
            )  # fmt: skip
            beyond = options.class_weights, options.label_smoothing
            return mean_loss(logits, part, weight, *beyond), (logits, updates["batch_stats"])

        def evaluate(params: Any) -> Evaluated:
            """Of the whole batch, except for the logits and, with `local_norm`, the batch statistics."""

            def evaluate_part(batch_stats: Any, part: Batch, number: jax.Array | None) -> Evaluated:
                found, grads = jax.value_and_grad(loss_of, has_aux=True)(params, batch_stats, part, number)
                return found, layout.gradients(grads)

            parts = in_parts(evaluate_part, options.accumulate)
            (loss, rest), grads = parts(state.batch_stats, batch | {"counted": counted})
            loss, grads = total((loss, grads))
            return (loss, rest), grads

        (loss, (logits, batch_stats)), grads = evaluate(params)
        if options.sam:
            master = layout.master(state.params)
            grads = sharpness_aware(
                options.sam, lambda other: evaluate(layout.params(layout.updated(other)))[1], master, grads
            )
        if model.local_norm and axis_name is not None:
            batch_stats = _of_first_device(batch_stats, axis_name)
        new_params, opt_state = _updated(tx, layout, grads, state, params, frozen, options.kernel_decay)
        correct = total(jnp.sum((logits.argmax(-1).astype(jnp.int32) == labels) & counted))
        metrics = Metrics(
            (loss * images.astype(loss.dtype)).astype(jnp.float32),
            correct.astype(jnp.int32),
            images.astype(jnp.int32),
            jnp.where(jnp.isfinite(loss), -1, state.step),
        )
        batch_stats = kept(state.batch_stats, batch_stats, frozen)
        state = state.replace(step=state.step + 1, params=new_params, batch_stats=batch_stats, opt_state=opt_state)
        if options.ema_decay is not None:
            state = averaged(state, options.ema_decay, layout, frozen)
        return state, metrics

    return train_step


def _of_first_device(tree: Any, axis_name: str) -> Any:
    """The arrays of the first device along a mapped axis, on all of them."""
    first = jax.tree.map(lambda a: jnp.where(lax.axis_index(axis_name) == 0, a, jnp.zeros_like(a)), tree)
    return psum_over(first, axis_name=axis_name)


def _updated(
    tx: optax.GradientTransformation, layout: Layout, grads: Any, state: TrainState, params: Any,
    frozen: Collection[str], kernel_decay: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """The packed parameters and the optimizer's state after an update; of `params`, their tree, only shapes matter.

    Parts that are `frozen` stay as they are; with `kernel_decay` arrays of one axis do not decay.
    """
    master = layout.master(state.params)
    shrinking = master
    if kernel_decay:
        decayed = layout.spread(jax.tree.map(lambda array: array.ndim > 1, params))
        shrinking = jax.tree.map(lambda mark, array: jnp.where(mark, array, 0), decayed, master)
    updates, opt_state = tx.update(grads, state.opt_state, shrinking)
    if (factor := head_factor(opt_state)) is not None:
        scaled = jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)
        updates = jax.tree.map(jnp.where, layout.spread(marks(params, {HEAD})), scaled, updates)
    after = optax.apply_updates(master, updates)
    if frozen:
        after = jax.tree.map(jnp.where, layout.spread(marks(params, frozen)), master, after)
    return layout.updated(after), opt_state


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
    if (mix := batch.get("mix")) is not None:
        check_mix(mix, labels)
