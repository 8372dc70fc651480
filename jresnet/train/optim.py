"""SGD with the semantics of torch.optim.SGD, and learning-rate schedules, from optax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jresnet.config import Config


def optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with momentum, weight decay added to the gradient, and the schedule; it moves all layers at the common rate.

    Learning rates and weight decay are data in the optimizer's state: runs that differ only in them share one compiled
    program. The linear layer's own rate, if it has one, is only kept there: `make_train_step` multiplies that layer's
    updates by `head_factor`, as it knows where in a `Layout` the layer lies. A loop of one's own must do the same.
    """

    def sgd(
        learning_rate: jax.Array, weight_decay: jax.Array, head_learning_rate: jax.Array | None
    ) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(learning_rate, config.momentum, config.nesterov),
        )

    return optax.chain(
        optax.inject_hyperparams(sgd)(config.learning_rate, config.weight_decay, config.head_learning_rate),
        optax.scale_by_schedule(schedule(config, steps_per_epoch)),
    )


def shared_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """The same optimizer object for all configurations that differ only in learning rates and weight decay.

    A program compiled for it serves all of them; `with_rates` puts a run's own rates into the initial state.
    """
    fields = ("momentum", "nesterov", "schedule", "epochs", "warmup_epochs")
    head = None if config.head_learning_rate is None else 1.0
    shared = Config(**{name: getattr(config, name) for name in fields}, head_learning_rate=head)
    return _cached_optimizer(shared, steps_per_epoch)


_cached_optimizer = functools.lru_cache(maxsize=64)(optimizer)


def rates(config: Config) -> tuple[float, float, float | None]:
    """A configuration's learning rate, weight decay, and rate of the linear layer, as `with_rates` takes them."""
    return config.learning_rate, config.weight_decay, config.head_learning_rate


def with_rates(opt_state: Any, learning_rate: Any, weight_decay: Any, head_learning_rate: Any) -> Any:
    """The state of an `optimizer` with these rates, which may be traced; None for a linear layer without its own.

    Raises:
      ValueError: the linear layer has a rate of its own here and not there, or the reverse.
    """
    before = optax.tree.get(opt_state, "hyperparams")
    if (head_learning_rate is None) == ("head_learning_rate" in before):
        raise ValueError("a rate of the linear layer must be given exactly for an optimizer that has one")
    given = {"learning_rate": learning_rate, "weight_decay": weight_decay, "head_learning_rate": head_learning_rate}
    own = {name: jnp.asarray(rate, before[name].dtype) for name, rate in given.items() if rate is not None}
    return optax.tree.set(opt_state, hyperparams=before | own)


def head_factor(opt_state: Any) -> jax.Array | None:
    """What the linear layer's updates are to be multiplied by; None if it has no rate of its own."""
    found = optax.tree.get(opt_state, "hyperparams", {})
    return found["head_learning_rate"] / found["learning_rate"] if "head_learning_rate" in found else None


def schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate as a fraction of its peak: updates done so far -> 0 to 1.

    After a linear warm-up from 0, `constant` stays at 1 (as in the report), `cosine` and `linear` reach 0 after the
    last step, and `step` divides by 10 at one half and at three quarters of the run (He et al. 2015, arXiv 1512.03385,
    section 4.2: after 32k and 48k of 64k updates).
    """
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    after = max(total - warmup, 1)
    decay = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, after),
        "linear": optax.linear_schedule(1.0, 0.0, after),
        "step": optax.piecewise_constant_schedule(1.0, {total // 2 - warmup: 0.1, 3 * total // 4 - warmup: 0.1}),
    }[config.schedule]
    if warmup:
        decay = optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), decay], [warmup])

    def fraction(step: jax.typing.ArrayLike) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix integers and floats
            return decay(step)

    return fraction
