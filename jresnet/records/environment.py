"""The environment of a result: package versions, devices, and the commit of the source."""

import collections
import contextlib
import ctypes
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Iterator
from typing import Literal

from jresnet.records.schema import Count

_PACKAGES = ("jresnet", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Instruction sets that decide the speed of matrix products, above all in bfloat16; /proc/cpuinfo's names.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_DRIVER = pathlib.Path("/proc/driver/nvidia/version")
_GIT_TIMEOUT = 5.0  # seconds per call, so that a stalled network file system does not hold up a run


CacheState = Literal["cold", "warm"]
"""Of JAX's cache of compiled programs: cold, without any."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a run is computed: beside configuration, seed, data and versions, what its bits depend on."""

    form: Literal["jit", "pmap"]
    """one device, or one program for several"""
    devices: Count
    """that share every batch"""
    device: str
    """their kind, as JAX names it"""
    threads: Count | None
    """on a CPU the number of cores, over which XLA divides sums"""

    def differences(self, other: "Execution") -> list[str]:
        """Where the other differs, as in "threads 2, not 1"."""
        return [
            f"{name} {getattr(other, name)}, not {value}"
            for name, value in vars(self).items()
            if value != getattr(other, name)
        ]


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that affect results, and on an NVIDIA GPU of its driver and of cuDNN.

    What is not installed is left out.
    """
    installed = {"python": platform.python_version()} | gpu_versions()
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def gpu_versions() -> dict[str, str]:
    """The versions of NVIDIA's driver and of cuDNN; empty where JAX does not compute on a GPU."""
    import jax

    if jax.default_backend() != "gpu":
        return {}
    found = {"nvidia driver": nvidia_driver(), "cudnn": cudnn_version()}
    return {name: version for name, version in found.items() if version}


def nvidia_driver() -> str | None:
    """The version of NVIDIA's kernel driver, as in 580.65.06; None if there is none."""
    try:
        match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _DRIVER.read_text())
    except OSError:
        return None
    return match[1] if match else None


def cudnn_version() -> str | None:
    """The version of the cuDNN that this process has loaded, as in 9.10.2, or else of its package, or else None."""
    with contextlib.suppress(OSError, AttributeError):
        # Only what is loaded: XLA chooses among several of a machine.
        number = ctypes.CDLL("libcudnn.so.9", mode=os.RTLD_NOLOAD | os.RTLD_LAZY).cudnnGetVersion()
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    for package in ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


@contextlib.contextmanager
def variable(name: str, value: str | None) -> Iterator[None]:
    """Give an environment variable this value for a while, or none for None."""
    before = os.environ.pop(name, None)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def device() -> str:
    """JAX's devices in all processes, in words: "NVIDIA H200 x1", or "cpu: AMD EPYC 7B13 x2 cores"."""
    import jax

    devices = jax.devices()
    if devices[0].platform == "cpu":
        emulated = f", {len(devices)} devices" if len(devices) > 1 else ""
        return f"cpu: {cpu_name()} x{cpu_cores()} cores{emulated}"
    kinds = collections.Counter(device.device_kind for device in devices)
    return ", ".join(f"{kind} x{count}" for kind, count in kinds.items())


def commit() -> str | None:
    """Git commit of the source tree that this package was imported from; never raises.

    Returns:
      The full hash, with "-dirty" appended if tracked files differ from it. None if the package is not tracked
      by a git checkout, or if git fails. The environment variable JRESNET_COMMIT, if set, is returned instead:
      it is meant for copies of the tree without .git.
    """
    if override := os.environ.get("JRESNET_COMMIT"):
        return override
    source = pathlib.Path(__file__).resolve()
    # An installed copy may be inside an unrelated repository.
    if _git(source.parent, "ls-files", "--error-unmatch", "--", source.name) is None:
        return None
    return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(directory: pathlib.Path, *arguments: str) -> str | None:
    """Output of a git command that leaves the repository untouched, or None if it fails."""
    # Inside a git hook these variables name the hook's repository, not the one around `directory`.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
    try:
        output = subprocess.check_output(
            command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, timeout=_GIT_TIMEOUT
        )
    except (OSError, UnicodeError, subprocess.SubprocessError):
        return None
    return output.strip() or None


def cpu_name() -> str:
    """The processor's model name, as reported by the operating system."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_instructions() -> list[str]:
    """The INSTRUCTIONS that this processor supports; empty where /proc/cpuinfo does not exist."""
    flags = _cpuinfo("flags").split()
    return [name for name in INSTRUCTIONS if name in flags]


def _cpuinfo(key: str) -> str:
    """The first core's value of a key of /proc/cpuinfo; empty if there is none."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def cpu_cores() -> int:
    """Number of cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
