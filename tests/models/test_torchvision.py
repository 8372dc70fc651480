"""torchvision's own networks: the same weights loaded here give the logits that torchvision itself gave.

Weights and images follow from a formula, so that logits alone are stored. They were made with
torchvision 0.29.1, torch 2.14.1 and numpy 2.4.6; where torchvision is installed, it is asked again.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jresnet
from jresnet.models import torch_weights

SIZE = (64, 75)  # an even and an odd side
# Of two images each: the first eight logits, and the mean of all thousand.
LOGITS = {
    "resnet18": [
        [0.02258138369128, 2.162382441778, 4.403962368148, -0.437376129526, 4.184208958173,
         1.822635557075, -0.4503289493754, 1.79841873804, -0.05040806342671],
        [0.1718283649894, 1.595206807655, 4.521644043911, -0.6193417373026, 3.621248364625,
         2.471083262356, 0.01576027788943, 1.915703765027, -0.06524510580558],
    ],
    "resnet50": [
        [2.075395156718, 13.83151210432, 3.829111358249, -6.082321276911, 0.0452756928808,
         -0.3109835959051, 4.375577419003, 7.098067176027, 0.2648128311018],
        [2.005065386506, 13.52101915248, 4.268928313692, -6.220522810688, -0.1634318709976,
         -0.3659874384907, 3.602601283897, 7.209775895481, 0.2578794809338],
    ],
}  # fmt: skip


def uniform(name, shape):
    """Numbers from 0 to 1 that depend on a name alone; NumPy keeps this generator's stream for good."""
    return np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)


def state_dict(shapes):
    """A float64 tensor for every name: weights by their fan-in, statistics and normalisation around 0 and 1."""

    def tensor(name, shape):
        if len(shape) > 1:
            return (2 * uniform(name, shape) - 1) * np.sqrt(3 / np.prod(shape[1:]))
        return uniform(name, shape) + (0.5 if name.endswith(("running_var", "weight")) else -0.5)

    return {name: tensor(name, shape) for name, shape in shapes.items()}


def normalised_images():
    return 4 * uniform("images", (2, *SIZE, 3)) - 2


def summary(logits):
    return np.concatenate([logits[:, :8], logits.mean(1, keepdims=True)], 1)


@pytest.mark.parametrize("name", LOGITS)
def test_torchvision_gives_these_logits(name):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    network = getattr(torchvision.models, name)().double().eval()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items() if value.is_floating_point()}
    tensors = {key: torch.tensor(value) for key, value in state_dict(shapes).items()}
    assert network.load_state_dict(tensors, strict=False).unexpected_keys == []
    with torch.no_grad():
        logits = network(torch.tensor(normalised_images().transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(summary(logits.numpy()), LOGITS[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param("resnet18", jnp.float32, marks=pytest.mark.slow),
        ("resnet18", jnp.float64),
        pytest.param("resnet50", jnp.float64, marks=pytest.mark.slow),
        pytest.param("resnet50", jnp.float32, marks=pytest.mark.slow),
    ],
)
def test_the_same_weights_give_torchvisions_logits(name, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        model = getattr(jresnet, f"imagenet_{name}")(dtype=dtype, param_dtype=dtype)
        _, shapes = torch_weights.expected(model, SIZE, "torchvision")
        variables = torch_weights.from_state_dict(state_dict(shapes), model, SIZE)
        logits = model.apply(variables, jnp.asarray(normalised_images(), dtype), train=False)
    expected = np.array(LOGITS[name])
    tolerance = 1e-10 if dtype == jnp.float64 else 1e-5
    np.testing.assert_allclose(summary(np.asarray(logits)), expected, rtol=0, atol=tolerance * np.abs(expected).max())
