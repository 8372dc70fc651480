"""Training throughput: images/s of the library's step and of PyTorch's, alternated in one run.

    python -m benchmarks.throughput --output throughput.json

First a large matrix product in both frameworks shows what the machine can do at most; then every case (width x batch x
precision) is timed, and the record is written after each. A step is all of the training on one batch: gather, crop,
flip, grayscale, normalise, forward, backward, SGD.
"""

import dataclasses
import importlib.util
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from benchmarks import timing
from benchmarks.jax_step import STEPS, jax_rival
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from benchmarks.timing import Case, Device, Rival
from jresnet.config import Config, Precision
from jresnet.models.summary import training_flops
from jresnet.records.tables import number, text
from jresnet.rules import require

Builders = Mapping[str, Callable[[], Rival]]
COLUMNS = (
    text("case", "case"),
    text("rival", "rival"),
    timing.spread("ms/step", "seconds_per_step", ".1f", 1e3, missing="failed"),
    number("images/s", "images_per_second", ".0f", missing="-"),
    number("TFLOP/s", "flops_per_second", ".3f", 1e-12, missing="-"),
    number("ceiling %", "share_of_ceiling", ".0f", 100, missing="-"),
    number("compile s", "compile_seconds", ".1f", missing="-"),
    timing.spread("speed of jax", "speed", ".3f"),
)
MATMUL_SIDE: dict[Device, int] = {"cpu": 1024, "gpu": 8192}
"""Side of the square matrices: large enough that launch and memory cost nothing, and no larger, because PyTorch takes
seconds for one product in bfloat16 on a CPU without instructions for it."""
MATMUL_STEPS: dict[Device, int] = {"cpu": 5, "gpu": 50}


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time one training step of the library and of PyTorch, alternated in one run."""

    widths: tuple[int, ...] = (42,)
    """Channels of the first stage."""
    batches: tuple[int, ...] = (32, 64, 128)
    """Images per step."""
    precisions: tuple[Precision, ...] = ("float32",)
    """Dtypes of the network's arithmetic; PyTorch's bfloat16 is autocast."""
    rivals: tuple[Literal["eager", "compile", "graph", "none"], ...] = ("eager",)
    """Modes of PyTorch to time beside the library: eager; compile; graph, on a GPU: the whole compiled step as one CUDA
    graph. none: time the library alone."""
    rounds: int = 7
    """Timed calls of each rival per case."""
    steps: int | None = None
    """Steps per timed call (default: 3 on a CPU, 128 on a GPU)."""

    def __post_init__(self):
        super().__post_init__()
        require(self, "rivals", self.rivals == ("none",) or "none" not in self.rivals, "give none alone")
        possible = self.device == "gpu" or "graph" not in self.rivals
        require(self, "rivals", possible, "graph is a CUDA graph: add --device gpu, or leave graph out")

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes of PyTorch; () for the library alone."""
        return tuple(mode for mode in self.rivals if mode != "none")

    def cases(self) -> list[Case]:
        """Every combination of width, batch size and precision."""
        grid = itertools.product(self.precisions, self.widths, self.batches)
        return [Case(width, batch, precision, self.device) for precision, width, batch in grid]


def chain(product: Callable, left: Any, right: Any, wait: Callable[[Any], Any]) -> Rival:
    """Matrix products, chained so that none can be skipped or overlap."""

    def run(steps: int) -> None:
        result = left
        for _ in range(steps):
            result = product(result, right)
        wait(result)

    return Rival(run)


def jax_matmul(precision: Precision, device: Device) -> Rival:
    """Large matrix products in JAX."""
    side = MATMUL_SIDE[device]
    left, right = jax.random.normal(jax.random.key(0), (2, side, side))

    @jax.jit
    def product(x, y):
        return jnp.dot(x, y, preferred_element_type=jnp.float32).astype(precision)

    return chain(product, left.astype(precision), (right / side**0.5).astype(precision), jax.block_until_ready)


def torch_matmul(precision: Precision, device: Device) -> Rival:
    """The same in PyTorch."""
    import torch

    from benchmarks.torch_resnet import torch_device, wait

    side, dtype = MATMUL_SIDE[device], getattr(torch, precision)
    left, right = torch.randn(2, side, side, device=torch_device(device))
    return chain(torch.matmul, left.to(dtype), (right / side**0.5).to(dtype), wait)


def matmul_rivals(precision: Precision, device: Device, modes: Sequence[str]) -> Builders:
    """The matrix product in JAX and, if it has modes to time, in PyTorch; the faster one is the ceiling."""
    builders = {"jax": lambda: jax_matmul(precision, device), "torch": lambda: torch_matmul(precision, device)}
    return {name: build for name, build in builders.items() if name == "jax" or modes}


