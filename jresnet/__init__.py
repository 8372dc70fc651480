"""A small-image ResNet in pure JAX: train it, believe it, build on it.

dataset = jresnet.load_dataset("cifar10")
result = jresnet.fit(jresnet.Config(width=42, epochs=100), dataset, "runs/mine")
probabilities = jresnet.Classifier.load("runs/mine").predict(dataset.test.images)
model = jresnet.resnet18(num_classes=10, width=42)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jresnet.config import Config
    from jresnet.data.datasets import Dataset, Split, load_dataset
    from jresnet.errors import Diverged, InputError, Interrupted, Lost
    from jresnet.models import (
        BasicBlock,
        Bottleneck,
        PreactBlock,
        ResNet,
        imagenet_resnet18,
        imagenet_resnet50,
        preact_resnet18,
        resnet18,
        resnet20,
        resnet32,
        resnet34,
        resnet44,
        resnet50,
        resnet56,
        resnet101,
        resnet110,
        resnet152,
        resnet_se443,
        torch_weights,
        wide_resnet16_8,
        wide_resnet28_10,
    )
    from jresnet.train.loop import Result, fit
    from jresnet.train.step import TrainState, make_eval_step, make_train_step
    from jresnet.use.classifier import Classifier

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "Classifier",
    "Config",
    "Dataset",
    "Diverged",
    "InputError",
    "Interrupted",
    "Lost",
    "PreactBlock",
    "ResNet",
    "Result",
    "Split",
    "TrainState",
    "fit",
    "imagenet_resnet18",
    "imagenet_resnet50",
    "load_dataset",
    "make_eval_step",
    "make_train_step",
    "preact_resnet18",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnet_se443",
    "torch_weights",
    "wide_resnet16_8",
    "wide_resnet28_10",
]

_HOMES = {
    "Config": "config",
    "Dataset": "data.datasets",
    "Split": "data.datasets",
    "load_dataset": "data.datasets",
    "Diverged": "errors",
    "InputError": "errors",
    "Interrupted": "errors",
    "Lost": "errors",
    "Result": "train.loop",
    "fit": "train.loop",
    "Classifier": "use.classifier",
    "TrainState": "train.step",
    "make_eval_step": "train.step",
    "make_train_step": "train.step",
}


def __getattr__(name: str) -> Any:
    """Import what a public name stands for when it is first used: JAX, Flax and Orbax together take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "torch_weights":
        return importlib.import_module("jresnet.models.torch_weights")
    value = getattr(importlib.import_module(f"jresnet.{_HOMES.get(name, 'models')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names beside what is there already."""
    return sorted({*globals(), *__all__})
