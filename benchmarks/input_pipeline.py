"""Cost of the input: tf.data alone and feeding a training step, and the resident input's share of that step.

    python -m benchmarks.input_pipeline --output input.json

Alone: whole epochs over random images of CIFAR-10's number and size, from the plan to the last normalised batch in
device memory. Beside it, as the ceiling, numpy gathers the same uint8 images in the same order on one thread: any input
that shuffles must at least read and write every image once.

Training: whole epochs of the same step, fed from device memory and by tf.data, and the resident input without the step.
An epoch begins and ends with empty buffers, so that no batch is prepared while another rival is timed. Each epoch pays
for starting tf.data, about 0.1 s, so short epochs show tf.data slower than epochs of 50,000 images would.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import timing
from benchmarks.jax_step import Source, jax_rival, pool, training_step
from benchmarks.records import BenchmarkOptions, new_record, select_device, write_record
from benchmarks.timing import Case, Device, Rival, Timing
from jresnet import cli
from jresnet.data.pipeline import STREAMED_IMAGES
from jresnet.errors import InputError

DEVICE_MEMORY, TF_DATA, INPUT, GATHER = "device memory", "tf.data", "input without step", "numpy gather"
TRAIN_IMAGES: dict[Device, int] = {"cpu": 256, "gpu": 50_000}
"""Images of a timed epoch of training, which takes seconds."""
REPEATS = 20
"""Epochs of the input without the step per epoch of the step: one alone is too short for the clock."""
WITHOUT_TENSORFLOW = "TensorFlow is not installed: the tf.data part is left out"


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time the two inputs, alone and feeding the training step.

    Raises:
      InputError: a value breaks its rule.
    """

    batches: tuple[int, ...] = (32, 64, 128, 512)
    """Images per batch of tf.data alone."""
    images: int = 50_000
    """Images per epoch of tf.data alone."""
    width: int = 42
    """Channels of the first stage of the network that is trained."""
    train_batches: tuple[int, ...] = (32, 64, 128)
    """Images per training step."""
    train_images: int | None = None
    """Images per epoch of training (default: 256 on a CPU, 50,000 on a GPU), rounded down to whole batches."""

    def __post_init__(self):
        """Check the values."""
        lists = ("batches", "train_batches")
        self.check(lists=lists, positive=(*lists, "images", "width", "train_images"))
        for name, images in (("batches", self.images), ("train_batches", self.epoch_of_training)):
            if (largest := max(getattr(self, name))) > images:
                option = f"--{name.replace('_', '-')} {largest}"
                raise InputError(f"{option}: more than the {images} images of an epoch: choose at most that")

    @property
    def epoch_of_training(self) -> int:
        """Images per epoch of training, before rounding."""
        return self.train_images or TRAIN_IMAGES[self.device]


def input_rival(case: Case, source: Source, images: int, repeats: int = 1) -> Rival:
    """Epochs of an input without training, `repeats` for each step of the rival; see `drain_program`."""
    step = training_step(case, None, source, images)
    program = step.devices.compile(drain_program(step.source.get_batch))

    def run(epochs: int) -> None:
        total = jnp.zeros(())
        for epoch in range(epochs * repeats):
            for work in step.source.epoch(epoch, 0, lambda left: left):
                _, total = program(total, work.arrays, work.first, work.last)
                # As training does, which reads the loss after every call.
                jax.block_until_ready(total)

    return Rival(source, run)


def drain_program(fetch: Callable) -> Callable:
    """The training program with a sum in place of the step: `(total, arrays, first, last) -> (last images, total)`.

    XLA can drop nothing, because every number of every batch is in the sum; it can move nothing out of the loop,
    because the batch depends on the loop's counter; and it writes every batch, because the loop carries its images.
    """

    def program(total: jax.Array, arrays: Any, first: int, last: int):
        def body(i, carry):
            batch = fetch(arrays, i)
            return batch["images"], carry[1] + batch["images"].sum() + batch["labels"].sum().astype(total.dtype)

        images = jax.eval_shape(fetch, arrays, first)["images"]
        return lax.fori_loop(first, last, body, (jnp.zeros(images.shape, images.dtype), total))

    return program


def gather(images: int) -> Rival:
    """The ceiling: numpy copies the images in random order, in stacks of the same size as tf.data's."""
    pixels, order = pool(images).images, np.random.default_rng(0).permutation(images)

    def run(epochs: int) -> None:
        for _ in range(epochs):
            for first in range(0, images, STREAMED_IMAGES):
                pixels[order[first : first + STREAMED_IMAGES]]

    return Rival(GATHER, run)


