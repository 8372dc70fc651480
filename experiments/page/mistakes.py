"""What networks got wrong: from the predictions that runs left behind, counts, accuracies and pictures to look at."""

import dataclasses
import math
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from jresnet.data.datasets import Split
from jresnet.errors import InputError

FILE = "predictions.npz"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One run's predictions of the test split.

    Attributes:
      labels: int32 [n], the predicted classes.
      confidences: float32 [n], the softmax probabilities of those.
    """

    labels: np.ndarray
    confidences: np.ndarray


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A test image that a network got wrong: its index, true and predicted class, and the latter's probability."""

    index: int
    label: int
    prediction: int
    confidence: float


def read(place: pathlib.Path, record: dict, test: Split) -> Predictions | None:
    """The predictions in a run's directory, or None if it has none.

    Args:
      place: the run's directory.
      record: its `result.json`.
      test: the split that was predicted.

    Raises:
      InputError: the file is damaged, or does not give the accuracy that the run recorded.
    """
    path = place / FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = Predictions(arrays["test_predictions"], arrays["test_confidences"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path}: not a run's predictions: delete the file, the page then goes without it") from None
    labels = found.labels
    whole = labels.shape == found.confidences.shape == test.labels.shape and labels.dtype.kind == "i"
    if not whole or abs(np.mean(labels == test.labels) - record["test_accuracy"]) > 0.5 / len(test):
        raise InputError(
            f"{path}: does not give the test accuracy {record['test_accuracy']} of its result.json: "
            "delete the file, the page then goes without it"
        )
    return found


def confusion(predictions: Sequence[Predictions], test: Split, classes: int) -> np.ndarray:
    """Images of each true class (rows) by predicted class (columns), int64 [classes, classes], over all runs."""
    counts = np.zeros((classes, classes), np.int64)
    for one in predictions:
        np.add.at(counts, (test.labels, one.labels), 1)
    return counts


def class_accuracies(predictions: Predictions, test: Split, classes: int) -> list[float]:
    """Share of each class's test images that were recognised; NaN for a class without test images."""
    counts = confusion([predictions], test, classes)
    return [int(row[label]) / int(row.sum()) if row.sum() else math.nan for label, row in enumerate(counts)]


def most_confident(predictions: Predictions, test: Split, most: int) -> list[Mistake]:
    """The mistakes with the highest confidence, highest first, ties in the test split's order."""
    wrong = np.flatnonzero(predictions.labels != test.labels)
    order = wrong[np.argsort(-predictions.confidences[wrong], kind="stable")][:most]
    return [
        Mistake(int(i), int(test.labels[i]), int(predictions.labels[i]), float(predictions.confidences[i]))
        for i in order
    ]
