"""Growth of cost: seconds per epoch and memory against training images, width, batch size and blocks per stage.

    python -m benchmarks.growth --output growth.json
    python -m benchmarks.growth --device gpu --base-width 42 --base-blocks 2 --base-images 16384 --output growth.json

Each is varied alone around a base point, and the power law cost = factor * value ** exponent is fitted by least squares
on logarithms. Epochs are whole, of random images, on one device, and timed as `benchmarks.epochs` says. Memory is what
the compiled program needs for arguments, outputs and temporary arrays, as planned by XLA. The arithmetic's exponent is
what that of time would be if every operation cost the same.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks import exponents, timing
from benchmarks.epochs import Stopwatch
from benchmarks.exponents import AXES, Axis
from benchmarks.jax_step import CLASSES, pool
from benchmarks.records import BenchmarkOptions, new_record, open_record, run_benchmark, select_device, write_record
from jresnet.config import Config, Precision
from jresnet.data.checks import numbered
from jresnet.data.datasets import Dataset
from jresnet.models.summary import training_flops
from jresnet.rules import require
from jresnet.train.signals import StopSignal


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time whole epochs, and record the memory they need, as each of four sizes grows."""

    axes: tuple[Axis, ...] = tuple(AXES)
    """Sizes to vary."""
    images: tuple[int, ...] = (5_000, 10_000, 20_000, 50_000)
    """Training images."""
    widths: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of the first stage."""
    batches: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Images per step."""
    blocks: tuple[int, ...] = (1, 2, 3, 4)
    """Residual blocks in each of four stages."""
    base_images: int = 1_024
    """Training images where they are not varied; take more on a GPU, so that an epoch is more than its planning."""
    base_width: int = 8
    """Width where it is not varied."""
    base_batch: int = 64
    """Batch size where it is not varied."""
    base_blocks: int = 1
    """Blocks per stage where they are not varied (the report's network: 2)."""
    precision: Precision = "float32"
    """Dtype of the network's arithmetic."""
    rounds: int = 3
    """Timed epochs at each point."""
    output: Path | None = None
    """JSON file for the record; the figure is written beside it, as .svg."""
    resume: bool = False
    """Continue the record in --output; finished measurements are kept."""

    def __post_init__(self):
        for name in ("images", "widths", "batches", "blocks"):
            require(self, name, len(getattr(self, name)) > 1, "an exponent needs two values")
        super().__post_init__()
        for axis in self.axes:
            for point in points(axis, self):
                point.config(self)  # checks its values


@dataclasses.dataclass(frozen=True)
class Point:
    """Sizes of a timed epoch; `value` is that of the size which the axis varies."""

    axis: Axis
    value: int
    images: int
    width: int
    batch: int
    blocks: int

    def config(self, options: Options) -> Config:
        """The run's configuration."""
        return Config(
            width=self.width, batch_size=self.batch, blocks=(self.blocks,) * 4, precision=options.precision,
            epochs=1, parallel="jit", input="resident",
        )  # fmt: skip


def points(axis: Axis, options: Options) -> list[Point]:
    """The points along an axis, ascending."""
    base = {name: getattr(options, f"base_{name}") for name in AXES}
    values = {"images": options.images, "width": options.widths, "batch": options.batches, "blocks": options.blocks}
    return [Point(axis, value, **base | {axis: value}) for value in sorted(values[axis])]


def measure(point: Point, entry: dict[str, Any], options: Options) -> None:
    """Time one epoch and add it to the entry, the first time with memory, compilation and arithmetic.

    Compilation takes no time if an earlier point had the same program.
    """
    config, split = point.config(options), pool(point.images)
    empty = split.take(slice(0))
    dataset = Dataset("random", split, empty, empty, numbered(CLASSES))
    watch = Stopwatch(config, dataset, 0)
    if not entry["seconds"]:
        entry["parameters"] = watch.trainer.parameters
        entry["flops"] = point.images * training_flops(config)
        entry["memory"] = watch.memory()
        entry["compile_seconds"] = watch.trainer.compile_seconds
    entry["seconds"].append(watch.epoch(0, StopSignal()))
    # Of the whole process, earlier points included: devices offer nothing else.
    entry["process_peak_bytes"] = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def measure_axis(axis: Axis, record: dict[str, Any], options: Options) -> None:
    """Time the rounds that the axis's points still lack, in rotating order, and write the record after each epoch.

    A point that fails gets no further rounds, and its error is recorded.
    """
    along = points(axis, options)
    entries = {(entry["axis"], entry["value"]): entry for entry in record["points"]}
    for point in along:
        if (axis, point.value) not in entries:
            entries[axis, point.value] = dataclasses.asdict(point) | {"seconds": [], "error": None}
            record["points"].append(entries[axis, point.value])
    for turn in range(options.rounds):
        for point in timing.rotated(along, turn):
            entry = entries[axis, point.value]
            if entry["error"] or len(entry["seconds"]) > turn:
                continue
            print(f"round {turn + 1}: {AXES[axis]} {point.value:,} ...", file=sys.stderr, flush=True)
            try:
                measure(point, entry, options)
            except Exception as error:
                entry["error"] = timing.one_line(error)
            record["fits"][axis] = exponents.fits(exponents.along(axis, record))
            write_record(options.output, record)


def run(options: Options) -> None:
    """Measure every axis; print tables and verdicts, write record and figure; finished epochs are kept."""
    select_device(options.device)
    record = new_record("growth", options) | {"points": [], "fits": {}}
    for name in ("axes", "rounds", "output", "resume"):
        del record["options"][name]  # a later call may differ in these
    record = open_record(options.output, record, options.resume, ("points", "fits"))
    try:
        for axis in options.axes:
            measure_axis(axis, record, options)
    finally:
        exponents.show(record, options.output)


main = partial(run_benchmark, "growth", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
