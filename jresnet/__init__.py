"""A small-image ResNet in pure JAX: train it, believe it, build on it.

dataset = jresnet.load_dataset("cifar10")
result = jresnet.fit(jresnet.Config(width=42, epochs=100), dataset, "runs/mine")
probabilities = jresnet.Classifier.load("runs/mine").predict(dataset.test.images)
model = jresnet.resnet18(num_classes=10, width=42)
"""

from jresnet import torch_weights
from jresnet.config import Config
from jresnet.datasets import Dataset, Split, load_dataset
from jresnet.errors import Diverged, InputError, Interrupted
from jresnet.loop import Result, fit
from jresnet.models import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from jresnet.serving import Classifier
from jresnet.state import TrainState
from jresnet.step import make_eval_step, make_train_step

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "Classifier",
    "Config",
    "Dataset",
    "Diverged",
    "InputError",
    "Interrupted",
    "ResNet",
    "Result",
    "Split",
    "TrainState",
    "fit",
    "load_dataset",
    "make_eval_step",
    "make_train_step",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "torch_weights",
]
