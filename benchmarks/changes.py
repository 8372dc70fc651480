"""Changes of the training step against the default one, case by case: what `variants` and `ingredients` share."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from benchmarks import timing
from benchmarks.jax_step import STEPS
from benchmarks.records import BenchmarkOptions, new_record, select_device, write_record
from benchmarks.timing import Case, Rival
from jresnet.config import Precision
from jresnet.records.tables import Column

DEFAULT = "default"
"""The rival that all others are compared with."""


@dataclasses.dataclass(frozen=True)
class ChangeOptions(BenchmarkOptions):
    """Options of a benchmark that times changes of the training step."""

    width: int = 42
    """Channels of the first stage, except of networks, which have their own."""
    batches: tuple[int, ...] = (128, 32)
    """Images per step."""
    precision: Precision = "float32"
    """Dtype of the network's arithmetic."""
    steps: int | None = None
    """Steps per timed call (default: 3 on a CPU, 128 on a GPU)."""


def contest(
    case: Case, options: ChangeOptions, builders: Mapping[str, Callable[[], Rival]]
) -> dict[str, dict[str, Any]]:
    """Time the rivals alternately; returns their records."""
    timings = timing.contest(builders, options.steps or STEPS[options.device], options.rounds)
    return {name: result.record(images_per_second=case.batch_size) for name, result in timings.items()}


def run(
    benchmark: str,
    title: str,
    options: ChangeOptions,
    measure: Callable[[Case], dict[str, dict[str, Any]]],
    columns: Sequence[Column],
) -> None:
    """Measure the rivals at every batch size, write the record after each, print the table and failures."""
    select_device(options.device)
    record = new_record(benchmark, options) | {"cases": []}
    write_record(options.output, record)
    try:
        for batch in options.batches:
            case = Case(options.width, batch, options.precision, options.device)
            print(f"timing {name(vars(case))} ...", file=sys.stderr, flush=True)
            record["cases"].append(vars(case) | {"rivals": measure(case)})
            write_record(options.output, record)
            jax.clear_caches()  # the next batch size shares no program with this one
    finally:
        cases = record["cases"]
        timing.print_table(title, columns, [row | {"case": name(row)} for row in timing.rival_rows(cases)])
        timing.print_failures((name(case), case["rivals"]) for case in cases)


def name(case: Mapping[str, Any]) -> str:
    """A case in words."""
    return f"width {case['width']}, batch {case['batch_size']}, {case['precision']}"
