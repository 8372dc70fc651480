"""Kernels per training step: what XLA makes of the library's step on a GPU, counted without one.

    python -m benchmarks.kernels --width 42 --batch 32 --precision bfloat16

XLA's CUDA plugin (`pip install "jresnet[cuda13]"`) also compiles for a described GPU, by default an H100. Nothing runs
and nothing is tuned by timing: kernels, layouts and calls are the compiler's own, times are not to be had. Counted is
what the body of the loop over steps launches: kernels, and calls of cuDNN and cuBLAS, input and loss included.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.jax_step import CLASSES, IMAGE_SIZE
from benchmarks.records import new_record, run_benchmark, write_record
from benchmarks.timing import Device, print_table
from jresnet import models
from jresnet.config import Config, Precision
from jresnet.data.pipeline import GatherAndAugment
from jresnet.data.plan import batches_of, plan_for
from jresnet.errors import InputError
from jresnet.parallel.devices import Devices
from jresnet.records.tables import number, text
from jresnet.rules import require
from jresnet.train import optim
from jresnet.train.state import create_train_state
from jresnet.train.step import Metrics
from jresnet.train.trainer import make_train_program

H100 = Path(__file__).with_name("h100.txtpb")
IMAGES = 50_000
"""Of CIFAR-10's training split."""
# What launches nothing.
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%[\w.\-]+ = (?:\(.*?\)|\S+) (?P<operation>[\w\-]+)\(")
DETAIL = re.compile(r'custom_call_target="(?P<target>[^"]+)"|kind=(?P<fusion>\w+)')
FUSIONS = {"kInput": "kernel that reduces", "kLoop": "elementwise kernel"}
COLUMNS = (text("what is launched", "kind"), number("times a step", "count", "d"))


@dataclasses.dataclass(frozen=True)
class Options:
    """Count the kernels of one training step as compiled for a GPU, without one."""

    device: ClassVar[Device] = "cpu"  # that compiles

    width: int = 42
    """Channels of the first stage."""
    batch: int = 32
    """Images per step."""
    precision: Precision = "bfloat16"
    """Dtype of the network's arithmetic."""
    channel_multiple: int = 1
    """Pad channels to a multiple of this."""
    deterministic: bool = False
    """Count the step of --deterministic."""
    pmap: bool = False
    """Count the pmapped step, on one device."""
    steps: int = 100
    """Steps per call, at least 2: XLA unrolls a loop of one step."""
    options: tuple[str, ...] = ()
    """Options of the compiler, as in xla_gpu_graph_min_graph_size=1."""
    target: Path = H100
    """XLA's description of the GPU."""
    hlo: Path | None = None
    """File for the compiled program's text."""
    output: Path | None = None
    """JSON file for the record."""

    def __post_init__(self):
        for name in ("width", "batch", "channel_multiple"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        require(self, "steps", self.steps > 1, "must be at least 2")
        require(self, "options", all("=" in option for option in self.options), "must be NAME=VALUE")


def compiled_step(options: Options) -> str:
    """The optimised HLO of a call of the training program.

    Raises:
      InputError: the CUDA plugin is not installed, or cannot read the description of the GPU.
    """
    config = Config(
        width=options.width, batch_size=options.batch, precision=options.precision,
        channel_multiple=options.channel_multiple, deterministic=options.deterministic,
        parallel="pmap" if options.pmap else "jit", epochs=1,
    )  # fmt: skip
    device = described_gpu(options.target)
    devices = Devices(config, [device], dict(option.split("=", 1) for option in options.options))
    model, tx = models.from_config(config, CLASSES), optim.shared_optimizer(config, config.steps_per_epoch(IMAGES))
    program = make_train_program(
        model, tx, GatherAndAugment(config.crop_padding), "gpu", devices.axis_name, config.channel_multiple,
        options.steps,
    )  # fmt: skip
    step = jax.ShapeDtypeStruct((), jnp.int32)
    arguments = (
        *jax.eval_shape(lambda: (create_train_state(model, tx, 0, (*IMAGE_SIZE, 3)), Metrics.zero())),
        inputs(config),
    )
    if options.pmap:
        arguments = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), arguments)
        compiled = devices.compile(program, donate=(0,), broadcast=(3, 4))
    else:
        placed = NamedSharding(Mesh(np.array([device]), ("gpu",)), PartitionSpec())
        compiled = jax.jit(program, in_shardings=placed, donate_argnums=0, compiler_options=devices.options)
    return compiled.trace(*arguments, step, step).lower(lowering_platforms=("cuda",)).compile().as_text()


def described_gpu(target: Path) -> Any:
    """A device that programs can be compiled for, from XLA's description of a GPU."""
    try:
        description = target.read_text()
    except OSError as error:
        raise InputError(f"--target {target}: cannot be read ({error.strerror}): choose another file") from None
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=description, topology="1x1x1")
    except Exception as error:  # JAX raises whatever its plugins do
        raise InputError(
            f"XLA's CUDA plugin cannot compile for {target.name} ({type(error).__name__}): "
            "install jax[cuda13] of the same version as jax"
        ) from error
    return topology.devices[0]


def inputs(config: Config) -> Any:
    """Shapes of the arrays of `GatherAndAugment`: resident images, and the plan of an epoch."""
    plan = jax.eval_shape(lambda: batches_of(plan_for(config, 0, 0, IMAGES), config.batch_size, 1)[0])
    statistic = jax.ShapeDtypeStruct((3,), jnp.float32)
    images = jax.ShapeDtypeStruct((IMAGES, *IMAGE_SIZE, 3), jnp.uint8)
    return (images, jax.ShapeDtypeStruct((IMAGES,), jnp.int32), statistic, statistic), plan, None


def count_kernels(hlo: str) -> Mapping[str, int]:
    """What the body of the program's longest loop launches, by kind, most frequent first.

    Raises:
      ValueError: the program has no loop.
    """
    bodies = set(re.findall(r"body=%([\w.\-]+)", hlo))
    texts = [text for name, text in re.findall(r"^%([\w.\-]+) \(.*?\n(.*?)^}", hlo, re.M | re.S) if name in bodies]
    if not texts:
        raise ValueError("the compiled program has no loop over steps")
    lines = max(texts, key=len).splitlines()
    return dict(collections.Counter(kind for line in lines if (kind := kind_of(line))).most_common())


def kind_of(line: str) -> str | None:
    """What an instruction launches: a kernel, named by its kind of fusion, or a library's function; None: nothing."""
    instruction = INSTRUCTION.match(line)
    if instruction is None or instruction["operation"] in FREE:
        return None
    detail = DETAIL.search(line)
    if detail and instruction["operation"] == "custom-call":
        return detail["target"]
    if detail and instruction["operation"] == "fusion":
        return FUSIONS.get(detail["fusion"], "matrix product")
    return instruction["operation"]


def run(options: Options) -> None:
    """Compile, count, print the table, and write the record."""
    jax.config.update("jax_platforms", "cpu")
    hlo = compiled_step(options)
    if options.hlo:
        options.hlo.write_text(hlo)
    counts = count_kernels(hlo)
    total = sum(counts.values())
    write_record(options.output, new_record("kernels", options) | {"total": total, "kernels": counts})
    rows = [{"kind": name, "count": count} for name, count in counts.items()]
    print_table(f"{total} kernels and calls a step", COLUMNS, rows)


main = partial(run_benchmark, "kernels", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
