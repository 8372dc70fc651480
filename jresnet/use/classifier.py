"""`Classifier`: a trained network with its normalisation and class names."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import flax.linen as nn
import jax
import numpy as np

from jresnet import models
from jresnet.config import FLOAT32_SMALLEST, Config, Model, Resize
from jresnet.data.augment import normalise
from jresnet.data.checks import check_names, numbered
from jresnet.data.pipeline import pad_rows
from jresnet.errors import InputError, by, listed
from jresnet.models import weights_file
from jresnet.models.weights.recognise import OPTIONS
from jresnet.parallel.compiler import compiler_options
from jresnet.records import environment, run_directory
from jresnet.records.files import kind, local_path
from jresnet.records.lock import hold
from jresnet.records.run import Data, Run
from jresnet.rules import as_typed, require
from jresnet.train import optim
from jresnet.train.checkpoint import Checkpoints, Meta
from jresnet.train.restore import restore
from jresnet.train.trainer import init_program
from jresnet.use.images import Form
from jresnet.use.inference import probabilities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
      source: the run's directory, or the file of weights, that it is read from.
      step: updates after which the run had these weights; None: not known.

    Attributes:
      run, source, step: as given.
      classes: class names, in the order of the probabilities.
      image_size: (height, width) of the training images in pixels.
    """

    def __init__(
        self, model: models.ResNet, variables: Any, run: Run, source: pathlib.Path | None = None,
        step: int | None = None,
    ):  # fmt: skip
        self.model, self.variables, self.run, self.source, self.step = model, variables, run, source, step
        self.classes, self.image_size = run.classes, run.image_size

        fast = model.clone(conv_general_dilated_cls=models.conv_for(jax.default_backend()))

        def features(variables: Any, images: jax.Array) -> jax.Array:
            return inputs_of_linear(fast, variables, normalise(images, run.mean, run.std))

        self._probabilities = jax.jit(probabilities(fast, run), compiler_options=compiler_options())
        self._features = jax.jit(features, compiler_options=compiler_options())

    def __repr__(self) -> str:
        network = f"{self.run.config.model}, width {self.model.width}"
        classes = f"{len(self.classes)} classes ({listed(self.classes, 3, 20)})"
        return f"Classifier({network}, {classes}, images of {by(self.image_size)})"

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None, key: str | None = None, model: Model | None = None,
        image_size: tuple[int, int] | None = None, **network: Any,
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
          **network: options of the network by their names in `Config`, which replace what the weights tell.

        Raises:
          InputError: there is no run, no sound checkpoint, or no file of weights of a network of the family; or an
            argument that is not for what is there.
        """
        for name in sorted(network.keys() - {*OPTIONS}):
            raise InputError(f"{name}: no option of a network: choose among {', '.join(OPTIONS)}")
        place = local_path(path)
        if not is_file(place):
            arguments = {"mean": mean, "std": std, "classes": classes, "key": key, "model": model}
            refuse_for_run({**arguments, "image_size": image_size, **network})
            trained = restore(place)
            return cls(trained.network, trained.variables, trained.run, place, trained.step)
        mean, std = check_normalisation(mean, std)
        weights = weights_file.read(str(place), key, model, image_size, network)
        names = class_names(classes, weights)
        run = described(weights.config, names, weights.image_size, mean, std)
        classifier = cls(weights.network, weights.variables(), run, place)
        weights.announce()
        return classifier

    def predict(self, images: Any, resize: Resize | None = None) -> np.ndarray:
        """Class probabilities.

        Args:
          images: a path, an image of Pillow, an array of one image or of several, or an iterable of these. An array is
            [height, width], [height, width, 1] or [height, width, 3], or several such along a first axis, with the
            channels last; of uint8, or of floats v from 0 to 1, which become v * 255, rounded. Files are decoded as
            in training.
          resize: how images of another size than `image_size` are fitted; None: as the run's own were, and if those
            were not resized, such images are refused.

        Returns:
          float32 [n, classes], also for a single image; each row sums to 1.

        Raises:
          InputError: an image that is none, or of another size.
        """
        return self._computed(self._probabilities, images, resize)

    def features(self, images: Any, resize: Resize | None = None) -> np.ndarray:
        """What enters the linear layer: the last feature map, pooled and flattened.

        Args:
          images, resize: as of `predict`.

        Returns:
          float32 [n, features]; `features @ kernel + bias` of `variables["params"]["linear"]` are the logits.

        Raises:
          InputError: as `predict`.
        """
        return self._computed(self._features, images, resize)

    def show(self, images: Any, resize: Resize | None = None) -> "Figure":
        """A figure of images as the network sees them, each with its class and its probability.

        Args:
          images, resize: as of `predict`; at most 100 images.

        Raises:
          InputError: as `predict`, or too many images, or none.
        """
        from jresnet.use.show import MOST, figure  # with matplotlib, which the rest does not need

        batches = self.form(resize).batches(images, MOST + 1)
        shown = next(batches, np.empty((0, *self.image_size, 3), np.uint8))
        return figure(shown, self.classes, self.predict(shown[:MOST]))

    def form(self, resize: Resize | None = None) -> Form:
        """How images become what the network takes, see `predict`; InputError for a `resize` that is none."""
        if resize is not None and resize not in get_args(Resize):
            raise InputError(f"resize {resize!r:.80}: must be one of {', '.join(get_args(Resize))}, or None")
        config = self.run.config
        own = config.resize if config.image_size is not None else None
        return Form(self.image_size, resize or own, config.background)

    def _computed(
        self, program: Callable[[Any, np.ndarray], jax.Array], images: Any, resize: Resize | None
    ) -> np.ndarray:
        """Outputs of a program on all images, float32 [n, outputs], a batch at a time."""
        outputs = []
        for batch in self.form(resize).batches(images, MAX_BATCH_SIZE):
            padded = pad_rows(batch, 1 << (len(batch) - 1).bit_length())
            outputs.append(np.asarray(program(self.variables, padded))[: len(batch)])
        if not outputs:
            shape = jax.eval_shape(program, self.variables, np.empty((1, *self.image_size, 3), np.uint8))
            return np.empty((0, shape.shape[1]), np.float32)
        return np.concatenate(outputs)


def inputs_of_linear(network: models.ResNet, variables: Any, images: jax.Array) -> jax.Array:
    """What the linear layer is given, [batch, features], of normalised images, float32 [batch, height, width, 3]."""
    inputs: list[jax.Array] = []

    def keep(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.module.path == ("linear",) and context.method_name == "__call__":
            inputs.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(keep):
        network.apply(variables, images, train=False)
    return inputs[0]


def is_file(path: pathlib.Path) -> bool:
    """Whether a path is of a file of weights, not of a run's directory; InputError if there is neither."""
    found = kind(path)
    if found is None:
        raise InputError(f"{path}: there is no such run or file of weights: choose another")
    return found == "file"


