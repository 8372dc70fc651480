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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import timing
from benchmarks.jax_step import Source, jax_rival, pool, training_step
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from benchmarks.timing import Case, Device, Rival, Timing
from jresnet.data.pipeline import STREAMED_IMAGES
from jresnet.records.tables import Column, number, text
from jresnet.rules import require

DEVICE_MEMORY, TF_DATA, INPUT, GATHER = "device memory", "tf.data", "input without step", "numpy gather"
TRAIN_IMAGES: dict[Device, int] = {"cpu": 256, "gpu": 50_000}
"""Images of a timed epoch of training, which takes seconds."""
REPEATS = 20
"""Epochs of the input without the step per epoch of the step: one alone is too short for the clock."""
RATIOS = {
    "share_of_ceiling": (TF_DATA, GATHER),
    "speed_of_fed_step": (TF_DATA, DEVICE_MEMORY),
    "input_share": (DEVICE_MEMORY, INPUT),
}
"""Speeds to record: of the first rival relative to the second."""
WITHOUT_TENSORFLOW = "TensorFlow is not installed: the tf.data part is left out"


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time the two inputs, alone and feeding the training step."""

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
        super().__post_init__()
        for name, images in (("batches", self.images), ("train_batches", self.epoch_of_training)):
            largest = max(getattr(self, name))
            rule = f"more than the {images} images of an epoch: choose at most that"
            require(self, name, largest <= images, rule, largest)

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

    return Rival(run)


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

    return Rival(run)


def training_rival(case: Case, source: Source, images: int) -> Rival:
    """Epochs of the library's training step."""
    step = jax_rival(case, source=source, images=images)
    return Rival(lambda epochs: step.run(epochs * (images // case.batch_size)))


def measure_alone(batch_size: int, options: Options) -> dict[str, Any]:
    """Time epochs of tf.data alone and of the ceiling."""
    case = Case(options.width, batch_size, "float32", options.device)
    builders = {
        TF_DATA: lambda: input_rival(case, "tfds", options.images),
        GATHER: lambda: gather(options.images),
    }
    timings = timing.contest(builders, 1, options.rounds)
    return evaluate(batch_size, options.images, timings, ["share_of_ceiling"])


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
    return evaluate(batch_size, images, timings, ["speed_of_fed_step", "input_share"])


def evaluate(batch_size: int, images: int, timings: Mapping[str, Timing], ratios: Sequence[str]) -> dict[str, Any]:
    """The record of a batch size: the rivals' timings with rates, and the named RATIOS, None if a rival is missing."""
    rivals = {}
    for name, result in timings.items():
        rivals[name] = dataclasses.asdict(result)
        if result.seconds:
            seconds = timing.summary(result.seconds).median
            rivals[name] |= {"seconds_per_batch": seconds * batch_size / images, "images_per_second": images / seconds}
    record: dict[str, Any] = {"batch_size": batch_size, "rivals": rivals}
    for ratio in ratios:
        ours, theirs = (timings[name].seconds if name in timings else [] for name in RATIOS[ratio])
        record[ratio] = timing.compared(ours, theirs)
    return record


def columns(rivals: str, ratio: str) -> list[Column]:
    """The columns of a table, with the headings of its rivals and of their ratios."""
    return [
        text("batch", "batch_size"),
        text(rivals, "rival"),
        number("ms/batch", "seconds_per_batch", ",.3f", 1e3, missing="failed"),
        number("images/s", "rate", missing=""),
        timing.spread(ratio, "ratio", ".4f"),
    ]


def rows(records: Sequence[Mapping[str, Any]], ratios: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row per rival, with its rate or error; `ratios` maps a rival to the key of the ratio in its row."""
    table = timing.rival_rows(records)
    for row in table:
        row["rate"] = f"{row['images_per_second']:,.0f}" if row["seconds"] else row["error"]
        row["ratio"] = row[ratios[row["rival"]]] if row["rival"] in ratios else None
    return table


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
        shown = rows(record["alone"], {TF_DATA: "share_of_ceiling"})
        timing.print_table(f"Epochs of {options.images:,} images", columns("input alone", "share of ceiling"), shown)
    shown = rows(record["training"], {TF_DATA: "speed_of_fed_step", INPUT: "input_share"})
    headings = columns("step fed from", "speed, or share of the step's time")
    timing.print_table(f"Training step, width {options.width}", headings, shown)
    if record["tensorflow"] is None:
        print(WITHOUT_TENSORFLOW)
    if options.output:
        print(options.output)


main = partial(run_benchmark, "input_pipeline", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
