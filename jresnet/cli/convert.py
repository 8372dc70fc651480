"""`python -m jresnet convert`: weights between PyTorch's files and the directories of runs."""

import dataclasses
import os
import pathlib

import tyro.conf

from jresnet.cli.network import NetworkOptions
from jresnet.cli.program import make_console
from jresnet.config import Model, require
from jresnet.data.checks import check_names
from jresnet.errors import InputError
from jresnet.models import torch_weights, weights_file
from jresnet.models.weights.recognise import OPTIONS
from jresnet.models.weights.torch_files import SUFFIXES
from jresnet.models.weights.torch_names import Layout
from jresnet.records.files import local_path
from jresnet.use.classifier import Classifier, check_normalisation, store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """Convert weights: from a PyTorch file or a run's directory to a PyTorch file or a new run's directory.

    Files hold a state dict with the names of kuangliu/pytorch-cifar, torchvision or, as a source, of
    weiaicunzai/pytorch-cifar100. Options of the network that are not given are those of the weights.
    """

    source: tyro.conf.Positional[str]
    """A file, or a run's directory."""
    target: tyro.conf.Positional[str]
    """A file, by its suffix, or a directory to create, which jresnet.Classifier.load reads."""
    layout: Layout = "kuangliu"
    """Names of the tensors in a target file."""
    key: str | None = None
    """Where a source file holds several state dicts: the dotted path of one in it, as model_ema."""
    model: Model | None = None
    """Network that a source file belongs to (default: the one that fits); --width and the like describe it further."""
    mean: tuple[float, float, float] | None = None
    """For a target directory: mean of each channel that the images were normalised with, on a scale of 0 to 1."""
    std: tuple[float, float, float] | None = None
    """For a target directory: standard deviation of each channel, on the same scale."""
    classes: tuple[str, ...] | None = None
    """For a target directory: names of the classes (default: 0 1 2 ...)."""


def run(options: Options) -> None:
    """Convert the source; the target is written only once the weights have been read and checked."""
    source, target = local_path(options.source), local_path(options.target)
    from_run, to_run = source.is_dir(), _is_directory(options.target, target)
    options = dataclasses.replace(options, source=str(source), target=str(target))
    for name in ("mean", "std", "classes"):
        holds = to_run or getattr(options, name) is None
        require(options, name, holds, "only a target directory records it: leave it out")
    require(options, "key", not from_run or options.key is None, "only in a file there are several: leave it out")
    for name in ("model", *OPTIONS, "image_size"):
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


def _is_directory(given: str, target: pathlib.Path) -> bool:
    """Whether a target is a run's directory: one that exists, or a name without the suffix of a file of weights."""
    return given.endswith(os.sep) or target.suffix.lower() not in SUFFIXES or target.is_dir()


def convert_file(options: Options, to_run: bool) -> None:
    """Convert a file of weights, to a run's directory if `to_run`, else to another file."""
    if to_run:
        check_normalisation(options.mean, options.std)
    try:
        check_names(options.classes or ())
    except InputError as error:
        raise InputError(f"--classes: {error}") from None
    weights = weights_file.read(
        options.source, options.key, options.model, options.image_size, options.given, strict=to_run
    )
    count, image_size = weights.num_classes, weights.image_size
    classes = options.classes or tuple(map(str, range(count)))
    require(options, "classes", len(classes) == count, f"the weights have {count} classes: give {count} names")
    if to_run:
        mean, std = options.mean or (), options.std or ()
        store(options.target, weights.config, weights.variables(), classes, image_size, mean, std)
    else:
        tensors = torch_weights.relayout(weights.state_dict, weights.network, options.layout, image_size)
        torch_weights.save(options.target, tensors)
    weights.announce()
