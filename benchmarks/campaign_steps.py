"""The steps of a campaign in order of worth, and what the records say about each."""

import dataclasses
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import rich.console

from benchmarks.timing import Case, Device
from benchmarks.variants import DEFAULT, VARIANTS, Variant
from experiments import report
from experiments.study import plan
from experiments.study.experiment import Setting
from experiments.study.options import QUICK
from experiments.study.progress import Progress
from jresnet import models
from jresnet.config import Config, Precision
from jresnet.data.datasets import load_dataset
from jresnet.records.run import differences
from jresnet.rules import flag

Records = Sequence[Mapping[str, Any]]
"""Records of benchmarks and results of runs, all of one device."""
Headline = Callable[[Records], str | None]
"""What records say about a step, in a line; None if they lack it."""
KERNELS = "kernels"
"""The benchmark whose records are of a described device, wherever they were made."""
TARGET = 0.9095
"""The test accuracy of the report's final model."""


SLOW = ("compile", "graph")
"""PyTorch's modes that time many kernels before the first step."""

DONE, HAD, LATE, FAILED, LEFT = "done", "had a record", "out of time", "failed", "left out"
"""What becomes of a step."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One measurement.

    Attributes:
      name: its own; a common beginning makes a group.
      commands: the words after `python` of its programs, which run one after another.
      headline: what records say about it.
      least: seconds that make it worth starting.
      limit: seconds at most.
      lacks: why it cannot run here; empty if it can.
      shares: the directory that its programs share with other steps', one step at a time.
      environ: environment variables of its programs.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    headline: Headline
    least: float
    limit: float = math.inf
    lacks: str = ""
    shares: str = ""
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Scale(NamedTuple):
    """How large the measurements are.

    Attributes:
      cases: width, batch size and precision of the training steps.
      batches: of variants, at the first case's width and precision.
      modes: PyTorch's that start at once; those that choose their kernels are steps of their own.
      quick: changes of the final model's configuration for the smoke test.
      equal: the same for the two equal runs.
      images: words that limit the numbers of images.
      rounds: words that limit timed calls.
      study: words that scale the studies' runs.
      accuracy: words that scale the time to the report's accuracy.
      seeds: runs of the final model.
      others: the experiments after it, one run of each setting.
    """

    cases: Sequence[tuple[int, int, Precision]]
    batches: Sequence[int]
    modes: Sequence[str]
    quick: dict[str, Any]
    equal: dict[str, Any]
    images: dict[str, Any]
    rounds: dict[str, Any]
    study: dict[str, Any]
    accuracy: dict[str, Any]
    seeds: int
    others: Sequence[str]


FULL = Scale(
    cases=[
        (42, 32, "bfloat16"), (64, 32, "bfloat16"), (42, 32, "float32"), (64, 32, "float32"),
        *((width, batch, "bfloat16") for batch in (512, 128, 64) for width in (42, 64)),
    ],
    batches=(32, 512),
    modes=("eager",),
    quick=QUICK,
    equal={"dataset": "synthetic", "epochs": 2},
    images={},
    rounds={"rounds": 5},
    study={},
    accuracy={},
    seeds=3,
    others=("augmentation", *(name for name in plan.NAMES if name not in ("augmentation", "final"))),
)  # fmt: skip
_QUICK = QUICK | {"blocks": (1,), "epochs": 1}
_FEW = {"train_images": 128, "test_images": 64}
TINY = Scale(
    cases=[(8, 4, "float32")],
    batches=(4,),
    modes=("eager",),
    quick=_QUICK,
    equal=_QUICK | {"epochs": 2},
    images=_FEW,
    rounds={"rounds": 1, "steps": 1},
    study={"width_scale": 0.1, "blocks": (1,), "epochs": 1} | _FEW,
    accuracy=_QUICK | _FEW,
    seeds=1,
    others=("initial",),
)


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line; True is a switch."""
    listed = {name: value if isinstance(value, list | tuple) else (value,) for name, value in options.items()}
    listed = {name: () if options[name] is True else values for name, values in listed.items()}
    return [word for name, values in listed.items() for word in (flag(name), *map(str, values))]


def module(name: str, *options: str) -> tuple[str, ...]:
    """The words after `python` that run a module."""
    return ("-m", name, *options)


def steps(device: Device, tiny: bool, directory: Path, dataset: str | None) -> list[Step]:
    """Every step, those that cannot run here included.

    Raises:
      InputError: the data set cannot be read.
    """
    scale = TINY if tiny else FULL
    dataset = dataset or ("synthetic" if tiny else None)
    every = [
        *_checks(scale, device, directory, tiny),
        *_speeds(scale, device, directory, "torch", scale.modes),
        *_studies(scale, directory, dataset),
        *_variants(scale, device, directory),
        _accuracy(scale, directory, dataset),
    ]
    if device == "gpu":  # last: on an H200 PyTorch took over four minutes to choose the kernels of one case
        every += [step for mode in SLOW for step in _speeds(scale, device, directory, mode, (mode,))]
    if not tiny:
        return every
    # Compiling is most of the time at this scale, and optimised programs do not make up for it.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
    return [dataclasses.replace(step, least=5, environ={**step.environ, "XLA_FLAGS": flags}) for step in every]


