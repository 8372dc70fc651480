"""Timing several programs against each other: warm up, alternate, then report median and quartiles.

A machine's speed drifts within one run by more than the programs differ. So every round times each rival once, in an
order that rotates from round to round, and rivals are compared within rounds (paired), never across them.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.console import Console

from jresnet.config import Precision
from jresnet.records.tables import Column, Row, Table

Device = Literal["cpu", "gpu"]
# Random training images: 16 batches of the largest size, so that a GPU is not timed on planning epochs.
POOL_IMAGES = 16_384


@dataclasses.dataclass(frozen=True)
class Case:
    """The work of one training step, the same for every rival."""

    width: int
    """Channels of the first stage."""
    batch_size: int
    """Images per step."""
    precision: Precision
    """Dtype of the network's arithmetic; parameters and batch statistics are float32."""
    device: Device
    """Where the step runs."""


@dataclasses.dataclass(frozen=True)
class Rival:
    """One of the programs that are timed against each other."""

    run: Callable[[int], None]
    """Runs this number of steps and returns when the device has finished; the first call compiles."""
    close: Callable[[], None] = lambda: None
    """Frees memory."""
    settings: Mapping[str, Any] | None = None
    """What was on, for the record."""


@dataclasses.dataclass
class Timing:
    """Measurements of one rival.

    Attributes:
      steps: steps per timed call.
      first_seconds: duration of the warm-up call, compilation included; None if it failed.
      seconds: seconds per step, one entry per round; shorter than the others' if the rival failed.
      error: the exception that ended it, in one line, or None.
      settings: the rival's, None if it has none or could not be built.
    """

    steps: int
    first_seconds: float | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    error: str | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def compile_seconds(self) -> float | None:
        """Duration of the first call beyond that of `steps` ordinary steps; None without a timed round."""
        if self.first_seconds is None or not self.seconds:
            return None
        return max(0.0, self.first_seconds - self.steps * statistics.median(self.seconds))

    def record(self, **work: float) -> dict[str, Any]:
        """The timing as JSON, with the summary of `seconds` and the median rate of each kind of work done per step.

        Without a timed round there is neither summary nor rate, without settings no "settings".
        """
        record = dataclasses.asdict(self) | {"compile_seconds": self.compile_seconds}
        if self.settings is None:
            del record["settings"]
        if self.seconds:
            spread = summary(self.seconds)
            record["seconds_per_step"] = dataclasses.asdict(spread)
            record |= {rate: amount / spread.median for rate, amount in work.items()}
        return record


@dataclasses.dataclass(frozen=True)
class Summary:
    """Median, quartiles `low` and `high`, minimum and size of a sample."""

    median: float
    low: float
    high: float
    min: float
    n: int


def contest(
    builders: Mapping[str, Callable[[], Rival]],
    steps: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Build the rivals, warm up each, then time every one once per round, rotating the order; close them at the end.

    A rival that raises, or cannot be built, drops out with its error recorded; the others go on. All calls are of
    `steps` steps, the warm-up too, so that it compiles the program that is timed. The clock returns seconds.
    """
    timings = {name: Timing(steps) for name in builders}
    rivals: dict[str, Rival] = {}
    try:
        for name, build in builders.items():
            try:
                rivals[name] = build()
                timings[name].settings = rivals[name].settings
            except Exception as error:
                timings[name].error = one_line(error)
        for name, rival in rivals.items():
            timings[name].first_seconds = _timed(rival, timings[name], clock)
        for turn in range(rounds):
            for name in rotated(list(rivals), turn):
                seconds = _timed(rivals[name], timings[name], clock)
                if seconds is not None:
                    timings[name].seconds.append(seconds / steps)
        return timings
    finally:
        for rival in rivals.values():
            rival.close()


def rotated(items: Sequence, turn: int) -> list:
    """The items in their cyclic order, starting one further each turn."""
    first = turn % max(1, len(items))
    return [*items[first:], *items[:first]]


def _timed(rival: Rival, timing: Timing, clock: Callable[[], float]) -> float | None:
    """Seconds of one call; None if the rival fails or has failed before."""
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
    """Median and quartiles of a sample; the quartiles are inclusive, like numpy's default percentiles.

    Raises:
      ValueError: the sample is empty.
    """
    if not values:
        raise ValueError("an empty sample has no median: time at least one round")
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Summary(quartiles[1], quartiles[0], quartiles[2], min(values), len(values))


def compared(seconds: Sequence[float], reference: Sequence[float]) -> dict[str, Any] | None:
    """Speed relative to a reference: the `Summary`, as JSON, of reference seconds over seconds, paired round by round.

    Rounds that only one finished are left out; None if none remains.
    """
    ratios = [theirs / ours for ours, theirs in zip(seconds, reference, strict=False)]
    return dataclasses.asdict(summary(ratios)) if ratios else None


def spread_text(spread: Mapping[str, float] | None, form: str, scale: float = 1) -> str:
    """A `Summary` in JSON form as text, "median [low, high]", each times `scale`; empty for None."""
    if spread is None:
        return ""
    median, low, high = (format(spread[name] * scale, form) for name in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def spread(header: str, key: str, form: str, scale: float = 1, missing: str = "") -> Column:
    """A column of `Summary`s in JSON form, shown as `spread_text`."""
    return Column(header, (key,), lambda spread: spread_text(spread, form, scale), right=True, missing=missing)


def rival_rows(cases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per case and rival: the case's values, the rival's name as `rival`, and its record's values."""
    return [{**case, "rival": name, **record} for case in cases for name, record in case["rivals"].items()]


def print_table(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print a table."""
    console = Console()
    # Piped output has no width, and rich would fold the table into 80 columns.
    Console(width=console.width if console.is_terminal else 160).print(Table(columns, rows, title=title))


def print_failures(cases: Iterable[tuple[str, Mapping[str, Mapping[str, Any]]]]) -> None:
    """Print a line for every rival that failed, even if after some rounds; cases are names with rivals' records."""
    for case, rivals in cases:
        for name, record in rivals.items():
            if record["error"]:
                print(f"{case}: {name} failed: {record['error']}")
