"""Variants of the library's training step against the default, alternated in one process: what an option would gain.

    python -m benchmarks.variants --device gpu --width 42 --batches 32 512 --variants capture padded

A variant changes the compiler's options, the configuration, or how many steps a call makes. A failed check inside XLA
ends the process, so try risky variants one at a time, as `benchmarks.campaign` does.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import timing
from benchmarks.jax_step import STEPS, jax_rival
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from benchmarks.timing import Case, Device, Rival
from jresnet.config import Precision
from jresnet.parallel.compiler import GPU_OPTIONS
from jresnet.records.tables import text
from jresnet.rules import require

DEFAULT = "default"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A change of the training step.

    Attributes:
      predicted: the gain that was predicted before any measurement, at batch 32 unless it says otherwise.
      options: of the compiler.
      changes: of the configuration.
      steps: per call of the program, each of which is waited for; None: all of a timed call's.
    """

    predicted: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None

    def rival(self, case: Case) -> Rival:
        """The variant's training step on a case."""
        # Without options of its own a variant keeps the default's program.
        rival = jax_rival(case, changes=self.changes, options=self.options or None)
        if self.steps is None:
            return rival

        def run(steps: int) -> None:
            while steps > 0:
                rival.run(min(steps, self.steps or steps))
                steps -= self.steps or steps

        return Rival(run, rival.close)


VARIANTS: dict[str, Variant] = {
    "capture": Variant("1.0 to 1.25", options=GPU_OPTIONS["capture"]),
    "concurrent": Variant("1.1 to 1.3 over capture", options=GPU_OPTIONS["concurrent"]),
    "conv-fusion": Variant("0.9 to 1.15", options=GPU_OPTIONS["conv-fusion"]),
    "padded": Variant("1.2 to 1.6 at batch 512", changes={"channel_multiple": 8}),
    "deterministic": Variant("below 1", changes={"deterministic": True}),
    "single-steps": Variant("below 1", steps=1),
}
"""Name -> variant, those expected to gain most at batch 32 first."""
COLUMNS = (
    text("case", "case"),
    text("variant", "rival"),
    timing.spread("ms/step", "seconds_per_step", ".3f", 1e3, missing="failed"),
    timing.spread("speed over default", "gain", ".3f", missing="-"),
    text("predicted", "predicted", missing=""),
)


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time variants of the training step, alternated with the default."""

    device: Device = "gpu"
    """Where the steps run."""
    width: int = 42
    """Channels of the first stage."""
    batches: tuple[int, ...] = (32, 512)
    """Images per step."""
    precision: Precision = "bfloat16"
    """Dtype of the network's arithmetic."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Their names."""
    steps: int | None = None
    """Steps per timed call (default: 3 on a CPU, 128 on a GPU)."""

    def __post_init__(self):
        super().__post_init__()
        known = all(name in VARIANTS for name in self.variants)
        require(self, "variants", known, f"choose from {', '.join(VARIANTS)}")


def measure(case: Case, options: Options) -> dict[str, Any]:
    """Time the default and the variants; each one's record has its `gain`, the speed over the default's."""
    builders = {DEFAULT: lambda: jax_rival(case)}
    builders |= {name: partial(VARIANTS[name].rival, case) for name in options.variants}
    timings = timing.contest(builders, options.steps or STEPS[options.device], options.rounds)
    rivals = {name: result.record(images_per_second=case.batch_size) for name, result in timings.items()}
    for name in options.variants:
        rivals[name]["variant"] = dataclasses.asdict(VARIANTS[name])
        rivals[name]["gain"] = timing.compared(timings[name].seconds, timings[DEFAULT].seconds)
    return vars(case) | {"rivals": rivals}


def rows(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per case and rival, with the predicted gain."""
    return [
        row | {"case": _name(row), "predicted": row.get("variant", {}).get("predicted")}
        for row in timing.rival_rows(cases)
    ]


def _name(case: Mapping[str, Any]) -> str:
    return f"width {case['width']}, batch {case['batch_size']}, {case['precision']}"


def run(options: Options) -> None:
    """Time every batch size, write the record after each, print the table."""
    select_device(options.device)
    record = new_record("variants", options) | {"cases": []}
    write_record(options.output, record)
    try:
        for batch in options.batches:
            case = Case(options.width, batch, options.precision, options.device)
            print(f"timing {_name(vars(case))} ...", file=sys.stderr, flush=True)
            record["cases"].append(measure(case, options))
            write_record(options.output, record)
    finally:
        timing.print_table("Variants of the training step", COLUMNS, rows(record["cases"]))
        timing.print_failures((_name(case), case["rivals"]) for case in record["cases"])


main = partial(run_benchmark, "variants", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
