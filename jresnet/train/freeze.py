"""The parts of a network that a run leaves as they are, and the one that learns at a rate of its own."""

import re
from collections.abc import Collection, Iterable
from typing import Any

import jax
from jax import lax

HEAD = "linear"
"""The name of the linear layer among a network's parts, the first keys of its `params` and `batch_stats`."""
_STEM = ("conv1", "bn1", "se")


def frozen_parts(parts: Iterable[str], stages: Collection[int]) -> set[str]:
    """Those of a network's parts that belong to these stages: 0 is the stem, 1, 2, ... are the stages of blocks."""
    return {part for part in parts if _stage(part) in stages}


def _stage(part: str) -> int | None:
    """The stage of a part; None for the linear layer, and for the normalisation after the last block."""
    if part in _STEM:
        return 0
    found = re.fullmatch(r"layer(\d+)_\d+", part)
    return int(found[1]) if found else None


def stopped(params: Any, parts: Collection[str]) -> Any:
    """The parameters without gradients in these parts: what depends on them alone is not differentiated at all."""
    return {name: lax.stop_gradient(part) if name in parts else part for name, part in params.items()}


def kept(old: Any, new: Any, parts: Collection[str]) -> Any:
    """The new `batch_stats`, with the old ones in these parts.

    The network leaves them, too, but summing over devices does not: -0.0 + 0.0 is 0.0, and a CPU may flush denormals.
    """
    return {name: old[name] if name in parts else part for name, part in new.items()}


def marks(params: Any, parts: Collection[str]) -> Any:
    """For every array of the parameters, whether it is in one of these parts."""
    return {name: jax.tree.map(lambda _, inside=name in parts: inside, part) for name, part in params.items()}
