"""A file of weights, and the network of the family that they fit."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jresnet.config import Config, Model
from jresnet.errors import InputError
from jresnet.models import torch_weights
from jresnet.models.build import check_network, from_config, usual_image_size
from jresnet.models.resnet import ResNet
from jresnet.models.weights import recognise
from jresnet.models.weights.recognise import OPTIONS, check_fit
from jresnet.models.weights.tensors import check_values
from jresnet.models.weights.torch_names import Shapes

_log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """The weights in a file.

    Attributes:
      path: of the file.
      state_dict: tensors by name, as in the file.
      config: the configuration of their network; only its options of the network are set.
      network: that network.
      num_classes: its number of classes.
      image_size: (height, width) of its images in pixels.
      assumed: what the weights do not tell of the network, in words.
    """

    path: str
    state_dict: Mapping[str, Any]
    config: Config
    network: ResNet
    num_classes: int
    image_size: tuple[int, int]
    assumed: Sequence[str]

    def variables(self) -> Any:
        """The network's `params` and `batch_stats`, float32."""
        return torch_weights.from_state_dict(self.state_dict, self.network, self.image_size)

    def announce(self) -> None:
        """Say in a warning as which network the weights were read, and what was assumed of it."""
        _log.warning(
            f"{self.path}: read as {recognise.as_words(self.config)}"
            + (f"; assumed, as names and shapes do not tell it: {', '.join(self.assumed)}" if self.assumed else "")
        )


def read(
    path: str, key: str | None = None, model: Model | None = None, image_size: tuple[int, int] | None = None,
    given: Mapping[str, Any] | None = None, strict: bool = True,
) -> Weights:  # fmt: skip
    """Read a file of weights, and find the network that they fit.

    Args:
      path: of a file of PyTorch or a .safetensors file.
      key: where the file holds several state dicts, the dotted path of one.
      model: the network that they belong to; None: the one that fits.
      image_size: (height, width) of the images in pixels; None: as usual for the network.
      given: options of the network by their names in `Config`, which replace what the weights tell.
      strict: refuse values that no network computes with, and fewer than two classes; else they are only copied.

    Raises:
      InputError: it cannot be read, is damaged, or fits no network of the family, or not the one that is asked for.
    """
    given = given or {}
    state_dict = torch_weights.load(path, key)
    check_values(path, state_dict, strict=strict)
    num_classes = torch_weights.classes_of(state_dict)
    if strict and num_classes < 2:
        rule = f"its network has {num_classes} class, and a classifier has at least 2"
        raise InputError(f"{path}: {rule}: give weights of more classes")
    config = _choose(torch_weights.shapes_of(state_dict), model, image_size, given)
    network = from_config(config, num_classes)
    size = image_size or usual_image_size(network)
    check_network(config, num_classes, size)
    check_fit(torch_weights.shapes_of(state_dict), network, size)
    return Weights(path, state_dict, config, network, num_classes, size, recognise.assumptions(network, size, given))


def _choose(
    shapes: Shapes, model: Model | None, image_size: tuple[int, int] | None, given: Mapping[str, Any]
) -> Config:
    """The network of a file's tensors: as the options say, and where they are silent as the shapes do.

    Of a network given by name, only the kind of shortcut and pooling of the whole map are taken from the shapes. A
    number of pooled cells above one is never taken from them, as images of another size would give it too.
    """
    found = recognise.recognise(shapes, image_size, given.get("stem"), model)
    if found is None:
        return Config(**{"model": model or "resnet18"} | dict(given))
    names = ("shortcut", "pool_size") if model else OPTIONS
    told = {name: value for name in names if (value := getattr(found, name)) is not None}
    if told.get("pool_size"):
        del told["pool_size"]
    return Config(**{"model": found.model} | told | dict(given))
