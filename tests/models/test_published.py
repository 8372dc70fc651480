"""Weights as published code saves them: recognised by names and shapes, the same probabilities as in PyTorch."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import jresnet
from jresnet import models
from jresnet.cli import commands
from jresnet.config import Config
from jresnet.models import torch_weights
from jresnet.models.weights import recognise

torch = pytest.importorskip("torch")

from tests.support import published  # noqa: E402

MEAN, STD = 0.4, 0.25


@dataclasses.dataclass(frozen=True)
class Case:
    """A published network, and options by which `--model` describes it with `BLOCKS` and `WIDTH`."""

    network: Any
    read: dict[str, Any]
    given: dict[str, Any] = dataclasses.field(default_factory=dict)  # of them, those that no name or shape tells
    size: tuple[int, int] = (32, 32)
    epsilon: float = 1e-5
    prefix: str = ""


BLOCKS, WIDTH = (1, 1), 4
PLAIN = {"model": "resnet18", "pool_size": 0}
SMALL_POOL, EPSILON = {"stem": "small-pool"}, {"epsilon": 1e-3}
CASES = {
    "chenyaofo": Case(published.chenyaofo, {"model": "resnet20", "shortcut": "projection"}),
    "akamaster": Case(published.akamaster, {"model": "resnet20"}, prefix="module."),
    "epsilon": Case(published.akamaster, {"model": "resnet20", **EPSILON}, EPSILON, epsilon=1e-3),
    "huyvnphan": Case(published.huyvnphan, PLAIN | SMALL_POOL, SMALL_POOL),
    "medmnist": Case(partial(published.medmnist, channels=3), PLAIN, size=(28, 28)),
    "medmnist gray": Case(published.medmnist, PLAIN, size=(28, 28)),
    "weiaicunzai": Case(published.weiaicunzai, PLAIN),
    "weiaicunzai bottleneck": Case(partial(published.weiaicunzai, bottleneck=True), PLAIN | {"model": "resnet50"}),
}
VARIATIONS = ("medmnist", "weiaicunzai bottleneck")


def images(case, gray):
    """Four, of different brightness."""
    rng, levels = np.random.default_rng(0), np.array([0, 50, 100, 150])[:, None, None, None]
    drawn = (levels + rng.integers(0, 106, (4, *case.size, 1 if gray else 3))).astype(np.uint8)
    return np.repeat(drawn, 3, 3) if gray else drawn


def probabilities(network, pixels):
    """PyTorch's, of uint8 images [n, height, width, channels], normalised."""
    scaled = (pixels / 255 - MEAN) / STD
    with torch.no_grad():
        logits = network(torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32))
    return logits.softmax(1).numpy()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in VARIATIONS else ()) for name in CASES]
)
def test_published_weights_are_recognised_and_compute_what_pytorch_does(name):
    case = CASES[name]
    network = published.drawn(case.network(BLOCKS, WIDTH), case.epsilon)
    state_dict = published.as_saved(network, case.prefix)
    found = recognise.recognise(torch_weights.shapes_of(state_dict), case.size, case.given.get("stem"))
    model = models.from_config(dataclasses.replace(found, **case.given), torch_weights.classes_of(state_dict))
    read = Config(**case.read, blocks=BLOCKS, width=WIDTH)
    assert model == models.from_config(read, torch_weights.classes_of(state_dict))

    variables = torch_weights.from_state_dict(state_dict, model, case.size)
    pixels, gray = images(case, name.endswith("gray")), name.endswith("gray")
    scaled = ((pixels / 255 - MEAN) / STD).astype(np.float32)
    logits = jax.jit(partial(model.apply, train=False))(variables, scaled)
    expected = probabilities(network, pixels[..., :1] if gray else pixels)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=0, atol=1e-5)
    assert expected.std(0).max() > 1e-3  # the images differ in PyTorch's eyes
    if case.given:
        without = published.drawn(case.network(BLOCKS, WIDTH))
        without.maxpool = torch.nn.Identity()
        assert np.abs(probabilities(without, pixels) - expected).max() > 1e-4  # the option makes a difference


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_full_ones_become_runs_with_the_same_probabilities(name, tmp_path, capsys):
    case = CASES[name]
    network = published.drawn(case.network(), case.epsilon)
    path, directory = tmp_path / "weights.pth", tmp_path / "lr0.01"
    torch.save({"state_dict": published.as_saved(network, case.prefix), "best_prec1": 91.0}, path)
    words = ["--image-size", *case.size, "--mean", *[MEAN] * 3, "--std", *[STD] * 3]
    for option, value in case.given.items():
        words += [f"--{option}", value]
    assert commands.main(["convert", str(path), str(directory), *map(str, words)]) == 0, capsys.readouterr().err
    assert f"{path}: read as {case.read['model']}" in capsys.readouterr().err
    pixels, gray = images(case, name.endswith("gray")), name.endswith("gray")
    ours = jresnet.Classifier.load(directory).predict(pixels)
    np.testing.assert_allclose(ours, probabilities(network, pixels[..., :1] if gray else pixels), rtol=0, atol=1e-5)
