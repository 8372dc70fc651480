"""XLA options per backend, and the persistent compilation cache."""

import functools
import os

import jax

from jresnet.records.files import cache_directory

# By default XLA:CPU sends float32 convolutions and matrix products to YNNPACK, which takes up to twice as long on
# this network's shapes. Reductions stay there: YNNPACK is fast at them.
_CPU_FUSION_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_CPU_FUSIONS = "LIBRARY_FUSION_TYPE_REDUCE"


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """Options for `jax.jit` that make training fast on this backend; None if it needs none.

    The user's own value in XLA_FLAGS wins; an option that this version of XLA does not know is dropped.
    """
    return _supported(_CPU_FUSION_FLAG, _CPU_FUSIONS)


@functools.cache
def run_once_options() -> dict[str, str] | None:
    """Options for `jax.jit` of a program that runs once; None if the backend needs none.

    At its default level LLVM spends 10 to 20 s on the CPU program that draws the initial weights. Level 1 compiles it
    in 3 s and draws the report's 5 million parameters in 0.15 s; level 0 takes 2 s and 0.7 s.
    """
    return _supported("xla_backend_optimization_level", "1")


def _supported(flag: str, value: str) -> dict[str, str] | None:
    """The option, if the backend is a CPU whose XLA knows the flag and the user has not set it."""
    if jax.default_backend() != "cpu" or flag in os.environ.get("XLA_FLAGS", ""):
        return None
    options = {flag: value}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0).compile()
    except Exception as error:  # XLA's error type is not public
        if flag not in str(error):
            raise
        return None
    return options


def enable_compile_cache() -> None:
    """Cache compiled programs in the user's cache directory, unless JAX is already configured otherwise."""
    if jax.config.values["jax_compilation_cache_dir"] is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
