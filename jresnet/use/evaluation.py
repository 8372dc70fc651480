"""`evaluate`: what trained networks get right on a split, one of them, several together, or one against another."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np
import rich.console

from jresnet.data.checks import unnamed
from jresnet.data.datasets import Dataset, Split, dataset_record
from jresnet.data.mapped import Images, size
from jresnet.data.progress import tracked
from jresnet.errors import InputError, by, listed
from jresnet.models.weights import recognise
from jresnet.records import environment, schema
from jresnet.records.files import Record, write_bytes
from jresnet.records.run import Data, DataJson
from jresnet.records.tables import Table
from jresnet.rules import as_typed, flag
from jresnet.train.initial import digest
from jresnet.use import metrics
from jresnet.use.classifier import CONVERTED, MAX_BATCH_SIZE, Classifier
from jresnet.use.metrics import Bin, ClassFigures, Figures, McNemar

SplitName = Literal["train", "validation", "test"]
Augmentation = Literal["flip"]
Classifiers = Classifier | Sequence[Classifier] | Mapping[str, Classifier]
"""One classifier, or several that are evaluated as an ensemble; in a mapping with their names."""

MISTAKES = 20
"""The worst ones, which an evaluation lists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A network that was evaluated."""

    name: str
    """path of the run or of the file, or what it was called in Python"""
    network: str
    """as on the command line"""
    parameters: int
    """trainable"""
    weights_sha256: str
    """of its parameters and batch statistics, as a run records it of the weights that it starts from"""
    updates: int | None = None
    """after which the run had these weights: the last ones, or of `best/` in it those of its best epoch"""
    run: str | None = None
    """the run's fingerprint; of weights from elsewhere none"""
    jresnet: str | None = None
    """the version that began the run"""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Mistake:
    """An image for which a wrong class is the most probable one."""

    index: int
    """in the split, from 0"""
    name: str | None
    """of the image, if images have names"""
    label: str
    """its class"""
    prediction: str
    """the class that it was taken for"""
    probability: float
    """of the latter"""
    image: np.ndarray = dataclasses.field(repr=False)
    """uint8 [height, width, 3]; not in JSON"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of the classifier that was evaluated, or ensemble, and another: the first and the second of `test`."""

    name: str
    """of the other, in `systems`"""
    test: McNemar
    """McNemar's exact test"""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Evaluation:
    """What a classifier, or an ensemble of them, gets right on a split; every image counts once."""

    dataset: DataJson
    """the data"""
    split: str
    """which part of them"""
    models: tuple[Model, ...]
    """those that were evaluated together, then those of the comparison"""
    name: str
    """in `systems`, of what was evaluated: the classifier or the ensemble, if so with mirror images"""
    systems: Mapping[str, Figures]
    """figures of it and of all that is shown beside it: members, the same without mirror images, the other one"""
    classes: tuple[ClassFigures, ...]
    """its figures of each class"""
    confusion: tuple[tuple[int, ...], ...]
    """images by true class (outer) and predicted class"""
    reliability: tuple[Bin, ...]
    """its confidence and accuracy, ascending"""
    mistakes: tuple[Mistake, ...]
    """those with the highest probability of a wrong class"""
    against: Comparison | None = None
    """with another classifier or ensemble"""
    device: str
    """that computed it"""
    versions: Mapping[str, str]
    """of Python and of the packages that decide the figures"""
    commit: str | None
    """of the source tree"""

    @property
    def figures(self) -> Figures:
        """The figures of what was evaluated."""
        return self.systems[self.name]

    def to_json(self) -> Record:
        """All of it but the pixels of the mistakes, as JSON has it."""
        record = schema.to_json(self)
        for mistake in record["mistakes"]:
            del mistake["image"]
        return record

    def tables(self) -> list[Table]:
        """The figures, those of the classes, the confusion matrix, the worst mistakes and McNemar's test, for rich."""
        from jresnet.use import tables  # which imports this module

        return tables.tables(self)

    def page(self) -> str:
        """A page of HTML with the tables, figures and the worst mistakes, which loads nothing."""
        from jresnet.use.page import page  # with matplotlib, which takes a moment

        return page(self).decode()

    def save_page(self, path: str | os.PathLike[str]) -> None:
        """Write the page into a file; CannotWrite if that fails."""
        write_bytes(path, self.page().encode())

    def __repr__(self) -> str:
        found = self.figures
        accuracy = f"{found.accuracy:.2%} [{found.accuracy_low:.2%}, {found.accuracy_high:.2%}]"
        return (
            f"<Evaluation of {self.name} on {self.dataset['name']}, {self.split}: accuracy {accuracy} of "
            f"{found.images:,} images, cross-entropy {found.cross_entropy:.4f}, "
            f"calibration error {found.calibration_error:.2%}>"
        )


