"""What an epoch costs beside its steps: evaluation, checkpoint and record, in a whole run whose steps are empty.

    python -m benchmarks.overhead --output overhead.json

`jresnet.fit` trains the report's network on random images of CIFAR-10's number and size, but its training step only
counts and its predictions are the labels. An epoch's training is stretched to --epoch-seconds by sleeping: then the
time between the ends of two epochs, less that of training, is what the host adds, whatever the device. The plan of an
epoch is arithmetic of the device and part of training; it is timed with the empty steps.

The first epoch, which compiles, is left out, with the first call of every part. A part's time per epoch is a mean over
all epochs, though few of them write a checkpoint.
"""

import contextlib
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from benchmarks import timing
from benchmarks.jax_step import CLASSES, pool
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from jresnet.config import Config
from jresnet.data.checks import numbered
from jresnet.data.datasets import Dataset
from jresnet.records.log import RunLog
from jresnet.records.tables import number, text
from jresnet.rules import require
from jresnet.train import evaluate, loop, trainer
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.state import TrainState
from jresnet.train.step import Metrics

TRAINING, BESIDE = "plan and empty steps", "all beside training"
PARTS: dict[str, tuple[Any, str]] = {
    "check for non-finite numbers": (trainer.Trainer, "check_finite"),
    "checkpoint": (Checkpoints, "save"),
    "evaluation": (loop, "evaluate"),
    "record": (loop, "epoch_record"),
    "log": (RunLog, "epoch"),
}
"""Functions that `fit` calls at the end of an epoch."""


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time what a run does beside its training steps."""

    rounds: int = 120
    """Timed epochs."""
    epoch_seconds: float = 0.5
    """Seconds that an epoch's training is made to take."""
    images: int = 50_000
    """Training images."""
    test_images: int = 10_000
    """Test images."""
    width: int = 42
    """Channels of the first stage of the network."""
    batch: int = 32
    """Images per training step."""
    below: Path = Path()
    """Existing directory in which the run's files are written and then deleted: its file system is timed too."""

    def __post_init__(self):
        super().__post_init__()
        require(self, "epoch_seconds", 0 < self.epoch_seconds <= 60, "must be above 0, and at most 60")
        require(self, "below", self.below.is_dir(), "is not a directory: choose one that exists")


class Stopwatch:
    """Seconds by part in every epoch so far, and when each epoch ended."""

    def __init__(self):
        self.parts: dict[str, list[float]] = {name: [] for name in (TRAINING, *PARTS)}
        self.training: list[float] = []
        self.ends: list[float] = []

    def timed(self, name: str, function: Callable) -> Callable:
        """The function, with its time noted as that of a part."""

        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            self.parts[name].append(time.perf_counter() - started)
            return result

        return call

    def stretched(self, train_epoch: Callable, seconds: float) -> Callable:
        """`Trainer.train_epoch`, made to take so many seconds."""
        train_epoch = self.timed(TRAINING, train_epoch)

        def call(self_: trainer.Trainer, *arguments: Any) -> None:
            started = time.perf_counter()
            train_epoch(self_, *arguments)
            time.sleep(max(0.0, seconds - (time.perf_counter() - started)))
            self_.seconds = time.perf_counter() - started
            self.training.append(self_.seconds)

        return call

    def ending(self, log_epoch: Callable) -> Callable:
        """`RunLog.epoch`, which ends an epoch."""

        def call(*arguments: Any) -> None:
            log_epoch(*arguments)
            self.ends.append(time.perf_counter())

        return call

    def rows(self) -> list[dict[str, Any]]:
        """A row per part: `call`, a `Summary` of its calls' seconds, and `epoch`, its mean seconds per epoch.

        The first call of each part is left out.
        """
        epochs = len(self.ends) - 1
        beside = np.diff(self.ends) - self.training[1:]
        found = {name: seconds[1:] for name, seconds in self.parts.items()} | {BESIDE: beside.tolist()}
        return [
            {"part": name, "call": dataclasses.asdict(timing.summary(seconds)), "epoch": sum(seconds) / epochs}
            for name, seconds in found.items()
        ]


def empty_train_step(*_: Any) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """In place of `make_train_step`: a step that only counts."""

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return state.replace(step=state.step + 1), Metrics.zero()._replace(images=jnp.int32(len(batch["labels"])))

    return train_step


def empty_predict_step(*_: Any) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """In place of `make_predict_step`: predictions that are the labels."""
    return lambda variables, images, labels: (jnp.zeros(len(labels)), labels, jnp.ones(len(labels)))


@contextlib.contextmanager
def empty_steps(watch: Stopwatch, epoch_seconds: float) -> Iterator[None]:
    """Let `fit` run with empty steps and be timed."""
    programs = (trainer.train_program, evaluate.eval_program)
    with contextlib.ExitStack() as stack:
        for program in programs:
            program.cache_clear()
            stack.callback(program.cache_clear)
        changes = [(owner, name, watch.timed(part, getattr(owner, name))) for part, (owner, name) in PARTS.items()]
        changes += [
            (trainer, "make_train_step", empty_train_step),
            (evaluate, "make_predict_step", empty_predict_step),
            (trainer.Trainer, "train_epoch", watch.stretched(trainer.Trainer.train_epoch, epoch_seconds)),
        ]
        for owner, name, function in changes:
            stack.enter_context(mock.patch.object(owner, name, function))
        stack.enter_context(mock.patch.object(RunLog, "epoch", watch.ending(RunLog.epoch)))
        yield


def measure(options: Options) -> list[dict[str, Any]]:
    """Time one run; see `Stopwatch.rows`."""
    config = Config(
        dataset="random", width=options.width, batch_size=options.batch, epochs=options.rounds + 1, parallel="jit"
    )
    dataset = Dataset("random", pool(options.images), pool(0), pool(options.test_images), numbered(CLASSES))
    watch = Stopwatch()
    console = rich.console.Console(file=io.StringIO())
    with tempfile.TemporaryDirectory(dir=options.below) as workdir, empty_steps(watch, options.epoch_seconds):
        loop.fit(config, dataset, workdir, console=console)
    return watch.rows()


COLUMNS = (
    text("part", "part"),
    number("calls", "calls"),
    timing.spread("ms a call", "call", ".2f", 1e3),
    number("ms an epoch", "epoch", ".2f", 1e3),
)


def run(options: Options) -> None:
    """Time everything, write the record and print the table."""
    select_device(options.device)
    values = dataclasses.replace(options, below=Path())  # no path of this machine in the record
    record = new_record("overhead", values) | {"checkpoint_seconds": loop.CHECKPOINT_SECONDS, "parts": []}
    record["options"] = {name: value for name, value in record["options"].items() if name != "below"}
    record["parts"] = measure(options)
    write_record(options.output, record)
    rows = [row | {"calls": row["call"]["n"]} for row in record["parts"]]
    timing.print_table(f"{options.rounds} epochs of {options.epoch_seconds:g} s of training", COLUMNS, rows)
    print(f"{BESIDE}: {record['parts'][-1]['epoch'] / options.epoch_seconds:.1%} of training")


main = partial(run_benchmark, "overhead", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
