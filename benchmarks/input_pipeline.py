"""What the input costs: tf.data alone and feeding a training step, and the resident input's share of that step.

    python -m benchmarks.input_pipeline --output input.json

Alone: whole epochs over random images of CIFAR-10's number and size, from the plan to the last normalised batch in
device memory. Beside it, as ceiling, numpy gathers the same uint8 images in the same order on one thread: no input
that shuffles can do less than read every image and write it once.

Trainer: whole epochs of the same step, fed from device memory and by tf.data, and of the resident input without the
step. An epoch begins and ends with empty buffers, so that no batch is made while a rival is timed. Each pays for
starting tf.data, about a tenth of a second, and so short ones show tf.data slower than epochs of 50,000 images would.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import timing
from benchmarks.records import new_record, require_distinct, require_positive, require_values
from benchmarks.timing import Case, Device, Rival, Timing
from jresnet import cli
from jresnet.errors import InputError

DEVICE_MEMORY, TF_DATA, INPUT, GATHER = "device memory", "tf.data", "input without step", "numpy gather"
TRAIN_IMAGES: dict[Device, int] = {"cpu": 256, "gpu": 50_000}
"""Images of a timed epoch of training: seconds' worth."""
REPEATS = 20
"""Epochs of the input without the step in one of the step: too short else for the clock."""
WITHOUT_TENSORFLOW = "TensorFlow is not installed: the tf.data part is left out"


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the two inputs, alone and feeding the training step.

    Raises:
      InputError: a value breaks its rule.
    """

    device: Device = "cpu"
    """Where the batches go and the steps run."""
    batches: tuple[int, ...] = (32, 64, 128, 512)
    """Images per batch of tf.data alone."""
    images: int = 50_000
    """Images of an epoch of tf.data alone."""
    width: int = 42
    """Channels of the first stage of the network that is trained."""
    train_batches: tuple[int, ...] = (32, 64, 128)
    """Images per training step."""
    train_images: int | None = None
    """Images of an epoch of training (default: 256 on a CPU, 50,000 on a GPU), rounded down to whole batches."""
    rounds: int = 5
    """Times each is timed."""
    output: Path | None = None
    """JSON file for the record."""

    def __post_init__(self):
        """Check the values."""
        require_values(self, "batches", "train_batches")
        require_positive(self, "batches", "images", "width", "train_batches", "train_images", "rounds")
        require_distinct(self, "batches", "train_batches")
        for name, images in (("batches", self.images), ("train_batches", self.epoch_of_training)):
            option, largest = name.replace("_", "-"), max(getattr(self, name))
            if largest > images:
                raise InputError(
                    f"--{option} {largest}: more than the {images} images of an epoch: choose at most that"
                )

    @property
    def epoch_of_training(self) -> int:
        """Images of an epoch of training, before rounding."""
        return self.train_images or TRAIN_IMAGES[self.device]


def drained(batch_size: int, source: Literal["resident", "tfds"], images: int, repeats: int = 1) -> Rival:
    """Epochs of an input without training, `repeats` for each that is asked for; see `drain_program`."""
    import jax
    import jax.numpy as jnp

    from benchmarks.jax_step import STATISTICS, pool
    from jresnet.config import Config
    from jresnet.data.pipeline import make_input
    from jresnet.parallel.devices import Devices

    config = Config(batch_size=batch_size, parallel="jit", input=source)
    devices = Devices(config)
    fed = make_input(pool(images), config, 0, STATISTICS, devices)
    program = devices.compile(drain_program(fed.get_batch))

    def run(epochs: int) -> None:
        total = jnp.zeros(())
        for epoch in range(epochs * repeats):
            for work in fed.epoch(epoch, 0, lambda left: left):
                _, total = program(total, *work[:3])
                # As training does, which looks at the loss after every call.
                jax.block_until_ready(total)

    return Rival(source, run)


def drain_program(fetch: Callable) -> Callable:
    """The training program with summing in place of the step: `(total, arrays, first, last) -> (last images, total)`.

    Nothing can be dropped, because the sum has every number of every batch in it; nothing can leave the loop,
    because the batch depends on its counter; and every batch is written, because the loop carries its images.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    def program(total, arrays, first, last):
        def body(i, carry):
            batch = fetch(arrays, i)
            return batch["images"], carry[1] + batch["images"].sum() + batch["labels"].sum()

        images = jax.eval_shape(fetch, arrays, first)["images"]
        return lax.fori_loop(first, last, body, (jnp.zeros(images.shape, images.dtype), total))

    return program


