"""Our results beside published ones: what counts, what each is worth, and that the figure shows it."""

import dataclasses
import math
import pathlib

import pytest

from experiments import report
from experiments.anchors import ANCHORS
from experiments.page import beyond, sections
from experiments.records import ROOT
from experiments.study.experiment import Cell, Experiment, Outcome, Setting, chosen_on_test
from experiments.study.results import COPIES, NEARLY_CIFAR10
from experiments.study.stopped import read_stopped
from jresnet import models
from jresnet.errors import InputError
from tests.experiments.test_figures import assert_legible

BY_NAME = {anchor.name: anchor for anchor in ANCHORS}
COPY = next(sha for sha, name in COPIES.items() if name == NEARLY_CIFAR10)


def record(accuracy=0.93, config=None, device="A CPU", **values):
    """A run of the report's network on all of CIFAR-10."""
    config = models.fill_defaults(config or dataclasses.replace(report.FINAL, epochs=12))
    dataset = {"name": "cifar10", "train": 50_000, "validation": 0, "test": 10_000, "sha256": "s"}
    dataset |= values.pop("dataset", {})
    run = {"config": dataclasses.asdict(config), "dataset": dataset, "device": device, "test_accuracy": accuracy}
    return run | {"parameters": 4_815_940, "epochs": config.epochs, "seconds": 3600.0} | values


def candidate(*records, name="", source="", chosen_on_test=False):
    """A setting with these runs."""
    runs = {pathlib.Path(name, f"seed-{seed}"): record for seed, record in enumerate(records)}
    return beyond.Candidate(name, source, chosen_on_test, runs)


def airbench(*widths, depth):
    """Trainable parameters of its network: whitening layer's bias, groups of convolutions, biases of norms, head."""
    inputs, total = 24, 24
    for width in widths:
        total += 9 * inputs * width + (depth - 1) * 9 * width**2 + depth * width
        inputs = width
    return total + 10 * inputs


def test_parameters_and_arithmetic_of_published_results():
    assert BY_NAME["airbench94, Muon"].parameters == airbench(64, 256, 256, depth=2)
    assert BY_NAME["airbench95"].parameters == airbench(128, 384, 384, depth=2)
    assert BY_NAME["airbench96, data filtered"].parameters == airbench(128, 384, 512, depth=3)
    # 6 x 555.42 million multiply-adds x 50,000 images x 350 epochs, and so on.
    computed = {anchor.name: anchor.petaflop for anchor in ANCHORS if anchor.arithmetic}
    expected = {
        "the report's ResNet-18 of 42 channels": 6 * 0.239600928 * 5, "ResNet-18, kuangliu": 6 * 0.55542272 * 17.5,
        "ResNet-SE 4-4-3, Thakur et al. 2023": 6 * 0.798690304 * 10, "WRN-40-2, LatentAugment": 50 * 0.32759936 * 10,
        "Shake-Shake 26 2x32d, AutoAugment": 6 * 0.42889 * 90,
    }  # fmt: skip
    assert computed == pytest.approx(expected)


def test_every_published_result_is_whole():
    for anchor in ANCHORS:
        assert 0.9 < anchor.accuracy < 1 and anchor.source and anchor.protocol
        assert (anchor.seconds is None) == (anchor.hardware is None)
        assert not (anchor.petaflop is None and anchor.arithmetic)
        assert not (anchor.plain and any(word in anchor.protocol for word in ("best", "chosen", "views", "stated")))


def test_a_settings_runs_are_a_mean_per_device():
    runs = [record(0.92), record(0.94, seconds=1800.0), record(0.95, device="A GPU")]
    cpu, gpu = beyond.of_runs(candidate(*runs, name="twelve epochs", source="a study"))
    assert (cpu.name, cpu.runs, cpu.epochs, cpu.hardware, cpu.source) == ("twelve epochs", 2, 12, "A CPU", "a study")
    assert cpu.accuracy == pytest.approx(0.93) and cpu.seconds == 2700.0
    assert cpu.petaflop == pytest.approx(6 * 239_600_928 * 50_000 * 12 / 1e15)
    assert (gpu.runs, gpu.accuracy, gpu.hardware) == (1, 0.95, "A GPU")


def test_images_held_out_count_as_seen_but_not_as_trained_on_and_sam_counts_twice():
    split = {"train": 45_000, "validation": 5_000}
    (held_out,) = beyond.of_runs(candidate(record(dataset=split)))
    assert held_out.petaflop == pytest.approx(6 * 239_600_928 * 45_000 * 12 / 1e15)
    (sharp,) = beyond.of_runs(candidate(record(config=dataclasses.replace(report.FINAL, epochs=12, sam=0.1))))
    assert sharp.petaflop == pytest.approx(12 * 239_600_928 * 50_000 * 12 / 1e15)


