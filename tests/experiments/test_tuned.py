"""The tuned recipe: its network, its options, and the accuracy with test-time flip, apart from the one to quote."""

import json
import pathlib

import numpy as np
import pytest

from experiments import report, tuned
from experiments.study.flip import FLIP
from jresnet import models
from jresnet.train import loop
from tests.support.studies import TINY, FakeFit, tiny_npz, tree

FINAL = ["--validation", "0", "--test-after", "training"]


def test_the_network_is_below_the_budget_and_channels_are_multiples_of_8():
    assert models.check_network(tuned.CONFIG, 10, (32, 32)) == 4_480_474 < report.BUDGET
    config = models.fill_defaults(tuned.CONFIG)
    assert config.blocks == (4, 4, 4) and config.width % 8 == 0 and config.dropout == 0


def test_choices_are_made_on_validation_images():
    chosen = tuned.parse([])
    assert (chosen.validation, chosen.test_after, chosen.epochs) == (5000, "never", 200)
    final = tuned.parse(["--epochs", "600", *FINAL])
    assert (final.epochs, final.validation, final.test_after, final.model) == (600, 0, "training", "wide_resnet28_10")


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """Runs without training, and evaluations with flip that are made up, listed in `evaluated`."""
    fake = FakeFit()
    fake.evaluated = []

    class Found:
        def to_json(self):
            systems = {"model": {"accuracy": 0.5}, "model, with flip": {"accuracy": 0.75}}
            named = {"name": "model, with flip", "models": [{"name": "model"}], "systems": systems}
            return named | {"confusion": [[2, 1], [0, 1]], "dataset": {"sha256": "0"}}

    def evaluate(classifier, dataset, **options):
        fake.evaluated.append((classifier, options))
        return Found()

    monkeypatch.setattr(loop, "fit", fake)
    monkeypatch.setattr(tuned.Classifier, "load", lambda path: path)
    monkeypatch.setattr(tuned, "evaluate", evaluate)
    monkeypatch.chdir(tmp_path)
    tiny_npz(tmp_path / "tiny.npz")
    return fake


def main(*words):
    network = ["--model", "resnet18", "--validation", "9", "--warmup-epochs", "1", "--workdir", "w"]
    return tuned.main([*TINY, *network, *words])


def test_while_choosing_no_test_image_is_evaluated(fit, capsys):
    assert main() == 0
    assert fit.evaluated == [] and "test-time flip" not in capsys.readouterr().out
    (result,) = (json.loads(path.read_text()) for path in pathlib.Path("w").glob("runs/*/seed-0/result.json"))
    assert result["validation_accuracy"] == 0.5 and not any(name.startswith("test_") for name in result)


def test_validation_images_of_the_datas_own_will_do(fit, tmp_path, capsys):
    labels = np.arange(9) % 3
    tiny_npz(tmp_path / "tiny.npz", val_images=np.zeros((9, 8, 8, 3), np.uint8), val_labels=labels)
    assert main() == 2
    assert capsys.readouterr().err.endswith("already has a validation split of 9 images: give --validation 0\n")
    assert main("--validation", "0") == 0 and len(fit.made) == 1


def test_final_runs_grow_one_setting_and_the_accuracy_with_flip_is_written_apart_once(fit, capsys):
    """tests/experiments/test_quick.py has a real evaluation."""
    for seeds in (1, 2):
        assert main(*FINAL, "--seeds", str(seeds)) == 0
        out = capsys.readouterr().out
        assert out.count("test accuracy 50.00%; apart from it, with test-time flip 75.00%") == seeds
    assert [seed for _, seed in fit.made] == [0, 1]
    outcome = json.loads(pathlib.Path("w/outcome.json").read_text())
    ((setting,),) = (experiment["settings"] for experiment in outcome["experiments"])
    runs = [pathlib.Path("w", run) for run in setting["runs"]]
    assert [run.name for run in runs] == ["seed-0", "seed-1"] and setting["label"] == "2 epochs"
    assert [classifier.resolve() for classifier, _ in fit.evaluated] == [run.resolve() for run in runs]
    assert all(options["tta"] == "flip" for _, options in fit.evaluated) and all((run / FLIP).exists() for run in runs)


def test_a_damaged_evaluation_with_flip_is_refused(fit, capsys):
    assert main(*FINAL) == 0
    (path,) = pathlib.Path("w").glob(f"runs/*/seed-0/{FLIP}")
    path.write_text("{}")
    capsys.readouterr()
    assert main(*FINAL) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{path}: not an evaluation with test-time flip") and err.count("\n") == 1


def test_choosing_and_final_runs_have_directories_of_their_own():
    places = [tuned.parse(words).directory for words in ([], FINAL, ["--quick"])]
    assert list(map(str, places)) == ["runs/tuned-validation", "runs/tuned", "runs/tuned-validation-quick"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--test-after", "epochs"], "--test-after epochs: must be never while choosing, or training for final runs"),
        (
            ["--validation", "0"],
            "--test-after never: there are no validation images: hold some out with --validation N",
        ),
        (["--workdir="], "--workdir '': must name a directory"),
    ],
)
def test_bad_options(fit, tmp_path, capsys, words, complaint):
    before = tree(tmp_path)
    assert main(*words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith(complaint)
    assert tree(tmp_path) == before
