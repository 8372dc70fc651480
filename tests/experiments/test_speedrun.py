"""Speedruns: the recipes, and a record whose figures are computed here once more."""

import dataclasses
import json
import math
import pathlib

import pytest

from experiments import report, speedrun
from experiments.study import speedruns
from jresnet import models
from jresnet.errors import Diverged
from jresnet.train import loop
from tests.support.studies import FakeFit


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """Runs without training, in an empty directory."""
    fake = FakeFit()
    monkeypatch.setattr(loop, "fit", fake)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.mark.parametrize("target", speedrun.RECIPES)
def test_recipes_train_the_reports_network_and_see_test_images_once(target):
    config = speedrun.parse(["--target", target]).config
    assert models.check_network(config, 10, (32, 32)) == 4_815_940
    assert (config.test_after, config.validation, config.grayscale, config.nesterov) == ("training", 0, 0.0, True)
    assert config.warmup_epochs / config.epochs == pytest.approx(0.23, abs=0.01) and config.schedule == "one-cycle"
    given = speedrun.parse(["--target", target, "--precision", "bfloat16", "--dataset", "npz:x.npz"]).config
    assert given == dataclasses.replace(config, precision="bfloat16", dataset="npz:x.npz")
    chosen = speedrun.parse(["--target", target, "--validation", "5000"]).config
    assert chosen == dataclasses.replace(config, validation=5000, test_after="never")


def test_a_speedrun_is_recorded_and_resumed(fit, capsys):
    accuracies = {0: 0.93, 1: 0.90, 2: 0.9095}
    fit.accuracy = lambda config, seed: accuracies[seed]
    words = ["--quick", "--target", "0.9095", "--workdir", "w", "--seeds"]
    assert speedrun.main([*words, "2"]) == 0
    assert "91.50" in capsys.readouterr().out
    assert speedrun.main([*words, "3"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and len(fit.made) == 3, "finished seeds are kept"
    record = json.loads(pathlib.Path("w/speedrun.json").read_text())
    mean = (0.93 + 0.90 + 0.9095) / 3
    std = math.sqrt(sum((accuracy - mean) ** 2 for accuracy in accuracies.values()) / 2)
    half = 4.30265 * std / math.sqrt(3)  # quantile 0.975 of Student's t with two degrees of freedom
    assert (record["n"], record["target"], record["share"], record["reached"]) == (3, 0.9095, 2 / 3, mean >= 0.9095)
    assert [record["mean"], record["low"], record["high"]] == pytest.approx([mean, mean - half, mean + half], abs=1e-6)
    assert [run["seed"] for run in record["runs"]] == [0, 1, 2]
    # FakeFit's epochs take two seconds, and there are two.
    assert (record["seconds"]["median"], record["compile_seconds"]) == (4.0, 1.0)
    assert (record["resumed"], record["cache"]) == (0, "cold")
    assert (record["split"], record["diverged"], record["dataset"]["train"]) == ("test", 0, 640) and record["config"][
        "test_after"
    ] == "training"
    assert f"{100 * mean:.2f}" in pathlib.Path("w/table.md").read_text() and "yes" in out
    outcome = json.loads(pathlib.Path("w/outcome.json").read_text())
    (setting,) = outcome["experiments"][0]["settings"]
    assert [(pathlib.Path("w") / run / "result.json").exists() for run in setting["runs"]] == [True] * 3


def test_while_choosing_accuracies_are_those_of_validation_images(fit):
    assert speedrun.main(["--quick", "--workdir", "w", "--validation", "64", "--seeds", "1"]) == 0
    record = json.loads(pathlib.Path("w/speedrun.json").read_text())
    assert (record["split"], record["mean"], record["dataset"]["validation"]) == ("validation", 0.5, 64)
    (result,) = (json.loads(path.read_text()) for path in pathlib.Path("w").glob("runs/*/seed-0/result.json"))
    assert not any(name.startswith("test_") for name in result)


def test_a_run_that_diverges_does_not_reach_the_target(fit, capsys):
    def accuracy(config, seed):
        if seed == 1:
            raise Diverged("the train loss is not finite")
        return 0.92

    fit.accuracy = accuracy
    assert speedrun.main(["--quick", "--workdir", "w", "--seeds", "4"]) == 1
    assert "1 run diverged" in capsys.readouterr().err
    record = json.loads(pathlib.Path("w/speedrun.json").read_text())
    assert [record[name] for name in ("n", "diverged", "share", "reached", "mean")] == [3, 1, 0.75, False, 0.92]


def test_choosing_and_final_runs_have_directories_of_their_own():
    places = [speedrun.parse(words).directory for words in ([], ["--validation", "500"])]
    assert list(map(str, places)) == ["runs/speedrun-0.9095", "runs/speedrun-0.9095-validation"]


def made(seed, **values):
    """A result of the report's network after 12 epochs on 50,000 images."""
    config = models.fill_defaults(dataclasses.replace(report.FINAL, epochs=12))
    return {
        "config": json.loads(json.dumps(dataclasses.asdict(config))), "parameters": 4_815_940, "seed": seed,
        "test_accuracy": 0.91, "test_loss": 0.3, "seconds": 1.0, "compile_seconds": 1.0, "images_per_second": 1.0,
        "dataset": {"name": "made", "train": 50_000, "validation": 0, "test": 10, "classes": 10, "sha256": "0"},
        "device": "none", "versions": {}, "commit": None,
    } | values  # fmt: skip


def test_the_operations_are_those_of_all_images_and_epochs():
    """docs/cli.md has the network's multiply-adds, of which the backward pass makes twice as many."""
    found = speedruns.summarise(0.9095, [made(0)], "command", (32, 32))
    assert found.training_flops == 3 * 2 * 239_600_928 * 50_000 * 12
    assert (found.n, found.low, found.reached, found.share) == (1, None, True, 1.0)


def test_compilation_is_that_of_the_first_run():
    """The others find its programs, so that a median over the runs would say nothing."""
    found = speedruns.summarise(
        0.9, [made(0, compile_seconds=30.0), made(1), made(2)], "command", (32, 32), cache="cold"
    )
    assert (found.compile_seconds, found.cache) == (30.0, "cold")
    shown = speedruns.table(found).markdown()
    assert "| 30.0 | cold |" in shown


def test_runs_that_went_on_from_a_checkpoint_are_counted_where_that_is_known():
    runs = [made(0, resumed=True, compile_cache="warm"), made(1, resumed=False, compile_cache="cold")]
    found = speedruns.summarise(0.9, runs, "program --dataset npz:/home/me/c.npz", (32, 32))
    assert (found.resumed, [run.resumed for run in found.runs], found.cache) == (1, [True, False], "warm")
    assert found.command == "program --dataset npz:c.npz", "no path of this machine"
    older = speedruns.summarise(0.9, [*runs, made(2)], "program", (32, 32))
    assert older.resumed is None and "| not known | test |" in speedruns.table(older).markdown()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--target", "0.97"], "--target 0.97: must be one of 0.9095, 0.94, 0.95"),
        (["--epochs", "3"], "--epochs: no such option"),
        (["--validation", "-1"], "--validation -1: must be at least 0"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--workdir="], "--workdir '': must name a directory"),
    ],
)
def test_bad_speedruns(fit, capsys, tmp_path, words, complaint):
    assert speedrun.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith(complaint)
    assert not list(tmp_path.iterdir())
