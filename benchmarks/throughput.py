"""Training throughput: images/s of the library's step and of PyTorch's, alternated in one run.

    python -m benchmarks.throughput --output throughput.json

First a large matrix product in both frameworks states what the machine can do at all; then every case
(width x batch x precision) is timed, and the record is written after each. A step is the whole of
training on one batch: gather, crop, flip, grayscale, normalise, forward, backward, SGD.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks import timing
from benchmarks.records import new_record, require_distinct, require_positive, require_values
from benchmarks.timing import Case, Device, Rival, Timing
from jresnet import cli
from jresnet.config import Precision
from jresnet.errors import InputError

if TYPE_CHECKING:
    from jresnet.models import ResNet

Builders = Mapping[str, Callable[[], Rival]]
CLASSES = 10
IMAGE_SIZE = (32, 32)
MATMUL_SIDE: dict[Device, int] = {"cpu": 1024, "gpu": 8192}
"""Side of the ceiling's square matrices: large enough that launch and memory cost nothing, and no larger: a CPU
that has no instructions for bfloat16 takes PyTorch seconds for one product."""
MATMUL_STEPS: dict[Device, int] = {"cpu": 5, "gpu": 50}
STEPS: dict[Device, int] = {"cpu": 3, "gpu": 100}
"""Training steps per timed call: about a second's worth."""
TRAINING_PER_FORWARD = 3
"""A backward pass makes two products, for inputs and for weights, of each one of the forward pass."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time one training step of the library and of PyTorch, alternated in one run.

    Raises:
      InputError: a value breaks its rule.
    """

    device: Device = "cpu"
    """Where the steps run."""
    widths: tuple[int, ...] = (42,)
    """Channels of the first stage."""
    batches: tuple[int, ...] = (32, 64, 128)
    """Images per step."""
    precisions: tuple[Precision, ...] = ("float32",)
    """Arithmetic of the network; bfloat16 is autocast in PyTorch."""
    rivals: tuple[Literal["eager", "compile"], ...] = ("eager",)
    """PyTorch's modes to time beside the library; both use channels-last memory."""
    rounds: int = 7
    """Times each rival is timed per case."""
    steps: int | None = None
    """Steps per timed call (default: 3 on a CPU, 100 on a GPU)."""
    output: Path | None = None
    """JSON file for the record."""

    def __post_init__(self):
        """Check the values."""
        lists = ("widths", "batches", "precisions", "rivals")
        require_values(self, *lists)
        require_distinct(self, *lists)
        require_positive(self, "widths", "batches", "rounds", "steps")

    def cases(self) -> list[Case]:
        """Every combination of width, batch size and precision."""
        grid = itertools.product(self.precisions, self.widths, self.batches)
        return [Case(width, batch, precision, self.device) for precision, width, batch in grid]


def training_flops(width: int) -> int:
    """Floating-point operations of training resnet18 of this width on one CIFAR image, as `flops_of` counts them."""
    from jresnet import models

    return flops_of(models.resnet18(num_classes=CLASSES, width=width), IMAGE_SIZE)


def flops_of(model: "ResNet", image_size: tuple[int, int]) -> int:
    """Floating-point operations of training on one image: 2 per multiply-add of convolutions and linear layers."""
    from jresnet.models import summary

    return TRAINING_PER_FORWARD * 2 * sum(layer.macs for layer in summary.layers(model, image_size))


def jax_matmul(precision: Precision, device: Device) -> Rival:
    """A large matrix product in JAX; the products form a chain, so that none can be skipped or overlap."""
    import jax
    import jax.numpy as jnp

    shape = (MATMUL_SIDE[device],) * 2
    left, right = jax.random.normal(jax.random.key(0), (2, *shape))
    left, right = left.astype(precision), (right / shape[0] ** 0.5).astype(precision)

    @jax.jit
    def product(x, y):
        return jnp.dot(x, y, preferred_element_type=jnp.float32).astype(precision)

    def run(steps: int) -> None:
        result = left
        for _ in range(steps):
            result = product(result, right)
        result.block_until_ready()

    return Rival("jax", run)


def torch_matmul(precision: Precision, device: Device) -> Rival:
    """The same chain of matrix products in PyTorch."""
    import torch

    from benchmarks.torch_resnet import set_up, torch_device

    set_up()
    side, dtype = MATMUL_SIDE[device], getattr(torch, precision)
    left = torch.randn(side, side, device=torch_device(device)).to(dtype)
    right = (torch.randn(side, side, device=torch_device(device)) / side**0.5).to(dtype)

    def run(steps: int) -> None:
        result = left
        for _ in range(steps):
            result = result @ right
        if device == "gpu":
            torch.cuda.synchronize()

    return Rival("torch", run)


def matmul_rivals(precision: Precision, device: Device) -> Builders:
    """The frameworks whose matrix product states the ceiling."""
    return {"jax": lambda: jax_matmul(precision, device), "torch": lambda: torch_matmul(precision, device)}


def step_rivals(case: Case, modes: Sequence[str]) -> Builders:
    """The library's step, then PyTorch's in the modes named; nothing is imported before it is built."""

    def library() -> Rival:
        from benchmarks.jax_step import jax_rival

        return jax_rival(case)

    def pytorch(mode: str) -> Rival:
        from benchmarks.torch_resnet import torch_rival

        return torch_rival(case, compiled=mode == "compile")

    return {"jax": library} | {f"torch {mode}": lambda mode=mode: pytorch(mode) for mode in modes}


