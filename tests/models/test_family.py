"""The named variants: published parameter counts, initial values, options. `test_parity` compares them with PyTorch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jresnet import models
from jresnet.errors import InputError
from jresnet.models.layers import BatchNorm
from tests.support.numerics import assert_uniform


@pytest.mark.parametrize(
    ("variant", "options", "side", "count"),
    [
        (models.resnet18, {"width": 32}, 32, 2_797_610),
        (models.resnet18, {"width": 40}, 32, 4_368_690),
        (models.resnet18, {"width": 42}, 32, 4_815_940),
        (models.resnet18, {"width": 43}, 32, 5_047_737),
        (models.resnet18, {}, 32, 11_173_962),
        (models.resnet18, {"width": 80}, 32, 17_454_170),
        (models.resnet34, {}, 32, 21_282_122),
        (models.resnet50, {}, 32, 23_520_842),
        (models.resnet101, {}, 32, 42_512_970),
        (models.resnet152, {}, 32, 58_156_618),
        (models.preact_resnet18, {}, 32, 11_171_146),
        (models.resnet20, {}, 32, 269_722),
        (models.resnet20, {"shortcut": "projection"}, 32, 272_474),
        (models.resnet32, {}, 32, 464_154),
        (models.resnet44, {}, 32, 658_586),
        (models.resnet56, {}, 32, 853_018),
        (models.resnet110, {}, 32, 1_727_962),
        (models.wide_resnet28_10, {}, 32, 36_479_194),
        (models.wide_resnet16_8, {}, 32, 10_961_370),
        (models.resnet_se443, {}, 32, 4_697_742),
        (models.imagenet_resnet18, {}, 224, 11_689_512),
        (models.imagenet_resnet50, {}, 224, 25_557_032),
    ],
)
def test_published_parameter_counts(variant, options, side, count):
    assert models.parameter_count(variant(**options), (side, side)) == count


# Between them kernels of 3x3 and 1x1, normalisation, and linear layers with biases.
QUICK = ("resnet20",)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in models.VARIANTS]
)
def test_every_tensor_starts_as_in_torch(variant):
    """Weights and biases uniform within 1 / sqrt(fan-in), scales and variances 1, the rest 0."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = flatten_dict(models.VARIANTS[variant]().lazy_init(jax.random.key(0), images, train=False))
    for path, values in variables.items():
        kernel = variables.get((*path[:-1], "kernel"))
        if kernel is None:
            np.testing.assert_array_equal(values, 1 if path[-1] in ("scale", "var") else 0, err_msg="/".join(path))
        else:
            fan_in = np.prod(kernel.shape[:-1])
            assert_uniform(values, (1 + 1e-6) / np.sqrt(fan_in))


def test_block_dropout_acts_in_training_only():
    small = partial(models.wide_resnet16_8, stage_sizes=(1,), width=4, stem_width=4)
    model = small(block_dropout=0.5)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
    plain = small(block_dropout=0.0)
    np.testing.assert_array_equal(
        model.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )

    @jax.jit
    def logits(key):
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    assert np.abs(logits(jax.random.key(1)) - logits(jax.random.key(2))).max() > 1e-3


@pytest.mark.parametrize("norm", [models.norm_for("cpu", "float32"), models.norm_for("gpu", "bfloat16")])
@pytest.mark.parametrize("train", [False, True])
def test_epsilon_reaches_every_batch_normalisation(norm, train):
    model = models.ResNet((1, 1), width=2, pool_size=None, epsilon=0.25, norm_cls=norm)
    seen = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            seen.append(context.module.epsilon)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)
        jax.eval_shape(partial(model.init, train=train), jax.random.key(0), images)
    assert seen == [0.25] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": (3, 3)}, "give one number, or one for each of 4 stages"),
        ({"kernel_size": (3, 3, 3, 4)}, "must be odd"),
        ({"stem": "cifar"}, "stem cifar: must be one of"),
        ({"shortcut": "A"}, "shortcut A: must be one of"),
        ({"block_dropout": 0.1}, "applies to PreactBlock only"),
        ({"final_norm": True}, "applies to PreactBlock only"),
        ({"squeeze": 65}, "squeeze 65: exceeds the stem's channels"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        models.variable_shapes(models.resnet18(**options), (32, 32))
