"""Intervals, paired comparisons and verdicts against closed forms and printed tables, not against scipy."""

import dataclasses
import math

import pytest

from experiments.study import statistics
from experiments.study.experiment import Cell, Experiment, Setting
from experiments.study.statistics import compare, holm, judge, summarise, winner
from jresnet.config import Config

# Student's t at 97.5 %, from any table.
T = {1: 12.706205, 2: 4.302653, 4: 2.776445}


def cell(label, accuracies, first_seed=0, key="test_accuracy"):
    records = tuple({"seed": first_seed + i, key: value} for i, value in enumerate(accuracies))
    return Cell(Setting(label, Config()), records)


def experiment(*claim):
    settings = tuple(Setting(label, Config()) for label in claim)
    return Experiment("trial", "0", "Trial", settings, {label: {} for label in claim}, claim)


def test_a_mean_and_its_interval():
    summary = summarise([0.80, 0.82, 0.84, 0.81, 0.88])
    mean, std = 0.83, math.sqrt((0.03**2 + 0.01**2 + 0.01**2 + 0.02**2 + 0.05**2) / 4)
    assert (summary.n, summary.mean, summary.std) == (5, pytest.approx(mean), pytest.approx(std))
    half = T[4] * std / math.sqrt(5)
    assert (summary.low, summary.high) == (pytest.approx(mean - half, rel=1e-6), pytest.approx(mean + half, rel=1e-6))


def test_one_value_and_equal_values():
    assert summarise([0.5]) == statistics.Summary(1, 0.5, None, None, None)
    assert summarise([0.5, 0.5]) == statistics.Summary(2, 0.5, 0.0, 0.5, 0.5)


def test_a_comparison_is_paired_over_the_shared_seeds():
    """Seeds 1 and 2 are shared; their differences are 0.02 and 0.04. With one degree of freedom p is an arctangent."""
    comparison = compare(cell("a", [0.9, 0.52, 0.64]), cell("b", [0.50, 0.60, 0.1], first_seed=1))
    t = 0.03 / 0.01
    assert (comparison.first, comparison.second, comparison.n, comparison.difference) == (
        "a",
        "b",
        2,
        pytest.approx(0.03),
    )
    assert comparison.p == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-6)
    assert comparison.low == pytest.approx(0.03 - T[1] * 0.01, rel=1e-5)
    assert comparison.high == pytest.approx(0.03 + T[1] * 0.01, rel=1e-5)


def test_there_is_no_test_without_variation_or_shared_seeds():
    assert compare(cell("a", [0.5]), cell("b", [0.4])) == statistics.Comparison(
        "a", "b", 1, pytest.approx(0.1), None, None, None
    )
    same = compare(cell("a", [0.5, 0.6, 0.7]), cell("b", [0.4, 0.5, 0.6]))
    assert same.n == 3 and same.p is same.low is same.high is None
    assert compare(cell("a", [0.5]), cell("b", [0.4], first_seed=7)) is None


def test_holms_correction():
    """The smallest of 4 is multiplied by 4, the next by 3, ...; none falls below one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []


BEST, MIDDLE, WORST = [0.90, 0.91, 0.905], [0.88, 0.892, 0.884], [0.80, 0.813, 0.804]


def test_a_claim_is_supported_by_differences_in_every_pair():
    verdict = judge(experiment("a", "b", "c"), [cell("c", WORST), cell("a", BEST), cell("b", MIDDLE)])
    assert verdict.word == "supported"
    assert [(c.first, c.second) for c in verdict.comparisons] == [("a", "b"), ("a", "c"), ("b", "c")]
    for part in ("a > b > c is supported at n = 3", "a 90.50 %, b 88.53 %, c 80.57 %", "Holm's method for 3 pairs"):
        assert part in verdict.sentence


def test_a_claim_is_refuted_by_one_pair_in_the_other_direction():
    verdict = judge(experiment("b", "a"), [cell("a", BEST), cell("b", MIDDLE)])
    assert verdict.word == "refuted"
    assert "a exceeds b by 1.97 percentage points" in verdict.sentence and "Holm" not in verdict.sentence
    mixed = judge(experiment("a", "c", "b"), [cell("a", BEST), cell("b", MIDDLE), cell("c", WORST)])
    assert mixed.word == "refuted" and "b exceeds c" in mixed.sentence


def test_too_little_evidence_is_undecided():
    close = judge(experiment("a", "b"), [cell("a", [0.90, 0.80]), cell("b", [0.85, 0.84])])
    assert close.word == "undecided" and "n = 2" in close.sentence
    one = judge(experiment("a", "b"), [cell("a", [0.9]), cell("b", [0.1])])
    assert one.word == "undecided" and "One seed cannot tell" in one.sentence
    missing = judge(experiment("a", "b"), [cell("a", BEST), cell("b", [])])
    assert missing.word == "undecided" and "not all of it has been run" in missing.sentence
    constant = judge(experiment("a", "b"), [cell("a", [0.5, 0.6]), cell("b", [0.4, 0.5])])
    assert constant.word == "undecided"


def test_p_values_are_corrected_for_the_number_of_pairs():
    """Differences of 0.0202 and 0.0222 have p = 0.030 (t = 21.2): enough for one pair, not for three."""
    c, b, a = [0.5, 0.5], [0.5202, 0.5222], [0.5404, 0.5444]
    assert judge(experiment("a", "b"), [cell("a", a), cell("b", b)]).word == "supported"
    three = judge(experiment("a", "b", "c"), [cell("a", a), cell("b", b), cell("c", c)])
    assert [comparison.p for comparison in three.comparisons] == pytest.approx([0.030] * 3, abs=5e-4)
    assert three.word == "undecided"


def test_without_a_claim_there_is_no_verdict():
    assert judge(experiment(), []) is None


def test_a_claim_without_reported_values_is_called_implied():
    verdict = judge(dataclasses.replace(experiment("b", "a"), reported={}), [cell("a", BEST), cell("b", MIDDLE)])
    assert verdict.sentence.startswith("The ordering b > a, implied by the report's choice, is refuted at n = 3")


def test_the_winner_has_the_best_mean_on_the_chosen_split():
    first = cell("a", [0.5, 0.7], key="validation_accuracy")
    second = cell("b", [0.65], key="validation_accuracy")
    assert winner([first, second], "validation") == "b"
    assert winner([cell("a", [0.5]), cell("b", [0.5]), cell("c", [])], "test") == "a"
