"""Inference: images/s of `Classifier.predict` beside PyTorch, and of what comes before the network, apart.

    python -m benchmarks.inference --output inference.json

The network: from uint8 images in memory to probabilities in memory, normalisation and softmax included, by the library
and by the same network in PyTorch (inference mode, channels last), eager and compiled, alternated in one run. Before
it: JPEG files decoded, and their pixels resized to the network's size, by as many threads as `predict` uses.
"""

import dataclasses
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import timing
from benchmarks.jax_step import CLASSES, IMAGE_SIZE, STATISTICS, pool
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from benchmarks.timing import Case, Device, Rival
from jresnet import models
from jresnet.config import Config
from jresnet.data.checks import numbered
from jresnet.data.images import decoded, image_file
from jresnet.data.images.resize import resized
from jresnet.records.tables import number, text
from jresnet.use.classifier import Classifier, described

IMAGES: dict[Device, int] = {"cpu": 32, "gpu": 8192}
"""Images of a timed call, or one batch if that is larger."""
SMOOTH = 16
"""Side of the random images that are enlarged to photographs: pure noise would compress like no photograph."""
WEIGHT = 0.01
"""Of the library's network; small enough that no activation overflows."""
COLUMNS = (
    text("case", "case"),
    text("rival", "rival"),
    timing.spread("ms/call", "seconds_per_step", ".1f", 1e3, missing="failed"),
    number("images/s", "images_per_second", ",.1f", missing="-"),
    timing.spread("speed of jax", "speed", ".3f"),
)


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time prediction by the library and by PyTorch, alternated in one run, and decoding and resizing."""

    width: int = 42
    """Channels of the first stage."""
    batches: tuple[int, ...] = (1, 256)
    """Images given to the network at once."""
    rivals: tuple[Literal["eager", "compile"], ...] = ("eager", "compile")
    """Modes of PyTorch to time beside the library, if it is installed."""
    photo: tuple[int, int] = (480, 640)
    """Height and width of the JPEG files in pixels."""
    photos: int = 32
    """How many JPEG files."""


def classifier(width: int) -> Classifier:
    """A classifier with one number everywhere: drawing initial weights takes longer to compile than the network."""
    config = Config(width=width, image_size=IMAGE_SIZE)
    network = models.from_config(config, CLASSES)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, WEIGHT), models.variable_shapes(network, IMAGE_SIZE))
    run = described(config, numbered(CLASSES), IMAGE_SIZE, *STATISTICS)
    return Classifier(network, variables, run)


def jax_rival(case: Case) -> Rival:
    """`Classifier.predict` on batches of images."""
    predict, images = classifier(case.width).predict, pool(case.batch_size).images

    def run(steps: int) -> None:
        for _ in range(steps):
            predict(images)

    return Rival(run)


def torch_rival(case: Case, mode: str) -> Rival:
    """The same in PyTorch."""
    import torch
    from torch import nn

    from benchmarks.torch_resnet import ResNet, torch_device

    device = torch_device(case.device)
    network = ResNet(case.width).eval().to(device)
    nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in STATISTICS)

    def probabilities(pixels: torch.Tensor) -> torch.Tensor:
        return torch.softmax(network((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std), dim=1)

    program = torch.compile(probabilities, dynamic=False) if mode == "compile" else probabilities
    images = pool(case.batch_size).images

    @torch.inference_mode()
    def run(steps: int) -> None:
        for _ in range(steps):
            program(torch.from_numpy(images).to(device)).cpu().numpy()

    return Rival(run, close=torch.compiler.reset)


def measure_network(batch_size: int, options: Options, modes: Sequence[str]) -> dict[str, Any]:
    """Time one batch size: each rival's record, and the library's speed relative to each of PyTorch's."""
    case = Case(options.width, batch_size, "float32", options.device)
    builders: dict[str, Callable[[], Rival]] = {"jax": partial(jax_rival, case)}
    builders |= {f"torch {mode}": partial(torch_rival, case, mode) for mode in modes}
    timings = timing.contest(builders, max(1, IMAGES[options.device] // batch_size), options.rounds)
    ours = timings["jax"].seconds
    return {
        "width": options.width,
        "batch_size": batch_size,
        "rivals": {name: result.record(images_per_second=batch_size) for name, result in timings.items()},
        "speed_of_jax_over": {
            name: timing.compared(ours, result.seconds) for name, result in timings.items() if name != "jax"
        },
    }


def photographs(directory: Path, options: Options) -> list[str]:
    """Write JPEG files of smooth random images; returns their paths."""
    height, width = options.photo
    rng = np.random.default_rng(0)
    paths = [str(directory / f"{index}.jpg") for index in range(options.photos)]
    for path in paths:
        small = Image.fromarray(rng.integers(0, 256, (SMOOTH, SMOOTH, 3), np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(path)
    return paths


def measure_before(options: Options) -> dict[str, Any]:
    """Time decoding and resizing of all photographs, each by itself."""
    with tempfile.TemporaryDirectory() as directory, image_file.without_warnings():
        paths = photographs(Path(directory), options)

        def decode(path: str) -> np.ndarray:
            return image_file.pixels(path, (255, 255, 255), lambda note: None)

        def resize(pixels: np.ndarray) -> np.ndarray:
            return resized(pixels, IMAGE_SIZE, "crop", (255, 255, 255))

        builders = {
            "decode": partial(_threads_rival, decode, paths),
            "resize": partial(_threads_rival, resize, [*map(decode, paths)]),
        }
        timings = timing.contest(builders, 1, options.rounds)
    return {name: result.record(images_per_second=options.photos) for name, result in timings.items()}


def _threads_rival(function: Callable, items: Sequence) -> Rival:
    """`function` of all items, as `predict` calls it."""

    def run(steps: int) -> None:
        for _ in range(steps):
            decoded.in_parallel(function, items, "", None)

    return Rival(run)


def rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per case and rival, with the library's speed relative to the rival's."""
    before = [{"case": "before the network", "rival": name, **part} for name, part in record["before"].items()]
    network = [
        row | {"case": f"batch {row['batch_size']}", "speed": row["speed_of_jax_over"].get(row["rival"])}
        for row in timing.rival_rows(record["cases"])
    ]
    return before + network


def run(options: Options) -> None:
    """Time everything, write the record as it grows, and print the table."""
    select_device(options.device)
    modes = options.rivals
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: only the library is timed", file=sys.stderr)
        modes = ()
    else:
        from benchmarks.torch_resnet import Settings, set_up

        set_up(Settings())
    record = new_record("inference", options) | {"before": {}, "cases": []}
    write_record(options.output, record)
    record["before"] = measure_before(options)
    write_record(options.output, record)
    for batch_size in options.batches:
        record["cases"].append(measure_network(batch_size, options, modes))
        write_record(options.output, record)
    timing.print_table(f"Inference, width {options.width}", COLUMNS, rows(record))
    timing.print_failures((f"batch {case['batch_size']}", case["rivals"]) for case in record["cases"])


main = partial(run_benchmark, "inference", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
