"""Small-image ResNets in JAX and Flax, with exact resume and PyTorch weights.

dataset = jresnet.load_dataset("cifar10")
result = jresnet.fit(jresnet.Config(width=42, epochs=100), dataset, "runs/mine")
probabilities = jresnet.Classifier.load("runs/mine").predict(dataset.test.images)
model = jresnet.resnet18(num_classes=10, width=42)
"""

# ruff: noqa: F401, F403 - the imports below are for type checkers and `__all__`
import importlib
from typing import TYPE_CHECKING, Any, get_args

from jresnet.config import Config, Model, Source
from jresnet.errors import CannotWrite, Diverged, InputError, Interrupted, InUse, Lost

if TYPE_CHECKING:
    from jresnet import torch_weights
    from jresnet.data.datasets import Dataset, Split, load_dataset
    from jresnet.models import BasicBlock, Bottleneck, PreactBlock, ResNet, conv_for
    from jresnet.models.variants import *
    from jresnet.records.result import Result
    from jresnet.train.loop import fit
    from jresnet.train.state import TrainState
    from jresnet.train.step import StepOptions, make_eval_step, make_train_step
    from jresnet.use.classifier import Classifier
    from jresnet.use.evaluation import Evaluation, evaluate
    from jresnet.use.export.artifact import export

# Imported at their first use, as JAX, Flax and Orbax together take seconds.
_LAZY = {
    "data.datasets": ("Dataset", "Split", "load_dataset"),
    "models": ("BasicBlock", "Bottleneck", "PreactBlock", "ResNet", "conv_for", *get_args(Model)),
    "records.result": ("Result",),
    "train.loop": ("fit",),
    "train.state": ("TrainState",),
    "train.step": ("StepOptions", "make_eval_step", "make_train_step"),
    "use.classifier": ("Classifier",),
    "use.evaluation": ("Evaluation", "evaluate"),
    "use.export.artifact": ("export",),
}
_MODULES = {name: f"jresnet.{module}" for module, names in _LAZY.items() for name in names}

__all__ = [
    "CannotWrite",
    "Config",
    "Diverged",
    "InUse",
    "InputError",
    "Interrupted",
    "Lost",
    "Source",
    "torch_weights",
    *_MODULES,
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "torch_weights":
        return importlib.import_module("jresnet.torch_weights")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    """The names defined so far and the public ones."""
    return sorted({*globals(), *__all__})
