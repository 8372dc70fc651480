"""Means with confidence intervals, settings compared on shared seeds, and verdicts on the report's claims.

All intervals and tests are scipy's: Student's t for a mean, the paired t-test for a difference.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from scipy import stats

from experiments.study.experiment import Cell, Experiment

LEVEL = 0.95
"""Confidence level of all intervals; claims are judged at significance level 1 - LEVEL."""

Word = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (with n - 1), and confidence interval of the mean; the last two need n >= 2."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """Two settings on the n seeds they share: the mean of first - second, with its confidence interval.

    `p` is that of the two-sided paired t-test, not corrected for the number of pairs. Interval and p are None where
    fewer than two seeds are shared or the differences do not vary, so that no test is possible.
    """

    first: str
    second: str
    n: int
    difference: float
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class Verdict:
    """What a study concludes about a claim of the report."""

    word: Word
    sentence: str
    comparisons: tuple[Comparison, ...]


def summarise(values: Iterable[float]) -> Summary:
    """Mean, standard deviation and confidence interval of at least one value."""
    sample = np.asarray(list(values), np.float64)
    n, mean = len(sample), float(np.mean(sample))
    if n < 2:
        return Summary(n, mean, None, None, None)
    std = float(np.std(sample, ddof=1))
    if np.ptp(sample) == 0:
        return Summary(n, mean, 0.0, mean, mean)
    low, high = stats.t.interval(LEVEL, n - 1, loc=mean, scale=stats.sem(sample))
    return Summary(n, mean, std, float(low), float(high))


def spreads(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Mean, deviation and interval of each measure that every record has: NAME_mean, NAME_std, NAME_low, NAME_high."""
    row: dict[str, Any] = {}
    for name in names:
        if of_measure := summary(records, name):
            row |= {f"{name}_{part}": value for part, value in vars(of_measure).items()}
    return row


def summary(records: Sequence[Mapping[str, Any]], name: str) -> Summary | None:
    """Of a measure over records; None if there is no record, or one lacks the value."""
    values: list[Any] = [record.get(name) for record in records]
    return summarise(values) if values and None not in values else None


def compare(first: Cell, second: Cell) -> Comparison | None:
    """Compare the test accuracies of two settings on the seeds that both have; None if they share none."""
    labels = first.setting.label, second.setting.label
    return compare_records(labels, first.records, second.records, "test_accuracy")


def compare_records(
    names: tuple[str, str], first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], measure: str
) -> Comparison | None:
    """Compare a measure of the records of two settings of these names, likewise."""
    ours, theirs = ({record["seed"]: record[measure] for record in records} for records in (first, second))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    a, b = (np.array([values[seed] for seed in seeds]) for values in (ours, theirs))
    difference = float(np.mean(a - b))
    # Differences that are equal but for floating-point rounding do not vary.
    if len(seeds) < 2 or np.ptp(a - b) < 1e-12:
        return Comparison(*names, len(seeds), difference, None, None, None)
    test = stats.ttest_rel(a, b)
    low, high = test.confidence_interval(LEVEL)
    return Comparison(*names, len(seeds), difference, float(low), float(high), float(test.pvalue))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6, 65-70), in their order."""
    order = np.argsort(p)
    steps = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def corrected(comparisons: Sequence[Comparison]) -> dict[Comparison, float]:
    """The p-values of those comparisons that have one, corrected by Holm's method for their number."""
    tested = {comparison: comparison.p for comparison in comparisons if comparison.p is not None}
    return dict(zip(tested, holm([*tested.values()]), strict=True))


def judge(experiment: Experiment, cells: Sequence[Cell]) -> Verdict | None:
    """Judge the report's ordering by test accuracy, every pair of its settings compared on shared seeds.

    Supported: every pair differs in the claimed direction. Refuted: some pair differs in the opposite direction.
    Undecided: neither. A pair differs if its paired t-test, corrected by Holm's method for the number of pairs, has
    p < 1 - LEVEL. None if the report claims nothing.
    """
    if not experiment.claim:
        return None
    ordering = " > ".join(experiment.claim)
    claim = f"The report's ordering {ordering}"
    if not experiment.reported:  # the claim is only implied by what the report chose
        claim = f"The ordering {ordering}, implied by the report's choice,"
    by_label = {cell.setting.label: cell for cell in cells}
    compared = [compare(by_label[a], by_label[b]) for a, b in itertools.combinations(experiment.claim, 2)]
    comparisons = tuple(comparison for comparison in compared if comparison is not None)
    if len(comparisons) < len(compared):
        return Verdict("undecided", f"{claim} is undecided: not all of it has been run yet.", comparisons)
    significant = {comparison for comparison, p in corrected(comparisons).items() if p < 1 - LEVEL}
    against = [c for c in comparisons if c.difference < 0 and c in significant]
    word: Word = "undecided"
    if against:
        word = "refuted"
    elif all(c.difference > 0 and c in significant for c in comparisons):
        word = "supported"
    means = {name: summarise(r["test_accuracy"] for r in by_label[name].records).mean for name in experiment.claim}
    return Verdict(word, _sentence(word, claim, means, comparisons, against), comparisons)


def _sentence(
    word: str, claim: str, means: dict[str, float], comparisons: Sequence[Comparison], against: Sequence[Comparison]
) -> str:
    """The verdict in words, with the means observed and the test used."""
    fewest = min(comparison.n for comparison in comparisons)
    seeds = f"{fewest} shared seed{'s' if fewest > 1 else ''}"
    ranked = sorted(means, key=lambda label: -means[label])
    observed = ", ".join(f"{label} {100 * means[label]:.2f} %" for label in ranked)
    text = f"{claim} is {word} at n = {fewest}: mean test accuracies {observed}"
    if against:
        text += "; " + ", ".join(
            f"{c.second} exceeds {c.first} by {-100 * c.difference:.2f} percentage points" for c in against
        )
    if fewest < 2:
        return f"{text}. One seed cannot tell a difference from chance."
    many = f", corrected by Holm's method for {len(comparisons)} pairs" if len(comparisons) > 1 else ""
    return f"{text} (paired t-test over {seeds}{many}, level {1 - LEVEL:.2f})."


def winner(cells: Sequence[Cell], select: str) -> str:
    """The label with the best mean accuracy on the split `select`, "validation" or "test"; the first of equals."""
    key = f"{select}_accuracy"
    means = {cell.setting.label: fmean(record[key] for record in cell.records) for cell in cells if cell.records}
    return max(means, key=lambda label: means[label])