def training_rival(case: Case, source: Source, images: int) -> Rival:
    """Epochs of the library's training step."""
    step = jax_rival(case, source=source, images=images)
    return Rival(source, lambda epochs: step.run(epochs * (images // case.batch_size)))


def measure_alone(batch_size: int, options: Options) -> dict[str, Any]:
    """Time epochs of tf.data alone and of the ceiling."""
    case = Case(options.width, batch_size, "float32", options.device)
    builders = {
        TF_DATA: lambda: input_rival(case, "tfds", options.images),
        GATHER: lambda: gather(options.images),
    }
    return alone(batch_size, options.images, timing.contest(builders, 1, options.rounds))


def alone(batch_size: int, images: int, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """The record of both rates, and tf.data's as a share of the ceiling, paired by rounds."""
    return {
        "batch_size": batch_size,
        "rivals": {name: rated(result, images, batch_size) for name, result in timings.items()},
        "share_of_ceiling": timing.compared(timings[TF_DATA].seconds, timings[GATHER].seconds),
    }


def measure_training(batch_size: int, options: Options, with_tf_data: bool) -> dict[str, Any]:
    """Time epochs of the step from device memory and, if asked for, from tf.data, and of the resident input."""
    case = Case(options.width, batch_size, "float32", options.device)
    images = options.epoch_of_training // batch_size * batch_size
    builders = {DEVICE_MEMORY: lambda: training_rival(case, "resident", images)}
    if with_tf_data:
        builders[TF_DATA] = lambda: training_rival(case, "tfds", images)
    builders[INPUT] = lambda: input_rival(case, "resident", images, REPEATS)
    timings = timing.contest(builders, 1, options.rounds)
    timings[INPUT].seconds = [seconds / REPEATS for seconds in timings[INPUT].seconds]
    return training(batch_size, images, timings)


def training(batch_size: int, images: int, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """The record of the rates, tf.data's speed relative to device memory, and the input's share, paired by rounds."""
    step = timings[DEVICE_MEMORY].seconds
    return {
        "batch_size": batch_size,
        "rivals": {name: rated(result, images, batch_size) for name, result in timings.items()},
        "speed_of_fed_step": timing.compared(timings[TF_DATA].seconds, step) if TF_DATA in timings else None,
        "input_share": timing.compared(step, timings[INPUT].seconds),
    }


def rated(result: Timing, images: int, batch_size: int) -> dict[str, Any]:
    """A timing of epochs as JSON, with the seconds per batch and images/s."""
    record = dataclasses.asdict(result)
    if result.seconds:
        seconds = timing.summary(result.seconds).median
        record |= {"seconds_per_batch": seconds * batch_size / images, "images_per_second": images / seconds}
    return record


def rows(records: Sequence[Mapping[str, Any]], ratios: Mapping[str, str]) -> list[list[str]]:
    """A row per rival; `ratios` maps a rival to the key of the ratio in its last column."""
    return [
        [
            str(record["batch_size"]), name,
            *(
                [f"{1e3 * rival['seconds_per_batch']:,.3f}", f"{rival['images_per_second']:,.0f}"]
                if rival["seconds"] else ["failed", rival["error"] or ""]
            ),
            timing.spread_text(record[ratios[name]], ".4f") if name in ratios else "",
        ]
        for record in records
        for name, rival in record["rivals"].items()
    ]  # fmt: skip


def run(options: Options) -> None:
    """Time everything, write the record as it grows, and print the tables."""
    select_device(options.device)
    record = new_record("input_pipeline", options) | {"tensorflow": None, "alone": [], "training": []}
    with_tf_data = importlib.util.find_spec("tensorflow") is not None
    if with_tf_data:
        from jresnet.data.tfds_reader import import_tensorflow

        record["tensorflow"] = import_tensorflow().__version__
    write_record(options.output, record)
    for batch_size in options.batches if with_tf_data else ():
        record["alone"].append(measure_alone(batch_size, options))
        write_record(options.output, record)
    for batch_size in options.train_batches:
        record["training"].append(measure_training(batch_size, options, with_tf_data))
        write_record(options.output, record)
    if record["alone"]:
        header = ("batch", "input alone", "ms/batch", "images/s", "share of ceiling")
        ratios = {TF_DATA: "share_of_ceiling"}
        timing.print_table(f"Epochs of {options.images:,} images", header, rows(record["alone"], ratios))
    header = ("batch", "step fed from", "ms/batch", "images/s", "speed, or share of the step's time")
    ratios = {TF_DATA: "speed_of_fed_step", INPUT: "input_share"}
    timing.print_table(f"Training step, width {options.width}", header, rows(record["training"], ratios))
    if record["tensorflow"] is None:
        print(WITHOUT_TENSORFLOW)
    if options.output:
        print(options.output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; returns the exit status, see `jresnet.cli.exit_status`."""
    return cli.exit_status(lambda: run(cli.parse(Options, arguments, "python -m benchmarks.input_pipeline")))


if __name__ == "__main__":
    sys.exit(main())