def evaluate(
    classifiers: Classifiers,
    data: Dataset | Split,
    *,
    split: SplitName = "test",
    tta: Augmentation | None = None,
    against: Classifiers | None = None,
    sha256: str | None = None,
    console: rich.console.Console | None = None,
) -> Evaluation:
    """Evaluate a classifier on labelled images, or several together.

    Several are an ensemble, whose probabilities are the means of theirs (Hansen and Salamon 1990, as the report cites).

    >>> import tempfile, jresnet
    >>> dataset = jresnet.load_dataset("synthetic").subset(train=64, test=32)
    >>> config = jresnet.Config(width=2, blocks=(1,), pool_size=8, epochs=1, batch_size=32)
    >>> result = jresnet.fit(config, dataset, workdir := tempfile.mkdtemp())
    >>> evaluation = jresnet.evaluate(jresnet.Classifier.load(workdir), dataset)
    >>> evaluation.figures.images, evaluation.figures.accuracy == result.test_accuracy
    (32, True)

    Args:
      classifiers: what is evaluated.
      data: a data set, or a split, whose labels then count in the order of the classifiers' classes.
      split: of a data set, the one that is evaluated.
      tta: flip: the mean of the probabilities of each image and of its mirror image; the plain figures stay beside it.
      against: another classifier or ensemble, evaluated likewise and compared by McNemar's test.
      sha256: of the data before images were held out; None for the digest of those given.
      console: where to show progress.

    Raises:
      InputError: there are no classifiers, two of one name, or one with the name of what is shown beside them (an
        ensemble, a comparison); `split` or `tta` is none of its choices; there are no images, or their size or classes
        are not those of the classifiers, which may resize images if their runs did; or the probabilities are not
        finite.
    """
    _check_choice("split", split, get_args(SplitName))
    _check_choice("tta", tta, (*get_args(Augmentation), None))
    first = _named(classifiers, "model")
    second = {} if against is None else _named(against, "other model")
    systems, others = _systems([*first], tta), _systems([*second], tta, "against: ")
    _check_names(first, second, [*systems, *others])
    models, source = first | second, data.name if isinstance(data, Dataset) else "images"
    part = getattr(data, split) if isinstance(data, Dataset) else data
    known = [(source, data.classes)] if isinstance(data, Dataset) else []
    classes = common_classes([*known, *((name, model.classes) for name, model in models.items())])
    _check_images(source, split, part, classes, models)
    found = _computed([*systems, *others], models, part.images, console)
    answer = systems[-1].name
    return Evaluation(
        dataset=_data(data, sha256),
        split=split if isinstance(data, Dataset) else "given",
        models=tuple(_model(name, model) for name, model in models.items()),
        name=answer,
        systems={name: metrics.figures(probabilities, part.labels) for name, probabilities in found.items()},
        classes=_per_class(found[answer], part.labels, classes),
        confusion=tuple(map(tuple, _confusion(found[answer], part.labels).tolist())),
        reliability=tuple(metrics.reliability(found[answer], part.labels)),
        mistakes=_mistakes(found[answer], part, classes),
        against=_comparison(found, answer, others[-1].name, part.labels) if others else None,
        device=environment.device(),
        versions=environment.versions(),
        commit=environment.commit(),
    )


class _System(NamedTuple):
    """What has figures of its own: models whose probabilities are averaged."""

    name: str
    members: tuple[str, ...]
    flip: bool = False
    """whether over mirror images too"""


def _systems(members: Sequence[str], tta: Augmentation | None, prefix: str = "") -> list[_System]:
    """Each model, all together, and these with mirror images; the last is the answer. None if there are no models."""
    systems = [_System(prefix + name, (name,)) for name in members]
    if len(members) > 1:
        systems.append(_System(f"{prefix}ensemble of {len(members)}", (*members,)))
    if members and tta == "flip":
        answer = systems[-1]
        systems.append(_System(f"{answer.name}, with flip", answer.members, flip=True))
    return systems


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise InputError(f"{flag(name)} {value!s:.80}: must be one of {', '.join(map(str, choices))}")


def _check_names(first: Mapping[str, Classifier], second: Mapping[str, Classifier], systems: Sequence[_System]) -> None:
    """InputError if a name is that of two models, or of a model and of what is made of several."""
    twice = [name for name in first if name in second and first[name] is not second[name]]
    if twice:
        raise InputError(f"two classifiers are called {listed(twice, 1)}: give them different names")
    counts = Counter(system.name for system in systems)
    taken = [name for name, count in counts.items() if count > 1]
    if taken:
        raise InputError(f"{listed(taken, 1)}: figures of others have this name: give the classifier another")


