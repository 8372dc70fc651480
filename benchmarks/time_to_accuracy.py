"""Time to a test accuracy: epochs, seconds and arithmetic until an evaluation first reaches it, over seeds.

    python -m benchmarks.time_to_accuracy --target 0.9095 --output time-to-accuracy.json

Network and training are the report's final ones unless options say otherwise; 0.9095 is the test accuracy that the
report gives for them. The test images are evaluated after every epoch; a seed ends when it reaches the target, or after
--epochs, which is also the length of the learning rate's schedule. Set-up (compilation, initial weights, copying images
to the device), training and evaluation are timed separately; see `benchmarks.epochs`.

Stopping by the test images makes this a measure of speed alone: the accuracies must not be quoted. For those
`experiments.speedrun` has a fixed recipe per target, and evaluates the test images once. An interrupted seed is timed
from its start again, because a time with a break in it compares with no other.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks import records, timing
from benchmarks.epochs import Stopwatch
from experiments import final
from experiments.study.options import SeedOptions, seeds_of
from experiments.study.results import data_name
from jresnet import models
from jresnet.data.datasets import Dataset, dataset_record, load_dataset
from jresnet.errors import Diverged, Interrupted
from jresnet.models.summary import training_flops
from jresnet.parallel.devices import Devices
from jresnet.records import environment
from jresnet.records.run import without_folders
from jresnet.records.tables import Column, number, text
from jresnet.rules import require
from jresnet.train import signals

MEASURES = ("epochs", "training_seconds", "evaluation_seconds", "petaflop")
"""Measures of a seed's way to the target."""
UNFINISHED = "interrupted"


@dataclasses.dataclass(frozen=True)
class Options(SeedOptions):
    """Train until a test accuracy is reached, and report the time."""

    target: float = 0.9095
    """Test accuracy to reach (the report's final model: 0.9095)."""
    seeds: int = 3
    """Number of runs, with seeds from --first-seed on."""
    output: Path | None = None
    """JSON file for the record, written after every epoch."""
    resume: bool = False
    """Continue the record in --output; finished seeds are kept."""

    def __post_init__(self):
        super().__post_init__()
        require(self, "target", 0 < self.target <= 1, "must be an accuracy above 0 and at most 1, as in 0.9095")


def measure(
    options: Options, dataset: Dataset, entry: dict[str, Any], received: signals.StopSignal, keep: Callable
) -> None:
    """Train one seed until it reaches the target, or to the last epoch; fill its entry, and call `keep` after each.

    Raises:
      Interrupted: a stop signal arrived.
      Diverged: the loss became non-finite.
    """
    held_out = dataset.hold_out(options.validation, entry["seed"])
    flops = len(held_out.train) * training_flops(options.config, len(dataset.classes), dataset.image_size)
    started = time.perf_counter()
    watch = Stopwatch(options.config, held_out, entry["seed"])
    # Compiles the evaluation for this number of images, and copies them to the device.
    watch.trainer.evaluator(watch.trainer.state.variables, held_out.test)
    watch.setup_seconds = time.perf_counter() - started

    def stop_if_asked(seconds: float = 0.0) -> float:
        longest = watch.trainer.synchronise(received, seconds)
        if watch.trainer.stop_signal is not None:
            raise Interrupted(f"interrupted in seed {entry['seed']}", watch.trainer.stop_signal)
        return longest

    for epoch in range(options.epochs):
        seconds = watch.epoch(epoch, received)
        stop_if_asked()
        started = time.perf_counter()
        outputs = watch.trainer.evaluator(watch.trainer.state.variables, held_out.test, stop_if_asked)
        accuracy = float((outputs.predictions == held_out.test.labels).mean())
        line = {"epoch": epoch, "test_accuracy": accuracy}
        line |= {"training_seconds": seconds, "evaluation_seconds": time.perf_counter() - started}
        entry["history"].append(line)
        entry |= totals(entry["history"], flops) | {"setup_seconds": watch.setup_seconds}
        reached = accuracy >= options.target
        if reached or epoch + 1 == options.epochs:
            entry["outcome"] = "reached" if reached else "not reached"
        keep()
        if reached:
            return


