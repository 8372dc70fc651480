"""A sweep as a program: its options, its runs and its verdict; and cross-validation, which shares its machinery."""

import dataclasses
import importlib
import json
import pathlib

import numpy as np
import pytest

from experiments import cross_validation, learning_rate, report
from experiments.study import sweep
from jresnet.errors import InputError
from tests.support.studies import tiny_npz, tree

SWEEPS = ("grayscale", "learning_rate", "batch_size", "width", "blocks", "kernel_size", "pool_size")


def parsed(name, *words):
    experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    options, experiment = sweep.configure("program", experiment, list(words))
    return options, {setting.label: setting.config for setting in experiment.settings}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweeps_settings_are_its_own_unless_options_change_them(name):
    module = importlib.import_module(f"experiments.{name}")
    assert parsed(name)[1] == {setting.label: setting.config for setting in module.EXPERIMENT.settings}
    assert "sweep.main(EXPERIMENT)" in pathlib.Path(module.__file__).read_text()


def test_options_apply_to_every_setting():
    options, configs = parsed("learning_rate", "--width", "8", "--epochs", "5", "--seeds", "2")
    assert options.seeds == 2
    assert {(c.width, c.epochs) for c in configs.values()} == {(8, 5)}
    assert [c.learning_rate for c in configs.values()] == [0.01, 0.005, 0.001]


@pytest.mark.parametrize(
    ("name", "option"), [("learning_rate", "--learning-rate 0.1"), ("width", "--width 7"), ("grayscale", "--flip 0.1")]
)
def test_the_option_that_a_sweep_varies_is_refused(name, option):
    with pytest.raises(InputError, match=f"{option.split()[0]}: is what this experiment varies"):
        parsed(name, *option.split())


def test_a_budget_holds_for_every_setting(here, capsys):
    assert sweep.main(learning_rate.EXPERIMENT, [*SMALL, "--budget", "5"]) == 2
    assert "over the budget of 5" in capsys.readouterr().err


def test_quick_keeps_what_varies():
    _, configs = parsed("learning_rate", "--quick")
    assert {(c.width, c.blocks, c.epochs, c.dataset) for c in configs.values()} == {(8, (1, 1, 1, 1), 5, "synthetic")}
    assert [c.learning_rate for c in configs.values()] == [0.01, 0.005, 0.001]
    assert [c.width for c in parsed("width", "--quick")[1].values()] == [5, 8, 10]
    assert [len(c.blocks) for c in parsed("blocks", "--quick")[1].values()] == [4, 4, 4]


@pytest.fixture
def here(tmp_path, monkeypatch):
    tiny_npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# With 12 images held out, sweeps and folds have equal shapes, for which one program is compiled.
SMALL = [*("--dataset", "npz:tiny.npz", "--width", "2", "--blocks", "1", "1", "--epochs", "1", "--batch-size", "12")]


def records(place):
    return [json.loads(path.read_text()) for path in sorted(place.glob("runs/*/seed-*/result.json"))]


