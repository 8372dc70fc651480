"""`python -m jresnet convert`: weights between PyTorch's files and the directories of runs."""

import dataclasses
import math
import pathlib

import tyro.conf

from jresnet import models
from jresnet.cli.network import NetworkOptions
from jresnet.cli.program import make_console
from jresnet.config import Model, require
from jresnet.errors import InputError
from jresnet.models import torch_weights
from jresnet.models.tensors import check_values
from jresnet.models.torch_weights import Layout
from jresnet.use.classifier import Classifier, store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(NetworkOptions):
    """Convert weights: from a PyTorch file or a run's directory to a PyTorch file or a new run's directory.

    Files end in .pth, .pt or .safetensors and hold a state dict in kuangliu/pytorch-cifar's or torchvision's layout.
    """

    source: tyro.conf.Positional[str]
    """A file, or a run's directory."""
    target: tyro.conf.Positional[str]
    """A file, or a directory to create, which jresnet.Classifier.load reads."""
    layout: Layout = "kuangliu"
    """Names of the tensors in a target file."""
    key: str | None = None
    """Where a source file holds several state dicts: the dotted path of one in it, as model_ema."""
    model: Model | None = None
    """Network that a source file belongs to (default: resnet18); --width and the like describe it further."""
    mean: tuple[float, float, float] | None = None
    """For a target directory: mean of each channel that the images were normalised with, on a scale of 0 to 1."""
    std: tuple[float, float, float] | None = None
    """For a target directory: standard deviation of each channel, on the same scale."""
    classes: tuple[str, ...] | None = None
    """For a target directory: names of the classes (default: 0 1 2 ...)."""


def run(options: Convert) -> None:
    """Convert the source; the target is written only once the weights have been read and checked."""
    from_run, to_run = pathlib.Path(options.source).is_dir(), not pathlib.Path(options.target).suffix
    for name in ("mean", "std", "classes"):
        holds = to_run or getattr(options, name) is None
        require(options, name, holds, "only a target directory records it: leave it out")
    require(options, "key", not from_run or options.key is None, "only in a file there are several: leave it out")
    for name in ("model", "width", "blocks", "kernel_size", "pool_size", "image_size"):
        holds = not from_run or getattr(options, name) is None
        require(options, name, holds, "the run's own record says it: leave it out")
    if from_run and to_run:
        raise InputError(f"{options.target}: both are directories: copy the run, or name a file to write")
    if from_run:
        classifier = Classifier.load(options.source)
        state_dict = torch_weights.to_state_dict(
            classifier.variables, classifier.model, options.layout, classifier.image_size
        )
        torch_weights.save(options.target, state_dict)
    else:
        convert_file(options, to_run)
    make_console().print(options.target, markup=False, emoji=False, highlight=False, soft_wrap=True)


def convert_file(options: Convert, to_run: bool) -> None:
    """Convert a file of weights, to a run's directory if `to_run`, else to another file."""
    if to_run and (options.mean is None or options.std is None):
        raise InputError(
            "--mean and --std: a run's directory needs the normalisation that the weights were trained with: "
            "give both, as in --mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616"
        )
    usable = all(0 < value < math.inf for value in options.std or ())
    require(options, "std", usable, "must be finite numbers above 0")
    config = options.config(options.model or "resnet18")
    state_dict = torch_weights.load(options.source, options.key)
    check_values(options.source, state_dict, strict=to_run)
    count = torch_weights.classes_of(state_dict)
    classes = options.classes or tuple(map(str, range(count)))
    require(options, "classes", len(classes) == count, f"the weights have {count} classes: give {count} names")
    network = models.from_config(config, count)
    image_size = options.size(network)
    models.check_network(config, count, image_size)
    if to_run:
        variables = torch_weights.from_state_dict(state_dict, network, image_size)
        store(options.target, config, variables, classes, image_size, options.mean or (), options.std or ())
    else:
        torch_weights.save(options.target, torch_weights.relayout(state_dict, network, options.layout, image_size))
