"""The report as data: its values, its settings, and the arithmetic behind what it leaves open."""

import dataclasses

import pytest

from experiments import augmentation, final, initial, report
from experiments.study.plan import EXPERIMENTS
from jresnet import models
from jresnet.config import Config

REPORTED = {
    "initial": {"initial": 0.808},
    "augmentation": {"none": 0.808, "crop + flip + grayscale": 0.875597},
    "grayscale": {},
    "learning_rate": {"0.01": 0.8755, "0.005": 0.8836, "0.001": 0.8865},
    "batch_size": {"32": 0.8965, "64": 0.8909, "128": 0.8766},
    "width": {"42": 0.9057, "64": 0.8947, "80": 0.9016},
    "blocks": {}, "kernel_size": {}, "pool_size": {},
    "final": {"final": 0.909545},
}  # fmt: skip


def configs(name, **choices):
    (experiment,) = (experiment for experiment in EXPERIMENTS if experiment.name == name)
    return {setting.label: setting.config for setting in experiment.following(choices).settings}


def test_every_experiment_with_the_reports_accuracies():
    assert {e.name: {k: v[report.COMPARED] for k, v in e.reported.items()} for e in EXPERIMENTS} == REPORTED


def test_the_final_models_values():
    assert final.EXPERIMENT.reported["final"] == {
        "train_loss": 0.050407, "test_loss": 0.358776, "train_accuracy": 0.982726, "test_accuracy_batch_mean": 0.909545,
        "parameters": 4_815_940,
    }  # fmt: skip
    assert models.check_network(report.FINAL, 10, (32, 32)) == 4_815_940 < report.FINAL.budget == 5_000_000


def test_labels_claims_and_choices_belong_to_settings():
    for experiment in EXPERIMENTS:
        labels = [setting.label for setting in experiment.settings]
        assert len(set(labels)) == len(labels)
        assert {*experiment.reported, *experiment.claim} <= set(labels)
        assert experiment.chosen is None or experiment.chosen in labels
        accuracies = [experiment.reported[label][report.COMPARED] for label in experiment.claim if experiment.reported]
        assert accuracies == sorted(accuracies, reverse=True), "a claim is the order of the report's accuracies"


def test_the_configurations_of_every_experiment():
    base = Config(
        dataset="cifar10", width=64, blocks=(2, 2, 2, 2), kernel_size=3, pool_size=4, dropout=0.0, batch_size=64,
        learning_rate=0.01, epochs=100, momentum=0.9, nesterov=False, weight_decay=5e-4, schedule="constant",
        warmup_epochs=0.0, crop_padding=4, flip=0.5, grayscale=0.5, validation=0, precision="float32",
    )  # fmt: skip
    plain = dataclasses.replace(base, crop_padding=0, flip=0.0, grayscale=0.0)
    change = dataclasses.replace
    assert configs("initial") == {"initial": plain}
    assert (plain, base) == (initial.CONFIG, augmentation.CONFIG)
    assert configs("grayscale") == {
        "none": plain, "grayscale": change(plain, grayscale=0.5), "crop + flip": change(base, grayscale=0.0),
        "crop + flip + grayscale": base,
    }  # fmt: skip
    assert configs("learning_rate") == {r: change(base, learning_rate=float(r)) for r in ("0.01", "0.005", "0.001")}
    slow = change(base, learning_rate=0.001)
    assert configs("batch_size") == {b: change(slow, batch_size=int(b)) for b in ("32", "64", "128")}
    small = change(slow, batch_size=32)
    assert configs("width") == {w: change(small, width=int(w)) for w in ("42", "64", "80")}
    around = change(small, width=42)
    assert configs("final") == {"final": final.CONFIG} == {"final": change(around, budget=5_000_000)}
    assert configs("kernel_size") == {k: change(around, kernel_size=int(k)) for k in "135"}
    assert configs("pool_size") == {p: change(around, pool_size=int(p)) for p in "124"}
    assert configs("blocks") == {" ".join(4 * n): change(around, blocks=(int(n),) * 4) for n in "123"}


def test_other_choices_change_the_experiments_after_them():
    choices = {"learning_rate": 0.005, "batch_size": 128, "width": 80}
    assert configs("learning_rate", **choices) == configs("learning_rate")
    assert {c.learning_rate for c in configs("batch_size", **choices).values()} == {0.005}
    assert {(c.learning_rate, c.batch_size) for c in configs("width", **choices).values()} == {(0.005, 128)}
    (final,) = configs("final", **choices).values()
    assert (final.learning_rate, final.batch_size, final.width) == (0.005, 128, 80)
    assert configs("pool_size", **choices)["4"] == dataclasses.replace(final, budget=None)


def multiple_of(value, unit):
    """Whether a value printed with six decimals can be an integer multiple of a unit."""
    return abs(value - round(value / unit) * unit) < 6e-7


def test_the_logs_accuracies_are_means_over_batches():
    """157 test batches of 64 and 782 training batches; shares of 10,000 and 50,000 images would be shorter."""
    assert [line["epoch"] for line in report.LOG] == list(range(83, 100))
    for line in report.LOG:
        assert multiple_of(line[report.COMPARED], 1 / (157 * 64))
        assert multiple_of(line["train_accuracy"], 1 / (782 * 64))
    assert not all(multiple_of(line[report.COMPARED], 1 / 10_000) for line in report.LOG)
    assert multiple_of(0.909545, 1 / (313 * 32)) and not multiple_of(0.909545, 1 / (157 * 64))


@pytest.mark.parametrize("number", [0, 16])
def test_the_log_as_printed(number):
    lines = {
        0: "Epoch 83, Train loss 0.421626, Test loss 0.388598, Train acc 0.854020, Test acc 0.868830",
        16: "Epoch 99, Train loss 0.411478, Test loss 0.373297, Train acc 0.857836, Test acc 0.875597",
    }
    epoch, train_loss, test_loss, train, test = report.LOG[number].values()
    assert lines[number] == (
        f"Epoch {epoch}, Train loss {train_loss:.6f}, Test loss {test_loss:.6f}, "
        f"Train acc {train:.6f}, Test acc {test:.6f}"
    )


def test_experiments_build_on_the_first_decisions():
    """A study that follows its own choices goes through the decisions in their order."""
    for experiment in EXPERIMENTS:
        assert experiment.builds_on == report.DECISIONS[: len(experiment.builds_on)], experiment.name