def measure_ceiling(precision: Precision, options: Options) -> dict[str, Any]:
    """The matrix product's record; `flops_per_second` is the better framework's, None where both failed."""
    side = MATMUL_SIDE[options.device]
    timings = timing.contest(matmul_rivals(precision, options.device), MATMUL_STEPS[options.device], options.rounds)
    rivals = {name: _timing_record(one, {"flops_per_second": 2 * side**3}) for name, one in timings.items()}
    best = max((record.get("flops_per_second", 0.0) for record in rivals.values()), default=0.0) or None
    images = {str(width): best / training_flops(width) for width in options.widths} if best else None
    return {
        "precision": precision,
        "side": side,
        "rivals": rivals,
        "flops_per_second": best,
        "images_per_second": images,
    }


def measure_case(case: Case, ceiling: float | None, options: Options) -> dict[str, Any]:
    """One case's record: each rival's timings, and the library's speed over each PyTorch rival's."""
    steps = options.steps or STEPS[options.device]
    timings = timing.contest(step_rivals(case, options.rivals), steps, options.rounds)
    work = {
        "images_per_second": case.batch_size,
        "flops_per_second": case.batch_size * training_flops(case.width),
    }
    rivals = {name: _timing_record(one, work) for name, one in timings.items()}
    for record in rivals.values():
        if ceiling and "flops_per_second" in record:
            record["share_of_ceiling"] = record["flops_per_second"] / ceiling
    ours = timings["jax"].seconds
    ratios = {name: timing.compared(ours, one.seconds) for name, one in timings.items() if name != "jax"}
    return dataclasses.asdict(case) | {
        "training_flops_per_image": training_flops(case.width),
        "rivals": rivals,
        "speed_of_jax_over": ratios,
    }


def _timing_record(one: Timing, work: Mapping[str, float]) -> dict[str, Any]:
    """A timing as JSON, with the median's rate of each kind of `work` done per step."""
    record = dataclasses.asdict(one) | {"compile_seconds": one.compile_seconds}
    if one.seconds:
        spread = timing.summary(one.seconds)
        record |= {"seconds_per_step": dataclasses.asdict(spread)}
        record |= {rate: amount / spread.median for rate, amount in work.items()}
    return record


def measure(options: Options, record: dict[str, Any]) -> None:
    """Fill `record` with ceilings and cases, and write it to the output file after each."""

    def keep(kind: str, entry: dict[str, Any]) -> None:
        record[kind].append(entry)
        timing.write_record(options.output, record)

    for precision in options.precisions:
        keep("ceilings", measure_ceiling(precision, options))
        print(ceiling_line(record["ceilings"][-1]), flush=True)
    ceilings = {entry["precision"]: entry["flops_per_second"] for entry in record["ceilings"]}
    for case in options.cases():
        print(f"timing {_case_name(dataclasses.asdict(case))} ...", file=sys.stderr, flush=True)
        keep("cases", measure_case(case, ceilings[case.precision], options))


def ceiling_line(ceiling: Mapping[str, Any]) -> str:
    """The ceiling in words: both frameworks' GFLOP/s, and the images/s that would be at most."""
    speeds = ", ".join(
        f"{name} {_number(record, 'flops_per_second', 1e-9, '.0f')}" for name, record in ceiling["rivals"].items()
    )
    images = ceiling["images_per_second"] or {}
    bounds = "".join(f"; at most {rate:.0f} images/s at width {width}" for width, rate in images.items())
    return f"{ceiling['precision']} matrix product of side {ceiling['side']}, GFLOP/s: {speeds}{bounds}"


def table_rows(cases: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One row per case and rival: times with quartiles, rates, and the library's speed over the rival's."""
    rows = []
    for case in cases:
        for name, record in case["rivals"].items():
            spread = record.get("seconds_per_step")
            ratio = case["speed_of_jax_over"].get(name)
            rows.append(
                [
                    _case_name(case),
                    name,
                    timing.spread_text(spread, ".1f", 1e3) or "failed",
                    _number(record, "images_per_second", 1, ".0f"),
                    _number(record, "flops_per_second", 1e-12, ".3f"),
                    _number(record, "share_of_ceiling", 100, ".0f"),
                    _number(record, "compile_seconds", 1, ".1f"),
                    timing.spread_text(ratio, ".3f"),
                ]
            )
    return rows


def failures(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for every rival that failed, also where it had finished some rounds."""
    return [
        f"{_case_name(case)}: {name} failed: {record['error']}"
        for case in cases
        for name, record in case["rivals"].items()
        if record["error"]
    ]


def _case_name(case: Mapping[str, Any]) -> str:
    return f"width {case['width']}, batch {case['batch_size']}, {case['precision']}"


def _number(record: Mapping[str, Any], key: str, scale: float, form: str) -> str:
    value = record.get(key)
    return "-" if value is None else format(value * scale, form)


HEADER = ("case", "rival", "ms/step", "images/s", "TFLOP/s", "ceiling %", "compile s", "speed of jax")


def start_record(options: Options) -> dict[str, Any]:
    """Set the machine up and open the record; the output file is written at once, so a bad path fails early.

    Raises:
      InputError: JAX sees no such device, or the output file cannot be written.
    """
    timing.select_device(options.device)
    try:
        from benchmarks.torch_resnet import set_up
    except ModuleNotFoundError:
        print("PyTorch is not installed: only the library is timed", file=sys.stderr)
    else:
        set_up()
    record = new_record("throughput", options, options.device) | {"ceilings": [], "cases": []}
    timing.write_record(options.output, record)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0 done, 2 unusable input, 130 interrupted with results kept."""
    status = 0
    try:
        options = cli.parse(Options, arguments, "python -m benchmarks.throughput")
        record = start_record(options)
        try:
            measure(options, record)
        except KeyboardInterrupt:
            status = 130
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    timing.print_table("Training step", HEADER, table_rows(record["cases"]))
    for line in failures(record["cases"]):
        print(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
