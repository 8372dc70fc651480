"""Everything worth measuring on a device, in order of worth, in the minutes that there are.

    python -m benchmarks.campaign --minutes 7 --output DIR --dataset npz:cifar10.npz

Does everything run, and are two equal runs equal? Then the step beside PyTorch's, the final model at full scale, the
report's other settings, the tuned recipe, variants of the step, the time to the report's accuracy, and speed runs. Each
step is a child process with a time limit of its own, whose log is in DIR/logs; what it made stays in DIR whatever ends
it. What DIR or the committed records have for this device is not made again, so the same command goes on where it was
stopped. DIR/cache, compiled programs, and DIR/**/checkpoints need not be kept afterwards.
"""

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import timing
from benchmarks.campaign_records import DONE, FAILED, HAD, KERNELS, LATE, LEFT, Records
from benchmarks.campaign_steps import Step, steps
from benchmarks.records import RecordOptions, environment, run_benchmark, select_device, write_record
from experiments.study.experiment import OUTCOME, StudyRecord
from experiments.study.runs import RUNS
from experiments.study.speedruns import RECORD as SPEEDRUN
from jresnet import cli
from jresnet.errors import InputError, Interrupted
from jresnet.records import run_directory, schema
from jresnet.records.environment import cpu_cores
from jresnet.records.environment import device as devices_in_words
from jresnet.records.files import read_json
from jresnet.records.tables import number, text
from jresnet.rules import require

