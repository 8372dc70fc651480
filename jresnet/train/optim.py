"""SGD and AdamW with the semantics of torch.optim, Muon, and learning-rate schedules, from optax."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jresnet.config import Config

KERNEL = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
"""The axes of a convolution's kernel, [height, width, inputs, outputs], as a matrix."""


def optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of a configuration and its schedule; it moves all layers at the common rates.

    - sgd: momentum, and weight decay added to the gradient, as torch.optim.SGD.
    - adamw: torch.optim.AdamW with betas (momentum, 0.999): weights shrink by the learning rate times the decay.
    - muon: Muon at its own rate for the kernels of convolutions, see `_muon`, and sgd for every other parameter.

    `clip_norm` scales the gradients of all parameters before anything else, as torch.nn.utils.clip_grad_norm_ does,
    which also adds 1e-6 to their norm.

    Learning rates and weight decay are data in the optimizer's state: runs that differ only in them share one compiled
    program. Three options are left to `make_train_step`, and a loop of one's own must see to them itself:

    - the linear layer's own rate is only kept in the state: that layer's updates are to be multiplied by `head_factor`;
    - for weight decay on kernels alone, `update` is to be called with `params` that are zero elsewhere, as they decide
      nothing but the decay;
    - sharpness-aware minimisation is a matter of the gradients.
    """

    clip = () if config.clip_norm is None else (optax.clip_by_global_norm(config.clip_norm),)

    def at_rates(
        learning_rate: jax.Array,
        weight_decay: jax.Array,
        head_learning_rate: jax.Array | None,
        muon_learning_rate: jax.Array | None,
    ) -> optax.GradientTransformation:
        sgd = (optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, config.momentum, config.nesterov))
        if config.optimizer == "adamw":
            return optax.chain(
                *clip, _with_standard_promotion(optax.adamw(learning_rate, config.momentum, weight_decay=weight_decay))
            )
        if config.optimizer == "muon":
            muon = _muon(config, muon_learning_rate, weight_decay)
            return optax.chain(*clip, optax.partition({"muon": muon, "sgd": optax.chain(*sgd)}, _by_axes))
        return optax.chain(*clip, *sgd)

    return optax.chain(
        optax.inject_hyperparams(at_rates)(*rates(config)),
        optax.scale_by_schedule(schedule(config, steps_per_epoch)),
    )


def _muon(config: Config, learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
    """Muon for convolutions' kernels (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    The momentum of each kernel, as a matrix [height * width * inputs, outputs], is made about orthogonal by five
    Newton-Schulz iterations, multiplied by sqrt(max(1, outputs / (height * width * inputs))), as in Jordan's code, and
    weights shrink by the rate times the decay. optax corrects the momentum's bias from its start at zero: without
    Nesterov's form that changes nothing, with it the first updates weigh gradient and momentum as if it had none.
    """

    def numbers(updates: Any) -> Any:
        return jax.tree.map(lambda _: KERNEL, updates)

    def by_shape(updates: Any, _: Any) -> Any:
        return jax.tree.map(lambda a: a * max(1.0, a.shape[3] / math.prod(a.shape[:3])) ** 0.5, updates)

    return optax.chain(
        _with_standard_promotion(
            optax.contrib.scale_by_muon(
                beta=config.momentum, nesterov=config.nesterov, weight_dimension_numbers=numbers
            )
        ),
        optax.stateless(by_shape),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )  # fmt: skip


def _with_standard_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same, under strict dtype promotion too: optax raises floats to integers where it corrects biases."""

    def update(*arguments: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(*arguments)

    return optax.GradientTransformation(tx.init, update)


def _by_axes(params: Any) -> Any:
    """Which optimizer has each parameter under `--optimizer muon`: convolutions' kernels are those of four axes."""
    return jax.tree.map(lambda array: "muon" if array.ndim == 4 else "sgd", params)


def shared_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """The same optimizer object for all configurations that differ only in learning rates and weight decay.

    A program compiled for it serves all of them; `with_rates` puts a run's own rates into the initial state.
    """
    fields = ("optimizer", "momentum", "nesterov", "clip_norm", "schedule", "epochs", "warmup_epochs")
    head = None if config.head_learning_rate is None else 1.0
    shared = Config(**{name: getattr(config, name) for name in fields}, head_learning_rate=head)
    return _cached_optimizer(shared, steps_per_epoch)


_cached_optimizer = functools.lru_cache(maxsize=64)(optimizer)


def rates(config: Config) -> tuple[float, float, float | None, float | None]:
    """A configuration's learning rate, weight decay, and rates of the linear layer and of Muon, as for `with_rates`."""
    muon = config.muon_learning_rate if config.optimizer == "muon" else None
    return config.learning_rate, config.weight_decay, config.head_learning_rate, muon


def with_rates(
    opt_state: Any, learning_rate: Any, weight_decay: Any, head_learning_rate: Any, muon_learning_rate: Any = None
) -> Any:
    """The state of an `optimizer` with these rates, which may be traced.

    None for a linear layer without its own, and for another optimizer than Muon.

    Raises:
      ValueError: the linear layer, or Muon, has a rate of its own here and not there, or the reverse.
    """
    before = optax.tree.get(opt_state, "hyperparams")
    if (head_learning_rate is None) == ("head_learning_rate" in before):
        raise ValueError("a rate of the linear layer must be given exactly for an optimizer that has one")
    if (muon_learning_rate is None) == ("muon_learning_rate" in before):
        raise ValueError("a rate of Muon must be given exactly for an optimizer that has one")
    given = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "head_learning_rate": head_learning_rate,
        "muon_learning_rate": muon_learning_rate,
    }
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
    section 4.2: after 32k and 48k of 64k updates). `one-cycle` is a course of its own, see `_one_cycle`.
    """
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    after = max(total - warmup, 1)
    decay = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, after),
        "linear": optax.linear_schedule(1.0, 0.0, after),
        "one-cycle": _one_cycle(config.warmup_epochs * steps_per_epoch, total),
        "step": optax.piecewise_constant_schedule(1.0, {total // 2 - warmup: 0.1, 3 * total // 4 - warmup: 0.1}),
    }[config.schedule]
    if warmup and config.schedule != "one-cycle":
        decay = optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), decay], [warmup])

    def fraction(step: jax.typing.ArrayLike) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix integers and floats
            return decay(step)

    return fraction


def _one_cycle(rise: float, total: int) -> optax.Schedule:
    """torch.optim.lr_scheduler.OneCycleLR(anneal_strategy="linear") with pct_start = rise / total.

    From 1/25 up to 1 in the step that ends the first `rise` of `total` steps, and down to 1/250,000 in the last one.
    """
    first, final = 1 / 25, 1 / 25 / 1e4
    peak, last = rise - 1, total - 1

    def fraction(step: jax.typing.ArrayLike) -> Any:
        down = final + (1 - final) * (last - jnp.minimum(step, last)) / (last - peak)
        return jnp.minimum(first + (1 - first) * step / peak, down) if peak > 0 else down

    return fraction
