"""Time to a test accuracy: definitions on known numbers, options, and tiny real runs, interrupted and resumed."""

import json
import math
import signal
import types

import jax
import jax.numpy as jnp
import pytest

from benchmarks import epochs, time_to_accuracy
from benchmarks.epochs import Stopwatch
from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import load_dataset
from jresnet.errors import Diverged
from jresnet.models.summary import training_flops
from jresnet.train import loop
from jresnet.train.signals import StopSignal
from tests.support.studies import TINY, tiny_npz


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the tiny data set."""
    tiny_npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return time_to_accuracy.main([*TINY, *words, "--output", "record.json"])


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


def line(accuracy, training, evaluation):
    return {"test_accuracy": accuracy, "training_seconds": training, "evaluation_seconds": evaluation}


def test_totals_are_sums_over_epochs_with_the_best_accuracy():
    found = time_to_accuracy.totals([line(0.5, 2.0, 0.25), line(0.7, 3.0, 0.25), line(0.6, 4.0, 0.5)], 5 * 10**14)
    assert found == {
        "epochs": 3, "training_seconds": 9.0, "evaluation_seconds": 1.0, "petaflop": 1.5, "best_test_accuracy": 0.7,
    }  # fmt: skip


def ended(outcome, epochs):
    return {"outcome": outcome, "epochs": epochs, "training_seconds": 10.0 * epochs, "evaluation_seconds": 1.0 * epochs,
            "petaflop": 0.5 * epochs}  # fmt: skip


def test_the_summary_covers_the_seeds_that_reached_the_target():
    runs = [ended("reached", 4), ended("not reached", 99), ended("reached", 8), {"outcome": "diverged"}]
    found = time_to_accuracy.summarise([*runs, ended("interrupted", 50)])
    assert (found["ended"], found["reached"]) == (4, 2)
    assert found["epochs"] == {"median": 6, "low": 5, "high": 7, "min": 4, "n": 2}
    assert (found["training_seconds"]["median"], found["petaflop"]["median"]) == (60, 3)
    assert time_to_accuracy.summarise([ended("not reached", 9)]) == {"ended": 1, "reached": 0}


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18", "resnet20", "resnet50", "resnet_se443"])
def test_flops_are_those_of_the_configurations_network(name):
    """Against the products in the traced forward pass, counted from the shapes of their operands."""
    # Direct convolutions are counted, and kernels of side 5 are never replaced by minimal filtering.
    config = Config(model=name, width=16, kernel_size=5)
    model = models.from_config(config, 5)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    traced = jax.make_jaxpr(lambda variables: model.apply(variables, images, train=False))(variables)
    assert training_flops(config, 5) == 3 * 2 * products(traced.jaxpr)


def products(jaxpr):
    """Multiply-adds of the convolutions and matrix products in a traced function."""
    found = 0
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            found += products(inner) if hasattr(inner, "eqns") else 0
        if equation.primitive.name == "conv_general_dilated":
            kernel, output = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            features = equation.params["dimension_numbers"].rhs_spec[0]
            found += math.prod(output) * math.prod(kernel) // kernel[features]
        elif equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            left, output = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            found += math.prod(output) * math.prod([left[axis] for axis in contracted])
    return found


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--target", "90.95"], "--target 90.95: must be an accuracy above 0 and at most 1"),
        (["--target", "0"], "--target 0.0: must be"),
        (["--target", "nan"], "--target nan: must be"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--first-seed", "-1"], "--first-seed -1: seeds must lie from 0"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--budget", "3"], "over the budget of 3"),
        (["--train-images", "1000"], "--train-images 1000: must lie from 1 to 36"),
        (["--validation", "40"], "--validation 40: must lie below 36"),
        (["--tarjet", "0.5"], "use --target"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(folder, capsys, words, complaint):
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and complaint in err and err.count("\n") == 1
    assert not (folder / "record.json").exists()


@pytest.mark.slow
def test_it_stops_at_the_first_evaluation_that_reaches_the_target(folder, capsys):
    """The epochs are those of `fit`, up to the first with its best accuracy."""
    config = Config(
        dataset="npz:tiny.npz", width=2, blocks=(1, 1), pool_size=4, batch_size=16, learning_rate=0.05, epochs=6
    )
    dataset = load_dataset("npz:tiny.npz")
    loop.fit(config, dataset, folder / "fit", seed=0)
    accuracies = [
        json.loads(line)["test_accuracy"] for line in (folder / "fit" / "metrics.jsonl").read_text().splitlines()
    ]
    best = max(accuracies)
    first = accuracies.index(best)
    words = ["--epochs", "6", "--seeds", "1", "--target", str(best)]
    assert run(*words) == 0
    (found,) = record_of(folder)["runs"]
    assert found["outcome"] == "reached" and found["epochs"] == first + 1
    assert [one["test_accuracy"] for one in found["history"]] == accuracies[: first + 1]
    assert all(one["training_seconds"] > 0 and one["evaluation_seconds"] > 0 for one in found["history"])
    assert found["setup_seconds"] > 0
    flops = record_of(folder)["training_flops_per_image"]
    assert found["petaflop"] == pytest.approx((first + 1) * 36 * flops / 1e15)
    assert f"1 of 1 seeds reached {best:.2%}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_target_out_of_reach_is_reported(folder, capsys):
    assert run("--epochs", "1", "--seeds", "1", "--target", "1", "--learning-rate", "1e-9") == 0
    record = record_of(folder)
    (found,) = record["runs"]
    assert found["outcome"] == "not reached" and found["best_test_accuracy"] < 1
    assert record["summary"] == {"ended": 1, "reached": 0}
    out = capsys.readouterr().out
    assert "0 of 1 seeds reached 100.00%: no time to it is known" in out
    assert f"{100 * found['best_test_accuracy']:.2f}" in out


@pytest.mark.slow
def test_a_record_names_no_path_of_this_machine(folder):
    data = str(folder / "tiny.npz")
    assert run("--epochs", "1", "--seeds", "1", "--dataset", f"npz:{data}") == 0
    record = record_of(folder)
    assert str(folder) not in json.dumps(record) and record["dataset"]["name"] == "npz:tiny.npz"
    assert record["dataset"]["train"] == 36 and len(record["dataset"]["sha256"]) == 64
    assert record["environment"]["versions"]["jax"] and record["devices"].startswith("cpu: ")


@pytest.mark.slow
def test_an_interrupted_seed_is_timed_again_and_finished_seeds_are_kept(folder, capsys, monkeypatch):
    train = Stopwatch.epoch

    def signalled(self, epoch, flag):
        if self.trainer.source.seed == 1 and epoch == 1:
            signal.raise_signal(signal.SIGINT)
        return train(self, epoch, flag)

    words = ["--epochs", "2", "--seeds", "3", "--target", "1", "--learning-rate", "1e-9"]
    monkeypatch.setattr(Stopwatch, "epoch", signalled)
    assert run(*words) == 130
    before = record_of(folder)["runs"]
    assert [(one["outcome"], len(one["history"])) for one in before] == [("not reached", 2), ("interrupted", 1)]
    out, err = capsys.readouterr()
    assert "interrupted in seed 1; go on with: " in err and err.endswith("--resume\n") and "not reached" in out

    monkeypatch.setattr(Stopwatch, "epoch", train)
    assert run(*words, "--resume", "--target", "0.9") == 2
    assert "holds another measurement (target 1.0, not 0.9)" in capsys.readouterr().err
    assert run(*words, "--resume") == 0
    after = record_of(folder)["runs"]
    assert after[0] == before[0]
    assert [(one["seed"], len(one["history"])) for one in after] == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.slow
def test_a_diverged_seed_is_recorded_and_the_next_one_follows(folder, monkeypatch, capsys):
    train = Stopwatch.epoch

    def poisoned(self, epoch, flag):
        if self.trainer.source.seed == 0:
            raise Diverged("the loss is not finite at epoch 0, step 1")
        return train(self, epoch, flag)

    monkeypatch.setattr(Stopwatch, "epoch", poisoned)
    assert run("--epochs", "1", "--seeds", "2", "--target", "1", "--learning-rate", "1e-9") == 0
    assert [one["outcome"] for one in record_of(folder)["runs"]] == ["diverged", "not reached"]
    assert "seed 0: the loss is not finite at epoch 0, step 1" in capsys.readouterr().out


def test_an_epochs_seconds_exclude_compilation(monkeypatch):
    """An epoch of 7 s, 5 of which go to compiling the last batch's program."""
    clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    training = types.SimpleNamespace(compile_seconds=1.0)

    def train_epoch(epoch, log, flag):
        clock.now += 7.0
        training.compile_seconds += 5.0

    training.train_epoch = train_epoch
    watch = object.__new__(Stopwatch)
    watch.trainer, watch.setup_seconds, watch._log = training, 3.0, None
    monkeypatch.setattr(epochs, "time", clock)
    assert watch.epoch(0, StopSignal()) == 2.0
    assert watch.setup_seconds == 8.0
