"""Variants of the library's training step against the default, alternated in one process: what an option would gain.

    python -m benchmarks.variants --device gpu --width 42 --batches 32 512 --variants capture padded

A variant changes the compiler's options, the configuration, or how many steps a call makes. A failed check inside XLA
ends the process, so try risky variants one at a time, as `benchmarks.campaign` does.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks import changes, timing
from benchmarks.changes import DEFAULT, ChangeOptions
from benchmarks.jax_step import jax_rival
from benchmarks.records import run_benchmark
from benchmarks.timing import Case, Device, Rival
from jresnet.config import Precision
from jresnet.parallel.compiler import GPU_OPTIONS
from jresnet.records.tables import text
from jresnet.rules import require


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
    text("predicted", "variant", lambda variant: variant["predicted"], missing=""),
)


@dataclasses.dataclass(frozen=True)
class Options(ChangeOptions):
    """Time variants of the training step, alternated with the default."""

    device: Device = "gpu"
    """Where the steps run."""
    batches: tuple[int, ...] = (32, 512)
    """Images per step."""
    precision: Precision = "bfloat16"
    """Dtype of the network's arithmetic."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Their names."""

    def __post_init__(self):
        super().__post_init__()
        known = all(name in VARIANTS for name in self.variants)
        require(self, "variants", known, f"choose from {', '.join(VARIANTS)}")


def measure(options: Options, case: Case) -> dict[str, dict[str, Any]]:
    """Time the default and the variants; each one's record has its `gain`, the speed over the default's."""
    builders = {DEFAULT: lambda: jax_rival(case)}
    builders |= {name: partial(VARIANTS[name].rival, case) for name in options.variants}
    rivals = changes.contest(case, options, builders)
    for name in options.variants:
        rivals[name]["variant"] = dataclasses.asdict(VARIANTS[name])
        rivals[name]["gain"] = timing.compared(rivals[name]["seconds"], rivals[DEFAULT]["seconds"])
    return rivals


def run(options: Options) -> None:
    """Time every batch size, write the record after each, print the table."""
    changes.run("variants", "Variants of the training step", options, partial(measure, options), COLUMNS)


main = partial(run_benchmark, "variants", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
