"""Experiments as programs: their values and options, where their runs go, and what they leave behind."""

import dataclasses
import json
import pathlib

import pytest

from experiments.study import single
from experiments.study.options import QUICK
from jresnet.config import Config
from jresnet.errors import InputError
from tests.support.studies import TINY, tiny_npz, tree

CONFIG = Config(width=5, epochs=7)


def parse(*words, config=CONFIG):
    return single.parse("program", config, list(words), single.SingleOptions)


def test_an_experiments_values_are_its_options_defaults():
    assert parse().config == CONFIG
    given = parse("--width", "9", "--seeds", "3", "--first-seed", "2", "--workdir", "w", "--resume")
    assert given.config == dataclasses.replace(CONFIG, width=9)
    assert (given.seeds, given.first_seed, given.workdir, given.resume) == (3, 2, "w", True)
    assert (parse().seeds, parse().first_seed, parse().workdir, parse().resume) == (1, 0, None, False)


def test_quick_changes_the_scale_and_given_options_still_win():
    assert parse("--quick").config == dataclasses.replace(CONFIG, **QUICK)
    # Values that equal the experiment's own count as given, too.
    given = parse("--width", "5", "--quick", "--dataset", "npz:mine.npz", "--blocks", "2", "2")
    changes = QUICK | {"width": 5, "dataset": "npz:mine.npz", "blocks": (2, 2)}
    assert given.config == dataclasses.replace(CONFIG, **changes)


def test_quick_keeps_what_it_does_not_name():
    config = dataclasses.replace(CONFIG, budget=123_456, momentum=0.5)
    assert parse("--quick", config=config).config == dataclasses.replace(config, **QUICK)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--first-seed", "-1"], "--first-seed -1: "),
        (["--first-seed", str(2**32)], "--first-seed 4294967296: "),
        (["--first-seed", str(2**32 - 2), "--seeds", "3"], "--first-seed 4294967294: "),
        (["--quick", "--width", "0"], "--width 0: must be at least 1"),
    ],
)
def test_bad_options(words, complaint):
    with pytest.raises(InputError) as caught:
        parse(*words)
    assert str(caught.value).startswith(complaint)


def test_the_largest_seeds():
    assert parse("--first-seed", str(2**32 - 3), "--seeds", "3").first_seed == 2**32 - 3


def test_default_directories_are_numbered_and_resume_takes_the_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new, again = parse(), parse("--resume")
    for name in ("final", "final-2", "final-3"):
        assert new.directory("final") == pathlib.Path("runs", name)
        (tmp_path / "runs" / name).mkdir(parents=True)
        assert again.directory("final") == pathlib.Path("runs", name)
    assert parse("--quick").directory("final") == pathlib.Path("runs/final-quick")
    assert again.directory("other") == pathlib.Path("runs/other")
    assert parse("--workdir", "w").directory("final") == pathlib.Path("w")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["--width", "5"], "p --width 5 --workdir runs/final --resume"),
        (["--workdir", "w"], "p --workdir w --resume"),
        (["--workdir", "w", "--resume"], "p --workdir w --resume"),
    ],
)
def test_the_command_that_resumes(words, command):
    assert parse(*words).resuming("p", words, pathlib.Path("runs/final")) == command


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory, with the tiny data set, that programs run in."""
    tiny_npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *words):
    """The lines printed by a successful run."""
    assert single.main("trial", CONFIG, [*TINY, *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def printed_paths(lines):
    """The lines after the table and its provenance."""
    start = max(index for index, line in enumerate(lines) if line.endswith("table.md"))
    return [pathlib.Path(line) for line in lines[start:]]


def rows(table):
    """The table's body, cell by cell."""
    lines = [line for line in table.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def epochs(lines):
    return [line.split(",")[0] for line in lines if line.startswith("Epoch ")]


def test_one_run_writes_its_records_and_prints_their_paths(here, capsys):
    lines = run(capsys)
    assert epochs(lines) == ["Epoch 0", "Epoch 1"]
    place = here / "runs" / "trial"
    paths = printed_paths(lines)
    assert all(path.exists() for path in paths)
    names = {
        "table.md", "config.json", "metrics.jsonl", "result.json", "predictions.npz", "sha256sums.txt", "curves.png",
        "checkpoints",
    }  # fmt: skip
    events = {path.name for path in place.glob("events.*")}
    assert events and {path.name for path in paths} == names | events
    assert {path.name for path in place.iterdir()} == names | events | {"lock"}
    result = json.loads((place / "result.json").read_text())
    assert (result["experiment"], result["seed"], result["epochs"]) == ("trial", 0, 2)
    assert result["config"]["width"] == 2 and result["config"]["dataset"] == "npz:tiny.npz"
    (row,) = rows(place / "table.md")
    assert row[:3] == ["0", f"{result['parameters']:,}", "2"] and f"{100 * result['test_accuracy']:.2f}" in row
    # A second run does not touch the first.
    before = tree(place)
    run(capsys, "--epochs", "1")
    assert tree(place) == before
    assert (here / "runs" / "trial-2" / "result.json").exists()


def test_several_seeds_and_their_resumption(here, capsys):
    words = ["--workdir", "w", "--first-seed", "3", "--epochs", "1", "--seeds"]
    lines = run(capsys, *words, "2")
    assert epochs(lines) == ["Epoch 0", "Epoch 0"]
    assert sorted(path.name for path in (here / "w").iterdir()) == ["lock", "seed-3", "seed-4", "table.md"]
    results = [json.loads((here / "w" / f"seed-{seed}" / "result.json").read_text()) for seed in (3, 4)]
    assert [result["seed"] for result in results] == [3, 4]
    assert results[0]["train_loss"] != results[1]["train_loss"]
    assert [row[0] for row in rows(here / "w" / "table.md")] == ["3", "4", "mean ± std, n = 2"]
    assert all(path.exists() for path in printed_paths(lines)) and len(printed_paths(lines)) == 17

    before = tree(here / "w")
    assert single.main("trial", CONFIG, [*TINY, *words, "2"]) == 2
    assert "already holds this run: add --resume" in capsys.readouterr().err
    assert tree(here / "w") == before

    lines = run(capsys, *words, "3", "--resume")
    assert epochs(lines) == ["Epoch 0"], "only the new seed is trained"
    after = tree(here / "w")
    assert {path: data for path, data in after.items() if path in before and not path.endswith("table.md")} == {
        path: data for path, data in before.items() if not path.endswith("table.md")
    }
    assert [row[0] for row in rows(here / "w" / "table.md")] == ["3", "4", "5", "mean ± std, n = 3"]


def test_one_bad_seed_directory_is_refused_before_any_training(here, capsys):
    (here / "w").mkdir()
    (here / "w" / "seed-1").write_text("in the way")
    before = tree(here)
    assert single.main("trial", CONFIG, [*TINY, "--workdir", "w", "--seeds", "2"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "w/seed-1 is not a directory" in err
    assert tree(here) == before


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_one_run_and_several_do_not_share_a_directory(here, capsys, first, second):
    """One run and several have different layouts; neither may overwrite the other's table."""
    words = ["--workdir", "w", "--epochs", "1", "--seeds"]
    run(capsys, *words, str(first))
    before = tree(here)
    assert single.main("trial", CONFIG, [*TINY, *words, str(second), "--width", "3"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "--workdir w: " in err
    assert tree(here) == before
