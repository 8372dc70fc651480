"""From the command to the end of the first training step: with nothing compiled before, and with a warm compile cache.

    python -m benchmarks.startup --dataset npz:cifar10.npz --output startup.json

Every start is a process of its own, `jresnet train`, that ends where its first step has. Each round makes two: one with
empty caches, and one with what that has left there: compiled programs, and of a folder of images the decoded ones.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from jresnet.errors import InputError
from jresnet.records.run import without_folders
from jresnet.records.tables import number, text

REACHED = 75
"""Exit status of a start that reached the end of its first step; none of `jresnet`'s own."""
# The trainer first synchronises when its first step has finished.
COMMAND = f"""
import os, sys
from jresnet import __main__
from jresnet.train.trainer import Trainer

Trainer.synchronise = lambda *_: os._exit({REACHED})
sys.exit(__main__.main())
"""
STARTS = ("cold", "warm")
COLUMNS = (text("start", "start"), number("runs", "runs"), timing.spread("s", "summary", ".1f"))


@dataclasses.dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time the start of a run, with nothing compiled before and with a warm compile cache."""

    dataset: str = "synthetic"
    """What the run trains on, as for `jresnet train`."""
    width: int = 42
    """Channels of the first stage of the network."""
    batch: int = 32
    """Images per training step."""


def seconds_to_first_step(options: Options, cache: Path) -> float:
    """Start a run and time it to the end of its first step; the library's caches are below `cache`.

    Raises:
      InputError: the run ended before.
    """
    own = {"XDG_CACHE_HOME": str(cache)} | ({"JAX_PLATFORMS": "cpu"} if options.device == "cpu" else {})
    # Neither this process's settings of the cache, nor how little of a GPU's memory it takes.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_CLIENT_"))}
    run = [f"--width={options.width}", f"--batch-size={options.batch}", "--epochs=1", f"--dataset={options.dataset}"]
    with tempfile.TemporaryDirectory() as workdir:
        words = [sys.executable, "-c", COMMAND, "train", *run, f"--workdir={workdir}/run"]
        started = time.perf_counter()
        status = subprocess.run(words, env=inherited | own, stdout=subprocess.DEVNULL, check=False).returncode
        seconds = time.perf_counter() - started
    if status != REACHED:
        raise InputError(f"jresnet train ended with status {status} before its first step: see its message above")
    return seconds


def measure(options: Options) -> dict[str, list[float]]:
    """Seconds to the first step by kind of start, one entry per round."""
    seconds: dict[str, list[float]] = {start: [] for start in STARTS}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for start in STARTS:
                seconds[start].append(seconds_to_first_step(options, Path(cache)))
    return seconds


def run(options: Options) -> None:
    """Time everything, write the record and print the table."""
    if options.device == "gpu":
        os.environ["XLA_CLIENT_MEM_FRACTION"] = "0.05"  # the rest is for the runs, which start without this
    select_device(options.device)
    values = dataclasses.replace(options, dataset=without_folders(options.dataset))
    record: dict[str, Any] = new_record("startup", values)
    record["starts"] = [
        {"start": start, "seconds": seconds, "summary": dataclasses.asdict(timing.summary(seconds))}
        for start, seconds in measure(options).items()
    ]
    write_record(options.output, record)
    rows = [row | {"runs": row["summary"]["n"]} for row in record["starts"]]
    timing.print_table("From the command to the end of the first step", COLUMNS, rows)


main = partial(run_benchmark, "startup", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
