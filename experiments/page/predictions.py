"""Misclassified test images, from the predictions in the runs' directories."""

import dataclasses
import pathlib
import zipfile

import numpy as np

from jresnet.data.arrays import npz
from jresnet.data.datasets import Dataset, Split
from jresnet.errors import InputError
from jresnet.records.run_directory import PREDICTIONS


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One run's predicted classes of the test split, int32 [n], and their softmax probabilities, float32 [n]."""

    labels: np.ndarray
    confidences: np.ndarray


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A misclassified test image: its index, its true and predicted class, and the latter's probability."""

    index: int
    label: int
    prediction: int
    confidence: float


def read(directory: pathlib.Path, record: dict, dataset: Dataset) -> Predictions | None:
    """Read the predictions in a run's directory; None if it has none.

    Raises:
      InputError: the file is damaged, or does not give the accuracy that the run recorded in `result.json`.
    """
    path = directory / PREDICTIONS
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = [npz.read_array(archive, key) for key in ("test_predictions", "test_confidences")]
        predictions = Predictions(*arrays)
    except FileNotFoundError:
        return None
    except npz.DAMAGED:
        raise InputError(
            f"{path}: not a run's predictions: restore the file, or move the run away to repeat it"
        ) from None
    labels, true = predictions.labels, dataset.test.labels
    valid = labels.shape == predictions.confidences.shape == true.shape
    valid = valid and (labels.dtype.kind, predictions.confidences.dtype.kind) == ("i", "f")
    valid = valid and bool(((labels >= 0) & (labels < len(dataset.classes))).all())
    if not valid or abs(np.mean(labels == true) - record["test_accuracy"]) > 0.5 / len(true):
        raise InputError(
            f"{path}: does not give the test accuracy {record['test_accuracy']} of its result.json: "
            "restore the file, or move the run away to repeat it"
        )
    return predictions


def most_confident(predictions: Predictions, test: Split, most: int) -> list[Mistake]:
    """The `most` mistakes with the highest confidence, highest first, ties in the test split's order."""
    wrong = np.flatnonzero(predictions.labels != test.labels)
    order = wrong[np.argsort(-predictions.confidences[wrong], kind="stable")][:most]
    return [
        Mistake(int(i), int(test.labels[i]), int(predictions.labels[i]), float(predictions.confidences[i]))
        for i in order
    ]
