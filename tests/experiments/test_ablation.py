"""Ablations: the settings of both directions, the comparison with the reference, and what is left behind."""

import dataclasses
import json
import pathlib

import pytest

from experiments import ablation, report
from experiments.page import figures
from experiments.study import paired
from experiments.study.progress import Progress
from jresnet import cli
from jresnet.config import Config
from jresnet.train import loop
from tests.support.page_parser import Page
from tests.support.studies import TINY, FakeFit, tiny_npz, tree


def configs(*words):
    options = ablation.parse(words)
    ablation.check(options)
    return {setting.label: setting.config for setting in ablation.settings(options, options.chosen)}


def differing(one, other):
    return {name for name, value in vars(one).items() if value != getattr(other, name)}


def test_the_base_is_the_reports_network_and_schedule_for_eight_epochs():
    expected = dataclasses.replace(
        report.AUGMENTED, width=16, batch_size=128, learning_rate=0.1, nesterov=True, schedule="cosine",
        warmup_epochs=1.0, epochs=8, grayscale=0.0,
    )  # fmt: skip
    assert configs()["base"] == expected


def test_each_ingredient_is_added_to_the_base_alone():
    found = configs("--only", *ablation.INGREDIENTS)
    assert len(found) == 1 + len(ablation.INGREDIENTS)
    changes = {label: differing(config, found["base"]) for label, config in found.items()}
    several = {"AdamW": {"optimizer", "learning_rate", "weight_decay", "nesterov"}}
    assert {label: names for label, names in changes.items() if len(names) != 1} == {"base": set(), **several}
    assert [*configs()] == [
        "base", "grayscale 0.5", "label smoothing 0.1", "cutout 8", "EMA 0.99", "alternating flip",
        "weight decay on kernels", "one-cycle",
    ]  # fmt: skip


def test_the_full_recipe_without_an_ingredient_has_the_bases_value_of_it():
    found, base = configs("--direction", "leave"), configs()["base"]
    full = found.pop("full")
    assert len(found) == 6 and len(differing(full, base)) == 6
    for key in ablation.FULL:
        label, changes = ablation.INGREDIENTS[key]
        without = found[f"without {label}"]
        assert differing(without, full) == {*changes}
        assert all(getattr(without, name) == getattr(base, name) for name in changes)


def test_part_of_what_an_ingredient_changes_may_be_the_bases():
    found = configs("--weight-decay", "0.05", "--only", "adamw")
    assert differing(found["AdamW"], found["base"]) == {"optimizer", "learning_rate", "nesterov"}


def test_options_change_the_base_and_so_all():
    found = configs("--width", "8", "--epochs", "3", "--only", "cutout", "cutout")
    assert [*found] == ["base", "cutout 8"]
    assert {(config.width, config.epochs) for config in found.values()} == {(8, 3)}


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """Runs without training, in a directory with tiny data, and pages whose figures are blank."""
    fake = FakeFit()
    monkeypatch.setattr(loop, "fit", fake)
    monkeypatch.chdir(tmp_path)
    tiny_npz(tmp_path / "tiny.npz")
    for name in ("curves", "differences"):
        monkeypatch.setattr(figures, name, lambda *_: None)
    monkeypatch.setattr(figures, "render", lambda name, text, _, part=False: figures.Drawing(name, text, b"", b""))
    return fake