def refuse_for_run(arguments: Mapping[str, Any]) -> None:
    """Raise InputError for the first of these arguments of `Classifier.load` that is given, not None."""
    for name, value in arguments.items():
        require(None, name, value is None, "the run's own record says it: leave it out", value)


def class_names(classes: Sequence[str] | None, weights: weights_file.Weights) -> tuple[str, ...]:
    """The names of the classes of a file of weights, by default 0, 1, ...; InputError unless there are as many."""
    names = tuple(classes or numbered(weights.num_classes))
    rule = f"{weights.path} has {weights.num_classes} classes: give as many names"
    require(None, "classes", len(names) == weights.num_classes, rule, names)
    return names


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
    found = kind(path)
    if found == "file" or (found == "directory" and any(path.iterdir())):
        raise InputError(f"{path}: exists already: choose a new directory")
    model = models.from_config(config, len(classes))
    tx = optim.shared_optimizer(config, 1)
    program = init_program(model, tx, (*image_size, 3), config.ema_decay is not None)
    state, metrics = program(0, *optim.rates(config))
    state = state.with_weights(variables["params"], variables["batch_stats"])
    run = described(config, classes, image_size, mean, std)
    with hold(path):
        with Checkpoints(path / run_directory.CHECKPOINTS, runs=run.fingerprints) as checkpoints:
            checkpoints.save(0, (state, metrics), Meta(history=()))
        run_directory.create(path, run)
