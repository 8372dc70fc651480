"""SGD as torch.optim.SGD computes it, and learning-rate schedules, from optax."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jresnet.config import Config


def optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with momentum, weight decay coupled into the gradient, and the configured schedule.

    Learning rate and weight decay live in the optimizer's state, as data: runs that differ in them
    only share one compiled program.
    """

    def sgd(learning_rate, weight_decay):
        return optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(learning_rate, config.momentum, config.nesterov),
        )

    return optax.chain(
        optax.inject_hyperparams(sgd)(config.learning_rate, config.weight_decay),
        optax.scale_by_schedule(schedule(config, steps_per_epoch)),
    )


def shared_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """One optimizer, the same object, for all configurations that differ in learning rate and weight decay alone.

    A program compiled for it serves them all; `with_rates` puts a run's own rates into its initial state.
    """
    read = ("momentum", "nesterov", "schedule", "epochs", "warmup_epochs")
    return _cached_optimizer(Config(**{name: getattr(config, name) for name in read}), steps_per_epoch)


def with_rates(opt_state: Any, learning_rate: Any, weight_decay: Any) -> Any:
    """The state of an `optimizer` with these rates, numbers or traced."""
    dtype = optax.tree.get(opt_state, "hyperparams")["learning_rate"].dtype
    rates = {"learning_rate": jnp.asarray(learning_rate, dtype), "weight_decay": jnp.asarray(weight_decay, dtype)}
    return optax.tree.set(opt_state, hyperparams=rates)


def schedule(config: Config, steps_per_epoch: int) -> Callable:
    """The learning rate as a share of its peak: step (updates done so far) -> 0..1.

    After a linear warm-up from 0, `constant` stays at 1 (the report's), `cosine` and `linear` fall to
    0 at the last step, `step` is divided by 10 at one half and at three quarters of the run (He et
    al. 2015, arXiv 1512.03385, section 4.2: 32k and 48k of 64k updates).
    """
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    after = max(total - warmup, 1)
    course = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, after),
        "linear": optax.linear_schedule(1.0, 0.0, after),
        "step": optax.piecewise_constant_schedule(1.0, {total // 2 - warmup: 0.1, 3 * total // 4 - warmup: 0.1}),
    }[config.schedule]
    if warmup == 0:
        return course
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), course], [warmup])


_cached_optimizer = functools.lru_cache(maxsize=64)(optimizer)