def main(capsys, *words):
    status = ablation.main([*TINY, *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_an_ablation_compares_each_ingredient_with_the_base_on_validation_images(fit, capsys):
    gains = {0: 0.02, 1: 0.03, 2: 0.04}
    fit.accuracy = lambda config, seed: 0.5 + 0.1 * seed + (gains[seed] if config.cutout else 0.0)
    words = ["--only", "cutout", "ema", "--seeds", "3", "--workdir", "w"]
    status, out, err = main(capsys, *words)
    assert (status, err) == (0, "") and len(fit.made) == 9
    results = [json.loads(path.read_text()) for path in pathlib.Path("w").glob("runs/*/seed-*/result.json")]
    assert {(r["dataset"]["test"], r["dataset"]["validation"]) for r in results} == {(0, 4)}
    assert len({r["dataset"]["sha256"] for r in results}) == 1, "all seeds have the same validation images"
    assert not any(key.startswith("test_") for r in results for key in r)
    shown = Page(pathlib.Path("w/report.html").read_text())
    assert "No test image was evaluated" in shown.text() and "Ingredients added to a base recipe" in shown.text()
    rows = shown.tables["comparison"][0][1:]
    # Quantile 0.975 of Student's t with two degrees of freedom is 4.30265; the differences 2, 3, 4 have standard error
    # 1 / sqrt(3), and so t = 3 sqrt(3), whose two-sided p is 1 - t / sqrt(2 + t^2) with two degrees of freedom.
    half, p = 4.30265 / 3**0.5, 1 - (27 / 29) ** 0.5
    assert [row[0] for row in rows] == ["base", "cutout 8", "EMA 0.99"]
    assert [row[1] for row in shown.tables["settings"][0][2:]] == ["--cutout 8", "--ema-decay 0.99"]
    assert "--nesterov" in shown.tables["settings"][0][1][1]
    assert rows[0][2].startswith("60.00 [") and rows[0][3:5] == ["", ""]
    assert rows[1][2].startswith("63.00 [") and rows[1][3] == f"+3.00 [{3 - half:+.2f}, {3 + half:+.2f}]"
    assert rows[1][4] == f"{p:.2g}" and rows[1][6].startswith("-0.0300 [") and rows[1][8] == "100.00"
    assert rows[2][3:5] == ["+0.00", ""], "differences that do not vary have neither interval nor p"
    assert f"+3.00 [{3 - half:+.2f}," in " ".join(out.split())
    outcome = json.loads(pathlib.Path("w/outcome.json").read_text())
    assert (outcome["select"], outcome["experiments"][0]["name"]) == ("validation", "ablation")
    listed = [pathlib.Path("w", run) for s in outcome["experiments"][0]["settings"] for run in s["runs"]]
    assert len(listed) == 9 and all((run / "result.json").exists() for run in listed)
    before = tree("w/runs")
    assert main(capsys, *words)[0] == 0 and len(fit.made) == 9 and tree("w/runs") == before
    # The base's runs serve other ingredients, too, which do not replace the first ones.
    status, _, err = main(capsys, "--only", "mixup", "--seeds", "3", "--workdir", "w")
    assert (status, err) == (0, "") and len(fit.made) == 12
    outcome = json.loads(pathlib.Path("w/outcome.json").read_text())
    listed = {setting["label"]: len(setting["runs"]) for setting in outcome["experiments"][0]["settings"]}
    assert listed == {"base": 3, "cutout 8": 3, "EMA 0.99": 3, "mixup 0.2": 3}
    # With another base, of whose ingredients there are no runs; what the base has is none of them.
    other = ablation.parse([*TINY, "--only", "mixup", "--cutout", "8", "--workdir", "w"])
    progress = Progress(cli.make_console())
    assert ablation.compared(other, other.load().fold(ablation.PARTS, 0), progress) == ["mixup"]


def test_p_values_are_corrected_for_the_number_of_ingredients():
    def records(*values):
        speed = {"images_per_second": 10.0, "seconds": 1.0, "epochs": 1}
        return [{"seed": i, "validation_accuracy": a, "validation_loss": a, **speed} for i, a in enumerate(values)]

    alone = paired.compare([("base", records(0, 0, 0)), ("a", records(2, 3, 4))])
    both = paired.compare([("base", records(0, 0, 0)), ("a", records(2, 3, 4)), ("b", records(1, -1, 1))])
    assert both[1]["validation_accuracy_p"] == pytest.approx(2 * alone[1]["validation_accuracy_p"])
    assert alone[1]["ms_per_image"] == 100
    waiting = paired.compare([("base", []), ("a", records(1)), ("b", [])])
    assert [row["n"] for row in waiting] == [0, 1, 0] and "validation_accuracy_difference" not in waiting[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--only", "cutuot"], "--only cutuot: no such ingredient to add: choose from grayscale, label-smoothing"),
        (["--only", "sam", "--direction", "leave"], "--only sam: no such ingredient to leave: choose from label-"),
        # Labels of a setting without it, or with another value of it, would not be true.
        (["--direction", "leave", "--ema-decay", "0.5"], "--ema-decay 0.5: is what the full recipe"),
        (["--direction", "leave", "--only", "ema", "--cutout", "16"], "--cutout 16: is what the full recipe"),
        (["--test-after", "training"], "--test-after training: no test image is evaluated: leave it out"),
        (["--test-images", "6"], "--test-images 6: no test image is evaluated: leave it out"),
        (["--cutout", "8"], "--cutout 8: is what cutout 8 changes: leave it out, or choose other ingredients"),
        (["--validation", "4"], "--validation 4: a tenth of the training images is held out: leave it out"),
        (["--seeds", "5000"], "--seeds 5000: makes 40,000 runs"),
    ],
)
def test_bad_ablations(fit, capsys, tmp_path, words, complaint):
    before = tree(tmp_path)
    status, out, err = main(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(complaint)
    assert tree(tmp_path) == before


def test_a_figure_of_differences_shows_values_and_intervals():
    rows = [
        {"setting": "a", "x_difference": 0.01, "x_difference_low": -0.02, "x_difference_high": 0.04},
        {"setting": "b", "x_difference": 0.03},
        {"setting": "c"},
    ]
    (axes,) = figures.differences(rows, "x", "points", 100.0).axes
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert drawn[:3] == [([-2.0, 4.0], [0, 0]), ([1.0], [0]), ([3.0], [1])] and len(drawn) == 4
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


def test_every_option_of_the_base_is_one_of_the_ablation():
    assert ablation.parse([]).config == ablation.BASE
    assert {field.name for field in dataclasses.fields(Config)} <= {
        f.name for f in dataclasses.fields(ablation.Options)
    }


def test_ingredients_that_do_not_go_with_the_base_are_not_looked_for(fit, capsys):
    """After the runs all ingredients are, for which the directory may have others; a PreactBlock has no zero-init."""
    status, _, err = main(capsys, "--model", "preact_resnet18", "--only", "cutout", "--seeds", "1", "--workdir", "w")
    assert (status, err) == (0, "") and pathlib.Path("w/report.html").exists()