ROOT = Path(__file__).resolve().parent.parent
RECORD = "campaign.json"
GRACE = 10.0
"""Seconds that a child has to save its state after SIGTERM."""
CACHES = {"JAX_COMPILATION_CACHE_DIR": "xla", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
COLUMNS = (
    text("step", "step"),
    text("status", "status"),
    number("s", "seconds", ",.0f", missing=""),
    text("result", "headline", missing=""),
)


@dataclasses.dataclass(frozen=True)
class Options(RecordOptions):
    """Measure what is worth measuring on a device; the same command goes on after an interruption."""

    device: timing.Device = "gpu"
    """What is measured."""
    minutes: float = 7.0
    """For everything together."""
    output: Path | None = None
    """Directory of the records, new or of an earlier campaign on the same device."""
    dataset: str | None = None
    """CIFAR-10, as npz:FILE; without it the steps that train on it are left out."""
    only: tuple[str, ...] = ()
    """Run only these steps, or all whose names begin so: torch is every step beside PyTorch."""
    skip: tuple[str, ...] = ()
    """Leave these steps out."""
    tiny: bool = False
    """Tiny networks and batches on synthetic images, on a CPU several steps at once: the same list in two minutes."""

    def __post_init__(self):
        super().__post_init__()
        require(self, "minutes", 0 < self.minutes < math.inf, "must be a finite number above 0")
        require(self, "output", self.output is not None, "name a directory for the records", value="")

    @property
    def directory(self) -> Path:
        """--output."""
        return Path(self.output or "")


def describe(device: timing.Device) -> int:
    """Print the environment as JSON; in a child, because a process that has seen a GPU keeps most of its memory."""

    def show() -> None:
        select_device(device)
        print(json.dumps(environment(device) | {"devices": devices_in_words()}))

    return cli.exit_status(show)


def machine(options: Options, environ: Mapping[str, str]) -> dict[str, Any]:
    """The environment, and `devices`, the device as results of runs name it."""
    program = f"from benchmarks.campaign import describe; raise SystemExit(describe({options.device!r}))"
    command, limit = [sys.executable, "-c", program], 60 * options.minutes
    try:
        child = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise InputError(f"--device {options.device}: does not answer in --minutes {options.minutes}") from None
    if child.returncode:
        raise InputError((child.stderr.strip().splitlines() or [f"--device {options.device}: no answer"])[-1])
    return json.loads(child.stdout.splitlines()[-1])


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows in the record of a campaign, by the names of their steps; InputError if it is damaged."""
    rows = read_json(path).get("steps")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and type(row.get("step")) is str for row in rows):
        raise InputError(f"{path}: not a campaign's record: restore it, or remove it to begin anew")
    return {row["step"]: row for row in rows}


def records_of_runs(directory: Path) -> list[Path]:
    """Results and speed runs below a directory in which runs may be at work; their temporary ones come and go."""
    names = {run_directory.RESULT, SPEEDRUN}
    return sorted(Path(place) / name for place, _, files in os.walk(directory) for name in names.intersection(files))


def read_records(directory: Path, here: Mapping[str, Any]) -> Records:
    """The records of this device, or of no device, in the directory and among the committed ones.

    Raises:
      InputError: the directory has a record of another device, or a damaged one.
    """
    own = [*sorted(directory.glob("*.json")), *records_of_runs(directory)]
    committed = [
        *sorted((ROOT / "benchmarks" / "results").glob("*.json")),
        *records_of_runs(ROOT / "experiments" / "results"),
    ]
    records = []
    for path in own + committed:
        record = read_record(path)
        name, expected = _device(record, here)
        if name == expected or record.get("benchmark") == KERNELS:
            records.append(record)
        elif path in own and name is not None:
            raise InputError(f"--output {directory}: holds records of {name}, this is {expected}: choose another")
    return records


def _device(record: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[Any, str]:
    """The device that a record names, None if it names none, and this one as such records would name it."""
    if "benchmark" in record:
        environment = record.get("environment")
        return environment.get("device") if isinstance(environment, dict) else None, here["device"]
    provenance = record.get("provenance")  # of a speed run
    return provenance.get("Device") if isinstance(provenance, dict) else record.get("device"), here["devices"]


def read_record(path: Path) -> Mapping[str, Any]:
    """A benchmark's record, or a run's result after the checks that its directory allows.

    A result has one entry more: whether it is `concluded`.
    """
    if path.name != run_directory.RESULT:
        return read_json(path)
    complete = (path.parent / run_directory.CONFIG).exists()
    read = run_directory.read_result if complete else run_directory.read_copy
    return read(path.parent).to_json() | {"concluded": concluded(path.parent)}


def concluded(run: Path) -> bool:
    """Whether the outcome of the study that a run is in, STUDY/runs/NAME/seed-K, lists it."""
    if run.parent.parent.name != RUNS or not (run.parents[2] / OUTCOME).exists():
        return False
    study = run.parents[2]
    outcome = schema.parse(StudyRecord, read_json(study / OUTCOME), study / OUTCOME)
    settings = (setting for experiment in outcome.experiments for setting in experiment.settings)
    return any(run.relative_to(study).as_posix() in setting.runs for setting in settings)


def selected(every: Sequence[Step], options: Options) -> list[Step]:
    """The steps that --only and --skip leave, in their order."""

    def matches(step: Step, names: Sequence[str]) -> bool:
        return any(step.name == name or step.name.startswith(f"{name}-") for name in names)

    for option in ("only", "skip"):
        for name in getattr(options, option):
            known = any(matches(step, [name]) for step in every)
            require(options, option, known, f"no step {name}: choose from {', '.join(step.name for step in every)}")
    return [step for step in every if matches(step, options.only or [step.name]) and not matches(step, options.skip)]


async def run_child(words: Sequence[str], log: Path, seconds: float, environ: Mapping[str, str]) -> int | None:
    """Run Python with these words; returns its exit status, or None if it did not end in time and was stopped."""
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ,
            start_new_session=True,
        )  # fmt: skip
    try:
        return await asyncio.wait_for(child.wait(), seconds)
    except TimeoutError:
        return None
    finally:
        try:
            if child.returncode is None:  # out of time, or the campaign is interrupted
                child.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.wait(), GRACE)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it, and what it has started
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


class Campaign:
    """The steps and what became of them: `rows` has the rows of the table by name, those of earlier campaigns too."""

    def __init__(self, options: Options, here: Mapping[str, Any], chosen: Sequence[Step], left: Callable[[], float]):
        self.options, self.directory = options, options.directory
        self.here, self.steps, self.left = here, chosen, left
        path = self.directory / RECORD
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.rows = read_rows(path)

    async def run(self, environ: Mapping[str, str]) -> None:
        """Run every step that records lack, as long as there is time for it."""

        def exhausted(name: str) -> bool:
            return self.rows.get(name, {}).get("exhausted", False)

        # Nothing is measured at a tiny scale on a CPU: there every core runs a step.
        slots = cpu_cores() if self.options.tiny and self.options.device == "cpu" else 1
        # What failed earlier, or used up its own time, probably does so again: everything else comes first, but what
        # waits for it.
        waiting = sorted(self.steps, key=lambda step: exhausted(step.name) or exhausted(step.after))
        running: dict[asyncio.Task[None], Step] = {}
        while waiting or running:
            taken = {step.shares for step in running.values() if step.shares}
            ready = next((step for step in waiting if step.shares not in taken), None)
            if ready and len(running) < slots:
                waiting.remove(ready)
                running[asyncio.create_task(self.run_step(ready, environ))] = ready
                continue
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                del running[task]
                task.result()  # raises what the task has raised

    async def run_step(self, step: Step, environ: Mapping[str, str]) -> None:
        """Attempt a step, record and print what became of it."""
        earlier = {"step": step.name, "seconds": None, "exhausted": False} | self.rows.get(step.name, {})
        self.rows[step.name] = earlier | {"status": LATE, "headline": None}
        self.rows[step.name] |= (row := await self.attempt(step, environ))
        record = {"benchmark": "campaign", "tiny": self.options.tiny, "environment": self.here}
        write_record(self.directory / RECORD, record | {"steps": list(self.rows.values())})
        print(": ".join(filter(None, [step.name, row["status"], row["headline"]])), file=sys.stderr, flush=True)

    def headline(self, step: Step) -> str | None:
        """What the records say about a step; None if they lack it."""
        return step.headline(read_records(self.directory, self.here))

    async def attempt(self, step: Step, environ: Mapping[str, str]) -> dict[str, Any]:
        """Run a step unless there is a reason not to; returns the entries of its row that this changes."""
        if (headline := self.headline(step)) is not None:
            return {"status": HAD, "headline": headline}
        if reason := step.lacks or step.waits(read_records(self.directory, self.here)):
            return {"status": LEFT, "headline": reason}
        if self.left() < step.least:
            return {"status": LATE, "headline": None}
        print(f"{step.name} ({self.left():.0f} s left) ...", file=sys.stderr, flush=True)
        log, started = self.directory / "logs" / f"{step.name}.log", time.monotonic()
        code: int | None = 0
        for command in step.commands:
            own = step.limit - (time.monotonic() - started)
            bounded = own < self.left()
            code = await run_child(command, log, min(own, self.left()), {**environ, **step.environ})
            if code != 0:
                break
        row: dict[str, Any] = {"seconds": time.monotonic() - started, "headline": self.headline(step)}
        if code is None:
            return row | {"status": LATE, "exhausted": bounded}
        if code == 0 and row["headline"] is not None:
            return row | {"status": DONE, "exhausted": False}
        row["headline"] = row["headline"] or last_line(log)
        return row | {"status": FAILED, "exhausted": True}

    def table(self) -> list[dict[str, Any]]:
        """A row per step, those not reached included."""
        return [self.rows.get(step.name, {"step": step.name, "status": LATE}) for step in self.steps]


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def run(options: Options) -> list[dict[str, Any]]:
    """Check the options, run the steps, print the table and return its rows."""
    deadline = time.monotonic() + 60 * options.minutes - GRACE
    # This process only reads records: whatever it computes must not take the children's memory.
    jax.config.update("jax_platforms", "cpu")
    directory = options.directory.absolute()
    chosen = selected(steps(options.device, options.tiny, directory, options.dataset), options)
    environ = dict(os.environ)
    environ |= {name: environ.get(name) or str(directory / "cache" / cache) for name, cache in CACHES.items()}
    # Every child needs the same dozens of programs that compile in less than the default's second.
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
    here = machine(options, environ)
    read_records(directory, here)  # refuses those of another device
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {options.output}: {error.strerror}: choose another directory") from None
    campaign = Campaign(options, here, chosen, lambda: deadline - time.monotonic())

    async def until_stopped() -> None:
        work = asyncio.create_task(campaign.run(environ))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        await work

    before = signal.getsignal(signal.SIGTERM)
    try:
        asyncio.run(until_stopped())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted("interrupted; go on with the same command", signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        rows = campaign.table()
        timing.print_table(f"Campaign on {here['devices']}", COLUMNS, rows)
    if any(row["status"] == LATE for row in rows):
        print("the same command goes on with what there was no time for")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; the exit status is `run_benchmark`'s, or 1 if a step failed."""
    rows: list[dict[str, Any]] = []
    status = run_benchmark("campaign", Options, lambda options: rows.extend(run(options)), arguments)
    return status or int(any(row["status"] == FAILED for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
