"""`Classifier`: a trained network with its normalisation and class names."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jresnet import models
from jresnet.config import FLOAT32_SMALLEST, Config, Model, as_typed
from jresnet.data.augment import normalise
from jresnet.data.checks import check_names
from jresnet.data.images.resize import resized
from jresnet.data.mapped import Images, MappedImages
from jresnet.data.pipeline import pad_rows
from jresnet.errors import InputError
from jresnet.models import weights_file
from jresnet.parallel.compiler import compiler_options
from jresnet.records import environment, run_directory
from jresnet.records.files import local_path
from jresnet.records.lock import hold
from jresnet.records.run import Data, Run
from jresnet.train import optim
from jresnet.train.checkpoint import Checkpoints, Meta
from jresnet.train.restore import restore
from jresnet.train.trainer import init_program

# Recorded as experiment and data set of weights that no run has trained.
CONVERTED = "converted"
# Images per call; smaller batches are padded to a power of two, so that few shapes are compiled.
MAX_BATCH_SIZE = 256


class Classifier:
    """A network with its parameters, class names, and the normalisation it was trained with.

    >>> import tempfile, jresnet
    >>> dataset = jresnet.load_dataset("synthetic").subset(train=64, test=32)
    >>> config = jresnet.Config(width=2, blocks=(1,), pool_size=8, epochs=1, batch_size=32)
    >>> workdir = tempfile.mkdtemp()
    >>> result = jresnet.fit(config, dataset, workdir)
    >>> jresnet.Classifier.load(workdir).predict(dataset.test.images).shape
    (32, 10)

    Args:
      model: the network.
      variables: its `params` and `batch_stats`.
      run: the run that trained it, for class names, image size and normalisation.

    Attributes:
      classes: class names, in the order of the probabilities.
      image_size: (height, width) of the training images in pixels.
    """

    def __init__(self, model: models.ResNet, variables: Any, run: Run):
        self.model, self.variables = model, variables
        self.classes, self.image_size, self._config = run.classes, run.image_size, run.config

        fast = model.clone(conv_general_dilated_cls=models.conv_for(jax.default_backend()))

        def probabilities(variables: Any, images: jax.Array) -> jax.Array:
            logits: jax.Array = fast.apply(variables, normalise(images, run.mean, run.std), train=False)  # type: ignore[assignment]
            return jax.nn.softmax(logits)

        self._probabilities = jax.jit(probabilities, compiler_options=compiler_options())

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None, key: str | None = None, model: Model | None = None,
        image_size: tuple[int, int] | None = None, best: bool = False, **network: Any,
    ) -> "Classifier":  # fmt: skip
        """Load the newest sound checkpoint of a run, finished or not, or a file of weights.

        Args:
          path: a run's directory, whose damaged checkpoints are named in a warning; or a file of PyTorch or a
            .safetensors file, for which alone the other arguments are.
          mean, std: of each colour channel on a scale of 0 to 1, with which training normalised the images; must be
            given for a file.
          classes: class names in the order of the logits; None: "0", "1", ...
          key: where the file holds several state dicts, the dotted path of one.
          model: the network that the weights belong to; None: the one that fits.
          image_size: (height, width) of the images in pixels; None: as usual for the network.
          best: load the checkpoint of the run's best epoch, which `keep_best` has kept, not the newest.
          **network: options of the network by their names in `Config`, which replace what the weights tell.

        Raises:
          InputError: there is no run, no sound checkpoint, or no file of weights of a network of the family.
        """
        place = local_path(path)
        if place.is_dir() or not place.exists():
            trained = restore(place, best)
            return cls(trained.network, trained.variables, trained.run)
        mean, std = check_normalisation(mean, std)
        weights = weights_file.read(str(place), key, model, image_size, network)
        names = tuple(classes or map(str, range(weights.num_classes)))
        if len(names) != weights.num_classes:
            raise InputError(f"--classes: {place} has {weights.num_classes} classes: give as many names")
        run = described(weights.config, names, weights.image_size, mean, std)
        classifier = cls(weights.network, weights.variables(), run)
        weights.announce()
        return classifier

    def predict(self, images: Images | Sequence[np.ndarray]) -> np.ndarray:
        """Class probabilities.

        Args:
          images: uint8 [n, height, width, 3], or n arrays uint8 [height, width, 3], not normalised. Those of
            another size than `image_size` are resized as the run's own were, if these were resized.

        Returns:
          float32 [n, classes]; each row sums to 1.

        Raises:
          InputError: another shape or dtype.
        """
        images = images if isinstance(images, MappedImages | list | tuple) else np.atleast_1d(images)
        starts = range(0, len(images), MAX_BATCH_SIZE)
        batches = [self._predict_batch(self._fitted(images[start : start + MAX_BATCH_SIZE])) for start in starts]
        return np.concatenate([np.empty((0, len(self.classes)), np.float32), *batches])

    def _fitted(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Images in the network's size, uint8 [n, *image_size, 3]."""
        if isinstance(images, np.ndarray) and images.shape[1:] == (*self.image_size, 3) and images.dtype == np.uint8:
            return images
        return np.stack([self._fitted_image(np.asarray(image)) for image in images])

    def _fitted_image(self, image: np.ndarray) -> np.ndarray:
        resizes = self._config.image_size is not None
        usable = image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size
        if not usable or (image.shape[:2] != self.image_size and not resizes):
            height, width = self.image_size
            size = "(height, width, 3)" if resizes else f"({height}, {width}, 3)"
            raise InputError(
                f"an image is {image.dtype} of shape {image.shape}: give uint8 of shape {size}, from 0 to 255, or "
                "several along a first axis"
            )
        return resized(image, self.image_size, self._config.resize, self._config.background)

    def _predict_batch(self, images: np.ndarray) -> np.ndarray:
        padded = pad_rows(images, 1 << (len(images) - 1).bit_length())
        return np.asarray(self._probabilities(self.variables, padded))[: len(images)]


