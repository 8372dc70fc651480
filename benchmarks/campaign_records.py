"""What the records say about the steps of a campaign, each in a line."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.timing import Case
from benchmarks.variants import DEFAULT, Variant
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
SPEEDRUN = "speedrun.json"
"""The record of `experiments.speedrun`, in its --workdir."""

DONE, HAD, LATE, FAILED, LEFT = "done", "had a record", "out of time", "failed", "left out"
"""What becomes of a step."""


def before(name: str, tiny: bool, records: Records) -> str | None:
    """What a campaign's record at this scale says about a step that it has done."""
    for record in _benchmarks(records, "campaign"):
        for row in record["steps"]:
            if (row["step"], record["tiny"]) == (name, tiny) and row["status"] in (DONE, HAD):
                return row["headline"]
    return None


def nothing(_: Records) -> None:
    """The headline of a step whose record cannot be recognised without its data."""


def _results(records: Records, config: Config, seed: int, sha256: str | None) -> list[Mapping[str, Any]]:
    """The results of the runs with this configuration, seed and data; None: any data."""
    # A budget decides whether a run starts, not what it gives.
    config = models.fill_defaults(dataclasses.replace(config, budget=None))
    found = []
    for record in _runs(records):
        free = dict(record) | {"config": record["config"] | {"budget": None}}
        if not differences(free, config, seed, sha256 or record["dataset"]["sha256"]):
            found.append(record)
    return found


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


def tuned(shape: Mapping[str, int], sha256: str | None, records: Records) -> str | None:
    """Accuracies and time of the tuned recipe's run of this shape, see `_tuned`."""
    for run in _tuned(shape, sha256, records):
        chosen = f"validation {run['validation_accuracy']:.2%}, " if shape["validation"] else ""
        return f"{chosen}test {run['test_accuracy']:.2%} in {run['seconds']:.0f} s"
    return None


def below(least: float, step: str, shape: Mapping[str, int], sha256: str | None, records: Records) -> str | None:
    """Why a step must not run that needs this validation accuracy of the tuned recipe's run; None if it may.

    Args:
      least: that accuracy.
      step: the name of the step that makes the run.
      shape: of the run, see `_tuned`.
      sha256: of the data.
      records: those that there are.
    """
    reached = [run["validation_accuracy"] for run in _tuned(shape, sha256, records)]
    if not reached:
        return f"waits for {step}"
    return None if max(reached) >= least else f"{step} reached {max(reached):.2%} of validation images, not {least:.2%}"


def _tuned(shape: Mapping[str, int], sha256: str | None, records: Records) -> list[Mapping[str, Any]]:
    """The tuned recipe's runs with the shape's epochs, seed, and number of validation images, on this data."""
    return [
        run for run in _runs(records)
        if (run["experiment"], run["epochs"], run["seed"]) == ("tuned", shape["epochs"], shape["seed"])
        and (run["dataset"]["validation"], run["dataset"]["sha256"]) == (shape["validation"], sha256)
    ]  # fmt: skip


def speedrun(target: float, seeds: int, sha256: str | None, records: Records) -> str | None:
    """Mean accuracy and median seconds of the runs to a target on this data, when there are as many as asked."""
    for record in (record for record in records if "provenance" in record):
        if (record["target"], record["dataset"]["sha256"]) == (target, sha256) and record["n"] >= seeds:
            reached = "reached" if record["reached"] else "not reached"
            seconds = f"{record['seconds']['median']:.1f} s"
            return f"{target:.2%} {reached}: {record['mean']:.2%} in {seconds}, {record['n']} runs"
    return None
