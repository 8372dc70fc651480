"""`jresnet convert`: weights between PyTorch's files and the directories of runs."""

import dataclasses
import os
import pathlib
from typing import ClassVar

import tyro.conf

from jresnet.cli.network import WeightsOptions
from jresnet.cli.program import make_console
from jresnet.data.checks import check_names
from jresnet.errors import InputError
from jresnet.models import torch_weights, weights_file
from jresnet.models.weights.torch_files import SUFFIXES
from jresnet.models.weights.torch_names import Layout
from jresnet.records.files import kind, local_path
from jresnet.use.classifier import Classifier, check_normalisation, class_names, is_file, refuse_for_run, store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(WeightsOptions):
    """Convert weights: from a PyTorch file or a run's directory to a PyTorch file or a new run's directory.

    Files hold a state dict with the names of kuangliu/pytorch-cifar, torchvision or, as a source, of
    weiaicunzai/pytorch-cifar100. Options of the network that are not given are those of the weights.
    """

    GROUP: ClassVar = "weights"

    source: tyro.conf.Positional[str]
    """A file, or a run's directory."""
    target: tyro.conf.Positional[str]
    """A file, by its suffix, or a directory to create, which jresnet.Classifier.load reads."""
    layout: Layout = "kuangliu"
    """Names of the tensors in a target file."""


def run(options: Options) -> None:
    """Convert the source; the target is written only once the weights have been read and checked."""
    source, target = local_path(options.source), local_path(options.target)
    to_run = _is_directory(options.target, target)
    options = dataclasses.replace(options, source=str(source), target=str(target))
    if not to_run:
        options.refuse(("mean", "std", "classes"), "only a target directory records it: leave it out")
    from_run = not is_file(source)
    if from_run and to_run:
        raise InputError(f"{options.target}: both are directories: copy the run, or name a file to write")
    if from_run:
        refuse_for_run(options.of_file)
        classifier = Classifier.load(options.source)
        state_dict = torch_weights.to_state_dict(
            classifier.variables, classifier.model, options.layout, classifier.image_size
        )
        torch_weights.save(options.target, state_dict)
    else:
        convert_file(options, to_run)
    make_console().out(options.target, highlight=False)


def _is_directory(given: str, target: pathlib.Path) -> bool:
    """Whether a target is a run's directory: one that exists, or a name without the suffix of a file of weights."""
    return kind(target) == "directory" or given.endswith(os.sep) or target.suffix.lower() not in SUFFIXES


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
    image_size = weights.image_size
    if to_run:
        classes, mean, std = class_names(options.classes, weights), options.mean or (), options.std or ()
        store(options.target, weights.config, weights.variables(), classes, image_size, mean, std)
    else:
        tensors = torch_weights.relayout(weights.state_dict, weights.network, options.layout, image_size)
        torch_weights.save(options.target, tensors)
    weights.announce()