def check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels, as given for weights from elsewhere.

    Raises:
      InputError: one is missing or out of its range.
    """
    if mean is None or std is None:
        raise InputError(
            "--mean and --std: weights from a file need the normalisation that they were trained with: give both, as "
            "in --mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616"
        )
    if len(mean) != 3 or not all(0 <= value <= 1 for value in mean):
        raise InputError(f"--mean {as_typed(tuple(mean))}: must be numbers from 0 to 1, the scale of the images")
    if len(std) != 3 or not all(FLOAT32_SMALLEST <= value <= 1 for value in std):
        rule = "must be numbers above 0 and at most 1, also in 32 bits (1.2e-38)"
        raise InputError(f"--std {as_typed(tuple(std))}: {rule}")
    return tuple(map(float, mean)), tuple(map(float, std))


def described(
    config: Config, classes: Sequence[str], image_size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Run:
    """The run of weights from elsewhere, for the arguments of `store`; InputError if class names break their rules."""
    check_names(tuple(classes))
    config = dataclasses.replace(models.fill_defaults(config), dataset=CONVERTED)
    return Run(
        CONVERTED, 0, config, Data(name=CONVERTED).to_json(), tuple(classes), image_size, tuple(mean), tuple(std),
        jresnet=environment.versions().get("jresnet"),
    )  # fmt: skip


def store(
    directory: str | os.PathLike[str], config: Config, variables: Any, classes: Sequence[str],
    image_size: tuple[int, int], mean: Sequence[float], std: Sequence[float],
) -> None:  # fmt: skip
    """Write weights from elsewhere as a run's directory, which `Classifier.load` reads.

    Args:
      directory: must be empty or missing.
      config: the configuration of their network, and how images are resized; recorded with `CONVERTED` as its data.
      variables: its `params` and `batch_stats`, float32.
      classes: class names, in the order of the logits.
      image_size: (height, width) of the images in pixels.
      mean, std: of each colour channel on a scale of 0 to 1, with which training normalised the images.

    Raises:
      InputError: the directory is not empty.
      CannotWrite: it cannot be written.
    """
    path = local_path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already: choose a new directory")
    model = models.from_config(config, len(classes))
    program = init_program(model, optim.shared_optimizer(config, 1), (*image_size, 3))
    state, metrics = program(0, config.learning_rate, config.weight_decay)
    state = state.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    run = described(config, classes, image_size, mean, std)
    with hold(path):
        with Checkpoints(path / run_directory.CHECKPOINTS, runs=run.fingerprints) as checkpoints:
            checkpoints.save(0, (state, metrics), Meta(history=()))
        run_directory.create(path, run)
