"""Several runs at once: images/s of replicas under one vmapped step, over training them one after another.

    python -m benchmarks.replicas --device gpu --width 42 --batch 32 --counts 1 2 4 8 --output replicas.json

A small network at a small batch leaves most of a GPU idle, and a sweep has many runs that could fill it. Before it is
timed, the vmapped step is checked: each replica, with its own seed and learning rate, must reach the parameters that it
reaches alone. The ceiling is one run on as many images per step as all replicas have together: the same arithmetic in
larger pieces, but for one network. On CPUs nothing was gained (see LOG.md); GPUs have not been measured.
"""

import dataclasses
import inspect
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.jax_step import jax_rival, training_step
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from benchmarks.timing import POOL_IMAGES, Case, Device, Rival
from jresnet.config import require
from jresnet.records.tables import Column, number, text

IN_TURN, VMAP, CEILING = "in turn", "vmap", "ceiling"
RATES = (0.01, 0.005, 0.001)
"""Learning rates of the replicas in turn, those of the report's section 4.2.1; replica i has seed i."""
STEPS: dict[Device, int] = {"cpu": 2, "gpu": 50}
"""Training steps per timed call and replica."""
TOLERANCES = (0.01, 0.3)
"""Largest allowed `difference` after the first and the second step.

Rounding in float32 makes 0.0007 after one step and up to 0.05 after two, as ReLUs switch; another learning rate makes
0.5 or more, another seed 1. The second step depends on the momentum of the first and on the next batch.
"""


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time several runs at once under one vmapped step, alternated with one after another."""

    device: Device = "gpu"
    """Where the steps run."""
    width: tuple[int, ...] = (42,)
    """Channels of the first stage; several are timed one after another."""
    batch: int = 32
    """Images per step of each replica."""
    counts: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of replicas to train at once."""
    steps: int | None = None
    """Steps per timed call and replica (default: 2 on a CPU, 50 on a GPU)."""

    def __post_init__(self):
        super().__post_init__()
        most = POOL_IMAGES // max(len(TOLERANCES), self.call_steps)
        require(self, "batch", self.batch <= most, f"must be at most {most} for {self.call_steps} steps per call")

    @property
    def call_steps(self) -> int:
        """Steps per timed call and replica."""
        return self.steps or STEPS[self.device]


class Replicas:
    """Replicas of one case under training, each with its own seed, learning rate, batches and state.

    If they train `together`, one vmapped program is called for all, not the library's program for one after another.
    """

    def __init__(self, case: Case, count: int, together: bool):
        runs = [training_step(case, seed=i, learning_rate=RATES[i % len(RATES)]) for i in range(count)]
        self.count, self.together, self._next = count, together, 0
        self.program, self.carries = runs[0].program(), [run.create() for run in runs]
        # Each replica's epoch as the work of one call, its arrays ((images, labels, statistics), plan, no mask).
        epochs = [next(iter(run.source.epoch(0, 0, lambda left: left))) for run in runs]
        data, self._epoch_steps = epochs[0].arrays[0], epochs[0].last
        self.arrays = [(data, *epoch.arrays[1:]) for epoch in epochs]
        if together:
            # The images are shared; states, metrics and plans get a leading axis of replicas.
            axes = (0, 0, (None, 0, None), None, None)
            # The function itself: JAX allows nothing around a program that has compiler options.
            vmapped = jax.vmap(inspect.unwrap(self.program), in_axes=axes)
            self.program = runs[0].devices.compile(vmapped, donate=(0,))
            self.carries = [stacked(self.carries)]
            self.arrays = [(data, stacked([plan for _, plan, _ in self.arrays]), None)]

    def train(self, steps: int) -> None:
        """Train every replica for this number of steps and wait; restart the epoch if it has too few steps left."""
        first = self._next if self._next + steps <= self._epoch_steps else 0
        self._next = first + steps
        for i, arrays in enumerate(self.arrays):
            self.carries[i] = jax.block_until_ready(self.program(*self.carries[i], arrays, first, self._next))

    def variables(self) -> list[Any]:
        """Each replica's parameters and batch statistics, on the host."""
        variables = [jax.device_get(state.variables) for state, _ in self.carries]
        if not self.together:
            return variables
        return [jax.tree.map(lambda a, i=i: a[i], variables[0]) for i in range(self.count)]


