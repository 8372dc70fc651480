"""The measuring instrument: warm up, alternate the rivals, median and spread, versions and device, JSON.

A machine's speed drifts within one run by more than the rivals differ. So every round times each rival
once, in an order that rotates, and rivals are compared within rounds (paired), never across them.
"""

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from jresnet.config import Precision
from jresnet.errors import InputError
from jresnet.records.environment import commit, cpu_cores, cpu_instructions, cpu_name
from jresnet.records.files import write_json

Device = Literal["cpu", "gpu"]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
VARIABLES = ("XLA_FLAGS", "OMP_NUM_THREADS")
# Images the steps are fed from: 16 batches of the largest size, so that a GPU is not timed on planning epochs.
POOL_IMAGES = 16_384


@dataclasses.dataclass(frozen=True)
class Case:
    """What one training step works on, the same for every rival."""

    width: int
    """Channels of the first stage."""
    batch_size: int
    """Images per step."""
    precision: Precision
    """Arithmetic of the network; parameters and statistics stay float32."""
    device: Device
    """Where the step runs."""


@dataclasses.dataclass(frozen=True)
class Rival:
    """One contestant: a name and the work it does."""

    name: str
    """Unique among the rivals it is timed with."""
    run: Callable[[int], None]
    """Does that many steps and returns once the device has finished them; the first call compiles."""
    close: Callable[[], None] = lambda: None
    """Gives memory back."""


@dataclasses.dataclass
class Timing:
    """What the clock said about one rival.

    Attributes:
      steps: steps per timed call.
      first_seconds: length of the first warm-up call, compilation included; None if it failed.
      seconds: seconds per step, one entry per round; shorter than the others' where the rival failed.
      error: one line saying how it failed, or None.
    """

    steps: int
    first_seconds: float | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    error: str | None = None

    @property
    def compile_seconds(self) -> float | None:
        """What the first call took beyond `steps` ordinary steps; None without a round."""
        if self.first_seconds is None or not self.seconds:
            return None
        return max(0.0, self.first_seconds - self.steps * statistics.median(self.seconds))


@dataclasses.dataclass(frozen=True)
class Summary:
    """Median, interquartile range [low, high], least value and count of a sample."""

    median: float
    low: float
    high: float
    min: float
    n: int


def alternate(
    rivals: Sequence[Rival],
    steps: int,
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time the rivals in turn: warm up each, then every rival once per round, the order rotated each round.

    A rival that raises leaves the contest with its error recorded; the others go on.

    Args:
      rivals: the contestants.
      steps: steps per timed call; the warm-up uses the same number, so that it compiles the same program.
      rounds: timed calls per rival.
      warmup: untimed calls per rival before the first round, at least 1.
      clock: returns seconds.

    Returns:
      The timings by rival's name, in the order given.

    Raises:
      ValueError: a count is below 1, or two rivals share a name.
    """
    if min(steps, rounds, warmup) < 1:
        raise ValueError(f"steps={steps}, rounds={rounds}, warmup={warmup}: each must be at least 1")
    timings = {rival.name: Timing(steps) for rival in rivals}
    if len(timings) < len(rivals):
        raise ValueError(f"rivals {[rival.name for rival in rivals]}: the names must differ")
    for rival in rivals:
        timings[rival.name].first_seconds = _timed(rival, timings[rival.name], clock)
        for _ in range(warmup - 1):
            _timed(rival, timings[rival.name], clock)
    for turn in range(rounds):
        first = turn % max(1, len(rivals))
        for rival in [*rivals[first:], *rivals[:first]]:
            seconds = _timed(rival, timings[rival.name], clock)
            if seconds is not None:
                timings[rival.name].seconds.append(seconds / steps)
    return timings


def contest(builders: Mapping[str, Callable[[], Rival]], steps: int, rounds: int) -> dict[str, Timing]:
    """Build the rivals, alternate them and close them; one that cannot be built is recorded as failed.

    Args:
      builders: makes each rival, by name.
      steps: steps per timed call.
      rounds: timed calls per rival.

    Returns:
      The timings by name, in the order given.
    """
    timings = {name: Timing(steps) for name in builders}
    rivals = []
    for name, build in builders.items():
        try:
            rivals.append(dataclasses.replace(build(), name=name))
        except Exception as error:
            timings[name].error = one_line(error)
    try:
        return timings | alternate(rivals, steps, rounds)
    finally:
        for rival in rivals:
            rival.close()


def _timed(rival: Rival, timing: Timing, clock: Callable[[], float]) -> float | None:
    """Seconds of one call; None where the rival has failed, now or before."""
    if timing.error is not None:
        return None
    start = clock()
    try:
        rival.run(timing.steps)
    except Exception as error:
        timing.error = one_line(error)
        return None
    return clock() - start


def one_line(error: Exception) -> str:
    """An exception as one line: its type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def summary(values: Sequence[float]) -> Summary:
    """Median and spread of a sample; the quartiles are inclusive, as numpy's default percentiles are.

    Raises:
      ValueError: the sample is empty.
    """
    if not values:
        raise ValueError("an empty sample has no median: time at least one round")
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Summary(quartiles[1], quartiles[0], quartiles[2], min(values), len(values))


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> Summary:
    """How many times as fast as the reference: reference seconds over seconds, paired round by round.

    Args:
      seconds: seconds per step of one rival, by round.
      reference: the same of the rival it is compared with; rounds that only one finished are left out.

    Raises:
      ValueError: no round was finished by both.
    """
    return summary([theirs / ours for ours, theirs in zip(seconds, reference, strict=False)])


def compared(seconds: Sequence[float], reference: Sequence[float]) -> dict[str, Any] | None:
    """`ratio` as JSON; None where either has no round."""
    return dataclasses.asdict(ratio(seconds, reference)) if seconds and reference else None


def spread_text(spread: Mapping[str, float] | None, form: str, scale: float = 1) -> str:
    """A `Summary` as JSON in words, median [low, high], each times `scale`; empty for None."""
    if spread is None:
        return ""
    median, low, high = (format(spread[name] * scale, form) for name in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def environment(device: Device) -> dict[str, Any]:
    """Everything a speed depends on besides the code under test, as a JSON-able record.

    Call it once the threads are set and before any load, so that `load_average` is the others' work alone.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {package: _version(package) for package in PACKAGES},
        "device": _device_name(device),
        "cpu": cpu_name(),
        "cpu_instructions": cpu_instructions(),
        "cores": cpu_cores(),
        "torch_threads": _torch_threads(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def select_device(device: Device) -> None:
    """Make JAX compute on `device`; call it before JAX has computed anything.

    Raises:
      InputError: JAX sees no such device.
    """
    import jax

    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        jax.devices(device)
    except RuntimeError:
        raise InputError(f"--device {device}: JAX sees none here; install jax[cuda12], or use --device cpu") from None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device_name(device: Device) -> str:
    if device == "cpu":
        return cpu_name()
    import jax

    return jax.devices(device)[0].device_kind


def _torch_threads() -> int | None:
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.get_num_threads()


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write a benchmark's record to `path` whole or not at all, so that an interrupted run leaves the last good file.

    Without a path nothing is written.

    Raises:
      InputError: the file cannot be written.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}: choose another --output") from None


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` under `header`; the first two columns hold words, the others right-aligned numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position < 2 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    # Piped output has no width of its own, and rich would cut it to 80 columns.
    Console(width=console.width if console.is_terminal else 160).print(table)
