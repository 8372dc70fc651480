"""Several runs at once: images/s of ways to train replicas side by side, over training them one after another.

    python -m benchmarks.replicas --device gpu --width 42 --batch 32 --counts 1 2 4 8 --output replicas.json

A small network at a small batch leaves most of a GPU idle; a sweep has many runs that could fill it. Every way is
checked before it is timed: each replica, with a seed and a learning rate of its own, must come to the parameters that
it comes to alone. The ceiling is one run on as many images per step as all replicas have together: it does the same
arithmetic in larger pieces, but trains one network.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax

from benchmarks import timing
from benchmarks.jax_step import jax_rival
from benchmarks.records import new_record, require_distinct, require_positive, require_values
from benchmarks.replica_ways import IN_TURN, WAYS, Replicas, difference
from benchmarks.timing import POOL_IMAGES, Case, Device, Rival, Timing
from jresnet import cli
from jresnet.errors import InputError

Name = Literal["dispatched", "threads", "unrolled", "vmap", "products"]
NAMES: tuple[Name, ...] = get_args(Name)
CEILING = "ceiling"
STEPS: dict[Device, int] = {"cpu": 2, "gpu": 50}
"""Training steps per timed call and replica."""
TOLERANCES = (0.01, 0.3)
"""Most difference from replicas alone after the first and the second step, see `replica_ways.difference`.

Float32's rounding makes 0.0007 in one step and up to 0.05 in two, where ReLUs fall on their other sides; another
learning rate makes 0.5 or more, another seed 1. The second step needs the momentum of the first and the next batch.
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time ways of training several runs at once, alternated with one after another.

    Raises:
      InputError: a value breaks its rule.
    """

    device: Device = "gpu"
    """Where the steps run."""
    width: tuple[int, ...] = (42,)
    """Channels of the first stage; several are timed one after another."""
    batch: int = 32
    """Images per step of each replica."""
    counts: tuple[int, ...] = (1, 2, 4, 8)
    """Replicas to train at once."""
    ways: tuple[Name, ...] = NAMES
    """Ways to time: calls of one program each, dispatched by one thread or by a thread each; one program that holds all
    their steps, unrolled; one vmapped step, its convolutions grouped, or as products of matrices."""
    rounds: int = 5
    """Times each way is timed."""
    steps: int | None = None
    """Steps per timed call and replica (default: 2 on a CPU, 50 on a GPU)."""
    output: Path | None = None
    """JSON file for the record."""

    def __post_init__(self):
        """Check the values."""
        require_values(self, "width", "counts", "ways")
        require_distinct(self, "width", "counts", "ways")
        require_positive(self, "width", "batch", "counts", "rounds", "steps")
        most = POOL_IMAGES // max(len(TOLERANCES), self.call_steps)
        if self.batch > most:
            raise InputError(f"--batch {self.batch}: must be at most {most} for {self.call_steps} steps per call")

    @property
    def call_steps(self) -> int:
        """Steps per timed call and replica."""
        return self.steps or STEPS[self.device]


def check(name: str, replicas: Replicas, device: Device) -> tuple[Callable[[int], None], list[float]]:
    """Build a way of training the replicas, and train it and each replica alone for a step per tolerance.

    Returns:
      What trains all replicas for some steps; and after each step of the check the largest difference from alone.
    """
    differences = []
    with full_float32(device):
        start = jax.device_get([state.variables for state, _ in replicas.start()])
        alone, way = WAYS[IN_TURN](replicas), WAYS[name](replicas)
        for _ in TOLERANCES:
            alone.train(1)
            way.train(1)
            found, expected = jax.device_get((way.variables(), alone.variables()))
            differences.append(max(map(difference, found, expected, start)))
    return way.train, differences


def agrees(differences: Sequence[float]) -> bool:
    """Whether the differences after each step of the check are within their tolerances."""
    return all(found <= most for found, most in zip(differences, TOLERANCES, strict=True))


@contextlib.contextmanager
def full_float32(device: Device) -> Iterator[None]:
    """Compile products and convolutions in all of float32, in every thread.

    On a GPU the default is TF32, whose rounding alone would exceed any useful tolerance; the arithmetic that is timed
    is compiled after the check.
    """
    if device == "gpu":
        jax.config.update("jax_default_matmul_precision", "highest")
    try:
        yield
    finally:
        if device == "gpu":
            jax.config.update("jax_default_matmul_precision", None)


def measure(width: int, count: int, options: Options) -> dict[str, Any]:
    """The record of so many replicas: every way's difference from alone, its speed, and its gain over one in turn."""
    case = Case(width, options.batch, "float32", options.device)
    replicas = Replicas(case, count)
    found: dict[str, dict[str, Any]] = {}

    def build(name: str) -> Rival:
        started = time.perf_counter()
        train, differences = check(name, replicas, options.device)
        found[name] = {"differences": differences, "build_seconds": time.perf_counter() - started}
        if not agrees(differences):
            raise RuntimeError(f"differs from replicas alone by {shown(differences)}, more than rounding: not timed")
        return Rival(name, train)

    builders: dict[str, Callable[[], Rival]] = {name: partial(build, name) for name in (IN_TURN, *options.ways)}
    if count > 1:
        builders[CEILING] = lambda: jax_rival(dataclasses.replace(case, batch_size=count * options.batch))
    timings = timing.contest(builders, options.call_steps, options.rounds)
    rivals = {
        name: found.get(name, {}) | entry(count * options.batch, one, timings[IN_TURN]) for name, one in timings.items()
    }
    return {"width": width, "batch_size": options.batch, "count": count, "rivals": rivals}


