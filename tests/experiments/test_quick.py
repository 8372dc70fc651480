"""Programs as users start them: `--quick` from start to end, and interruption with the command that goes on."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import chex
import pytest
from PIL import Image

from experiments import ablation, final, speedrun, tuned
from experiments.study import single
from experiments.study.flip import FLIP
from tests.support.runs import OF_SESSIONS, final_state, strip
from tests.support.studies import TINY, tiny_npz

ROOT = pathlib.Path(__file__).parents[2]
EPOCH = re.compile(
    r"Epoch (\d+), Train loss (\d+\.\d{6}), Test loss (\d+\.\d{6}), Train acc ([01]\.\d{6}), Test acc ([01]\.\d{6})"
)


def environment():
    """The environment of a shell whose `python` is this one."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


def start(words, here, **changes):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.final", *words],
        cwd=here, env=environment() | changes, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_quick(tmp_path):
    # Fully optimised, unlike other tests, as training takes longer than compiling; half the images still suffice.
    # A constant rate would leave the last of so few epochs to chance, which differs between processors.
    words = ["--quick", "--train-images", "2000", "--batch-size", "32", "--epochs", "4", "--schedule", "cosine"]
    process = start(words, tmp_path, XLA_FLAGS="")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    lines = out.splitlines()
    place = tmp_path / "runs" / "final-quick"
    records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 4
    for record, line in zip(records, lines, strict=False):
        epoch, *figures = EPOCH.fullmatch(line).groups()
        assert int(epoch) == record["epoch"]
        names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
        assert [float(figure) for figure in figures] == pytest.approx([record[name] for name in names], abs=5e-7)
    result = json.loads((place / "result.json").read_text())
    # tests/data/test_synthetic.py shows that a linear classifier stays below 0.45 on these images.
    assert result["test_accuracy"] > 0.9
    assert result["test_accuracy"] == records[-1]["test_accuracy"]
    assert result["dataset"]["name"] == "synthetic" and result["dataset"]["test"] == 1000
    with Image.open(place / "curves.png") as image:
        assert image.format == "PNG" and min(image.size) > 100
    assert next(place.glob("events.*")).stat().st_size > 100
    # The table's header has several lines; its only row starts with the seed.
    (row,) = (line.split() for line in lines if line.lstrip().startswith("0 "))
    assert row[1:3] == [f"{result['parameters']:,}", "4"] and f"{100 * result['test_accuracy']:.2f}" in row
    paths = lines[lines.index("runs/final-quick/table.md") :]
    assert {pathlib.Path(path).name for path in paths} | {"lock"} == {path.name for path in place.iterdir()}
    assert all((tmp_path / path).exists() for path in paths)


def json_in(path):
    return json.loads(pathlib.Path(path).read_text())


