"""What the records say about the steps of a campaign, each in a line."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.changes import DEFAULT
from benchmarks.timing import Case
from benchmarks.variants import Variant
from experiments.study.experiment import Setting
from jresnet import models
from jresnet.config import Config
from jresnet.records.run import differences

Records = Sequence[Mapping[str, Any]]
"""Records of benchmarks and results of runs, all of one device."""
Headline = Callable[[Records], str | None]
"""What records say about a step, in a line; None if they lack it."""
KERNELS = "kernels"
"""The benchmark whose records are of a described device, wherever they were made."""

DONE, HAD, LATE, FAILED, LEFT = "done", "had a record", "out of time", "failed", "left out"
"""What becomes of a step."""


def before(name: str, tiny: bool, records: Records) -> str | None:
    """What a campaign's record at this scale says about a step that it has done."""
    for record in _benchmarks(records, "campaign"):
        for row in record["steps"]:
            if (row["step"], record["tiny"]) == (name, tiny) and row["status"] in (DONE, HAD):
                return row["headline"]
    return None


def no_headline(_: Records) -> None:
    """What records say about a step that they cannot be searched for: nothing."""


def no_wait(_: Records) -> None:
    """Why a step that waits for no other must not run yet: for no reason."""


def _results(records: Records, config: Config, seed: int, sha256: str | None) -> list[Mapping[str, Any]]:
    """The results of the runs with this configuration, seed and data; None: any data."""
    found = (record for record in _runs(records) if record["seed"] == seed)
    return [record for record in found if _same(record, config, sha256)]


def _same(record: Mapping[str, Any], config: Config, sha256: str | None) -> bool:
    """Whether a record is of this configuration and data; None: any data."""
    # A budget decides whether a run starts, not what it gives.
    config = models.fill_defaults(dataclasses.replace(config, budget=None))
    free = {"seed": 0} | dict(record) | {"config": record["config"] | {"budget": None}}
    return not differences(free, config, free["seed"], sha256 or record["dataset"]["sha256"])


def settings(settings: Sequence[Setting], seed: int, sha256: str | None, records: Records) -> str | None:
    """Accuracy and time of every setting of an experiment."""
    found = [(setting.label, _results(records, setting.config, seed, sha256)) for setting in settings]
    if not all(results for _, results in found):
        return None
    return ", ".join(f"{label} {runs[0]['test_accuracy']:.2%} in {runs[0]['seconds']:.0f} s" for label, runs in found)


def equal(config: Config, records: Records) -> str | None:
    """Whether two runs of one version, from one configuration, gave the same numbers to the last bit."""
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    outcomes: dict[str, list[list[float]]] = {}
    for record in _results(records, config, 0, None):
        version = f"{record['commit']} {record['versions']}"
        outcomes.setdefault(version, []).append([record[name] for name in names])
    for runs in outcomes.values():
        if len(runs) > 1:
            return "two equal runs " + ("agree to the last bit" if all(run == runs[0] for run in runs) else "DIFFER")
    return None


def _runs(records: Records) -> Iterator[Mapping[str, Any]]:
    """The results of runs."""
    return (record for record in records if "experiment" in record and "seed" in record)


def _benchmarks(records: Records, benchmark: str) -> Iterator[Mapping[str, Any]]:
    return (record for record in records if record.get("benchmark") == benchmark)


def _cases(records: Records, benchmark: str, case: Case) -> Iterator[Mapping[str, Any]]:
    """The entries of a benchmark's records for a case."""
    for record in _benchmarks(records, benchmark):
        yield from (entry for entry in record["cases"] if vars(case).items() <= entry.items())


def _benchmarks_with(options: Mapping[str, Any], records: Records, benchmark: str) -> Iterator[Mapping[str, Any]]:
    """The benchmark's records that have these options among theirs."""
    return (
        record for record in _benchmarks(records, benchmark) if options.items() <= record.get("options", {}).items()
    )


def convolutions(options: Mapping[str, Any], records: Records) -> str | None:
    """Whether every shape was right, in a complete record."""
    for record in _benchmarks_with(options, records, "convolutions"):
        cases = record["cases"]
        if len(cases) == len(options["widths"]) * len(options["precisions"]):
            failed = [failure for case in cases for failure in case["failed"]]
            shapes = sum(case["shapes"] for case in cases)
            return f"{shapes} shapes, {len(failed)} results wrong{': ' if failed else ''}{'; '.join(failed)}"
    return None


