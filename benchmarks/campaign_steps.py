"""The steps of a campaign in order of worth."""

import dataclasses
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import rich.console

from benchmarks import campaign_records as said
from benchmarks.campaign_records import Headline, nothing
from benchmarks.timing import Case, Device
from benchmarks.variants import VARIANTS
from experiments import report
from experiments.study import plan
from experiments.study.experiment import Setting
from experiments.study.options import QUICK
from experiments.study.progress import Progress
from jresnet.config import Precision
from jresnet.data.datasets import Dataset, load_dataset
from jresnet.rules import flag

TARGET = 0.9095
"""The test accuracy of the report's final model."""
SPEEDRUNS = {"speedrun-9095": TARGET, "speedrun-94": 0.94, "speedrun-95": 0.95}
"""Step -> the test accuracy that its runs are made for."""
SLOW = ("compile", "graph")
"""PyTorch's modes that time many kernels before the first step."""


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
      waits: why records say that it must not run yet; None if it may.
      shares: the directory that its programs share with other steps', one step at a time.
      environ: environment variables of its programs.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    headline: Headline
    least: float
    limit: float = math.inf
    lacks: str = ""
    waits: Headline = nothing
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
      tuned: words that scale the tuned recipe's runs.
      epochs: of the run that must pass the gate, and of those after it.
      validation: images held out of the first.
      gate: its validation accuracy at least.
      long: runs after it.
      speedrun: words that scale the speed runs.
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
    tuned: dict[str, Any]
    epochs: tuple[int, int]
    validation: int
    gate: float
    long: int
    speedrun: dict[str, Any]


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
    tuned={"precision": "bfloat16"},
    epochs=(200, 600),
    validation=5_000,
    gate=0.963,
    long=5,
    speedrun={"seeds": 20, "precision": "bfloat16"},
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
    tuned={"quick": True, "blocks": (1,)} | _FEW,
    epochs=(5, 6),
    validation=32,
    gate=0.0,
    long=1,
    speedrun={"quick": True, "seeds": 2} | _FEW,
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
    data = load_dataset(dataset).subset(*(scale.images.get(name) for name in _FEW)) if dataset else None
    every = [
        *_checks(scale, device, directory, tiny),
        *_speeds(scale, device, directory, "torch", scale.modes),
        *_studies(scale, directory, dataset, data),
        *_tuned(scale, directory, dataset, data),
        *_variants(scale, device, directory),
        _accuracy(scale, directory, dataset),
        *_speedruns(scale, directory, dataset, data),
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
        return Step(
            name, tuple(commands), lambda records: said.before(name, tiny, records) or headline(records), 30, limit
        )

    width, batch, precision = scale.cases[0]
    quick, equal = (dataclasses.replace(report.FINAL, **changes) for changes in (scale.quick, scale.equal))
    yield check("smoke", [final(scale.quick, "smoke")], partial(said.settings, [Setting("final", quick)], 0, None), 90)
    of_all = {"widths": sorted({case[0] for case in scale.cases}), "batch": batch}
    of_all |= {"precisions": sorted({case[2] for case in scale.cases})}
    line = words({"device": device} | of_all | {"output": directory / "convolutions.json"})
    yield Step("convolutions", (module("benchmarks.convolutions", *line),), partial(said.convolutions, of_all), 30, 150)
    yield check("bits", [final(scale.equal, f"bits-{run}") for run in "ab"], partial(said.equal, equal), 150)
    if device == "gpu":
        exact = scale.equal | {"deterministic": True}
        runs = [final(exact, f"deterministic-{run}") for run in "ab"]
        yield check(
            "deterministic-bits", runs, partial(said.equal, dataclasses.replace(equal, deterministic=True)), 150
        )
    of_one = {"width": width, "batch": batch, "precision": precision}
    line = words(of_one | {"output": directory / "kernels.json"})
    lacks = "" if device == "gpu" else "needs XLA's CUDA plugin"
    yield Step("kernels", (module("benchmarks.kernels", *line),), partial(said.kernels, of_one), 30, 120, lacks)


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
                partial(said.speed, Case(width, batch, precision, device), rivals),
                least=60 if rivals else 30,
                limit=400 if rivals else 120,
                lacks=lacks,
                # JAX takes three quarters of a GPU's memory by default; three rivals need more than the rest.
                environ={"XLA_CLIENT_MEM_FRACTION": ".4"} if rivals and device == "gpu" else {},
            )


