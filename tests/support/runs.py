"""A tiny run, and what it left behind."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jresnet.config import Config
from jresnet.data.datasets import Dataset, Split

CONFIG = Config(
    dataset="tiny", width=4, blocks=(1, 1), kernel_size=3, pool_size=4, epochs=3, batch_size=16, learning_rate=0.05,
    parallel="jit", input="resident", dropout=0.1,
)  # fmt: skip


def make_dataset(train: int = 72, test: int = 37, validation: int = 0) -> Dataset:
    """Three classes of 8x8 images, told apart by the bright third."""

    def split(images: int, seed: int) -> Split:
        rng = np.random.default_rng(seed)
        labels = (np.arange(images) % 3).astype(np.int32)
        pixels = rng.integers(0, 120, (images, 8, 8, 3), np.uint8)
        for label in range(3):
            pixels[labels == label, :, 2 * label : 2 * label + 3] += np.uint8(110)
        return Split(pixels, labels)

    return Dataset("tiny", split(train, 0), split(validation, 1), split(test, 2), ("left", "middle", "right"))


class Silent:
    """A log of steps that keeps nothing."""

    def advance(self, *place):
        pass


def final_state(workdir: pathlib.Path):
    """Every array of the last checkpoint, as stored."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager((workdir / "checkpoints").resolve()) as manager:
        step = manager.latest_step()
        found = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    return step, jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, found.state
    )


OF_SESSIONS = {"seconds", "compile_seconds", "compile_cache", "images_per_second", "resumed"}
"""Entries of `result.json` that the clock decides, or whether a run was interrupted."""


def strip(workdir: pathlib.Path) -> list[dict]:
    """The epochs' records without what the clock decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]