def _checks(scale: Scale, device: Device, directory: Path, tiny: bool) -> Iterator[Step]:
    """Does everything run, are equal runs equal, and how many kernels has a step?"""

    def final(changes: dict[str, Any], name: str) -> tuple[str, ...]:
        options = words(changes | scale.images | {"workdir": directory / name})
        return module("experiments.final", *options, "--resume")

    def check(name: str, commands: Sequence[tuple[str, ...]], headline: Headline, limit: float) -> Step:
        # The runs of a check are not worth committing; the campaign's record says what they gave.
        return Step(name, tuple(commands), lambda records: _said(name, tiny, records) or headline(records), 30, limit)

    width, batch, precision = scale.cases[0]
    quick, equal = (dataclasses.replace(report.FINAL, **changes) for changes in (scale.quick, scale.equal))
    yield check("smoke", [final(scale.quick, "smoke")], partial(_settings, [Setting("final", quick)], 0, None), 90)
    of_all = {"widths": sorted({case[0] for case in scale.cases}), "batch": batch}
    of_all |= {"precisions": sorted({case[2] for case in scale.cases})}
    line = words({"device": device} | of_all | {"output": directory / "convolutions.json"})
    yield Step("convolutions", (module("benchmarks.convolutions", *line),), partial(_convolutions, of_all), 30, 150)
    yield check("bits", [final(scale.equal, f"bits-{run}") for run in "ab"], partial(_equal, equal), 150)
    if device == "gpu":
        exact = scale.equal | {"deterministic": True}
        runs = [final(exact, f"deterministic-{run}") for run in "ab"]
        yield check("deterministic-bits", runs, partial(_equal, dataclasses.replace(equal, deterministic=True)), 150)
    of_one = {"width": width, "batch": batch, "precision": precision}
    line = words(of_one | {"output": directory / "kernels.json"})
    lacks = "" if device == "gpu" else "needs XLA's CUDA plugin"
    yield Step("kernels", (module("benchmarks.kernels", *line),), partial(_kernels, of_one), 30, 120, lacks)


def _speeds(scale: Scale, device: Device, directory: Path, name: str, modes: Sequence[str]) -> Iterator[Step]:
    """The training step beside PyTorch's in these modes; where PyTorch is missing, alone."""
    torch = importlib.util.find_spec("torch") is not None
    kinds = [(name, modes, "" if torch else "PyTorch is not installed")]
    if not torch and name == "torch":
        kinds.append(("ours", (), ""))
    for kind, rivals, lacks in kinds:
        for width, batch, precision in scale.cases:
            name = f"{kind}-w{width}-b{batch}-{precision}"
            options: dict[str, Any] = {"device": device, "widths": width, "batches": batch, "precisions": precision}
            options |= {"rivals": rivals or "none"} | scale.rounds | {"output": directory / f"{name}.json"}
            yield Step(
                name,
                (module("benchmarks.throughput", *words(options)),),
                partial(_speed, Case(width, batch, precision, device), rivals),
                least=60 if rivals else 30,
                limit=400 if rivals else 120,
                lacks=lacks,
                # JAX takes three quarters of a GPU's memory by default; three rivals need more than the rest.
                environ={"XLA_CLIENT_MEM_FRACTION": ".4"} if rivals and device == "gpu" else {},
            )


def _studies(scale: Scale, directory: Path, dataset: str | None) -> Iterator[Step]:
    """The final model, seed by seed, then the report's other settings; all of one study, which shares its runs.

    As in the report, every training image is trained on: nothing is chosen here.
    """
    data = load_dataset(dataset).subset(*(scale.images.get(name) for name in _FEW)) if dataset else None
    runs = [(f"final-seed{seed}", "final", seed) for seed in range(scale.seeds)]
    for name, experiment, seed in [*runs, *((f"study-{name}", name, 0) for name in scale.others)]:
        options: dict[str, Any] = {"only": experiment, "seeds": 1, "first_seed": seed, "select": "test"}
        options |= {"dataset": dataset, "workdir": directory / "study"} | scale.study
        line = words(options)
        headline: Headline = _nothing
        if data is not None:
            study = plan.Plan(plan.parse(line, name), data, Progress(rich.console.Console(quiet=True)))
            settings = study.selected(plan.EXPERIMENTS)[0].settings
            headline = partial(_settings, settings, seed, data.sha256)
        command = module("experiments.reproduce", *line)
        lacks = "" if dataset else "needs --dataset npz:FILE"
        yield Step(name, (command,), headline, 60, lacks=lacks, shares="study")


