"""What each ingredient of a recipe costs: ms per training step beside the default's, alternated in one process.

    python -m benchmarks.ingredients --output benchmarks/results/ingredients-cpu.json
    python -m benchmarks.ingredients --batches 128 --changes wrn-28-3.5 wrn-40-2 resnet-se443 --output networks-cpu.json

The default is the report's step: crop, flip, grayscale, SGD. Each ingredient is added to it alone. Networks under the
report's budget of parameters are timed likewise, instead of its own.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax

from benchmarks import timing
from benchmarks.jax_step import STEPS, jax_rival
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from benchmarks.timing import POOL_IMAGES, Case, Device
from benchmarks.variants import DEFAULT
from jresnet.config import Precision
from jresnet.records.tables import text
from jresnet.rules import require

INGREDIENTS: dict[str, dict[str, Any]] = {
    "cutout": {"cutout": 16},
    "alternating flip": {"alternate_flip": True},
    "TrivialAugment": {"trivialaugment": True},
    "RandAugment": {"randaugment": (2, 9)},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "label smoothing": {"label_smoothing": 0.1},
    "one-cycle": {"schedule": "one-cycle", "warmup_epochs": 0.25},
    "decay of kernels only": {"weight_decay_on": "kernels"},
    "EMA": {"ema_decay": 0.999},
    "zero-init": {"zero_init": True},
    "AdamW": {"optimizer": "adamw", "learning_rate": 0.001},
    "clipping": {"clip_norm": 1.0},
    "accumulation of 2": {"accumulate": 2},
    "Muon": {"optimizer": "muon"},
    "SAM": {"sam": 0.05},
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
class Options(BenchmarkOptions):
    """Time the training step with each ingredient, alternated with the default."""

    device: Device = "cpu"
    """Where the steps run."""
    width: int = 42
    """Channels of the first stage, except of networks, which have their own."""
    batches: tuple[int, ...] = (128, 32)
    """Images per step."""
    precision: Precision = "float32"
    """Dtype of the network's arithmetic."""
    changes: tuple[str, ...] = tuple(INGREDIENTS)
    """Names of ingredients, or of networks."""
    steps: int | None = None
    """Steps per timed call (default: 3 on a CPU, 128 on a GPU)."""

    def __post_init__(self):
        super().__post_init__()
        known = all(name in CHANGES for name in self.changes)
        require(self, "changes", known, f"choose from {', '.join(CHANGES)}")


def measure(case: Case, options: Options) -> dict[str, Any]:
    """Time the default and the changes; each one's record has its `cost`, the seconds of a step over the default's."""
    # Every rival has its own images and state until the end: on a CPU, images of 16 steps are enough.
    images = 16 * case.batch_size if options.device == "cpu" else POOL_IMAGES
    builders = {DEFAULT: partial(jax_rival, case, images=images)}
    builders |= {name: partial(jax_rival, case, images=images, changes=CHANGES[name]) for name in options.changes}
    timings = timing.contest(builders, options.steps or STEPS[options.device], options.rounds)
    rivals = {name: result.record(images_per_second=case.batch_size) for name, result in timings.items()}
    for name in options.changes:
        rivals[name]["changes"] = CHANGES[name]
        rivals[name]["cost"] = timing.compared(timings[DEFAULT].seconds, timings[name].seconds)
    return vars(case) | {"rivals": rivals}


def rows(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per case and rival."""
    return [row | {"case": _name(row)} for row in timing.rival_rows(cases)]


def _name(case: Mapping[str, Any]) -> str:
    return f"width {case['width']}, batch {case['batch_size']}, {case['precision']}"


def run(options: Options) -> None:
    """Time every batch size, write the record after each, print the table."""
    select_device(options.device)
    record = new_record("ingredients", options) | {"cases": []}
    write_record(options.output, record)
    try:
        for batch in options.batches:
            case = Case(options.width, batch, options.precision, options.device)
            print(f"timing {_name(vars(case))} ...", file=sys.stderr, flush=True)
            record["cases"].append(measure(case, options))
            write_record(options.output, record)
            jax.clear_caches()  # the next batch size shares no program with this one
    finally:
        timing.print_table("What ingredients cost", COLUMNS, rows(record["cases"]))
        timing.print_failures((_name(case), case["rivals"]) for case in record["cases"])


main = partial(run_benchmark, "ingredients", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
