"""The tuned recipe: its network, its options, and the accuracy with test-time flip, apart from the one to quote."""

import json

from experiments import report, tuned
from experiments.study import single
from jresnet import models


def test_the_network_is_below_the_budget_and_channels_are_multiples_of_8():
    assert models.check_network(tuned.CONFIG, 10, (32, 32)) == 4_480_474 < report.BUDGET
    config = models.fill_defaults(tuned.CONFIG)
    assert config.blocks == (4, 4, 4) and config.width % 8 == 0 and config.dropout == 0


def test_choices_are_made_on_validation_images():
    assert (tuned.CONFIG.validation, tuned.CONFIG.test_after, tuned.CONFIG.epochs) == (5000, "training", 200)
    long = single.parse("p", tuned.CONFIG, ["--epochs", "600", "--validation", "0"], single.SingleOptions, tuned.QUICK)
    assert (long.epochs, long.validation, long.model) == (600, 0, "wide_resnet28_10")


def test_the_accuracy_with_flip_is_written_apart_once(tmp_path, monkeypatch, capsys):
    """With a run and an evaluation that are made up; tests/experiments/test_quick.py has real ones."""
    evaluations = []

    class Found:
        def to_json(self):
            return {"name": "model, with flip", "systems": {"model, with flip": {"accuracy": 0.75}}}

    def run(name, config, arguments, quick):
        (tmp_path / "run").mkdir(exist_ok=True)
        options = single.parse("p", config, arguments, single.SingleOptions, quick)
        record = {"test_accuracy": 0.5, "seed": 0}
        return single.Trained(options, "command", Data(), tmp_path / "run", {0: tmp_path / "run"}, [record])

    class Data:
        sha256 = "0"

    monkeypatch.setattr(tuned.single, "run", run)
    monkeypatch.setattr(tuned.Classifier, "load", lambda path: path)
    monkeypatch.setattr(tuned, "evaluate", lambda *given, **options: evaluations.append((given, options)) or Found())
    for _ in range(2):
        assert tuned.main([]) == 0
        out = capsys.readouterr().out.splitlines()[-1]
        assert "test accuracy 50.00%; apart from it, with test-time flip 75.00%" in out
    ((given, options),) = evaluations
    assert given[0] == tmp_path / "run" and options["tta"] == "flip" and options["sha256"] == "0"
    outcome = json.loads((tmp_path / "run" / "outcome.json").read_text())
    assert outcome["experiments"][0]["settings"] == [{"label": "tuned", "runs": ["."]}]
