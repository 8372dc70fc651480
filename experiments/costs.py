"""Speeds and costs of training steps, recorded in benchmarks/results/: read, verified, and as tables for the pages."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks import timing
from benchmarks.changes import DEFAULT
from benchmarks.ingredients import NETWORKS
from experiments import report
from experiments.study.ingredients import INGREDIENTS
from experiments.study.options import as_words
from experiments.study.results import markdown_lines
from jresnet import models
from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.models import summary
from jresnet.records.files import read_json
from jresnet.records.tables import Row, number, text

SPEED = pathlib.Path("benchmarks", "results", "throughput-cpu.json")
INGREDIENT_COSTS, NETWORK_COSTS = (SPEED.with_name(f"{name}-cpu.json") for name in ("ingredients", "networks"))

_SPEED_COLUMNS = (
    number("width", "width", "d"),
    number("batch", "batch_size", "d"),
    number("images/s", "rate", ".0f"),
    timing.spread("x PyTorch eager", "torch eager", ".2f", missing="n/a"),
    timing.spread("x PyTorch compile", "torch compile", ".2f", missing="n/a"),
)
_COST_COLUMNS = (
    number("batch", "batch_size", "d"),
    text("ingredient", "ingredient"),
    timing.spread("ms/step", "seconds_per_step", ".0f", 1e3, missing="failed"),
    timing.spread("x default", "cost", ".3f", missing=""),
)
_NETWORK_COLUMNS = (
    text("network", "network"),
    text("options", "options"),
    number("parameters", "parameters", ",d"),
    number("multiply-adds", "macs", ",d"),
    timing.spread("ms/step", "seconds_per_step", ",.0f", 1e3),
    timing.spread("x the report's", "cost", ".2f", missing=""),
)


def read_speed(root: pathlib.Path) -> dict:
    """The throughput record of a source tree.

    Raises:
      InputError: it is missing or damaged.
    """

    def use(record: dict) -> None:
        environment = record["environment"]
        environment["versions"]["torch"], environment["device"], environment["commit"]  # which the tables name
        speed_drifts(record)  # reads all the rest

    return _read(root / SPEED, "a throughput record", use)


def read_costs(root: pathlib.Path, path: pathlib.Path) -> dict | None:
    """A record of `benchmarks.ingredients` in a source tree; None if there is none.

    Raises:
      InputError: it is damaged.
    """

    def use(record: dict) -> None:
        environment, options = record["environment"], record["options"]
        environment["device"], environment["cores"], environment["commit"][:12], options["rounds"]  # in the tables
        record["cases"][0]["precision"]
        cost_drifts(record, path)  # reads all the rest

    return _read(root / path, "a record of ingredients", use) if (root / path).exists() else None


def _read(path: pathlib.Path, kind: str, use: Callable[[dict], None]) -> dict:
    """A record that can be used as a table does."""
    record = read_json(path)
    try:
        use(record)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not {kind} ({error!r}): restore the file") from None
    return record


def speed_drifts(record: dict) -> list[str]:
    """Where the throughput record's summaries differ from those of the seconds of its rounds, one line each."""
    drifts: list[str] = []
    for case in record["cases"]:
        ours = case["rivals"]["jax"]["seconds"]
        for rival, recorded in case["rivals"].items():
            spread = timing.summary(recorded["seconds"])
            computed: dict[str, Any] = {"seconds_per_step": dataclasses.asdict(spread)}
            computed["images_per_second"] = case["batch_size"] / spread.median
            if rival != "jax":
                computed["speed_of_jax_over"] = timing.compared(ours, recorded["seconds"])
                recorded = recorded | {"speed_of_jax_over": case["speed_of_jax_over"].get(rival)}
            drifts += _drifts(SPEED, case, rival, recorded, computed)
    return drifts


