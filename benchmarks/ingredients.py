"""What each ingredient of a recipe costs: ms per training step beside the default's, alternated in one process.

    python -m benchmarks.ingredients --output benchmarks/results/ingredients-cpu.json
    python -m benchmarks.ingredients --batches 128 --changes wrn-28-3.5 wrn-40-2 resnet-se443 --output networks-cpu.json

The default is the report's step: crop, flip, grayscale, SGD. Each ingredient is added to it alone. Networks under the
report's budget of parameters are timed likewise, instead of its own.
"""

import dataclasses
from functools import partial
from typing import Any

from benchmarks import changes, timing
from benchmarks.changes import DEFAULT, ChangeOptions
from benchmarks.jax_step import jax_rival
from benchmarks.records import run_benchmark
from benchmarks.timing import POOL_IMAGES, Case
from experiments.study import ingredients
from jresnet.records.tables import text
from jresnet.rules import require

# The default has grayscale already. It has one epoch and no warm-up, within which one-cycle needs a place for its peak.
INGREDIENTS: dict[str, dict[str, Any]] = {
    name: dict(values) | ({"warmup_epochs": 0.25} if name == "one-cycle" else {})
    for name, (_, values) in ingredients.INGREDIENTS.items()
    if name != "grayscale"
}
"""Name -> changes of the configuration."""
_WIDE = {"model": "wide_resnet28_10", "dropout": 0.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "wrn-28-3.5": _WIDE | {"width": 56},
    "wrn-40-2": _WIDE | {"width": 32, "blocks": (6, 6, 6)},
    "resnet-se443": {"model": "resnet_se443", "width": None},
}
"""Networks with fewer than 5 million parameters besides the report's, as changes of the configuration."""
CHANGES = INGREDIENTS | NETWORKS
COLUMNS = (
    text("case", "case"),
    text("change", "rival"),
    timing.spread("ms/step", "seconds_per_step", ".2f", 1e3, missing="failed"),
    timing.spread("x default", "cost", ".3f", missing="-"),
)


@dataclasses.dataclass(frozen=True)
class Options(ChangeOptions):
    """Time the training step with each ingredient, alternated with the default."""

    changes: tuple[str, ...] = tuple(INGREDIENTS)
    """Names of ingredients, or of networks."""

    def __post_init__(self):
        super().__post_init__()
        known = all(name in CHANGES for name in self.changes)
        require(self, "changes", known, f"choose from {', '.join(CHANGES)}")


def measure(options: Options, case: Case) -> dict[str, dict[str, Any]]:
    """Time the default and the changes; each one's record has its `cost`, the seconds of a step over the default's."""
    # Every rival has its own images and state until the end: on a CPU, images of 16 steps are enough.
    images = 16 * case.batch_size if options.device == "cpu" else POOL_IMAGES
    builders = {DEFAULT: partial(jax_rival, case, images=images)}
    builders |= {name: partial(jax_rival, case, images=images, changes=CHANGES[name]) for name in options.changes}
    rivals = changes.contest(case, options, builders)
    for name in options.changes:
        rivals[name]["changes"] = CHANGES[name]
        rivals[name]["cost"] = timing.compared(rivals[DEFAULT]["seconds"], rivals[name]["seconds"])
    return rivals


def run(options: Options) -> None:
    """Time every batch size, write the record after each, print the table."""
    changes.run("ingredients", "What ingredients cost", options, partial(measure, options), COLUMNS)


main = partial(run_benchmark, "ingredients", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
