"""What is computed from the probabilities of a classifier and the labels of the images.

All of it depends on the pairs of probabilities and label alone, to the last bit, not on their order.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
"""Of the interval of the accuracy."""
TOP = 5
"""Classes that may hold the right one in `Figures.top5`."""
BINS = 15
"""Of the calibration; as many as Guo et al. 2017 use."""
# A probability that float32 holds as 0 would make the cross-entropy infinite.
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of a classifier on labelled images."""

    images: int
    """each counted once"""
    correct: int
    """images whose most probable class is their label; of equal probabilities the first counts"""
    accuracy: float
    """share of them"""
    accuracy_low: float
    """lower end of the accuracy's 95 % interval (Wilson 1927)"""
    accuracy_high: float
    """upper end"""
    top5: float | None
    """share of the images whose label is among the five most probable classes; None for 10 classes or fewer"""
    auc: float | None
    """mean over the classes of `ClassFigures.auc`; of two classes that of the second, as in MedMNIST's tables"""
    cross_entropy: float
    """mean of -log(probability of the label), in nats; a probability below 1.2e-38 counts as that"""
    calibration_error: float
    """expected calibration error: mean distance of confidence and accuracy over the bins of `reliability`, by images"""


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """The figures of one class; None where there is nothing to divide by."""

    name: str
    """of the class"""
    support: int
    """images of the class"""
    predicted: int
    """images taken for it"""
    precision: float | None
    """share of those that are of the class"""
    recall: float | None
    """share of the class's images that are taken for it"""
    f1: float | None
    """harmonic mean of precision and recall"""
    auc: float | None
    """area under the ROC curve of the class's probability, its images against all others"""


@dataclasses.dataclass(frozen=True)
class Bin:
    """Images of similar confidence, which is the probability of the most probable class."""

    images: int
    """in the bin"""
    confidence: float
    """their mean confidence"""
    accuracy: float
    """share of them that are classified correctly"""


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Whether two classifiers are right equally often, by the images on which one of them is."""

    both: int
    """images that both classify correctly"""
    first: int
    """images that only the first does"""
    second: int
    """images that only the second does"""
    neither: int
    """images that neither does"""
    p_value: float
    """of the exact two-sided test: that `first` and `second` are this unequal if either is as likely (McNemar 1947)"""


def figures(probabilities: np.ndarray, labels: np.ndarray) -> Figures:
    """The figures of probabilities, float [n, classes], of images with labels, integers [n]; n is at least 1."""
    count, classes = probabilities.shape
    correct = int((probabilities.argmax(1) == labels).sum())
    low, high = wilson(correct, count)
    return Figures(
        images=count,
        correct=correct,
        accuracy=correct / count,
        accuracy_low=low,
        accuracy_high=high,
        top5=top_share(probabilities, labels, TOP) if classes > 2 * TOP else None,
        auc=mean_auc(class_aucs(probabilities, labels)),
        cross_entropy=cross_entropy(probabilities, labels),
        calibration_error=calibration_error(reliability(probabilities, labels)),
    )


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The score interval of a share, whose coverage is close to `CONFIDENCE` also near 0 and 1 (Wilson 1927)."""
    low, high = scipy.stats.binomtest(correct, total).proportion_ci(CONFIDENCE, "wilson")
    return float(low), float(high)


def top_share(probabilities: np.ndarray, labels: np.ndarray, most: int) -> float:
    """The share of images whose label is among the `most` most probable classes; of equal ones the first count."""
    own, index = np.take_along_axis(probabilities, labels[:, None], 1), np.arange(probabilities.shape[1])
    ahead = (probabilities > own) | ((probabilities == own) & (index < labels[:, None]))
    return float((ahead.sum(1) < most).mean())


def class_aucs(probabilities: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """The area under the ROC curve of each class's probability, the class's images against all others.

    That is the share of pairs, of an image of the class and another, in which the former has the higher probability;
    equal ones count half (Hanley and McNeil 1982). None where all images are of the class, or none is.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    return [
        _auc(column, labels == label) if 0 < counts[label] < len(labels) else None
        for label, column in enumerate(probabilities.T)
    ]


def _auc(scores: np.ndarray, positive: np.ndarray) -> float:
    count = int(positive.sum())
    wins = scipy.stats.rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(wins / (count * (len(scores) - count)))


def mean_auc(aucs: Sequence[float | None]) -> float | None:
    """The AUC of MedMNIST's tables: the mean over the classes, or of two classes that of the second.

    Classes without an AUC are left out, and None is returned if there are only such.
    """
    known = [auc for auc in (aucs[1:] if len(aucs) == 2 else aucs) if auc is not None]
    return math.fsum(known) / len(known) if known else None


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -log(probability of the label) in nats, the probability being at least float32's smallest."""
    of_labels = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return math.fsum(-np.log(np.maximum(of_labels, _SMALLEST))) / len(labels)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[Bin]:
    """Confidence and accuracy in `BINS` bins with equal numbers of images, in ascending order of the confidence.

    The bin of an image is BINS * rank // n, where its rank is the number of images of lower confidence: without equal
    confidences the bins differ by one image at most, and equal ones are never parted. Empty bins are left out. Equal
    mass is what Nixon et al. 2019 (arXiv 1904.01685) call adaptive; in bins of equal width nearly all images of a good
    network would be in the last.
    """
    confidences = probabilities.max(1).astype(np.float64)
    correct = probabilities.argmax(1) == labels
    ranks = np.searchsorted(np.sort(confidences), confidences)
    indices = BINS * ranks // len(labels)
    bins = (indices == index for index in np.unique(indices))
    return [
        Bin(int(inside.sum()), math.fsum(confidences[inside]) / int(inside.sum()), float(correct[inside].mean()))
        for inside in bins
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The mean over all images of |accuracy - confidence| of their bin (Naeini et al. 2015)."""
    total = sum(bin.images for bin in bins)
    return math.fsum(bin.images * abs(bin.accuracy - bin.confidence) for bin in bins) / total


def confusion(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Images of each true class (rows) by predicted class (columns), int64 [classes, classes]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def per_class(counts: np.ndarray, aucs: Sequence[float | None], names: Sequence[str]) -> list[ClassFigures]:
    """The figures of each class, from a `confusion` matrix and `class_aucs`."""
    hits, supports, predicted = (part.tolist() for part in (counts.diagonal(), counts.sum(1), counts.sum(0)))
    return [
        ClassFigures(
            name, support, taken, _share(hit, taken), _share(hit, support), _share(2 * hit, taken + support), auc
        )
        for name, hit, support, taken, auc in zip(names, hits, supports, predicted, aucs, strict=True)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def worst(probabilities: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Indices of the `most` mistakes with the highest probability of a wrong class, highest first, ties in order."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    chosen: np.ndarray = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:most]
    return chosen


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test of which images, bool [n], two classifiers classify correctly.

    Where exactly one is right, it is either with probability 1/2 if both are right equally often.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    p_value = float(scipy.stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(int((first & second).sum()), only_first, only_second, int((~first & ~second).sum()), p_value)