def cost_drifts(record: dict, path: pathlib.Path) -> list[str]:
    """Where the summaries of costs differ from those of the seconds of their rounds, one line each."""
    drifts: list[str] = []
    for case in record["cases"]:
        default = case["rivals"][DEFAULT]["seconds"]
        for rival, recorded in case["rivals"].items():
            computed: dict[str, Any] = {}
            if recorded["seconds"]:
                computed["seconds_per_step"] = dataclasses.asdict(timing.summary(recorded["seconds"]))
            if rival != DEFAULT:
                computed["cost"] = timing.compared(default, recorded["seconds"])
            drifts += _drifts(path, case, rival, recorded, computed)
    return drifts


def _drifts(
    path: pathlib.Path, case: Mapping[str, Any], rival: str, recorded: Mapping[str, Any], computed: Mapping[str, Any]
) -> Iterator[str]:
    """Where a rival's record in a case differs from what its rounds give."""
    for name, value in computed.items():
        if recorded.get(name) != value:
            where = f"{name} of {rival} at width {case['width']}, batch {case['batch_size']}"
            yield f"{path}: {where} is {recorded.get(name)}, its rounds give {value}: restore the file"


def speeds(record: dict, width: int | None = None) -> list[str]:
    """The speed of a step against PyTorch's, in the throughput record's cases of this width, or in all."""
    cases = (case for case in record["cases"] if width in (None, case["width"]))
    rows = [case | case["speed_of_jax_over"] | {"rate": case["rivals"]["jax"]["images_per_second"]} for case in cases]
    environment = record["environment"]
    return [
        *markdown_lines(_SPEED_COLUMNS, rows), "",
        f"Speed of a training step in float32 on {_cores(environment)}, and its ratio to PyTorch "
        f"{environment['versions']['torch']}, eager and compiled: median [quartiles] over "
        f"{record['options']['rounds']} rounds in which they alternate. Commit {environment['commit'][:12]}.",
    ]  # fmt: skip


def ingredients(record: dict | None) -> list[str]:
    """What each ingredient of a recipe costs in a training step."""
    if record is None:
        return ["Not measured yet."]
    rows = [row for row in timing.rival_rows(record["cases"]) if row.get("cost") or row["rival"] == DEFAULT]
    labels = {key: label for key, (label, _) in INGREDIENTS.items()}
    rows = [row | {"ingredient": labels.get(row["rival"], row["rival"])} for row in rows]
    return [*markdown_lines(_COST_COLUMNS, rows), "", _measured(record)]


def networks(record: dict | None) -> list[str]:
    """Networks under the report's budget: their sizes, and what they cost in a training step beside the report's."""
    case = record["cases"][0] if record else {"rivals": {}}
    rows: list[Row] = []
    reported: dict[str, dict[str, Any]] = {"the report's": {}}
    for name, changes in (reported | NETWORKS).items():
        config = dataclasses.replace(Config(width=report.FINAL.width), **changes)
        parameters, macs = _size(config)
        given = {"model": "resnet18", "width": config.width} | changes
        options = " ".join(as_words({key: value for key, value in given.items() if value is not None}))
        row = {"network": name, "options": f"`{options}`", "parameters": parameters, "macs": macs}
        rows.append(row | case["rivals"].get(name if changes else DEFAULT, {}))
    return [*markdown_lines(_NETWORK_COLUMNS, rows), "", _measured(record) if record else "Not timed yet."]


@functools.cache
def _size(config: Config) -> tuple[int, int]:
    """Parameters and multiply-adds for one image of CIFAR-10."""
    layers = summary.layers(models.from_config(config, 10), (32, 32))
    return sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)


def _cores(environment: Mapping[str, Any]) -> str:
    """The cores of a record's machine in words, with the instructions that decide their speed."""
    return f"{environment['cores']} cores ({', '.join([environment['device'], *environment['cpu_instructions']])})"


def _measured(record: dict) -> str:
    """How and where costs were measured."""
    environment, case = record["environment"], record["cases"][0]
    batches = " and ".join(str(case["batch_size"]) for case in record["cases"])
    return (
        f"Width {case['width']}, batch {batches}, {case['precision']}, on {_cores(environment)}: median [quartiles] "
        f"over {record['options']['rounds']} rounds in which all alternate. Commit {environment['commit'][:12]}."
    )