def kernels(options: Mapping[str, Any], records: Records) -> str | None:
    """How many kernels a step launches."""
    counts = (record["total"] for record in _benchmarks_with(options, records, KERNELS))
    return next((f"{count} kernels and calls a step" for count in counts), None)


def speed(case: Case, modes: Sequence[str], records: Records) -> str | None:
    """Images per second, and over PyTorch in each of its modes."""
    for entry in _cases(records, "throughput", case):
        rivals = entry["rivals"]
        if rivals["jax"]["seconds"] and all(f"torch {mode}" in rivals for mode in modes):
            ratios = [(mode, entry["speed_of_jax_over"][f"torch {mode}"]) for mode in modes]
            texts = [f"{ratio['median']:.2f} x {mode}" if ratio else f"{mode} failed" for mode, ratio in ratios]
            return ", ".join([f"{rivals['jax']['images_per_second']:,.0f} images/s", *texts])
    return None


def variant(name: str, variant: Variant, cases: Sequence[Case], records: Records) -> str | None:
    """The variant's gain at every batch size."""
    gains = []
    for case in cases:
        entries = (entry["rivals"] for entry in _cases(records, "variants", case))
        gain = next((rivals[name]["gain"] for rivals in entries if rivals.get(name, {}).get("gain")), None)
        if gain is None:
            return None
        gains.append(f"{gain['median']:.2f} x {DEFAULT} at batch {case.batch_size}")
    return f"{', '.join(gains)} (predicted {variant.predicted})"


def time_to(target: float, epochs: int, records: Records) -> str | None:
    """Epochs and seconds of training to the target."""
    for record in _benchmarks_with({"target": target, "epochs": epochs}, records, "time-to-accuracy"):
        for run in (run for run in record["runs"] if run["outcome"] in ("reached", "not reached")):
            return f"{target:.2%} {run['outcome']} in {run['epochs']} epochs, {run['training_seconds']:.0f} s"
    return None


def tuned(config: Config, seed: int, sha256: str | None, records: Records) -> str | None:
    """Accuracy and time of the tuned recipe's run with this configuration, seed and data, once its outcome lists it."""
    for run in _concluded(records, config, seed, sha256):
        split = "validation" if config.test_after == "never" else "test"
        return f"{split} {run[f'{split}_accuracy']:.2%} in {run['seconds']:.0f} s"
    return None


def gate(least: float, step: str, config: Config, sha256: str | None, records: Records) -> str | None:
    """Why the long runs of the tuned recipe must not begin: the shorter run is not done, or not accurate enough.

    Args:
      least: validation accuracy that the shorter run must reach.
      step: the name of the step that makes it.
      config: its configuration; its seed is 0.
      sha256: of the data.
      records: those that there are.

    Returns:
      The reason in words; None if the long runs may begin.
    """
    reached = [run["validation_accuracy"] for run in _concluded(records, config, 0, sha256)]
    if not reached:
        return f"waits for {step}"
    return None if max(reached) >= least else f"{step} reached {max(reached):.2%} of validation images, not {least:.2%}"


def _concluded(records: Records, config: Config, seed: int, sha256: str | None) -> list[Mapping[str, Any]]:
    """Those of `_results` whose study has written its outcome, which it does last."""
    return [record for record in _results(records, config, seed, sha256) if record.get("concluded")]


def speedrun(target: float, seeds: int, config: Config, sha256: str | None, records: Records) -> str | None:
    """Mean accuracy and median seconds of a target's runs by this recipe, when there are as many as asked."""
    for record in (record for record in records if "provenance" in record):
        whole = record["target"] == target and record["n"] + record["diverged"] >= seeds
        if whole and _same(record, config, sha256):
            reached = "reached" if record["reached"] else "not reached"
            seconds = f"{record['seconds']['median']:.1f} s"
            return f"{target:.2%} {reached}: {record['mean']:.2%} in {seconds}, {record['n']} runs"
    return None