@pytest.mark.parametrize(
    "values",
    [
        {"accuracy": 0.899}, {"accuracy": None}, {"parameters": 5_000_000}, {"dataset": {"train": 10_000}},
        {"dataset": {"test": 5_000}}, {"dataset": {"name": "cifar100"}}, {"dataset": {"name": "npz:mine.npz"}},
        {"dataset": {"sha256": next(iter(COPIES))}},
    ],
)  # fmt: skip
def test_what_is_not_all_of_cifar10_within_the_budget_is_left_out(values):
    assert beyond.of_runs(candidate(record(**values))) == []


def test_a_copy_with_few_other_images_counts():
    assert beyond.of_runs(candidate(record(dataset={"name": "npz:cifar10.npz", "sha256": COPY})))


def test_runs_that_several_settings_share_count_once():
    shared, other = candidate(record(0.92), name="width 42"), candidate(record(0.93), name="rate 0.01")
    found = beyond.ours([shared, shared._replace(name="final model"), other, candidate(name="not begun")])
    assert [anchor.name for anchor in found] == ["width 42", "rate 0.01"]


def test_accuracies_of_settings_that_test_images_chose_say_so():
    for chosen in (False, True):
        (anchor,) = beyond.of_runs(candidate(record(), chosen_on_test=chosen))
        assert anchor.plain != chosen and ("chosen on the test images" in anchor.protocol) == chosen
    # The report's own settings were, unless a study makes choices of its own.
    assert [chosen_on_test("4.3", "validation", follow) for follow in (False, True)] == [True, False]
    assert chosen_on_test("4.3", "test", True) and not chosen_on_test("", "validation", False)


@pytest.mark.parametrize("follow", [False, True])
def test_the_marks_of_a_study_say_what_chose_its_settings(follow, tmp_path):
    setting = Setting("final", models.fill_defaults(report.FINAL))
    cell = Cell(setting, (record(),), (), (tmp_path / "runs" / "seed-0",))
    experiment = Experiment("final", "4.3", "Final model", (setting,))
    outcome = Outcome(((experiment, (cell,)),), None, 1, "validation", follow, "", "")
    assert sections.marks(outcome)["A"].plain == follow


def test_the_stopped_run_is_what_it_logged():
    run = read_stopped(ROOT)
    anchor = beyond.of_stopped(run, "file")
    assert anchor.accuracy == run.epochs[97].test_accuracy and anchor.epochs == 98
    assert anchor.petaflop == pytest.approx(6 * 239_600_928 * 50_000 * 98 / 1e15)
    assert anchor.seconds == pytest.approx(math.fsum(epoch.seconds for epoch in run.epochs))
    assert anchor.parameters == 4_815_940 and not anchor.plain, "the report chose its settings on the test images"
    untested = dataclasses.replace(run, epochs=(dataclasses.replace(run.epochs[0], test_accuracy=None),))
    with pytest.raises(InputError, match="its last epoch has no test accuracy"):
        beyond.of_stopped(untested, "file")


@pytest.fixture(scope="module")
def drawn():
    ours = beyond.ours([candidate(record(0.92), name="one"), candidate(record(0.97, seconds=8.0), name="two")])
    return ours, beyond.figure(beyond.marks(ours))


def test_the_figure_shows_every_result_where_it_is_and_is_legible(drawn):
    ours, figure = drawn
    assert_legible(figure)
    for axes, key in zip(figure.axes, ("petaflop", "seconds"), strict=True):
        points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines}
        known = [anchor for anchor in (*ANCHORS, *ours) if getattr(anchor, key) is not None]
        assert points == {(getattr(anchor, key), 100 * anchor.accuracy) for anchor in known}
        low, high = axes.get_ylim()
        assert all(low < 100 * anchor.accuracy < high for anchor in known)
        hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
        assert len(hollow) == sum(not anchor.plain for anchor in known)
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key == [anchor.name for anchor in (*ANCHORS, *ours)]
    rows = beyond.table(beyond.marks(ours)).rows
    assert [row["mark"] for row in rows] == [*map(str, range(1, len(ANCHORS) + 1)), "A", "B"]


def test_there_are_marks_for_any_number_of_results():
    ours = beyond.of_runs(candidate(record(0.92))) * 60
    assert len(beyond.marks(ours)) == len(ANCHORS) + 60
