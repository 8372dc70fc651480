"""The whole report from one command: the outcome it gives to the page, its output, and its exit status."""

import json
import pathlib
import re
import shlex
import signal

import pytest

from experiments import readme, reproduce
from experiments.page import page
from experiments.study import plan
from experiments.study.plan import NAMES
from jresnet.errors import Diverged, Interrupted
from jresnet.train import loop
from tests.support.studies import FakeFit, five_classes, tree


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """Runs without training, in an empty directory."""
    fake = FakeFit()
    monkeypatch.setattr(loop, "fit", fake)
    monkeypatch.setattr(reproduce, "load_dataset", lambda source, console: five_classes())
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def outcomes(monkeypatch):
    """The outcomes given to the page, which is not written."""
    given = []
    monkeypatch.setattr(page, "write", lambda outcome, workdir: given.append(outcome) or [workdir / "report.html"])
    return given


def main(capsys, *words):
    status = reproduce.main(list(words))
    out, err = capsys.readouterr()
    return status, out, err


def test_every_experiment_is_trained_and_on_the_page(fit, outcomes, capsys):
    words = ["--seeds", "2", "--epochs", "7", "--width-scale", "0.125", "--train-images", "50"]
    status, out, err = main(capsys, *words)
    assert (status, err) == (0, "")
    (outcome,) = outcomes
    assert tuple(experiment.name for experiment, _ in outcome.experiments) == NAMES
    assert all(len(cell.records) == 2 for _, cells in outcome.experiments for cell in cells)
    assert len(fit.made) == 32
    assert (outcome.select, outcome.follow) == ("validation", False)
    assert outcome.command == "python -m experiments.reproduce " + " ".join(words)
    assert outcome.caption == (
        "Not the report's scale: made; 50 training images, 5 of them held out for validation; 10 test images; "
        "7 epochs; 5, 8, 10 channels (the report's times 0.125); 2 seeds per setting; on none"
    )
    assert outcome.caption in out and "runs/reproduce/report.html" in out
    assert "Learning rate: The report's ordering 0.001 > 0.005 > 0.01 is undecided at n = 2" in out
    assert re.search(r"distinct runs +32 +32 +0 +0 +0", out)
    assert main(capsys, *words)[0] == 0 and len(fit.made) == 32, "the second time nothing is left to do"


def test_a_full_scale_study_says_so():
    study = plan.Plan(plan.StudyOptions(), five_classes(), None)
    assert reproduce.caption(study, ()).startswith("The report's scale: made; 60 training images")


@pytest.mark.slow
def test_a_shard_shows_what_is_finished_and_says_what_waits(fit, outcomes, capsys):
    words = ["--follow", "--seeds", "1", "--workdir", "shared", "--shard"]
    status, out, _ = main(capsys, *words, "1/2")
    assert status == 0
    assert "batch_size waits for learning_rate, which is not finished: run the same command again when it is" in out
    names = [experiment.name for experiment, _ in outcomes[-1].experiments]
    assert names == ["initial", "augmentation", "grayscale", "learning_rate"]
    first = len(fit.made)
    assert first == 3
    for shard in ("2/2", "1/2", "2/2", "1/2", "2/2", "1/2", "2/2", "1/2"):
        assert main(capsys, *words, shard)[0] == 0
    assert tuple(experiment.name for experiment, _ in outcomes[-1].experiments) == NAMES
    assert len({str(run) for run in fit.made}) == len(fit.made), "no run was made twice"


def test_only_some_experiments(fit, outcomes, capsys):
    assert main(capsys, "--only", "final", "width", "--seeds", "1")[0] == 0
    assert [experiment.name for experiment, _ in outcomes[0].experiments] == ["width", "final"]
    assert len(fit.made) == 3


def test_an_interrupted_study_prints_the_command_that_resumes(fit, outcomes, capsys):
    def accuracy(config, seed):
        if len(fit.made) == 5:
            raise Interrupted("interrupted after epoch 3; the state is saved", signal.SIGTERM)
        return 0.5

    fit.accuracy = accuracy
    status, _, err = main(capsys, "--seeds", "1", "--workdir", "a place")
    assert status == 143 and err.count("\n") == 1 and outcomes == []
    command = err.partition("go on with: ")[2]
    assert shlex.split(command) == [*reproduce.PROGRAM.split(), "--seeds", "1", "--workdir", "a place"]
    fit.accuracy = lambda config, seed: 0.5
    assert main(capsys, *shlex.split(command)[3:])[0] == 0
    assert len(fit.made) == 16


def test_a_diverged_run_is_reported_after_the_page(fit, outcomes, capsys):
    def accuracy(config, seed):
        if config.width == 80:
            raise Diverged("the loss is not finite at epoch 0")
        return 0.5

    fit.accuracy = accuracy
    status, _, err = main(capsys, "--seeds", "1")
    assert status == 1 and err.startswith("1 run diverged, runs/reproduce/runs/width80-")
    assert "the loss is not finite at epoch 0" in err and err.count("\n") == 1
    assert len(outcomes) == 1 and len(fit.made) == 15


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--seeds 0", "--seeds 0: must be at least 1"),
        ("--shard 5/4", "--shard 5/4: must be i/n with i from 1 to n"),
        ("--only widht", "--only widht: no such experiment: choose from initial"),
        ("--select train", "--select train: must be one of validation, test"),
        ("--train-images 61", "--train-images 61: must lie from 1 to 60"),
        ("--epochs 0", "--epochs 0: must be at least 1"),
        ("--validation 60", "--validation 60: must lie below 60"),
        ("--width-scale 0.001", "--width-scale 0.001: makes two of width's settings"),
    ],
)
def test_bad_options(fit, capsys, tmp_path, words, complaint):
    before = tree(tmp_path)
    status, out, err = main(capsys, *words.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(complaint)
    assert tree(tmp_path) == before


def test_check_only_compares_the_generated_tables(monkeypatch, capsys):
    monkeypatch.setattr(readme, "check", lambda: [])
    assert main(capsys, "--check") == (0, "", "")
    monkeypatch.setattr(readme, "check", lambda: ["README.md: the table differs", "no record of x"])
    assert main(capsys, "--check") == (2, "", "README.md: the table differs; no record of x\n")


@pytest.mark.slow
def test_quick_does_every_experiment_and_the_page(tmp_path, monkeypatch, capsys):
    """Trains 32 runs of tiny networks."""
    monkeypatch.chdir(tmp_path)
    status, out, err = main(capsys, "--quick")
    assert (status, err) == (0, "")
    place = pathlib.Path("runs/reproduce-quick")
    results = [json.loads(path.read_text()) for path in place.glob("runs/*/seed-*/result.json")]
    assert len(results) == 32 and {result["dataset"]["name"] for result in results} == {"synthetic"}
    assert sum(result["compile_seconds"] > 1 for result in results) <= 14, "one program serves all seeds and rates"
    assert (place / "report.html").stat().st_size > 10_000
    assert all(name in out for name in NAMES)
    written = [line for line in out.splitlines() if line.startswith(str(place))]
    assert written and all(pathlib.Path(line).exists() for line in written if "/runs/" not in line)