def entry(images: int, one: Timing, in_turn: Timing) -> dict[str, Any]:
    """What one way did with `images` images per step over all replicas: images/s, and gain over in turn, by rounds."""
    record: dict[str, Any] = {"steps": one.steps, "seconds": one.seconds, "error": one.error}
    if not one.seconds:
        return record
    spread = timing.summary(one.seconds)
    record |= {"seconds_per_step": dataclasses.asdict(spread), "images_per_second": images / spread.median}
    if gain := timing.compared(one.seconds, in_turn.seconds):
        record["gain"] = gain
    return record


def rows(cases: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line per case and way."""
    lines = []
    for case in cases:
        for name, record in case["rivals"].items():
            line = [str(case["width"]), name, str(case["count"])]
            if record["seconds"]:
                line += [f"{record['images_per_second']:,.0f}", timing.spread_text(record.get("gain"), ".2f")]
            else:
                line += ["failed", ""]
            lines.append([*line, shown(record.get("differences", ()))])
    return lines


def shown(differences: Sequence[float]) -> str:
    """Differences after each step of the check, in words."""
    return ", ".join(f"{value:.1e}" for value in differences)


def failures(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for every way that failed, also where it had finished some rounds."""
    return [
        f"width {case['width']}, {case['count']} at once: {name} failed: {record['error']}"
        for case in cases
        for name, record in case["rivals"].items()
        if record["error"]
    ]


HEADER = ("width", "way", "at once", "images/s", "over in turn", "difference after 1, 2 steps")


def run(options: Options) -> list[dict[str, Any]]:
    """Time every width and count; print the table, write and return the record's cases."""
    timing.select_device(options.device)
    record = new_record("replicas", options, options.device) | {"tolerances": TOLERANCES, "cases": []}
    timing.write_record(options.output, record)
    for width in options.width:
        for count in options.counts:
            print(f"timing width {width}, {count} at once ...", file=sys.stderr, flush=True)
            record["cases"].append(measure(width, count, options))
            timing.write_record(options.output, record)
    timing.print_table(f"Replicas at batch {options.batch}", HEADER, rows(record["cases"]))
    for line in failures(record["cases"]):
        print(line)
    return record["cases"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status is `cli.exit_status`'s, or 1 where a way trains other networks."""
    cases: list[dict[str, Any]] = []
    status = cli.exit_status(lambda: cases.extend(run(cli.parse(Options, arguments, "python -m benchmarks.replicas"))))
    checked = (record.get("differences") for case in cases for record in case["rivals"].values())
    return status if all(agrees(found) for found in checked if found) else 1


if __name__ == "__main__":
    sys.exit(main())
