"""`python -m jresnet convert`: weights between PyTorch's files and the directories of runs."""

import dataclasses
import logging
import os
import pathlib

import tyro.conf

from jresnet import models
from jresnet.cli.network import NetworkOptions
from jresnet.cli.program import make_console
from jresnet.config import FLOAT32_SMALLEST, Config, Model, require
from jresnet.data.checks import check_names
from jresnet.errors import InputError
from jresnet.models import torch_weights
from jresnet.models.weights import recognise
from jresnet.models.weights.recognise import OPTIONS
from jresnet.models.weights.tensors import check_values
from jresnet.models.weights.torch_files import SUFFIXES
from jresnet.models.weights.torch_names import Layout, Shapes
from jresnet.records.files import local_path
from jresnet.use.classifier import Classifier, store

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(NetworkOptions):
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


def run(options: Convert) -> None:
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


def convert_file(options: Convert, to_run: bool) -> None:
    """Convert a file of weights, to a run's directory if `to_run`, else to another file."""
    if to_run and (options.mean is None or options.std is None):
        raise InputError(
            "--mean and --std: a run's directory needs the normalisation that the weights were trained with: "
            "give both, as in --mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616"
        )
    within = all(0 <= value <= 1 for value in options.mean or ())
    require(options, "mean", within, "must be numbers from 0 to 1, the scale of the images")
    within = all(FLOAT32_SMALLEST <= value <= 1 for value in options.std or ())
    require(options, "std", within, "must be numbers above 0 and at most 1, also in 32 bits (1.2e-38)")
    try:
        check_names(options.classes or ())
    except InputError as error:
        raise InputError(f"--classes: {error}") from None
    state_dict = torch_weights.load(options.source, options.key)
    check_values(options.source, state_dict, strict=to_run)
    count = torch_weights.classes_of(state_dict)
    if to_run and count < 2:
        rule = f"its network has {count} class, and one in a run's directory has at least 2"
        raise InputError(f"{options.source}: {rule}: name a file as the target, or give weights of more classes")
    config = choose(options, torch_weights.shapes_of(state_dict))
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
    assumed = ", ".join(recognise.assumptions(network, image_size, options.given))
    _log.warning(
        f"{options.source}: read as {recognise.as_words(config)}"
        + (f"; assumed, as names and shapes do not tell it: {assumed}" if assumed else "")
    )


def choose(options: Convert, shapes: Shapes) -> Config:
    """The network of a file's tensors: as the options say, and where they are silent as the shapes do.

    Of a network given by name, only the kind of shortcut and pooling of the whole map are taken from the shapes. A
    number of pooled cells above one is never taken from them, as images of another size would give it too.
    """
    found = recognise.recognise(shapes, options.image_size, options.stem, options.model)
    if found is None:
        return options.config(options.model or "resnet18")
    names = ("shortcut", "pool_size") if options.model else OPTIONS
    told = {name: value for name in names if (value := getattr(found, name)) is not None}
    if told.get("pool_size"):
        del told["pool_size"]
    return Config(model=found.model, **(told | options.given))
