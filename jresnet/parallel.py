"""Where the program runs: jitted on one device or pmapped over several, behind one small interface."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import flax.jax_utils
import jax
import jax.numpy as jnp
import numpy as np

from jresnet.config import Config
from jresnet.errors import InputError

AXIS = "devices"

# XLA:CPU's default sends float32 convolutions to a library that takes twice as long on this network's
# shapes; dot products and reductions stay with that library, which is fast at them.
_CPU_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_CPU_FUSIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


class Devices:
    """The devices one run uses: `count` of them; `axis_name` is their mapped axis, None for one jitted device.

    With several devices every array handed to a compiled function has a leading axis of devices.
    Two that mean the same devices are equal, so that they can share compiled programs.

    Args:
      config: says which form (`parallel`) and the global batch size.

    Raises:
      InputError: the batch does not divide among the devices.
    """

    def __init__(self, config: Config):
        available = jax.local_device_count()
        pmapped = config.parallel == "pmap" or (config.parallel == "auto" and available > 1)
        self.count = available if pmapped else 1
        self.axis_name = AXIS if pmapped else None
        if config.batch_size % self.count:
            lower = config.batch_size // self.count * self.count
            sizes = " or ".join(str(size) for size in (lower, lower + self.count) if size)
            raise InputError(
                f"--batch-size {config.batch_size}: does not divide among {self.count} devices: "
                f"choose {sizes}, or --parallel jit for one device"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Devices) and (self.count, self.axis_name) == (other.count, other.axis_name)

    def __hash__(self) -> int:
        return hash((self.count, self.axis_name))

    def compile(self, function: Callable, donate: tuple[int, ...] = (), broadcast: tuple[int, ...] = ()) -> Callable:
        """Compile `function`; `donate` its arguments of these positions, hand those in `broadcast` to all devices."""
        if self.axis_name is None:
            return jax.jit(function, donate_argnums=donate, compiler_options=compiler_options())
        axes = tuple(None if i in broadcast else 0 for i in range(function.__code__.co_argcount))
        return jax.pmap(function, axis_name=self.axis_name, in_axes=axes, donate_argnums=donate)

    def replicate(self, tree: Any) -> Any:
        """Put the tree's arrays, whole, on every device."""
        return jax.device_put(tree) if self.axis_name is None else flax.jax_utils.replicate(tree)

    def unreplicate(self, tree: Any) -> Any:
        """The tree as one device holds it."""
        return tree if self.axis_name is None else flax.jax_utils.unreplicate(tree)

    def split(self, tree: Any) -> Any:
        """Share arrays [steps, batch, ...] out over the devices along the batch, which must divide."""

        def one(array):
            if self.axis_name is None:
                return jnp.asarray(array)
            steps, batch, *rest = array.shape
            return jnp.asarray(array).reshape(steps, self.count, batch // self.count, *rest).swapaxes(0, 1)

        return jax.tree.map(one, tree)

    def join(self, array: jax.Array) -> np.ndarray:
        """The inverse of `split`, fetched: an array [steps, batch, ...] on the host."""
        fetched = np.asarray(array)
        if self.axis_name is None:
            return fetched
        count, steps, share, *rest = fetched.shape
        return fetched.swapaxes(0, 1).reshape(steps, count * share, *rest)


@cache
def compiler_options() -> dict[str, str] | None:
    """Options for `jax.jit` that this backend needs for speed; None where it needs none.

    A user who sets the same option in XLA_FLAGS keeps it, and a version of XLA that no longer knows
    it goes without.
    """
    return _understood(_CPU_FLAG, _CPU_FUSIONS)


@cache
def once_options() -> dict[str, str] | None:
    """Options for `jax.jit` of a program that runs once; None where the backend needs none.

    On CPUs LLVM takes 10 to 20 s to optimise the drawing of initial weights, which takes a tenth of a
    second without; 2 s are left.
    """
    return _understood("xla_backend_optimization_level", "0")


def _understood(flag: str, value: str) -> dict[str, str] | None:
    """The option, if the backend is a CPU, its XLA knows it, and the user has not set it."""
    if jax.default_backend() != "cpu" or flag in os.environ.get("XLA_FLAGS", ""):
        return None
    options = {flag: value}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0).compile()
    except Exception as error:  # XLA's own error type is not public
        if flag not in str(error):
            raise
        return None
    return options


def enable_compile_cache() -> None:
    """Keep compiled programs in the user's cache directory, unless the user chose a place or none already."""
    if jax.config.values["jax_compilation_cache_dir"] is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "jresnet" / "xla"))
