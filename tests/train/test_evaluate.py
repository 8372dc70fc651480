"""Evaluation: the same bits however it is cut into calls, and images that fit the device are copied there once."""

import chex
import jax
import numpy as np
import pytest

from jresnet import models
from jresnet.data.datasets import Split
from jresnet.models import init_fn
from jresnet.parallel.devices import Devices
from jresnet.train import evaluate
from jresnet.train.evaluate import Evaluator, Outputs
from tests.support.runs import CONFIG

STATISTICS = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
IMAGES = 45


@pytest.fixture(scope="module")
def network():
    model = models.from_config(CONFIG, 3)
    variables = jax.jit(init_fn(model))(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    return model, variables


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, IMAGES).astype(np.int32)
    return Split(rng.integers(0, 256, (IMAGES, 8, 8, 3), np.uint8), labels)


@pytest.fixture
def evaluator(network, monkeypatch):
    """In steps of 4 images, 12 for the split, that records the calls' (first, last) and counts copies to the device."""
    monkeypatch.setattr(evaluate, "EVAL_BATCH_SIZE", 4)
    evaluator = Evaluator(network[0], STATISTICS, Devices(CONFIG))
    program, split = evaluator.program, evaluator.devices.split
    evaluator.calls, evaluator.copies = [], 0

    def call(*arguments):
        evaluator.calls.append(arguments[-2:])
        return program(*arguments)

    def copy(arrays):
        evaluator.copies += 1
        return split(arrays)

    call.lower = program.lower
    evaluator.program = call
    monkeypatch.setattr(evaluator.devices, "split", copy)
    return evaluator


def expected(network, split) -> Outputs:
    """All images at once, in float64 after the logits."""
    model, variables = network
    mean, std = np.float32(STATISTICS)
    images = (split.images.astype(np.float32) / np.float32(255) - mean) / std
    logits = np.asarray(model.apply(variables, images, train=False), np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Outputs(-np.log(softmax[np.arange(IMAGES), split.labels]), softmax.argmax(1), softmax.max(1))


def assert_right(outputs, network, split):
    assert [output.dtype for output in outputs] == [np.float32, np.int32, np.float32]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), outputs, expected(network, split))


def test_images_that_fit_are_copied_once_and_calls_grow_to_a_second(evaluator, network, split):
    first = evaluator(network[1], split, lambda seconds: 0.0)
    assert_right(first, network, split)
    assert evaluator.calls == [(0, 1), (1, 5), (5, 12)]
    compiled = evaluator.compile_seconds
    second = evaluator(network[1], split, lambda seconds: 2.0)
    # Twice as long as a call should take: the next has half the steps, and so on.
    assert evaluator.calls[3:] == [(0, 12)]
    third = evaluator(network[1], split, lambda seconds: 2.0)
    assert evaluator.calls[4:] == [(0, 6), (6, 9), (9, 10), (10, 11), (11, 12)]
    assert evaluator.copies == 1
    assert evaluator.compile_seconds == compiled > 0, "the shape is compiled once, and timed apart"
    chex.assert_trees_all_equal(first, second, third)


def test_images_that_do_not_fit_are_copied_in_each_evaluation(evaluator, network, split, monkeypatch):
    monkeypatch.setattr(evaluate, "fits_on_device", lambda split: False)
    monkeypatch.setattr(evaluate, "STREAMED_IMAGES", 16)
    streamed = [evaluator(network[1], split) for _ in range(2)]
    assert evaluator.copies == 6 and len(evaluator.calls) >= 6
    monkeypatch.undo()
    monkeypatch.setattr(evaluate, "EVAL_BATCH_SIZE", 4)
    resident = Evaluator(network[0], STATISTICS, Devices(CONFIG))(network[1], split)
    chex.assert_trees_all_equal(*streamed, resident)
    assert_right(resident, network, split)


def test_a_stop_during_an_evaluation_comes_after_one_call(evaluator, network, split):
    def stop(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(network[1], split, stop)
    assert evaluator.calls == [(0, 1)]
