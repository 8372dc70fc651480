"""Where a result was made: package versions, device, and commit of the source, for its record."""

import collections
import importlib.metadata
import os
import pathlib
import platform
import subprocess

_PACKAGES = ("jresnet", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Instruction sets on which the speed of products depends, most of all in bfloat16; names are Linux's.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_GIT_TIMEOUT = 5.0  # seconds per call; a stalled network file system must not hold up a run


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; one that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """JAX's devices, over all processes, in words: "NVIDIA H200 x1", or "cpu: AMD EPYC 7B13 x2 cores"."""
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
      The full hash, "-dirty" appended if tracked files differ from it. None if the package does not lie
      in a git checkout that tracks it, or if git fails. The environment variable JRESNET_COMMIT, where
      set, is returned instead: it serves copies of the tree that left .git behind.
    """
    if override := os.environ.get("JRESNET_COMMIT"):
        return override
    source = pathlib.Path(__file__).resolve()
    # An installed copy may lie inside somebody else's repository, whose commit says nothing about it.
    if _git(source.parent, "ls-files", "--error-unmatch", "--", source.name) is None:
        return None
    return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(directory: pathlib.Path, *arguments: str) -> str | None:
    """Output of one git command that leaves the repository untouched, or None if it fails."""
    # Inside a git hook these variables name the hook's repository, not the one around `directory`.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(directory), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT,
            check=True,
        )
    except (OSError, UnicodeError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def cpu_name() -> str:
    """The processor's model, as the system names it."""
    models = _processor("model name")
    return models[0] if models else platform.processor() or platform.machine()


def cpu_instructions() -> list[str]:
    """Those of INSTRUCTIONS that this processor offers; none where Linux does not say."""
    flags = " ".join(_processor("flags")[:1]).split()
    return [name for name in INSTRUCTIONS if name in flags]


def _processor(key: str) -> list[str]:
    """What /proc/cpuinfo says under this key, once per core."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]


def cpu_cores() -> int:
    """Cores this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
