"""Figures of probabilities against scikit-learn, closed forms, and the definitions of their publications."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jresnet.use import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")
RNG = np.random.default_rng(0)
Z = 1.959963984540054  # the normal distribution's quantile 0.975, from printed tables


def drawn(n, classes, seed=0, digits=None):
    """Probabilities that favour the label, float32 [n, classes], and labels; rounded to have ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes).astype(np.int32)
    logits = rng.normal(0, 1, (n, classes)) + 1.5 * np.eye(classes)[labels]
    if digits is not None:
        logits = np.round(logits, digits)
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32), labels


def medmnist_auc(labels, probabilities):
    """As the evaluator of MedMNIST defines it."""
    if probabilities.shape[1] == 2:
        return sklearn_metrics.roc_auc_score(labels, probabilities[:, 1])
    columns = enumerate(probabilities.T)
    return np.mean([sklearn_metrics.roc_auc_score(labels == label, column) for label, column in columns])


@pytest.mark.parametrize(("n", "classes", "digits"), [(200, 2, None), (150, 3, 0), (500, 11, None), (300, 12, 1)])
def test_figures_are_those_of_scikit_learn(n, classes, digits):
    probabilities, labels = drawn(n, classes, digits=digits)
    found = metrics.figures(probabilities, labels)
    predictions = probabilities.argmax(1)
    assert found.images == n
    assert found.accuracy == sklearn_metrics.accuracy_score(labels, predictions) == found.correct / n
    assert found.auc == pytest.approx(medmnist_auc(labels, probabilities), abs=1e-12)
    entropy = sklearn_metrics.log_loss(labels, probabilities, labels=range(classes))
    assert found.cross_entropy == pytest.approx(entropy, rel=1e-6)
    if classes > 10 and digits is None:
        top = sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(classes))
        assert found.top5 == pytest.approx(top, abs=1e-12)
    assert (found.top5 is None) == (classes <= 10)


@pytest.mark.parametrize("classes", [2, 5])
def test_figures_of_classes_are_those_of_scikit_learn(classes):
    probabilities, labels = drawn(120, classes, seed=3)
    predictions = np.minimum(probabilities.argmax(1), classes - 2)  # so that the last class is never predicted
    counts = metrics.confusion(predictions, labels, classes)
    np.testing.assert_array_equal(counts, sklearn_metrics.confusion_matrix(labels, predictions))
    names = tuple("abcde"[:classes])
    found = metrics.per_class(counts, metrics.class_aucs(probabilities, labels), names)
    expected = sklearn_metrics.precision_recall_fscore_support(labels, predictions, zero_division=np.nan)
    for row, name, precision, recall, f1, support in zip(found, names, *expected, strict=True):
        assert (row.name, row.support) == (name, support)
        assert row.precision == (None if math.isnan(precision) else pytest.approx(precision))
        assert (row.recall, row.f1) == pytest.approx((recall, f1))
    assert found[-1].predicted == 0 and found[-1].precision is None and found[-1].recall == 0


def test_a_class_without_images_has_no_recall_and_no_auc_and_is_left_out_of_the_mean():
    probabilities, labels = drawn(60, 4, seed=1)
    labels = np.where(labels == 2, 0, labels)
    aucs = metrics.class_aucs(probabilities, labels)
    row = metrics.per_class(metrics.confusion(probabilities.argmax(1), labels, 4), aucs, tuple("abcd"))[2]
    assert (row.support, row.recall, row.auc) == (0, None, None) and row.precision == 0
    assert metrics.figures(probabilities, labels).auc == pytest.approx(np.mean([aucs[0], aucs[1], aucs[3]]))
    assert metrics.figures(probabilities[:5], labels[:5] * 0).auc is None


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (7, 7), (9109, 10000), (1, 3)])
def test_the_interval_is_wilsons(correct, total):
    share, square = correct / total, Z**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = Z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    assert metrics.wilson(correct, total) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_the_label_counts_among_the_first_of_equal_probabilities():
    probabilities = np.full((12, 12), 1 / 12, np.float32)
    labels = np.arange(12, dtype=np.int32)
    found = metrics.figures(probabilities, labels)
    assert (found.correct, found.top5, found.auc) == (1, 5 / 12, 0.5)


def test_the_cross_entropy_of_an_impossible_label_is_finite():
    probabilities = np.array([[1, 0], [0.5, 0.5]], np.float32)
    expected = (-math.log(np.finfo(np.float32).tiny) + math.log(2)) / 2
    assert metrics.cross_entropy(probabilities, np.array([1, 0])) == pytest.approx(expected)