def stacked(trees: list[Any]) -> Any:
    """Trees of equal shapes as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def difference(variables: Any, expected: Any, start: Any) -> float:
    """Distance of variables from the expected ones, relative to how far training moved these from the start.

    It is the largest, over arrays, of |variables - expected| / |expected - start|, Euclidean: 1 for an array that was
    not trained at all.
    """

    def distance(a: Any, b: Any, before: Any) -> float:
        a, b, before = np.float64(a), np.float64(b), np.float64(before)
        return float(np.linalg.norm(a - b) / np.linalg.norm(b - before))

    return max(jax.tree.leaves(jax.tree.map(distance, variables, expected, start)))


def check(case: Case, count: int) -> tuple[Callable[[int], None], list[float]]:
    """Train vmapped replicas beside others in turn; returns their `train`, and the `difference` after each step."""
    in_turn, together = Replicas(case, count, together=False), Replicas(case, count, together=True)
    start, differences = in_turn.variables(), []
    # In full float32 on a GPU, as TF32's rounding alone would exceed any useful tolerance; the arithmetic that is
    # timed is compiled afterwards.
    with jax.default_matmul_precision("highest" if case.device == "gpu" else None):
        for _ in TOLERANCES:
            in_turn.train(1)
            together.train(1)
            differences.append(max(map(difference, together.variables(), in_turn.variables(), start)))
    return together.train, differences


def agrees(differences: Sequence[float]) -> bool:
    """Whether the difference after each step of the check is within its tolerance."""
    return all(value <= most for value, most in zip(differences, TOLERANCES, strict=True))


def measure(width: int, count: int, options: Options) -> dict[str, Any]:
    """Time `count` replicas; returns the record with each way's speed, and the vmapped step's differences."""
    case = Case(width, options.batch, "float32", options.device)
    checked: dict[str, Any] = {}

    def vmapped() -> Rival:
        started = time.perf_counter()
        train, differences = check(case, count)
        checked.update(differences=differences, build_seconds=time.perf_counter() - started)
        if not agrees(differences):
            raise RuntimeError(f"differs from replicas alone by {listed(differences)}, more than rounding: not timed")
        return Rival(train)

    builders = {IN_TURN: lambda: Rival(Replicas(case, count, together=False).train), VMAP: vmapped}
    if count > 1:
        builders[CEILING] = lambda: jax_rival(dataclasses.replace(case, batch_size=count * options.batch))
    timings = timing.contest(builders, options.call_steps, options.rounds)
    rivals = {name: result.record(images_per_second=count * options.batch) for name, result in timings.items()}
    for name, result in timings.items():
        if gain := timing.compared(result.seconds, timings[IN_TURN].seconds):
            rivals[name]["gain"] = gain
    rivals[VMAP] |= checked
    return {"width": width, "batch_size": options.batch, "count": count, "rivals": rivals}


def listed(differences: Sequence[float]) -> str:
    """Differences after each step of the check."""
    return ", ".join(f"{value:.1e}" for value in differences)


COLUMNS = (
    text("width", "width"),
    text("way", "rival"),
    number("at once", "count"),
    number("images/s", "images_per_second", ",.0f", missing="failed"),
    timing.spread("over in turn", "gain", ".2f"),
    Column("difference after 1, 2 steps", ("differences",), listed, right=True, missing=""),
)


def run(options: Options) -> list[dict[str, Any]]:
    """Time every width and count; print the table, write the record and return its cases."""
    select_device(options.device)
    record = new_record("replicas", options) | {"tolerances": TOLERANCES, "cases": []}
    write_record(options.output, record)
    for width in options.width:
        for count in options.counts:
            print(f"timing width {width}, {count} at once ...", file=sys.stderr, flush=True)
            record["cases"].append(measure(width, count, options))
            write_record(options.output, record)
    timing.print_table(f"Replicas at batch {options.batch}", COLUMNS, timing.rival_rows(record["cases"]))
    timing.print_failures((f"width {c['width']}, {c['count']} at once", c["rivals"]) for c in record["cases"])
    return record["cases"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status is `run_benchmark`'s, or 1 if vmapped replicas train differently."""
    cases: list[dict[str, Any]] = []
    status = run_benchmark("replicas", Options, lambda options: cases.extend(run(options)), arguments)
    checked = (case["rivals"][VMAP].get("differences") for case in cases)
    return status if all(agrees(differences) for differences in checked if differences) else 1


if __name__ == "__main__":
    raise SystemExit(main())