def step_rivals(case: Case, modes: Sequence[str]) -> Builders:
    """The library's step, and PyTorch's in these modes."""

    def pytorch(mode: Any) -> Rival:
        from benchmarks.torch_resnet import torch_rival

        return torch_rival(case, mode)

    return {"jax": lambda: jax_rival(case)} | {f"torch {mode}": lambda mode=mode: pytorch(mode) for mode in modes}


def measure_ceiling(precision: Precision, options: Options) -> dict[str, Any]:
    """Time the matrix product; `flops_per_second` is the faster framework's, None if all failed."""
    side = MATMUL_SIDE[options.device]
    builders = matmul_rivals(precision, options.device, options.modes)
    timings = timing.contest(builders, MATMUL_STEPS[options.device], options.rounds)
    rivals = {name: result.record(flops_per_second=2 * side**3) for name, result in timings.items()}
    best = max((record.get("flops_per_second", 0.0) for record in rivals.values()), default=0.0) or None
    return {
        "precision": precision,
        "side": side,
        "rivals": rivals,
        "flops_per_second": best,
        "images_per_second": {str(w): best / training_flops(Config(width=w)) for w in options.widths} if best else None,
    }


def measure_case(case: Case, ceiling: float | None, options: Options) -> dict[str, Any]:
    """Time one case: each rival's record, and the library's speed relative to each PyTorch rival."""
    timings = timing.contest(step_rivals(case, options.modes), options.steps or STEPS[options.device], options.rounds)
    flops = training_flops(Config(width=case.width))
    work: dict[str, float] = {"images_per_second": case.batch_size, "flops_per_second": case.batch_size * flops}
    if ceiling:
        work["share_of_ceiling"] = work["flops_per_second"] / ceiling
    rivals = {name: result.record(**work) for name, result in timings.items()}
    ours = timings["jax"].seconds
    ratios = {name: timing.compared(ours, result.seconds) for name, result in timings.items() if name != "jax"}
    return vars(case) | {"training_flops_per_image": flops, "rivals": rivals, "speed_of_jax_over": ratios}


def measure(options: Options, record: dict[str, Any]) -> None:
    """Fill `record` with ceilings and cases, and write it to the output file after each."""
    for precision in options.precisions:
        record["ceilings"].append(measure_ceiling(precision, options))
        write_record(options.output, record)
        print(ceiling_line(record["ceilings"][-1]), flush=True)
    ceilings = {entry["precision"]: entry["flops_per_second"] for entry in record["ceilings"]}
    for case in options.cases():
        print(f"timing {_case_name(vars(case))} ...", file=sys.stderr, flush=True)
        record["cases"].append(measure_case(case, ceilings[case.precision], options))
        write_record(options.output, record)


def ceiling_line(ceiling: Mapping[str, Any]) -> str:
    """The ceiling as text: both frameworks' GFLOP/s, and the images/s that these would allow at most."""
    gigaflops = number("GFLOP/s", "flops_per_second", ".0f", 1e-9, missing="-")
    speeds = ", ".join(f"{name} {gigaflops.cell(record)}" for name, record in ceiling["rivals"].items())
    images = ceiling["images_per_second"] or {}
    bounds = "".join(f"; at most {rate:.0f} images/s at width {width}" for width, rate in images.items())
    return f"{ceiling['precision']} matrix product of side {ceiling['side']}, GFLOP/s: {speeds}{bounds}"


def rows(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per case and rival, with the library's speed relative to the rival's."""
    return [
        row | {"case": _case_name(row), "speed": row["speed_of_jax_over"].get(row["rival"])}
        for row in timing.rival_rows(cases)
    ]


def _case_name(case: Mapping[str, Any]) -> str:
    return f"width {case['width']}, batch {case['batch_size']}, {case['precision']}"


def run(options: Options) -> None:
    """Time everything and print the table; the record's header is written first, so that a bad path fails early."""
    select_device(options.device)
    with_torch = importlib.util.find_spec("torch") is not None
    if with_torch and options.modes:
        from benchmarks.torch_resnet import Settings, set_up

        set_up(Settings())
    record = new_record("throughput", options) | {"ceilings": [], "cases": []}
    write_record(options.output, record)
    if options.modes and not with_torch:
        print("PyTorch is not installed: only the library is timed", file=sys.stderr)
    try:
        measure(options, record)
    finally:
        timing.print_table("Training step", COLUMNS, rows(record["cases"]))
        timing.print_failures((_case_name(case), case["rivals"]) for case in record["cases"])


main = partial(run_benchmark, "throughput", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
