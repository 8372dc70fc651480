"""Whether a run fits into memory: judged before the memory is taken, and said in a line where it runs out anyway."""

import contextlib
from collections.abc import Iterator

import jax

from jresnet.config import Config
from jresnet.data.memory import available, in_words
from jresnet.errors import InputError, first_line
from jresnet.parallel import distributed
from jresnet.parallel.devices import Devices

_MOMENTS = {"sgd": 1, "adamw": 2, "muon": 1}
"""Numbers that an optimizer keeps for each parameter."""
_REMEDY = "lower --batch-size, --width or --blocks"
_PARTS = ", or raise --accumulate"


def left() -> int:
    """Bytes that the first device can still take; on a CPU what this process can."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    return available()


def check_state(parameters: int, config: Config) -> None:
    """Raise InputError if training so many parameters takes more memory than there is. A collective."""
    # Each parameter itself, its gradient, its moments and its average, all in float32.
    numbers = 2 + _MOMENTS[config.optimizer] + (config.ema_decay is not None)
    needed = 4 * numbers * parameters
    _require(needed, f"training {parameters:,} parameters needs at least", "lower --width, --blocks or --kernel-size")


def check_step(program: jax.stages.Compiled, config: Config, devices: Devices) -> None:
    """Raise InputError if a call of a training program takes more memory than there is. A collective."""
    statistics = program.memory_analysis()
    if statistics is None:  # a backend that does not know
        return
    results = statistics.output_size_in_bytes - statistics.alias_size_in_bytes
    needed = statistics.temp_size_in_bytes + max(0, results)
    if devices.platform == "cpu":  # its emulated devices share one memory
        needed *= jax.local_device_count() if devices.axis_name else 1
    step = f"a step of --batch-size {config.batch_size} needs"
    _require(needed, step, _REMEDY if config.sam else _REMEDY + _PARTS)


def _require(needed: int, what: str, remedy: str) -> None:
    """Raise InputError, in every process of the run, if one of them has less than the bytes needed. A collective."""
    there = left()
    if distributed.process_max([needed > there]) == [1.0]:
        there_in_words = f"{in_words(there)} are there" if needed > there else "another process of the run has less"
        raise InputError(f"{what} {in_words(needed)} of memory, and {there_in_words}: {remedy}")


def is_exhausted(error: BaseException) -> bool:
    """Whether an exception says that memory has run out: Python's, NumPy's or XLA's."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Turn an exception of the block that says that memory has run out into InputError."""
    try:
        yield
    except Exception as error:
        if not is_exhausted(error):
            raise
        raise exhausted(error) from None


def exhausted(error: BaseException) -> InputError:
    """The error for an exception that says that memory has run out."""
    reason = first_line(error).removeprefix("RESOURCE_EXHAUSTED: ")[:200]
    return InputError(f"there is not enough memory ({reason}): {_REMEDY}{_PARTS}, or use less data")