def test_the_bins_hold_equal_numbers_in_order_of_the_confidence():
    """Against the definition, with loops: sort, cut into 15 parts, weigh |accuracy - confidence| by their sizes."""
    probabilities, labels = drawn(304, 3, seed=5)
    confidences = probabilities.max(1).astype(np.float64)
    assert len(np.unique(confidences)) == 304
    parts = np.array_split(np.argsort(confidences), metrics.BINS)
    bins = metrics.reliability(probabilities, labels)
    assert sorted(bin.images for bin in bins) == sorted(map(len, parts)) == [20] * 11 + [21] * 4
    start, error, order = 0, 0.0, np.argsort(confidences)
    for bin in bins:
        rows = order[start : start + bin.images]
        start += bin.images
        hits = np.mean(probabilities[rows].argmax(1) == labels[rows])
        assert (bin.confidence, bin.accuracy) == pytest.approx((confidences[rows].mean(), hits))
        error += abs(hits - confidences[rows].mean()) * len(rows) / 304
    assert (
        metrics.calibration_error(bins)
        == pytest.approx(error)
        == metrics.figures(probabilities, labels).calibration_error
    )


def test_calibration_in_closed_form():
    """A classifier that is always sure and right three times in four is off by a quarter."""
    probabilities = np.tile(np.array([1, 0], np.float32), (40, 1))
    labels = (np.arange(40) % 4 == 0).astype(np.int32)
    assert metrics.reliability(probabilities, labels) == [metrics.Bin(40, 1.0, 0.75)]
    assert metrics.figures(probabilities, labels).calibration_error == 0.25
    assert sum(bin.images for bin in metrics.reliability(probabilities[:4], labels[:4])) == 4


def test_a_calibrated_classifier_has_a_small_error():
    rng = np.random.default_rng(2)
    first = rng.uniform(0.5, 1, 20000)
    probabilities = np.stack([first, 1 - first], 1)
    labels = (rng.random(20000) > first).astype(np.int32)
    assert metrics.figures(probabilities, labels).calibration_error < 0.02
    sure = probabilities**4 / (probabilities**4).sum(1, keepdims=True)
    assert metrics.figures(sure, labels).calibration_error > 0.1


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.sampled_from([None, 0]))
def test_the_order_of_the_images_changes_nothing(seed, classes, digits):
    """To the last bit; of mistakes of equal probability only the order."""
    probabilities, labels = drawn(90, classes, seed % 7, digits)
    order = np.random.default_rng(seed).permutation(90)
    shuffled = probabilities[order], labels[order]
    assert metrics.figures(*shuffled) == metrics.figures(probabilities, labels)
    assert metrics.class_aucs(*shuffled) == metrics.class_aucs(probabilities, labels)
    assert metrics.reliability(*shuffled) == metrics.reliability(probabilities, labels)
    mistakes, others = metrics.worst(probabilities, labels, 90), order[metrics.worst(*shuffled, 90)]
    assert {*mistakes} == {*others}
    np.testing.assert_array_equal(probabilities[mistakes].max(1), probabilities[others].max(1))


def test_the_worst_mistakes_have_the_highest_wrong_probabilities():
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.7, 0.3], [0.3, 0.7]])
    labels = np.array([1, 0, 0, 0, 1, 0])
    assert metrics.worst(probabilities, labels, 4).tolist() == [1, 2, 4, 5]
    assert metrics.worst(probabilities, labels, 9).tolist() == [1, 2, 4, 5, 0]
    assert metrics.worst(probabilities, probabilities.argmax(1), 4).tolist() == []


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (0, 6), (9, 2), (5, 5), (30, 41)])
def test_mcnemars_test_in_closed_form(first, second):
    """The probability under a fair coin of a count at least as far from the middle."""
    rows = [(True, True)] * 3 + [(True, False)] * first + [(False, True)] * second + [(False, False)] * 4
    pairs = RNG.permutation(np.array(rows))
    found = metrics.mcnemar(pairs[:, 0], pairs[:, 1])
    total = first + second
    tail = sum(math.comb(total, k) for k in range(total + 1) if abs(2 * k - total) >= abs(first - second))
    assert dataclasses.astuple(found) == (3, first, second, 4, pytest.approx(tail / 2**total))
    swapped = metrics.mcnemar(pairs[:, 1], pairs[:, 0])
    assert (swapped.first, swapped.second, swapped.p_value) == (second, first, found.p_value)
