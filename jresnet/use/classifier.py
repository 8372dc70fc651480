"""A trained network as its users want it: images in, probabilities out."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jresnet import models
from jresnet.config import Config
from jresnet.data.augment import normalise
from jresnet.errors import InputError
from jresnet.parallel.compiler import compiler_options
from jresnet.records import run_directory
from jresnet.train import optim
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.programs import init_program
from jresnet.train.trainer import restored

# Where weights come from elsewhere: what stands for the experiment in the run's record.
CONVERTED = "converted"
# Images per call; fewer are padded to the next power of two, so that few shapes are ever compiled.
MOST_IMAGES = 256


class Classifier:
    """A network with its parameters, its class names and the normalisation it was trained with.

    Attributes:
      model: the network.
      classes: names, in the order of the probabilities.
      image_size: (height, width) of the images it was trained on, in pixels.
      variables: `params` and `batch_stats` of `model`.
    """

    def __init__(self, model: models.ResNet, variables: Any, run: dict):
        self.model, self.variables = model, variables
        self.classes: tuple[str, ...] = tuple(run["classes"])
        self.image_size: tuple[int, int] = (run["image_size"][0], run["image_size"][1])

        def probabilities(variables, images):
            logits: jax.Array = model.apply(variables, normalise(images, run["mean"], run["std"]), train=False)  # type: ignore[assignment]
            return jax.nn.softmax(logits)

        self._probabilities = jax.jit(probabilities, compiler_options=compiler_options())

    @classmethod
    def load(cls, workdir: str | os.PathLike) -> "Classifier":
        """Load the network of the latest checkpoint in a run's directory, finished or not.

        Raises:
          InputError: the directory holds no run, no checkpoint, or a damaged one.
        """
        directory = pathlib.Path(workdir)
        run = run_directory.read_json(directory / run_directory.CONFIG)
        names = {field.name for field in dataclasses.fields(Config)}
        missing = {"config", "classes", "image_size", "mean", "std"} - run.keys()
        if missing or not names >= run["config"].keys():
            raise InputError(f"{directory / run_directory.CONFIG}: not a record of a run: choose a run's directory")
        config = run_directory.config_of(run)
        model = models.from_config(config, len(run["classes"]))
        # Neither seed nor number of steps changes the shapes.
        program = init_program(model, optim.shared_optimizer(config, 1), (*run["image_size"], 3))
        shapes = jax.eval_shape(program, 0, config.learning_rate, config.weight_decay)
        with Checkpoints(directory / run_directory.CHECKPOINTS, read_only=True) as checkpoints:
            steps = checkpoints.steps()
            if not steps:
                raise InputError(f"{directory}: this run has no checkpoint yet: let it train for an epoch first")
            (state, _), _ = restored(checkpoints, steps[-1], shapes)
        return cls(model.clone(conv_general_dilated_cls=models.conv_for(jax.default_backend())), state.variables, run)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of the classes.

        Args:
          images: uint8 [n, height, width, 3], of `image_size`, not normalised.

        Returns:
          float32 [n, classes], each row adding up to 1.

        Raises:
          InputError: other shapes or another dtype.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*self.image_size, 3):
            height, width = self.image_size
            raise InputError(
                f"images are {images.dtype} of shape {images.shape}: "
                f"give uint8 of shape (n, {height}, {width}, 3), from 0 to 255"
            )
        pieces = [self._piece(images[start : start + MOST_IMAGES]) for start in range(0, len(images), MOST_IMAGES)]
        return np.concatenate([np.empty((0, len(self.classes)), np.float32), *pieces])

    def _piece(self, images: np.ndarray) -> np.ndarray:
        size = 1 << (len(images) - 1).bit_length()
        padded = np.pad(images, [(0, size - len(images)), (0, 0), (0, 0), (0, 0)])
        return np.asarray(self._probabilities(self.variables, padded))[: len(images)]


def store(
    directory: str | os.PathLike, config: Config, variables: Any, classes: Sequence[str],
    image_size: tuple[int, int], mean: Sequence[float], std: Sequence[float],
) -> None:  # fmt: skip
    """Write weights that were made elsewhere as a run's directory, from which `Classifier.load` reads them.

    Args:
      directory: made if need be; empty so far.
      config: the network they belong to.
      variables: `params` and `batch_stats` of that network, float32.
      classes: names, in the order of the logits.
      image_size: (height, width) of the images in pixels.
      mean: of each colour channel, on the scale 0..1, as the images were normalised in training.
      std: likewise, the standard deviation.

    Raises:
      InputError: the directory holds something already, or cannot be written.
    """
    place = pathlib.Path(directory)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place}: is there already: choose a new directory")
    program = init_program(
        models.from_config(config, len(classes)), optim.shared_optimizer(config, 1), (*image_size, 3)
    )
    state, sums = program(0, config.learning_rate, config.weight_decay)
    state = state.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    run = {
        "experiment": CONVERTED, "seed": 0, "config": vars(models.explicit(config)),
        "dataset": {"name": CONVERTED}, "classes": list(classes), "image_size": list(image_size),
        "mean": list(mean), "std": list(std),
    }  # fmt: skip
    try:
        with Checkpoints(place / run_directory.CHECKPOINTS) as checkpoints:
            checkpoints.save(0, jax.tree.map(jnp.copy, (state, sums)), {"seconds": 0.0})
        run_directory.claim(place, run)
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error.strerror}): choose another place") from None
