"""XLA options per backend, and the persistent compilation cache."""

import functools
import os
import pathlib
import re
from collections.abc import Mapping

import jax

from jresnet.errors import InputError
from jresnet.records.environment import CacheState
from jresnet.records.files import cache_directory

# What XLA of jax 0.11 makes CUDA graphs of by default, and convolutions. The list replaces XLA's own: only in XLA_FLAGS
# does `+CONVOLUTION` add to it.
_CAPTURED = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,DYNAMIC_SLICE_FUSION,CONVOLUTION"

GPU_OPTIONS: dict[str, dict[str, str]] = {
    "xla": {},
    "capture": {"xla_gpu_enable_command_buffer": _CAPTURED, "xla_gpu_graph_min_graph_size": "1"},
    "concurrent": {
        "xla_gpu_enable_command_buffer": _CAPTURED,
        "xla_gpu_graph_min_graph_size": "1",
        "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
    },
    "conv-fusion": {"xla_gpu_experimental_enable_conv_fusion": "True"},
}
"""Candidates for GPUs, measured by `benchmarks.variants`: XLA's own defaults; convolutions in CUDA graphs, and graphs
of any size; the same with independent kernels overlapped; convolutions as cuDNN fusions, captured by default."""

_TRAINING: dict[str, dict[str, str]] = {
    # By default XLA:CPU sends float32 convolutions and matrix products to YNNPACK, which takes up to twice as long on
    # this network's shapes. Reductions stay there: YNNPACK is fast at them.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"},
    # No measurement favours another candidate yet.
    "gpu": GPU_OPTIONS["xla"],
}

# Without these cuDNN and XLA may add in another order in every run, and choose kernels by timing them.
_PROMISES = {"xla_gpu_deterministic_ops": "True", "xla_gpu_exclude_nondeterministic_ops": "True"}

# Seconds of compilation from which on a program is cached; with JAX's own, the plan of an epoch would not be.
_CACHED_SECONDS, _JAX_CACHED_SECONDS = 0.05, 1.0


@functools.cache
def compiler_options(platform: str | None = None, deterministic: bool = False) -> dict[str, str] | None:
    """Options for `jax.jit` that make training fast on a platform, by default JAX's own; None if it needs none.

    The user's own value in XLA_FLAGS wins; an option that this version of XLA does not know is dropped. On "gpu",
    `deterministic` makes equal runs equal in every bit; CPUs are deterministic as they are.

    Raises:
      InputError: XLA_FLAGS or this version of XLA do not allow determinism.
    """
    platform = platform or jax.default_backend()
    options = _supported(_TRAINING.get(platform, {}))
    if deterministic and platform == "gpu":
        for name in (name for name in _PROMISES if re.search(rf"{name}=(0|false)", _user_flags(), re.IGNORECASE)):
            raise InputError(f"--deterministic: XLA_FLAGS turns {name} off: remove it there")
        promised = _supported(_PROMISES)
        for name in (name for name in _PROMISES if name not in promised and name not in _user_flags()):
            raise InputError(f"--deterministic: this version of XLA lacks {name}: install jax 0.10.2 or newer")
        # The products of Triton are chosen by timing; cuBLAS has a choice without.
        options |= promised | _supported({"xla_gpu_enable_triton_gemm": "False"})
    return options or None


@functools.cache
def run_once_options() -> dict[str, str] | None:
    """Options for `jax.jit` of a program that runs once; None if the backend needs none.

    At its default level LLVM spends 10 to 20 s on the CPU program that draws the initial weights. Level 1 compiles it
    in 3 s and draws the report's 5 million parameters in 0.15 s; level 0 takes 2 s and 0.7 s.
    """
    return _supported({"xla_backend_optimization_level": "1"} if jax.default_backend() == "cpu" else {}) or None


def _supported(options: Mapping[str, str]) -> dict[str, str]:
    """Those of the options that this XLA knows and the user has not set."""
    supported = {}
    for name, value in options.items():
        if name in _user_flags():
            continue
        try:
            jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(0).compile()
        except Exception as error:  # XLA's error type is not public
            if name not in str(error):
                raise
            continue
        supported[name] = value
    return supported


def _user_flags() -> str:
    return os.environ.get("XLA_FLAGS", "")


def compile_cache() -> CacheState:
    """What JAX's cache of compiled programs is: "cold", without any, or "warm"."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    return "warm" if directory and any(pathlib.Path(directory).glob("*")) else "cold"


def enable_compile_cache(deterministic: bool = False) -> None:
    """Cache compiled programs in the user's cache directory, unless JAX is already configured otherwise.

    Programs of which JAX by itself keeps none, as they take less than a second to compile, are kept from 0.05 s on.
    The cache also keeps which kernels were found fastest, and a deterministic run must not use what was tuned: its
    programs have a directory of their own.
    """
    chosen = jax.config.values["jax_compilation_cache_dir"] or "JAX_COMPILATION_CACHE_DIR" in os.environ
    if not chosen and (directory := cache_directory()):
        name = "xla-deterministic" if deterministic else "xla"
        jax.config.update("jax_compilation_cache_dir", str(directory / name))
        if jax.config.values["jax_persistent_cache_min_compile_time_secs"] == _JAX_CACHED_SECONDS:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", _CACHED_SECONDS)