def _studies(scale: Scale, directory: Path, dataset: str | None, data: Dataset | None) -> Iterator[Step]:
    """The final model, seed by seed, then the report's other settings; all of one study, which shares its runs.

    As in the report, every training image is trained on: nothing is chosen here.
    """
    runs = [(f"final-seed{seed}", "final", seed) for seed in range(scale.seeds)]
    for name, experiment, seed in [*runs, *((f"study-{name}", name, 0) for name in scale.others)]:
        options: dict[str, Any] = {"only": experiment, "seeds": 1, "first_seed": seed, "select": "test"}
        options |= {"dataset": dataset, "workdir": directory / "study"} | scale.study
        line = words(options)
        headline: Headline = nothing
        if data is not None:
            study = plan.Plan(plan.parse(line, name), data, Progress(rich.console.Console(quiet=True)))
            settings = study.selected(plan.EXPERIMENTS)[0].settings
            headline = partial(said.settings, settings, seed, data.sha256)
        command = module("experiments.reproduce", *line)
        yield Step(name, (command,), headline, 60, lacks=_lacks(dataset), shares="study")


def _tuned(scale: Scale, directory: Path, dataset: str | None, data: Dataset | None) -> Iterator[Step]:
    """The tuned recipe: a run whose validation accuracy decides whether longer ones are worth their time, then these.

    The longer ones train on every image, as nothing is chosen by them.
    """
    gate, sha256 = "tuned-200", data.sha256 if data else None
    first = {"epochs": scale.epochs[0], "validation": scale.validation, "seed": 0}
    shapes = {gate: first}
    for seed in range(scale.long):
        shapes[f"tuned-600-seed{seed}"] = {"epochs": scale.epochs[1], "validation": 0, "seed": seed}
    for name, shape in shapes.items():
        run = {"epochs": shape["epochs"], "validation": shape["validation"], "seeds": 1, "first_seed": shape["seed"]}
        options = scale.tuned | run | {"dataset": dataset, "workdir": directory / name, "resume": True}
        waits = nothing if name == gate else partial(said.below, scale.gate, gate, first, sha256)
        yield Step(
            name, (module("experiments.tuned", *words(options)),), partial(said.tuned, shape, sha256), 60,
            lacks=_lacks(dataset), waits=waits, shares="tuned",
        )  # fmt: skip


def _speedruns(scale: Scale, directory: Path, dataset: str | None, data: Dataset | None) -> Iterator[Step]:
    """Training to a test accuracy in as few seconds as possible, over many seeds."""
    for name, target in SPEEDRUNS.items():
        options = {"target": target} | scale.speedrun | {"dataset": dataset, "workdir": directory / name}
        command = module("experiments.speedrun", *words(options))
        headline = partial(said.speedrun, target, scale.speedrun["seeds"], data.sha256 if data else None)
        yield Step(name, (command,), headline, 60, lacks=_lacks(dataset))


def _lacks(dataset: str | None) -> str:
    """Why a step that trains on a data set cannot run."""
    return "" if dataset else "needs --dataset npz:FILE"


def _variants(scale: Scale, device: Device, directory: Path) -> Iterator[Step]:
    """Each variant of the training step in a child of its own, as a failed check inside XLA ends it."""
    width, _, precision = scale.cases[0]
    for variant, change in VARIANTS.items():
        name = f"variants-{variant}"
        options: dict[str, Any] = {"device": device, "width": width, "batches": scale.batches, "precision": precision}
        options |= {"variants": variant} | scale.rounds | {"output": directory / f"{name}.json"}
        foreign = device == "cpu" and any(option.startswith("xla_gpu") for option in change.options)
        cases = [Case(width, batch, precision, device) for batch in scale.batches]
        headline = partial(said.variant, variant, change, cases)
        command = module("benchmarks.variants", *words(options))
        yield Step(name, (command,), headline, 45, 150, "needs a GPU" if foreign else "")


def _accuracy(scale: Scale, directory: Path, dataset: str | None) -> Step:
    """The time to the report's accuracy, compilation apart."""
    options = scale.accuracy | {"target": TARGET, "seeds": 1, "dataset": dataset}
    line = words(options | {"output": directory / "accuracy.json"})
    command = module("benchmarks.time_to_accuracy", *line, "--resume")
    epochs = scale.accuracy.get("epochs", report.FINAL.epochs)
    return Step("accuracy", (command,), partial(said.time_to, TARGET, epochs), 60, lacks=_lacks(dataset))
