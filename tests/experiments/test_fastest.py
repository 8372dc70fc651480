"""The head of the README: which speedrun it shows, and what it says of it."""

import pytest

from experiments import report
from experiments.page import fastest
from experiments.records import ROOT
from experiments.study import committed, speedruns
from experiments.study.results import NEARLY_CIFAR10
from tests.experiments.test_beyond import COPY
from tests.experiments.test_figures import assert_legible


@pytest.fixture(scope="module")
def committed_study():
    """Two runs of six epochs, which lack nothing of a speedrun but its record."""
    return next(study for study in committed.read_studies(ROOT) if study.name.startswith("augmentation"))


def speedrun(study, accuracies, target=0.9, command="the command", data=None, **values):
    """The study as a speedrun with these test accuracies, on CIFAR-10."""
    (setting,) = study.settings
    runs = {}
    for (run, result), accuracy in zip(setting.runs.items(), accuracies, strict=False):
        dataset = result["dataset"] | {"sha256": COPY} | (data or {})
        changes = {"test_accuracy": accuracy, "dataset": dataset, "seconds": 5400.0, "device": "Two cores"}
        runs[run] = result | changes | values
    record = speedruns.summarise(target, list(runs.values()), command, (32, 32))
    return study._replace(settings=[setting._replace(runs=runs)], speedrun=record)


def test_there_may_be_none(committed_study):
    below = speedrun(committed_study, [0.91, 0.92], target=0.95)
    other = speedrun(committed_study, [0.91, 0.92], data={"sha256": "other", "name": "npz:other.npz"})
    resumed = speedrun(committed_study, [0.91, 0.92], resumed=True)
    found = fastest.find([committed_study, below, other, resumed])
    assert found is None and fastest.lines(found) == [] and fastest.histories(found) == []


def test_the_most_accurate_is_shown_and_of_equals_the_quickest(committed_study):
    low = speedrun(committed_study, [0.905], seconds=1.0, command="low")
    high = speedrun(committed_study, [0.93, 0.92], command="high")
    quick = speedrun(committed_study, [0.92, 0.93], seconds=5399.0, command="quick")
    assert fastest.find([low, high, low]).record.command == "high"
    assert fastest.find([high, quick, low]).record.command == "quick"


def test_its_lines_say_what_it_reached_where_and_how(committed_study):
    head = fastest.lines(fastest.find([speedrun(committed_study, [0.92])]))
    assert head[1].startswith("**92.00 % of CIFAR-10's test images after 1 h 30 min** and 6 epochs, ")
    assert f"the report has 90.95 % after {report.FINAL.epochs} epochs. This is one run, evaluated once" in head[1]
    assert head[1].endswith(f"Device: Two cores. Data: {NEARLY_CIFAR10}.")
    for cache, how in (("cold", ""), ("warm", ", with programs compiled before"), (None, "")):
        study = speedrun(committed_study, [0.92], seconds=90.0, compile_seconds=40.0, compile_cache=cache)
        (said,) = (line for line in fastest.lines(fastest.find([study])) if "compilation" in line)
        assert f"The time is that of training and evaluation; compilation took another 40 s{how}. " in said
    assert head[3:6] == ["```", "the command", "```"]
    (text,) = (line for line in head if line.startswith("<img"))
    assert 'src="docs/speedrun.svg"' in text and "92.00 %" in text
    several = fastest.lines(fastest.find([speedrun(committed_study, [0.93, 0.91])]))[1]
    # Quantile 0.975 of Student's t with one degree of freedom is 12.7062, half the range the standard error.
    assert "the mean of 2 runs [79.29 %, 104.71 %]" in several


def test_its_curve_is_that_of_the_epochs_beside_the_reports_accuracy(committed_study):
    histories = fastest.histories(fastest.find([speedrun(committed_study, [0.93, 0.91])]))
    drawn = fastest.figure(histories)
    assert_legible(drawn)
    (axes,) = drawn.axes
    lines = {line.get_label().split(" (")[0]: line for line in axes.lines}
    assert set(lines) == {"report", "train", "test"}
    assert lines["report"].get_ydata() == pytest.approx([90.95, 90.95], abs=0.005)
    for epoch, both in enumerate(zip(*histories, strict=True)):
        for split in ("train", "test"):
            mean = sum(line[f"{split}_accuracy"] for line in both) / 2
            assert lines[split].get_ydata()[epoch] == pytest.approx(100 * mean)