def _variants(scale: Scale, device: Device, directory: Path) -> Iterator[Step]:
    """Each variant of the training step in a child of its own, as a failed check inside XLA ends it."""
    width, _, precision = scale.cases[0]
    for variant, change in VARIANTS.items():
        name = f"variants-{variant}"
        options: dict[str, Any] = {"device": device, "width": width, "batches": scale.batches, "precision": precision}
        options |= {"variants": variant} | scale.rounds | {"output": directory / f"{name}.json"}
        foreign = device == "cpu" and any(option.startswith("xla_gpu") for option in change.options)
        cases = [Case(width, batch, precision, device) for batch in scale.batches]
        headline = partial(_variant, variant, change, cases)
        command = module("benchmarks.variants", *words(options))
        yield Step(name, (command,), headline, 45, 150, "needs a GPU" if foreign else "")


def _accuracy(scale: Scale, directory: Path, dataset: str | None) -> Step:
    """The time to the report's accuracy, compilation apart."""
    options = scale.accuracy | {"target": TARGET, "seeds": 1, "dataset": dataset}
    line = words(options | {"output": directory / "accuracy.json"})
    command = module("benchmarks.time_to_accuracy", *line, "--resume")
    epochs = scale.accuracy.get("epochs", report.FINAL.epochs)
    lacks = "" if dataset else "needs --dataset npz:FILE"
    return Step("accuracy", (command,), partial(_time, epochs), 60, lacks=lacks)


def _said(name: str, tiny: bool, records: Records) -> str | None:
    """What a campaign's record at this scale says about a step that it has done."""
    for record in _benchmarks(records, "campaign"):
        for row in record["steps"]:
            if (row["step"], record["tiny"]) == (name, tiny) and row["status"] in (DONE, HAD):
                return row["headline"]
    return None


def _nothing(_: Records) -> None:
    """The headline of a step whose record cannot be recognised without its data."""


def _results(records: Records, config: Config, seed: int, sha256: str | None) -> list[Mapping[str, Any]]:
    """The results of the runs with this configuration, seed and data; None: any data."""
    # A budget decides whether a run starts, not what it gives.
    config = models.fill_defaults(dataclasses.replace(config, budget=None))
    found = []
    for record in (record for record in records if "experiment" in record):
        free = dict(record) | {"config": record["config"] | {"budget": None}}
        if not differences(free, config, seed, sha256 or record["dataset"]["sha256"]):
            found.append(record)
    return found


def _settings(settings: Sequence[Setting], seed: int, sha256: str | None, records: Records) -> str | None:
    """Accuracy and time of every setting of an experiment."""
    found = [(setting.label, _results(records, setting.config, seed, sha256)) for setting in settings]
    if not all(results for _, results in found):
        return None
    return ", ".join(f"{label} {runs[0]['test_accuracy']:.2%} in {runs[0]['seconds']:.0f} s" for label, runs in found)


def _equal(config: Config, records: Records) -> str | None:
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


def _convolutions(options: Mapping[str, Any], records: Records) -> str | None:
    """Whether every shape was right, in a complete record."""
    for record in _benchmarks_with(options, records, "convolutions"):
        cases = record["cases"]
        if len(cases) == len(options["widths"]) * len(options["precisions"]):
            failed = [failure for case in cases for failure in case["failed"]]
            shapes = sum(case["shapes"] for case in cases)
            return f"{shapes} shapes, {len(failed)} results wrong{': ' if failed else ''}{'; '.join(failed)}"
    return None


def _kernels(options: Mapping[str, Any], records: Records) -> str | None:
    """How many kernels a step launches."""
    counts = (record["total"] for record in _benchmarks_with(options, records, KERNELS))
    return next((f"{count} kernels and calls a step" for count in counts), None)


def _speed(case: Case, modes: Sequence[str], records: Records) -> str | None:
    """Images per second, and over PyTorch in each of its modes."""
    for entry in _cases(records, "throughput", case):
        rivals = entry["rivals"]
        if rivals["jax"]["seconds"] and all(f"torch {mode}" in rivals for mode in modes):
            ratios = [(mode, entry["speed_of_jax_over"][f"torch {mode}"]) for mode in modes]
            texts = [f"{ratio['median']:.2f} x {mode}" if ratio else f"{mode} failed" for mode, ratio in ratios]
            return ", ".join([f"{rivals['jax']['images_per_second']:,.0f} images/s", *texts])
    return None


def _variant(name: str, variant: Variant, cases: Sequence[Case], records: Records) -> str | None:
    """The variant's gain at every batch size."""
    gains = []
    for case in cases:
        entries = (entry["rivals"] for entry in _cases(records, "variants", case))
        gain = next((rivals[name]["gain"] for rivals in entries if rivals.get(name, {}).get("gain")), None)
        if gain is None:
            return None
        gains.append(f"{gain['median']:.2f} x {DEFAULT} at batch {case.batch_size}")
    return f"{', '.join(gains)} (predicted {variant.predicted})"


def _time(epochs: int, records: Records) -> str | None:
    """Epochs and seconds of training to the target."""
    for record in _benchmarks_with({"target": TARGET, "epochs": epochs}, records, "time-to-accuracy"):
        for run in (run for run in record["runs"] if run["outcome"] in ("reached", "not reached")):
            return f"{TARGET:.2%} {run['outcome']} in {run['epochs']} epochs, {run['training_seconds']:.0f} s"
    return None