def test_a_sweep_from_end_to_end(here, capsys):
    words = [*SMALL, "--validation", "12", "--seeds", "2", "--workdir", "w"]
    assert sweep.main(learning_rate.EXPERIMENT, words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = records(here / "w")
    assert len(found) == 6 and {r["config"]["learning_rate"] for r in found} == {0.01, 0.005, 0.001}
    assert {r["config"]["batch_size"] for r in found} == {12} and {r["dataset"]["validation"] for r in found} == {12}
    assert "The report's ordering 0.001 > 0.005 > 0.01 is" in out and "at n = 2" in out
    table = (here / "w" / "table.md").read_text()
    assert table.count("n = 2") == 3 and "| learning_rate |" in table.replace("rate  ", "rate ")
    paths = [line for line in out.splitlines() if line.startswith("w/")]
    assert len(paths) == 7 and all(pathlib.Path(path).exists() for path in paths)

    before = tree(here / "w")
    assert sweep.main(learning_rate.EXPERIMENT, words) == 2
    assert "already holds runs of this experiment: add --resume" in capsys.readouterr().err
    assert tree(here / "w") == before
    assert sweep.main(learning_rate.EXPERIMENT, [*words, "--resume"]) == 0
    assert "Epoch" not in capsys.readouterr().out
    assert len(records(here / "w")) == 6
    assert sweep.main(learning_rate.EXPERIMENT, [*words, "--train-images", "30", "--resume"]) == 2
    assert "is of other data (npz:tiny.npz, sha256" in capsys.readouterr().err


def cross_validate(capsys, *words):
    status = cross_validation.main([*SMALL, *words])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.slow
def test_cross_validation_from_end_to_end(here, capsys):
    words = ["--folds", "3", "--grid", "learning-rate=0.05,0.001", "--workdir", "cv"]
    status, out, err = cross_validate(capsys, *words)
    assert (status, err) == (0, "")
    found = records(here / "cv")
    folds = [record for record in found if "fold" in record["dataset"]["name"]]
    (final,) = (record for record in found if "fold" not in record["dataset"]["name"])
    assert len(folds) == 6
    for record in folds:
        assert (
            record["dataset"]["test"] == 0 and record["dataset"]["validation"] == 12 == record["dataset"]["train"] / 2
        )
        assert not any(key.startswith("test_") for key in record), "no run on a fold has seen a test image"
    means = {
        rate: np.mean([r["validation_accuracy"] for r in folds if r["config"]["learning_rate"] == rate])
        for rate in (0.05, 0.001)
    }
    assert final["config"]["learning_rate"] == max(means, key=means.get)
    assert final["dataset"]["train"] == 36 and final["dataset"]["validation"] == 0
    table = (here / "cv" / "table.md").read_text()
    for rate, mean in means.items():
        assert f"| {rate} | {100 * mean:.2f} | " in table
    assert f"test accuracy {100 * final['test_accuracy']:.2f} %" in table and "36 training images" in table

    before = tree(here / "cv" / "runs")
    status, out, err = cross_validate(capsys, *words)
    assert (status, err) == (0, "") and "Epoch" not in out
    assert tree(here / "cv" / "runs") == before


def test_the_grid():
    options = cross_validation.parse_options(["--grid", "learning-rate=0.1,0.2", "blocks=1 1,2 2", "momentum=0.5"])
    settings = cross_validation.parse_grid(options)
    names = ["learning-rate", "blocks", "momentum"]
    assert [[*values.items()] for values, _ in settings] == [
        [*zip(names, (rate, blocks, "0.5"), strict=True)] for rate in ("0.1", "0.2") for blocks in ("1 1", "2 2")
    ]
    assert settings[2][1] == dataclasses.replace(report.FINAL, learning_rate=0.2, blocks=(1, 1), momentum=0.5)
    settings = cross_validation.parse_grid(cross_validation.parse_options(["--width", "9"]))
    assert settings == [({}, dataclasses.replace(report.FINAL, width=9))]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--folds", "13"], "--folds 13: must lie from 2 to 12, as 0, the smallest class, has 12 training images"),
        (["--folds", "1"], "--folds 1: must be at least 2"),
        (["--validation", "5"], "--validation 5: each fold is its own validation split: leave it out"),
        (["--seed", "-1"], "--seed -1: must lie from 0"),
        (["--grid", "learning-rate"], "--grid learning-rate: must be an option and its values"),
        (["--grid", "rate=1"], "--grid rate=1: must be an option and its values"),
        (["--grid", "width=2", "width=3"], "--grid width=3: width is given twice"),
        (["--grid", "width=2,2"], "--grid width=2,2: two of its settings are the same"),
        (["--grid", "width=0,2"], "--width 0: must be at least 1"),
        (["--grid", "width=two"], "--width two: must be a whole number"),
        (["--grid", "init-from=a,b"], "--init-from a: the runs of a study start from random weights"),
        (["--grid", "pool-size=1,9"], "--pool-size 9: exceeds the last feature map"),
    ],
)
def test_bad_cross_validations(here, capsys, words, complaint):
    before = tree(here)
    status, out, err = cross_validate(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(complaint)
    assert tree(here) == before
