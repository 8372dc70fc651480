"""The training loss beside PyTorch's: label smoothing, class weights, mixed images, in value, gradients and counts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.config import Config
from jresnet.data.mix import Mix
from jresnet.train.loss import batch_weight, mean_loss
from jresnet.train.optim import optimizer
from jresnet.train.state import TrainState
from jresnet.train.step import StepOptions, make_train_step
from tests.train.test_freeze import Linear, linear_params

torch = pytest.importorskip("torch")

IMAGES, CLASSES, WEIGHTS = 8, 3, (0.5, 2.0, 1.25)
COUNTED = np.arange(IMAGES) < IMAGES - 2  # the others are padding


def draw(mix=False, seed=0):
    """Logits and a batch; labels of mixed images as their `partners` and `ratios`."""
    rng = np.random.default_rng(seed)
    batch = {"labels": rng.integers(CLASSES, size=IMAGES).astype(np.int32)}
    if mix:
        batch |= {
            "partners": rng.integers(CLASSES, size=IMAGES).astype(np.int32),
            "ratios": rng.uniform(size=IMAGES),
        }
    return rng.normal(0, 3, (IMAGES, CLASSES)), batch


def loss_of(logits, batch, weights, smoothing):
    """`mean_loss` of a whole batch on one device."""
    counted, labels = jnp.asarray(COUNTED), jnp.asarray(batch["labels"])
    weight = batch_weight(labels, counted, counted.sum(), weights, logits.dtype, lambda total: total)
    return mean_loss(logits, batch | {"counted": counted}, weight, weights, smoothing)


def theirs(logits, batch, weights, smoothing):
    """PyTorch's loss, with probabilities as its targets for mixed images."""
    target = torch.tensor(batch["labels"], dtype=torch.int64)
    if "partners" in batch:
        ratios = torch.tensor(batch["ratios"])[:, None]
        rows = [
            torch.nn.functional.one_hot(torch.tensor(batch[name]).long(), CLASSES) for name in ("labels", "partners")
        ]
        target = ratios * rows[0] + (1 - ratios) * rows[1]
    weight = None if weights is None else torch.tensor(weights, dtype=torch.double)
    return torch.nn.functional.cross_entropy(logits, target, weight, label_smoothing=smoothing)


@pytest.mark.parametrize(
    ("mix", "weights", "smoothing"),
    [
        (False, WEIGHTS, 0.1),
        (True, None, 0.2),
        pytest.param(False, None, 0.1, marks=pytest.mark.slow),
        pytest.param(False, WEIGHTS, 0.0, marks=pytest.mark.slow),
        pytest.param(True, None, 0.0, marks=pytest.mark.slow),
    ],
)
def test_the_loss_and_its_gradients_are_torchs(mix, weights, smoothing):
    logits, batch = draw(mix)
    real = {name: values[COUNTED] for name, values in batch.items()}
    parameter = torch.tensor(logits[COUNTED], requires_grad=True)
    loss = theirs(parameter, real, weights, smoothing)
    loss.backward()
    with jax.enable_x64():
        ours = jax.jit(jax.value_and_grad(partial(loss_of, batch=batch, weights=weights, smoothing=smoothing)))
        found, gradients = ours(logits)
    np.testing.assert_allclose(found, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(gradients[COUNTED], parameter.grad.numpy(), rtol=0, atol=1e-12)
    assert not gradients[~COUNTED].any()


def test_class_weights_of_mixed_images_are_refused():
    logits, batch = draw(mix=True)
    with pytest.raises(ValueError, match="class_weights"):
        jax.eval_shape(partial(loss_of, batch=batch, weights=WEIGHTS, smoothing=0.0), logits)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_step_trains_on_mixed_images_and_counts_the_larger_share(devices):
    """One step beside PyTorch's, on a batch with padding that one device or four share."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(IMAGES, 4, 4, 3))
    labels, count = rng.integers(CLASSES, size=IMAGES).astype(np.int32), IMAGES - 1
    ratios = np.linspace(0.02, 1, IMAGES).astype(np.float32)
    batch = {
        "images": images, "labels": labels, "mask": np.arange(IMAGES) < count,
        "mix": Mix(ratios, np.zeros(IMAGES, bool), np.zeros((IMAGES, 2), np.float32)),
    }  # fmt: skip
    shares = ratios[:count, None, None, None].astype(np.float64)
    mixed = torch.tensor(shares * images[:count] + (1 - shares) * images[:count][::-1])
    parameters = jax.tree.map(lambda array: torch.nn.Parameter(torch.tensor(array)), linear_params())
    hidden = torch.relu(mixed.reshape(count, -1) @ parameters["conv1"]["kernel"])
    logits = hidden @ parameters["linear"]["kernel"] + parameters["linear"]["bias"]
    real = {"labels": labels[:count], "partners": labels[:count][::-1].copy(), "ratios": ratios[:count].astype(float)}
    loss = theirs(logits, real, None, 0.1)
    loss.backward()
    correct = (logits.argmax(1).numpy() == np.where(ratios[:count] >= 0.5, real["labels"], real["partners"])).sum()
    with jax.enable_x64():
        tx, params = (
            optimizer(Config(learning_rate=0.1, momentum=0.0, weight_decay=0.0), 3),
            jax.tree.map(jnp.asarray, linear_params()),
        )
        state = TrainState(jnp.int32(0), params, {}, tx.init(params), jax.random.key(0))
        axis = "devices" if devices > 1 else None
        step = make_train_step(Linear(), tx, axis, options=StepOptions(label_smoothing=0.1))
        if axis:
            step = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=axis)
            batch = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), batch)
        after, metrics = jax.jit(step)(state, batch)
    assert (int(metrics.images), int(metrics.correct)) == (count, correct)
    np.testing.assert_allclose(metrics.loss, loss.item() * count, rtol=2e-7)  # added up in float32
    for ours, parameter in zip(jax.tree.leaves(after.params), jax.tree.leaves(parameters), strict=True):
        expected = parameter.detach() - 0.1 * parameter.grad
        np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-12)
