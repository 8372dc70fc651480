"""Every convolution shape of a network on a device, with both gradients, against float32 on the CPU.

    python -m benchmarks.convolutions --device gpu --widths 42 64

The first question on a new device: does each shape run there, and is it right? The exit status is 1 if one is not.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from benchmarks import timing
from benchmarks.jax_step import IMAGE_SIZE
from benchmarks.records import RecordOptions, new_record, run_benchmark, select_device, write_record
from jresnet import models
from jresnet.config import Config, Precision
from jresnet.models import summary
from jresnet.models.convolution import NHWC_HWIO
from jresnet.parallel.compiler import compiler_options
from jresnet.records.tables import number, text

TOLERANCES: dict[Precision, float] = {"float32": 5e-3, "bfloat16": 3e-2}
"""Largest relative error, Euclidean: TF32, which GPUs use for float32, and bfloat16 round to 11 and 8 bits."""
RESULTS = ("output", "gradient of images", "gradient of kernel")


class Shape(NamedTuple):
    """One convolution: side of the square images, channels in and out, side of the kernel, stride."""

    side: int
    inputs: int
    outputs: int
    kernel: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Options(RecordOptions):
    """Run every convolution of the network with both gradients, and compare with the CPU."""

    widths: tuple[int, ...] = (42, 64)
    """Channels of the first stage."""
    kernel_sizes: tuple[int, ...] = (3,)
    """Sides of the blocks' kernels."""
    batch: int = 32
    """Images."""
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    """Dtypes of the arithmetic."""


def shapes(width: int, kernel_size: int) -> list[Shape]:
    """The distinct convolutions of the network."""
    network = models.from_config(Config(width=width, kernel_size=kernel_size), 10)
    found = []
    for layer in summary.layers(network, IMAGE_SIZE):
        if layer.kind == "convolution" and layer.kernel and layer.stride:
            side, _, outputs = layer.output
            kernel, stride = layer.kernel[0], layer.stride[0]
            found.append(Shape(side * stride, layer.parameters // (kernel**2 * outputs), outputs, kernel, stride))
    return list(dict.fromkeys(found))


def arguments(shape: Shape, batch: int) -> tuple[np.ndarray, ...]:
    """Random images, kernel and gradient of the output, float32, such that all results are of order 1."""
    rng = np.random.default_rng(shape)
    out = shape.side // shape.stride
    kernel = rng.standard_normal((shape.kernel, shape.kernel, shape.inputs, shape.outputs), np.float32)
    images = rng.standard_normal((batch, shape.side, shape.side, shape.inputs), np.float32)
    gradient = rng.standard_normal((batch, out, out, shape.outputs), np.float32)
    return images, kernel / np.float32(shape.kernel * shape.inputs**0.5), gradient


def results(found: Sequence[Shape], convolve: Callable, precision: Any) -> Callable:
    """A function from the `arguments` of every shape to its RESULTS in float32."""

    def one(shape: Shape, images: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, ...]:
        padding = [(shape.kernel // 2,) * 2] * 2
        strides = (shape.stride,) * 2
        apply = partial(convolve, window_strides=strides, padding=padding, dimension_numbers=NHWC_HWIO)
        output, pullback = jax.vjp(apply, images.astype(precision), kernel.astype(precision))
        return tuple(array.astype("float32") for array in (output, *pullback(gradient.astype(precision))))

    return lambda arrays: [one(shape, *inputs) for shape, inputs in zip(found, arrays, strict=True)]


def measure(width: int, kernel_size: int, precision: Precision, options: Options) -> dict[str, Any]:
    """Compare every shape in one program; `failed` names results beyond the tolerance, or what stopped the program."""
    found = shapes(width, kernel_size)
    arrays = [arguments(shape, options.batch) for shape in found]
    convolution_cls = models.conv_for(options.device)
    convolve = convolution_cls() if convolution_cls else lax.conv_general_dilated
    case: dict[str, Any] = {
        "width": width,
        "kernel_size": kernel_size,
        "batch_size": options.batch,
        "precision": precision,
        "device": options.device,
        "shapes": len(found),
    }
    started = time.perf_counter()
    try:
        program = jax.jit(results(found, convolve, precision), compiler_options=compiler_options())
        computed = jax.device_get(program(arrays))
    except Exception as error:  # whatever a compiler can raise
        return case | {"failed": [timing.one_line(error)]}
    case["seconds"] = time.perf_counter() - started
    plain = partial(lax.conv_general_dilated, precision="highest")
    with jax.default_device(jax.devices("cpu")[0]):
        expected = jax.device_get(jax.jit(results(found, plain, "float32"))(arrays))
    errors = {
        f"{what} of {tuple(shape)}": float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for shape, ours, theirs in zip(found, computed, expected, strict=True)
        for what, a, b in zip(RESULTS, ours, theirs, strict=True)
    }
    failed = [f"{name}: {error:.1e}" for name, error in errors.items() if not error <= TOLERANCES[precision]]
    return case | {"largest_error": max(errors.values()), "failed": failed}


COLUMNS = (
    number("width", "width"),
    number("kernel", "kernel_size"),
    text("precision", "precision"),
    number("shapes", "shapes"),
    number("largest error", "largest_error", ".1e", missing="-"),
    number("s", "seconds", ".1f", missing="-"),
    text("failed", "failed", lambda failed: "; ".join(failed) or "none"),
)


def run(options: Options) -> list[dict[str, Any]]:
    """Compare every case, write the record after each, print the table and return the cases."""
    select_device(options.device)
    record = new_record("convolutions", options) | {"tolerances": TOLERANCES, "cases": []}
    write_record(options.output, record)
    for precision in options.precisions:
        for width in options.widths:
            for kernel_size in options.kernel_sizes:
                print(f"width {width}, kernel {kernel_size}, {precision} ...", file=sys.stderr, flush=True)
                record["cases"].append(measure(width, kernel_size, precision, options))
                write_record(options.output, record)
    timing.print_table("Convolutions with gradients against the CPU", COLUMNS, record["cases"])
    return record["cases"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit status is `run_benchmark`'s, or 1 if a shape fails."""
    cases: list[dict[str, Any]] = []
    status = run_benchmark("convolutions", Options, lambda options: cases.extend(run(options)), arguments)
    return status or int(any(case["failed"] for case in cases))


if __name__ == "__main__":
    raise SystemExit(main())