def totals(history: Sequence[Mapping[str, Any]], flops: int) -> dict[str, Any]:
    """Totals over epochs of `flops` operations each, and the best accuracy among them."""
    return {
        "epochs": len(history),
        "training_seconds": sum(line["training_seconds"] for line in history),
        "evaluation_seconds": sum(line["evaluation_seconds"] for line in history),
        "petaflop": len(history) * flops / 1e15,
        "best_test_accuracy": max(line["test_accuracy"] for line in history),
    }


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers of seeds that ended and that reached the target; medians and quartiles over the latter."""
    ended = [run for run in runs if run["outcome"] != UNFINISHED]
    reached = [run for run in ended if run["outcome"] == "reached"]
    summary: dict[str, Any] = {"ended": len(ended), "reached": len(reached)}
    if reached:
        spreads = {name: timing.summary([run[name] for run in reached]) for name in MEASURES}
        summary |= {name: dataclasses.asdict(spread) for name, spread in spreads.items()}
    return summary


def start_record(options: Options, dataset: Dataset) -> dict[str, Any]:
    """Start the record, or continue the one in --output; it names no path of this machine."""
    free = ("dataset", "data_dir", "seeds", "first_seed", "output", "resume")
    values = dataclasses.asdict(options) | dataclasses.asdict(models.fill_defaults(options.config))
    data = dataset_record(dataset.hold_out(options.validation, options.first_seed), dataset.sha256)
    record: dict[str, Any] = {
        "benchmark": "time-to-accuracy",
        "options": {name: value for name, value in values.items() if name not in free},
        "dataset": data | {"name": without_folders(data_name(data))},
        "environment": records.environment("cpu" if jax.default_backend() == "cpu" else "gpu"),
        "devices": environment.device(),
        "training_flops_per_image": training_flops(options.config, len(dataset.classes), dataset.image_size),
        "summary": {},
        "runs": [],
    }
    record = records.open_record(options.output, record, options.resume, ("runs",))
    record["runs"] = [run for run in record["runs"] if run["outcome"] != UNFINISHED]
    return record


def measure_all(options: Options, dataset: Dataset, record: dict[str, Any]) -> None:
    """Train every seed that the record does not hold yet; after an interruption the finished epochs are recorded."""

    def keep() -> None:
        record["summary"] = summarise(record["runs"])
        records.write_record(options.output, record)
        run = record["runs"][-1]
        if run["history"]:
            last, seconds = run["history"][-1], run["training_seconds"]
            progress = f"test acc {last['test_accuracy']:.4f} after {seconds:,.1f} s of training"
            print(f"seed {run['seed']}, epoch {last['epoch']}: {progress}", file=sys.stderr, flush=True)

    with signals.catch_stop_signals() as received:
        for seed in seeds_of(options):
            if any(run["seed"] == seed for run in record["runs"]):
                continue
            entry: dict[str, Any] = {"seed": seed, "outcome": UNFINISHED, "history": []}
            record["runs"].append(entry)
            try:
                measure(options, dataset, entry, received, keep)
            except Diverged as error:
                entry |= {"outcome": "diverged", "error": str(error)}
                keep()


def measure_column(header: str, key: str, form: str) -> Column:
    """A measure of each seed, or in the last row its spread over the seeds that reached the target."""

    def shown(value: Any) -> str:
        return timing.spread_text(value, form) if isinstance(value, dict) else format(value, form)

    return Column(header, (key,), shown, right=True, missing="-")


COLUMNS = (
    text("seed", "seed"),
    text("outcome", "outcome"),
    measure_column("epochs", "epochs", ".4g"),
    measure_column("training s", "training_seconds", ",.1f"),
    measure_column("evaluation s", "evaluation_seconds", ",.1f"),
    number("set-up s", "setup_seconds", ",.1f", missing="-"),
    measure_column("PFLOP", "petaflop", ".4g"),
    number("best test acc (%)", "best_test_accuracy", ".2f", 100, missing="-"),
)


def show(record: Mapping[str, Any], output: Path | None) -> None:
    """Print the table, the failures, and where it was measured."""
    target, data, where = record["options"]["target"], record["dataset"], record["environment"]
    summary, rows = record["summary"], record["runs"]
    if summary.get("reached", 0) > 1:
        rows = [*rows, summary | {"seed": "median", "outcome": "of those that reached it"}]
    timing.print_table(f"Time to a test accuracy of {target:.2%}", COLUMNS, rows)
    if summary.get("ended"):
        unknown = "" if summary["reached"] else ": no time to it is known"
        print(f"{summary['reached']} of {summary['ended']} seeds reached {target:.2%}{unknown}")
    for run in record["runs"]:
        if "error" in run:
            print(f"seed {run['seed']}: {run['error']}")
    print(f"Data: {data['name']}, {data['train']:,} train, {data['test']:,} test images, sha256 {data['sha256'][:12]}")
    print(f"Device: {record['devices']}; jax {where['versions']['jax']}; commit {where['commit']}")
    print("The test images decided when to stop: this measures speed; do not quote these accuracies")
    if output:
        print(output)


def run(options: Options) -> None:
    """Check everything, train every seed, print the table."""
    dataset = load_dataset(options).subset(options.train_images, options.test_images)
    models.check_network(options.config, len(dataset.classes), dataset.image_size)
    models.check_training(options.config, dataset, Devices(options.config).count)
    record = start_record(options, dataset)
    try:
        measure_all(options, dataset, record)
    finally:
        show(record, options.output)


main = partial(records.run_benchmark, "time_to_accuracy", Options, run, default=Options(**vars(final.CONFIG)))

if __name__ == "__main__":
    raise SystemExit(main())