def common_classes(known: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """The class names that models and data agree on; "0", "1", ... are those of unnamed classes.

    Takes pairs of the name of a model or of data, and its classes; at least one pair.

    Raises:
      InputError: they have other classes, or the same in another order.
    """
    owner, classes = known[0]
    for name, other in known:
        if len(other) != len(classes):
            raise InputError(
                f"{name} has {len(other)} classes, {owner} {len(classes)}: only equal classes can be compared: "
                "choose data of the model's classes"
            )
        if unnamed(classes):
            owner, classes = name, other
        if other != classes and not unnamed(other):
            order = " in another order" if {*other} == {*classes} else ""
            raise InputError(
                f"{name} has the classes {listed(other, 5)}, {owner} {listed(classes, 5)}{order}: only equal classes "
                "can be compared: choose data of the model's classes, or give a file's with --classes"
            )
    return classes


def _named(classifiers: Classifiers, word: str) -> dict[str, Classifier]:
    """Classifiers by their names; those without are called `word`, with a number if there are several."""
    if isinstance(classifiers, Classifier):
        return {word: classifiers}
    if not classifiers:
        raise InputError("there are no classifiers: give at least one")
    if isinstance(classifiers, Mapping):
        return dict(classifiers)
    return {f"{word} {number}": classifier for number, classifier in enumerate(classifiers, 1)}


def _check_images(
    source: str, split: str, part: Split, classes: tuple[str, ...], models: Mapping[str, Classifier]
) -> None:
    """InputError unless there are images, the models take them, and the labels are among the classes."""
    if not len(part):
        raise InputError(f"{flag('split')} {split}: {source} has no such images: choose another split")
    if not 0 <= part.labels.min() <= part.labels.max() < len(classes):
        raise InputError(
            f"labels go from {part.labels.min()} to {part.labels.max()}: give indices into the {len(classes)} classes"
        )
    for name, model in models.items():
        if part.images.shape[1:3] != model.image_size and model.run.config.image_size is None:
            raise InputError(
                f"{source}: its images are {size(part.images)}, those of {name} {by(model.image_size)} (height x "
                f"width): resize them with {flag('image_size')} {as_typed(model.image_size)}"
            )


def _computed(
    systems: Sequence[_System], models: Mapping[str, Classifier], images: Images, console: rich.console.Console | None
) -> dict[str, np.ndarray]:
    """Probabilities [n, classes] by the names of the systems; each model is given the images once.

    Raises:
      InputError: they are not finite.
    """
    plain = {name: _probabilities(name, model, images, False, console) for name, model in models.items()}
    flipped = dict.fromkeys(member for system in systems if system.flip for member in system.members)
    mirrored = {name: _probabilities(name, models[name], images, True, console) for name in flipped}
    found = {}
    for system in systems:
        found[system.name] = _mean([plain[member] for member in system.members])
        if system.flip:
            found[system.name] = _mean([found[system.name], _mean([mirrored[member] for member in system.members])])
    return found


def _probabilities(
    name: str, model: Classifier, images: Images, flip: bool, console: rich.console.Console | None
) -> np.ndarray:
    """Probabilities of images, or of their mirror images; as many at once as the classifier takes."""
    starts = range(0, len(images), MAX_BATCH_SIZE)
    batches = (images[start : start + MAX_BATCH_SIZE] for start in tracked(starts, len(starts), "evaluating", console))
    found = np.concatenate([model.predict(batch[:, :, ::-1] if flip else batch) for batch in batches])
    if len(found) != len(images):
        raise AssertionError(f"evaluated {len(found)} of {len(images)} images")
    if not np.isfinite(found).all():
        raise InputError(f"{name}: its probabilities are not numbers: its weights overflow: choose sound ones")
    return found


def _mean(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Their mean, in float64; a single one as it is."""
    return probabilities[0] if len(probabilities) == 1 else np.asarray(np.mean(probabilities, axis=0, dtype=np.float64))


def _confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return metrics.confusion(probabilities.argmax(1), labels, probabilities.shape[1])


def _per_class(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> tuple[ClassFigures, ...]:
    counts, aucs = _confusion(probabilities, labels), metrics.class_aucs(probabilities, labels)
    return tuple(metrics.per_class(counts, aucs, classes))


def _comparison(found: Mapping[str, np.ndarray], first: str, second: str, labels: np.ndarray) -> Comparison:
    """Of two systems, by their names."""
    test = metrics.mcnemar(*(found[name].argmax(1) == labels for name in (first, second)))
    return Comparison(name=second, test=test)


def _mistakes(probabilities: np.ndarray, part: Split, classes: tuple[str, ...]) -> tuple[Mistake, ...]:
    return tuple(
        Mistake(
            index=index,
            name=part.names[index] if part.names else None,
            label=classes[part.labels[index]],
            prediction=classes[probabilities[index].argmax()],
            probability=float(probabilities[index].max()),
            image=part.images[index],
        )
        for index in metrics.worst(probabilities, part.labels, MISTAKES).tolist()
    )


def _data(data: Dataset | Split, sha256: str | None) -> Record:
    if isinstance(data, Dataset):
        return dataset_record(data, sha256 or data.sha256)
    return Data(name="images").to_json()


def _model(name: str, classifier: Classifier) -> Model:
    run, variables = classifier.run, classifier.variables
    return Model(
        name=name,
        network=recognise.as_words(run.config),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        weights_sha256=digest(variables),
        updates=None if run.experiment == CONVERTED else classifier.step,
        run=None if run.experiment == CONVERTED else run.fingerprint,
        jresnet=None if run.experiment == CONVERTED else run.jresnet,
    )
