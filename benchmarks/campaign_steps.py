"""The steps of a campaign, in order of worth for the report and for speed.

Those beyond the report come late: `--only tuned speedrun` is the way to begin with them.
"""

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
from benchmarks.campaign_records import Headline, no_headline, no_wait
from benchmarks.timing import Case, Device
from benchmarks.variants import VARIANTS
from experiments import report, speedrun, tuned
from experiments.study import plan
from experiments.study.experiment import Setting
from experiments.study.options import QUICK, as_words
from experiments.study.progress import Progress
from jresnet.config import Config, Precision
from jresnet.data.datasets import Dataset, load_dataset

TARGET = 0.9095
"""The test accuracy of the report's final model."""
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
      after: the step whose record it waits for, if any.
      shares: the directory that its programs share with other steps', one step at a time.
      environ: environment variables of its programs.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    headline: Headline
    least: float
    limit: float = math.inf
    lacks: str = ""
    waits: Headline = no_wait
    after: str = ""
    shares: str = ""
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Tuned(NamedTuple):
    """How large the tuned recipe's runs are.

    Attributes:
      options: words that scale all of them.
      gate: epochs of the run that decides whether there are longer ones.
      validation: images held out of it.
      least: its validation accuracy at least.
      epochs: of the longer runs.
      seeds: their number.
    """

    options: dict[str, Any]
    gate: int
    validation: int
    least: float
    epochs: int
    seeds: int


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
      tuned: the tuned recipe's runs.
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
    tuned: Tuned
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
    tuned=Tuned({"precision": "bfloat16"}, gate=200, validation=5_000, least=0.963, epochs=600, seeds=5),
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
    tuned=Tuned({"quick": True, "blocks": (1,)} | _FEW, gate=2, validation=32, least=0.0, epochs=3, seeds=1),
    speedrun={"quick": True, "seeds": 2} | _FEW,
)


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
        options = as_words(changes | scale.images | {"workdir": directory / name})
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
    line = as_words({"device": device} | of_all | {"output": directory / "convolutions.json"})
    yield Step("convolutions", (module("benchmarks.convolutions", *line),), partial(said.convolutions, of_all), 30, 150)
    yield check("bits", [final(scale.equal, f"bits-{run}") for run in "ab"], partial(said.equal, equal), 150)
    if device == "gpu":
        exact = scale.equal | {"deterministic": True}
        runs = [final(exact, f"deterministic-{run}") for run in "ab"]
        yield check(
            "deterministic-bits", runs, partial(said.equal, dataclasses.replace(equal, deterministic=True)), 150
        )
    of_one = {"width": width, "batch": batch, "precision": precision}
    line = as_words(of_one | {"output": directory / "kernels.json"})
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
                (module("benchmarks.throughput", *as_words(options)),),
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
        options |= _data(dataset) | {"workdir": directory / "study"} | scale.study
        line = as_words(options)
        headline: Headline = no_headline
        if data is not None:
            study = plan.Plan(plan.parse(line, name), data, Progress(rich.console.Console(quiet=True)))
            settings = study.selected(plan.EXPERIMENTS)[0].settings
            headline = partial(said.settings, settings, seed, data.sha256)
        command = module("experiments.reproduce", *line)
        yield Step(name, (command,), headline, 60, lacks=_lacks(dataset), shares="study")


def _tuned(scale: Scale, directory: Path, dataset: str | None, data: Dataset | None) -> Iterator[Step]:
    """The tuned recipe: a run whose validation accuracy decides whether longer ones are worth their time, then these.

    The longer ones train on every image, as nothing is chosen by them; each step adds a seed to one setting.
    """
    size, sha256 = scale.tuned, data.sha256 if data else None

    def step(name: str, workdir: str, options: dict[str, Any], seed: int, **waiting: Any) -> tuple[Step, Config]:
        line = as_words(
            size.options | options | {"seeds": seed + 1} | _data(dataset) | {"workdir": directory / workdir}
        )
        config = tuned.parse(line).config
        made = Step(
            name, (module(tuned.PROGRAM.split()[-1], *line),), partial(said.tuned, config, seed, sha256), 60,
            lacks=_lacks(dataset), shares=tuned.NAME, **waiting,
        )  # fmt: skip
        return made, config

    gate = f"{tuned.NAME}-200"
    first, config = step(gate, gate, {"epochs": size.gate, "validation": size.validation}, 0)
    yield first
    final = {"epochs": size.epochs, "validation": 0, "test_after": "training"}
    waits = partial(said.gate, size.least, gate, config, sha256)
    for seed in range(size.seeds):
        name = f"{tuned.NAME}-600"
        yield step(f"{name}-seed{seed}", name, final, seed, waits=waits, after=gate)[0]


def _speedruns(scale: Scale, directory: Path, dataset: str | None, data: Dataset | None) -> Iterator[Step]:
    """Training to a test accuracy in as few seconds as possible, over many seeds."""
    for target in speedrun.RECIPES:
        name = f"{speedrun.NAME}-{target.removeprefix('0.')}"
        line = as_words({"target": target} | scale.speedrun | _data(dataset) | {"workdir": directory / name})
        options = speedrun.parse(line)
        sha256 = data.sha256 if data else None
        headline = partial(said.speedrun, float(target), options.seeds, options.config, sha256)
        yield Step(name, (module(speedrun.PROGRAM.split()[-1], *line),), headline, 60, lacks=_lacks(dataset))


def _data(dataset: str | None) -> dict[str, str]:
    """The option that names a data set; a step that lacks one does not run."""
    return {"dataset": dataset} if dataset else {}


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
        command = module("benchmarks.variants", *as_words(options))
        yield Step(name, (command,), headline, 45, 150, "needs a GPU" if foreign else "")


def _accuracy(scale: Scale, directory: Path, dataset: str | None) -> Step:
    """The time to the report's accuracy, compilation apart."""
    options = scale.accuracy | {"target": TARGET, "seeds": 1} | _data(dataset)
    line = as_words(options | {"output": directory / "accuracy.json"})
    command = module("benchmarks.time_to_accuracy", *line, "--resume")
    epochs = scale.accuracy.get("epochs", report.FINAL.epochs)
    return Step("accuracy", (command,), partial(said.time_to, TARGET, epochs), 60, lacks=_lacks(dataset))