def gather(images: int) -> Rival:
    """The ceiling: numpy copies the images in random order, stack by stack as tf.data does."""
    import numpy as np

    from benchmarks.jax_step import pool
    from jresnet.data.pipeline import STREAMED_IMAGES

    pixels, order = pool(images).images, np.random.default_rng(0).permutation(images)

    def run(epochs: int) -> None:
        for _ in range(epochs):
            for first in range(0, images, STREAMED_IMAGES):
                pixels[order[first : first + STREAMED_IMAGES]]

    return Rival(GATHER, run)


def trained(case: Case, source: Literal["resident", "tfds"], images: int) -> Rival:
    """Epochs of the library's training step."""
    from benchmarks.jax_step import jax_rival

    step = jax_rival(case, source=source, images=images)
    return Rival(source, lambda epochs: step.run(epochs * (images // case.batch_size)))


def measure_alone(batch_size: int, options: Options) -> dict[str, Any]:
    """One record: an epoch of tf.data alone beside the ceiling."""
    builders = {
        TF_DATA: lambda: drained(batch_size, "tfds", options.images),
        GATHER: lambda: gather(options.images),
    }
    return alone(batch_size, options.images, timing.contest(builders, 1, options.rounds))


def alone(batch_size: int, images: int, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """The rates of both, and the share of the ceiling that tf.data reaches, by rounds."""
    return {
        "batch_size": batch_size,
        "rivals": {name: rated(one, images, batch_size) for name, one in timings.items()},
        "share_of_ceiling": timing.compared(timings[TF_DATA].seconds, timings[GATHER].seconds),
    }


def measure_training(batch_size: int, options: Options, streams: bool) -> dict[str, Any]:
    """One record: an epoch of the step fed both ways, and of its resident input; without `streams` not by tf.data."""
    case = Case(options.width, batch_size, "float32", options.device)
    images = options.epoch_of_training // batch_size * batch_size
    builders = {
        DEVICE_MEMORY: lambda: trained(case, "resident", images),
        TF_DATA: lambda: trained(case, "tfds", images),
        INPUT: lambda: drained(batch_size, "resident", images, REPEATS),
    }
    if not streams:
        del builders[TF_DATA]
    timings = timing.contest(builders, 1, options.rounds)
    timings[INPUT].seconds = [seconds / REPEATS for seconds in timings[INPUT].seconds]
    return training(batch_size, images, timings)


def training(batch_size: int, images: int, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """The rates, the fed step's speed over the other's, and the input's share of the step's time, by rounds."""
    step = timings[DEVICE_MEMORY].seconds
    return {
        "batch_size": batch_size,
        "rivals": {name: rated(one, images, batch_size) for name, one in timings.items()},
        "speed_of_fed_step": timing.compared(timings[TF_DATA].seconds, step) if TF_DATA in timings else None,
        "input_share": timing.compared(step, timings[INPUT].seconds),
    }


def rated(one: Timing, images: int, batch_size: int) -> dict[str, Any]:
    """A timing of epochs as JSON, with the seconds of a batch and images/s."""
    record = dataclasses.asdict(one)
    if one.seconds:
        spread = timing.summary(one.seconds)
        record |= {
            "seconds_per_batch": spread.median * batch_size / images,
            "images_per_second": images / spread.median,
        }
    return record


def rows(records: Sequence[Mapping[str, Any]], ratios: Mapping[str, str]) -> list[list[str]]:
    """A line per rival; `ratios` says which of the record's ratios stands beside which rival."""
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


def measure(options: Options) -> dict[str, Any]:
    """The whole record, written to the output file as it grows."""
    timing.select_device(options.device)
    streams = importlib.util.find_spec("tensorflow") is not None
    record = new_record("input_pipeline", options, options.device)
    record |= {"tensorflow": version(streams), "alone": [], "training": []}
    timing.write_record(options.output, record)
    for batch_size in options.batches if streams else ():
        record["alone"].append(measure_alone(batch_size, options))
        timing.write_record(options.output, record)
    for batch_size in options.train_batches:
        record["training"].append(measure_training(batch_size, options, streams))
        timing.write_record(options.output, record)
    return record


def version(streams: bool) -> str | None:
    """TensorFlow's version; None where it is not installed."""
    if not streams:
        return None
    from jresnet.data.tfds_reader import import_tensorflow

    return import_tensorflow().__version__


def run(options: Options) -> None:
    """Measure, and print the tables."""
    record = measure(options)
    if record["alone"]:
        header = ("batch", "input alone", "ms/batch", "images/s", "share of ceiling")
        timing.print_table(
            f"Epochs of {options.images:,} images", header, rows(record["alone"], {TF_DATA: "share_of_ceiling"})
        )
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