@pytest.mark.slow
def test_the_tuned_recipe_in_small(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tuned.main(["--quick"]) == 0
    assert tuned.main(["--quick", "--validation", "0", "--test-after", "training"]) == 0
    out, err = capsys.readouterr()
    (chosen,), (final,) = (
        pathlib.Path("runs", place).glob("runs/*/seed-0") for place in ("tuned-validation-quick", "tuned-quick")
    )
    assert not any(name.startswith("test_") for name in json_in(chosen / "result.json"))
    result, flipped = json_in(final / "result.json"), json_in(final / FLIP)
    plain, both = (flipped["systems"][name]["accuracy"] for name in ("model", "model, with flip"))
    assert err == "" and plain == result["test_accuracy"]
    assert f"{final}: test accuracy {plain:.2%}; apart from it, with test-time flip {both:.2%}: {final / FLIP}" in out
    lines = [json.loads(line) for line in (final / "metrics.jsonl").read_text().splitlines()]
    assert ["test_accuracy" in line for line in lines] == [False, True]


@pytest.mark.slow
def test_a_speedrun_in_small(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert speedrun.main(["--quick"]) == 0
    out, err = capsys.readouterr()
    place = pathlib.Path("runs/speedrun-0.9095-quick")
    record = json_in(place / "speedrun.json")
    results = [json_in(path) for path in sorted(place.glob("runs/*/seed-*/result.json"))]
    assert err == "" and [run["seconds"] for run in record["runs"]] == [result["seconds"] for result in results]
    assert len(results) == 2 and f"{place}/speedrun.json" in out


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "runs"), [("add", 6), ("leave", 4)])
def test_an_ablation_in_small(tmp_path, monkeypatch, capsys, direction, runs):
    monkeypatch.chdir(tmp_path)
    assert ablation.main(["--quick", "--direction", direction]) == 0
    out, err = capsys.readouterr()
    place = pathlib.Path(f"runs/ablation-{direction}-quick")
    results = [json_in(path) for path in place.glob("runs/*/seed-*/result.json")]
    assert err == "" and len(results) == runs
    assert not any(name.startswith("test_") for result in results for name in result)
    written = [pathlib.Path(line) for line in out.splitlines() if line.startswith(f"{place}/")]
    assert place / "report.html" in written and all(path.stat().st_size > 50 for path in written)


def interrupted(words, here, number, after):
    """Start a run, send it a signal once the console shows epoch `after`; return its exit status and stderr."""
    with start(words, here) as process:
        deadline = threading.Timer(120, process.kill)
        deadline.start()
        try:
            for line in process.stdout:
                if line.startswith(f"Epoch {after},"):
                    process.send_signal(number)
                    break
            process.stdout.read()
            return process.wait(), process.stderr.read()
        finally:
            deadline.cancel()
            process.kill()


def figures(place):
    """The result without what differs between sessions, and without the commit, which depends on the source tree."""
    record = json.loads((place / "result.json").read_text())
    return {name: value for name, value in record.items() if name not in OF_SESSIONS | {"commit"}}


# An epoch with its checkpoint takes tenths of a second, a signal thousandths.
EPOCHS = 12


@pytest.mark.parametrize(
    ("source", "number", "status", "place"),
    [
        pytest.param("resident", signal.SIGINT, 130, [], marks=pytest.mark.slow),
        pytest.param("tfds", signal.SIGTERM, 143, ["--workdir", "a place"], marks=pytest.mark.slow),
    ],
)
def test_after_a_signal_the_printed_command_gives_the_same_bits(tmp_path, monkeypatch, source, number, status, place):
    tiny_npz(tmp_path / "tiny.npz")
    words = [*TINY, "--epochs", str(EPOCHS), "--input", source]
    found, err = interrupted([*words, *place], tmp_path, number, after=1)
    assert found == status, err
    assert err.count("\n") == 1
    said = re.fullmatch(
        r"interrupted after epoch (\d+), step ([123]) of 3; the state is saved; "
        r"go on with: (python -m experiments\.final .*--resume)\n",
        err,
    )
    assert said, err
    assert 1 <= int(said[1]) < EPOCHS - 1, "the signal came too late to interrupt anything"
    run = tmp_path / (place[1] if place else "runs/final")
    assert not (run / "result.json").exists()
    assert 2 <= len(strip(run)) < EPOCHS

    again = subprocess.run(said[3], shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")
    shown = [int(line.split(",")[0].removeprefix("Epoch ")) for line in again.stdout.splitlines() if "Epoch" in line]
    assert shown[0] >= int(said[1]) and shown[-1] == EPOCHS - 1, "it resumed, and did not start over"

    monkeypatch.chdir(tmp_path)
    assert single.main("final", final.CONFIG, [*words, "--workdir", "whole"]) == 0
    chex.assert_trees_all_equal(final_state(run), final_state(tmp_path / "whole"))
    assert strip(run) == strip(tmp_path / "whole")
    assert figures(run) == figures(tmp_path / "whole")
