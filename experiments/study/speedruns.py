"""The record of a speedrun, and its table."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import timing
from benchmarks.timing import Summary
from experiments.study import statistics
from experiments.study.commands import without_paths
from experiments.study.experiment import Select
from experiments.study.results import data_name, provenance
from jresnet.models import summary
from jresnet.records.environment import CacheState
from jresnet.records.run import ConfigJson, DataJson, config_from_json
from jresnet.records.schema import Count, Fraction, NonNegative
from jresnet.records.tables import Column, Table, interval, number, text

RECORD = "speedrun.json"
"""In the directory of a speedrun: a Record."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seed:
    """One run."""

    seed: Count
    """that decides it"""
    accuracy: Fraction
    """after the last epoch; every image of the split counts once"""
    loss: NonNegative
    """likewise, in nats"""
    seconds: NonNegative
    """training and evaluation"""
    compile_seconds: NonNegative
    """compilation besides; a program that an earlier run has compiled costs nothing"""
    images_per_second: NonNegative
    """training images, the median over the epochs"""
    resumed: bool | None = None
    """whether it went on from a checkpoint, so that `seconds` are of several sessions; absent in older records"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A speedrun, the content of `speedrun.json`."""

    command: str
    """that made it"""
    target: Fraction
    """accuracy to reach"""
    split: Select
    """whose images the accuracies are of; with validation images no test image is evaluated"""
    config: ConfigJson
    """the recipe"""
    parameters: Count
    """trainable parameters"""
    dataset: DataJson
    """the data"""
    image_size: tuple[Count, Count]
    """height and width in pixels"""
    training_flops: NonNegative
    """of one run: 2 per multiply-add, forward and backward, over all images and epochs"""
    n: Count
    """finished runs"""
    diverged: Count
    """further runs, whose losses became non-finite; they count as not reaching the target"""
    mean: Fraction
    """accuracy over the finished runs"""
    low: float | None = None
    """the lower end of the mean's 95 % confidence interval; left out for a single run"""
    high: float | None = None
    """the upper end"""
    reached: bool
    """whether the mean is at least the target, and no run has diverged"""
    share: Fraction
    """of all runs, those that reach the target"""
    resumed: Count | None = None
    """finished runs that went on from a checkpoint, whose times are not those of one piece; left out if not known"""
    seconds: Summary
    """training and evaluation"""
    compile_seconds: NonNegative
    """compilation besides, of the first run, whose programs the others use"""
    cache: CacheState | None = None
    """JAX's cache of compiled programs when that began: cold, without any; left out where that is not known"""
    images_per_second: Summary
    """training images"""
    provenance: Mapping[str, str]
    """data, device, versions and commit of the runs, in words"""
    runs: tuple[Seed, ...]
    """by ascending seed"""


def summarise(
    target: float,
    results: Sequence[dict[str, Any]],
    command: str,
    image_size: tuple[int, int],
    diverged: int = 0,
    cache: CacheState | None = None,
) -> Record:
    """The record of a speedrun.

    Args:
      target: accuracy to reach.
      results: the contents of the finished runs' `result.json`, at least one.
      command: what made them.
      image_size: (height, width) in pixels.
      diverged: number of further runs that diverged.
      cache: what JAX's cache of compiled programs was, for results older than their `compile_cache`.
    """
    first = results[0]
    config = config_from_json(first["config"])
    split: Select = "validation" if config.test_after == "never" else "test"
    data = first["dataset"]
    flops = data["train"] * config.epochs * summary.training_flops(config, data["classes"], image_size)
    accuracies = [result[f"{split}_accuracy"] for result in results]
    found = statistics.summarise(accuracies)
    same = ("seed", "seconds", "compile_seconds", "images_per_second")
    seeds = tuple(
        Seed(
            accuracy=accuracy, loss=result[f"{split}_loss"], resumed=result.get("resumed"),
            **{name: result[name] for name in same},
        )
        for accuracy, result in zip(accuracies, results, strict=True)
    )  # fmt: skip
    known = all(seed.resumed is not None for seed in seeds)
    return Record(
        command=without_paths(command), target=target, split=split, config=first["config"],
        parameters=first["parameters"], dataset=data | {"name": data_name(data)}, image_size=image_size,
        training_flops=flops, n=found.n, diverged=diverged, mean=found.mean, low=found.low, high=found.high,
        reached=found.mean >= target and not diverged,
        share=sum(accuracy >= target for accuracy in accuracies) / (found.n + diverged),
        resumed=sum(seed.resumed is True for seed in seeds) if known else None,
        seconds=timing.summary([seed.seconds for seed in seeds]),
        compile_seconds=seeds[0].compile_seconds, cache=first.get("compile_cache", cache),
        images_per_second=timing.summary([seed.images_per_second for seed in seeds]), provenance=provenance(results),
        runs=seeds,
    )  # fmt: skip


COLUMNS: tuple[Column, ...] = (
    number("target (%)", "target", ".2f", 100),
    number("n", "n", "d"),
    number("diverged", "diverged", "d"),
    number("resumed", "resumed", "d", missing="not known"),
    text("split", "split"),
    number("accuracy (%)", "mean", ".2f", 100),
    interval("95 % CI (%)", "low", "high", ".2f", 100),
    text("reached", "reached", lambda reached: "yes" if reached else "no"),
    number("runs that reach it (%)", "share", ".0f", 100),
    timing.spread("seconds", "seconds", ",.1f"),
    number("compilation (s)", "compile_seconds", ",.1f"),
    text("cache", "cache", missing="not known"),
    timing.spread("images/s", "images_per_second", ",.0f"),
    number("training PFLOP", "training_flops", ".3g", 1e-15),
)
NOTE = (
    "The target counts for the mean; images were evaluated once, after training. Seconds are of training and "
    "evaluation; median [quartiles] over runs. Compilation is that of the first run, with the cache of compiled "
    "programs empty (cold) or not (warm). Resumed runs went on from a checkpoint: their times are not those of one "
    "piece."
)


def row(record: Record) -> dict[str, Any]:
    """The record as a row of a table with COLUMNS."""
    spreads = ("seconds", "images_per_second")
    return vars(record) | {name: dataclasses.asdict(getattr(record, name)) for name in spreads}


def table(record: Record) -> Table:
    """The record as a table of one row."""
    origin = (f"{name}: {value}" for name, value in record.provenance.items())
    return Table(COLUMNS, [row(record)], "\n".join([f"{record.parameters:,} parameters. {NOTE}", *origin]))
