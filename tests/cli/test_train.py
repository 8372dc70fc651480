"""`jresnet train`: a run in a directory of its own, which the same command resumes."""

import dataclasses
import pathlib
import shlex

from jresnet import cli
from jresnet.cli import commands, runs, train
from jresnet.errors import Interrupted
from jresnet.records import run_directory
from jresnet.records.result import Result
from jresnet.train import loop

LINE = [
    "train", "--dataset", "synthetic", "--width", "2", "--blocks", "1", "--pool-size", "0", "--epochs", "1",
    "--train-images", "64", "--test-images", "40",
]  # fmt: skip


def test_a_run_is_recorded_and_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run_program(commands.run, [*LINE, "--seed", "3"]) == 0
    epoch, last = capsys.readouterr().out.splitlines()
    result = run_directory.read_result(pathlib.Path("runs/train"))
    assert epoch.startswith("Epoch 0, ") and (result.seed, result.experiment) == (3, "train")
    assert result.dataset["train"] == 64 and result.config["width"] == 2
    assert last.startswith(
        f"runs/train: test accuracy {result.test_accuracy:.2%} of 40 images after the last epoch, 168 parameters, "
    )
    assert cli.run_program(commands.run, [*LINE, "--seed", "3", "--resume"]) == 0
    assert capsys.readouterr().out.splitlines() == [last]
    assert cli.run_program(commands.run, [*LINE, "--workdir", "runs/train"]) == 2
    assert "--workdir runs/train: holds another run (seed 3, not 0)" in capsys.readouterr().err


def test_a_best_epoch_whose_test_images_were_not_evaluated(tmp_path):
    values = {"experiment": "train", "config": {}, "seed": 0, "parameters": 1, "epochs": 3, "train_loss": 1.0}
    values |= {"train_accuracy": 0.5, "test_accuracy": 0.25, "dataset": {"name": "made", "test": 40}, "device": "none"}
    values |= {"versions": {}, "commit": None, "seconds": 1.0, "compile_seconds": 1.0, "images_per_second": 1.0}
    result = Result(**values, best_epoch=1, best_validation_accuracy=0.75)
    first, last = train.summary(result, tmp_path).splitlines()
    assert first.startswith(f"{tmp_path}: test accuracy 25.00% of 40 images after the last epoch")
    assert last == f"{tmp_path}/best: of epoch 1, the best on validation: 75.00%, " + (
        f"test images not evaluated (jresnet evaluate {tmp_path}/best)"
    )
    last = train.summary(dataclasses.replace(result, best_test_accuracy=0.5), tmp_path).splitlines()[1]
    assert last.endswith("the best on validation: 75.00%, test accuracy 50.00%")
    never = dataclasses.replace(result, test_accuracy=None, validation_accuracy=0.5, dataset={"validation": 12})
    first = train.summary(never, tmp_path).splitlines()[0]
    assert first.startswith(f"{tmp_path}: validation accuracy 50.00% of 12 images after the last epoch, 1 parameters")


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise Interrupted("interrupted after epoch 0, step 1 of 2; the state is saved", 15)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "fit", stop)
    assert cli.run_program(commands.run, [*LINE, "--workdir", "a b"]) == 143
    _, command = capsys.readouterr().err.split("the state is saved; go on with: jresnet ")
    name, *words = shlex.split(command)
    again = cli.parse(commands.module(name).Options, words, name)
    given = cli.parse(commands.module("train").Options, [*LINE[1:], "--workdir", "a b"], "train")
    assert again == dataclasses.replace(given, resume=True)


def test_the_default_directory_is_the_first_free_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.default_directory("train", resume=True) == pathlib.Path("runs/train")
    for name in ("train", "train-2"):
        pathlib.Path("runs", name).mkdir(parents=True)
    assert runs.default_directory("train", resume=False) == pathlib.Path("runs/train-3")
    assert runs.default_directory("train", resume=True) == pathlib.Path("runs/train-2")


def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, message in {
        "--seed -1": "--seed -1: must lie from 0 to 2**32 - 1",
        "--workdir=": "--workdir '': must name a directory",
        "--train-images 9999": "--train-images 9999: must lie from 1 to 4000",
        "--workdir s3://a/b": "--workdir s3://a/b: is a URL",
    }.items():
        assert cli.run_program(commands.run, [*LINE, *words.split()]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(message) and captured.err.count("\n") == 1 and not captured.out
    assert not list(tmp_path.iterdir())
