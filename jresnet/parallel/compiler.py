"""Compiler options for each backend, and the compile cache."""

import functools
import os

import jax

from jresnet.records.files import cache_directory

# XLA:CPU's default sends float32 convolutions and products to a library that takes up to twice as long on this
# network's shapes; reductions stay with that library, which is fast at them.
_CPU_FLAG = "xla_cpu_experimental_ynn_fusion_type"


_CPU_FUSIONS = "LIBRARY_FUSION_TYPE_REDUCE"


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """Options for `jax.jit` that this backend needs for speed; None where it needs none.

    A user who sets the same option in XLA_FLAGS keeps it, and a version of XLA that no longer knows
    it goes without.
    """
    return _understood(_CPU_FLAG, _CPU_FUSIONS)


@functools.cache
def once_options() -> dict[str, str] | None:
    """Options for `jax.jit` of a program that runs once; None where the backend needs none.

    On CPUs LLVM takes 10 to 20 s to optimise the drawing of initial weights at its default level, and 3 at
    its first, where drawing the report's 5 million takes 0.15 s; at level 0 that would be 2 and 0.7.
    """
    return _understood("xla_backend_optimization_level", "1")


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
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
