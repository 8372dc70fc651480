"""How cost grows: seconds per epoch and memory against training images, width, batch size and blocks per stage.

    python -m benchmarks.growth --output growth.json
    python -m benchmarks.growth --device gpu --base-width 42 --base-blocks 2 --base-images 16384 --output growth.json

Each is varied alone around a base point; cost ~ value ** exponent is fitted by least squares on logarithms. Epochs are
whole, of random images, on one device; see `benchmarks.epochs` for what the clock covers. Memory is the compiled
program's: arguments, outputs and temporary arrays, as XLA plans them. Beside the exponents of time and memory stands
that of the arithmetic, which time would have if every operation cost the same. A figure lies beside the JSON.
"""

import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import exponents, timing
from benchmarks.exponents import AXES, Axis
from benchmarks.records import new_record, open_record, require_distinct, require_positive, require_values
from benchmarks.timing import Device
from jresnet import cli
from jresnet.config import Config, Precision, require
from jresnet.errors import Interrupted

PROGRAM = "python -m benchmarks.growth"


@dataclasses.dataclass(frozen=True)
class Options:
    """Time whole epochs, and see what memory they need, as each of four sizes grows.

    Raises:
      InputError: a value breaks its rule.
    """

    device: Device = "cpu"
    """Where the epochs run."""
    axes: tuple[Axis, ...] = tuple(AXES)
    """What to vary."""
    images: tuple[int, ...] = (5_000, 10_000, 20_000, 50_000)
    """Training images."""
    widths: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of the first stage."""
    batches: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Images per step."""
    blocks: tuple[int, ...] = (1, 2, 3, 4)
    """Residual blocks in each of four stages."""
    base_images: int = 1_024
    """Training images where they are not varied; on a GPU take more, so that an epoch is more than its planning."""
    base_width: int = 8
    """Width where it is not varied."""
    base_batch: int = 64
    """Batch size where it is not varied."""
    base_blocks: int = 1
    """Blocks per stage where they are not varied (the report's network: 2)."""
    precision: Precision = "float32"
    """Arithmetic of the network."""
    rounds: int = 3
    """Epochs timed at each point."""
    output: Path | None = None
    """JSON file for the record; the figure lies beside it, as .svg."""
    resume: bool = False
    """Go on with the record in --output; what it holds is not measured again."""

    def __post_init__(self):
        """Check the values."""
        varied = ("images", "widths", "batches", "blocks")
        require_values(self, "axes")
        require_distinct(self, "axes", *varied)
        for name in varied:
            require(self, name, len(getattr(self, name)) > 1, "an exponent needs two values")
        require_positive(self, *varied, "base_images", "base_width", "base_batch", "base_blocks", "rounds")
        for axis in self.axes:
            for point in points(axis, self):
                point.config(self)  # refuses what no network can have


@dataclasses.dataclass(frozen=True)
class Point:
    """Sizes at which an epoch is timed; `value` is the one of them that its axis varies."""

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
    """Time one epoch and add it to the entry, at the first time with memory, compilation and arithmetic.

    Compilation takes no time where an earlier point had the same program.
    """
    import jax

    from benchmarks.epochs import Stopwatch
    from benchmarks.jax_step import STATISTICS, pool
    from benchmarks.throughput import CLASSES, IMAGE_SIZE, flops_of
    from jresnet import models
    from jresnet.data.datasets import Dataset
    from jresnet.train.signals import StopSignal

    config, split = point.config(options), pool(point.images)
    dataset = Dataset("random", split, split.take(slice(0)), split.take(slice(0)), tuple(map(str, range(CLASSES))))
    watch = Stopwatch(config, dataset, 0, STATISTICS)
    if not entry["seconds"]:
        entry["parameters"] = watch.training.parameters
        entry["flops"] = point.images * flops_of(models.from_config(config, CLASSES), IMAGE_SIZE)
        entry["memory"] = memory(watch.training)
        entry["compile_seconds"] = watch.training.compile_seconds
    entry["seconds"].append(watch.epoch(0, StopSignal()))
    # Of the whole process, all points before this one included: the devices offer no other.
    entry["process_peak_bytes"] = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def memory(training: Any) -> dict[str, int]:
    """Bytes that the training program needs at once, as XLA planned them; `aliased` outputs lie in arguments' place."""
    work = next(training.source.epoch(0, 0, lambda left: 1))
    program = training.program.lower(training.state, training.sums, work.arrays, work.first, work.last)
    plan = program.compile().memory_analysis()
    kinds = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporary": "temp"}
    found = {name: int(getattr(plan, f"{kind}_size_in_bytes")) for name, kind in kinds.items()}
    return found | {"total": found["arguments"] + found["outputs"] - found["aliased"] + found["temporary"]}


def measure_axis(axis: Axis, record: dict[str, Any], options: Options) -> None:
    """Bring every point of the axis to all its rounds, in an order that rotates, and write the record after each.

    A point that fails is left out of further rounds, with its error recorded.
    """
    wanted = points(axis, options)
    known = {(entry["axis"], entry["value"]): entry for entry in record["points"]}
    for point in wanted:
        if (axis, point.value) not in known:
            known[axis, point.value] = dataclasses.asdict(point) | {"seconds": [], "error": None}
            record["points"].append(known[axis, point.value])
    for turn in range(options.rounds):
        first = turn % len(wanted)
        for point in [*wanted[first:], *wanted[:first]]:
            entry = known[axis, point.value]
            if entry["error"] or len(entry["seconds"]) > turn:
                continue
            print(f"round {turn + 1}: {AXES[axis]} {point.value:,} ...", file=sys.stderr, flush=True)
            try:
                measure(point, entry, options)
            except Exception as error:
                entry["error"] = timing.one_line(error)
            record["fits"][axis] = exponents.fits(exponents.of_axis(record, axis))
            timing.write_record(options.output, record)


def run(arguments: Sequence[str]) -> None:
    """Measure every axis; print tables and verdicts, write record and figure.

    Raises:
      Interrupted: SIGINT came; what was measured is recorded.
    """
    options = cli.parse(Options, arguments, PROGRAM)
    timing.select_device(options.device)
    record = new_record("growth", options, options.device) | {"points": [], "fits": {}}
    for name in ("axes", "rounds", "output", "resume"):
        del record["options"][name]  # a later call may differ in these
    record = open_record(options.output, record, options.resume, ("points", "fits"))
    stopped = False
    try:
        for axis in options.axes:
            measure_axis(axis, record, options)
    except KeyboardInterrupt:
        stopped = True
    exponents.show(record, options.output)
    if stopped:
        again = cli.command(PROGRAM, [*arguments, *([] if options.resume else ["--resume"])])
        raise Interrupted(f"interrupted; go on with: {again}" if options.output else "interrupted", signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; returns the exit status, see `jresnet.cli.exit_status`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return cli.exit_status(lambda: run(words))


if __name__ == "__main__":
    sys.exit(main())
