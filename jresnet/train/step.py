"""One training step and one evaluation step: pure functions whose metrics are sums and counts."""

import dataclasses
from collections.abc import Callable
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
from jresnet.train.layout import TREES, Layout
from jresnet.train.loss import balanced_weights, likeliest, mean_loss, weights_of
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
    """

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ema_decay: float | None = None

    @classmethod
    def of(cls, config: Config, labels: np.ndarray, classes: int) -> "StepOptions":
        """Those of a configuration, for training images with these labels, int32 [images]."""
        weights = balanced_weights(labels, classes) if config.class_weights else None
        return cls(class_weights=weights, label_smoothing=config.label_smoothing, ema_decay=config.ema_decay)


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

        def weight(dtype: Any) -> jax.Array:
            """Of all images of the batch, on all devices."""
            if options.class_weights is None:
                return images.astype(dtype)
            return total(weights_of(labels, counted, options.class_weights, dtype).sum())

        def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            rngs = {"dropout": jax.random.fold_in(state.key, state.step)}
            logits, updates = model.apply(
                {"params": stopped(params, frozen), "batch_stats": state.batch_stats}, batch["images"],
                train=True, mask=mask, mutable=["batch_stats"], rngs=rngs,
            )  # fmt: skip
            beyond = options.class_weights, options.label_smoothing
            mean = mean_loss(logits, batch, counted, weight, *beyond)
            return mean, (logits, updates["batch_stats"])

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        loss, grads = total((loss, layout.gradients(grads)))
        if model.local_norm and axis_name is not None:
            batch_stats = _of_first_device(batch_stats, axis_name)
        head_marks, frozen_marks = marks(params, {HEAD}), marks(params, frozen) if model.frozen else None
        new_params, opt_state = _updated(tx, layout, grads, state, head_marks, frozen_marks)
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
            state = averaged(state, options.ema_decay, layout, frozen, frozen_marks)
        return state, metrics

    return train_step


def _of_first_device(tree: Any, axis_name: str) -> Any:
    """The arrays of the first device along a mapped axis, on all of them."""
    first = jax.tree.map(lambda a: jnp.where(lax.axis_index(axis_name) == 0, a, jnp.zeros_like(a)), tree)
    return psum_over(first, axis_name=axis_name)


def _updated(
    tx: optax.GradientTransformation, layout: Layout, grads: Any, state: TrainState, head_marks: Any, frozen_marks: Any
) -> tuple[Any, Any]:
    """The packed parameters and the optimizer's state after an update; see `marks`, None for nothing frozen."""
    master = layout.master(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, master)
    if (factor := head_factor(opt_state)) is not None:
        scaled = jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)
        updates = jax.tree.map(jnp.where, layout.spread(head_marks), scaled, updates)
    after = optax.apply_updates(master, updates)
    if frozen_marks is not None:
        after = jax.tree.map(jnp.where, layout.spread(frozen_marks), master, after)
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
