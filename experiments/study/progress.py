"""Training the runs of a study, in turn or several at once, with a table of what is done, running and left."""

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import rich.console

from experiments.study import runs, workers
from experiments.study.experiment import Cell, Setting
from experiments.study.runs import StudyRun
from experiments.study.workers import Reply
from jresnet.errors import CannotWrite, Diverged, InputError, Lost
from jresnet.records.epoch import METRICS, read_metrics
from jresnet.records.tables import Table, number, text

ELSEWHERE = "done or running in another process"


class Progress:
    """Trains runs, up to `processes` at once, caches their results, and keeps the errors of others in `failed`."""

    def __init__(self, console: rich.console.Console, processes: int = 1):
        self.console, self.processes = console, processes
        self.failed: dict[StudyRun, Exception] = {}
        self._results: dict[StudyRun, dict] = {}

    def result(self, run: StudyRun) -> dict | None:
        """`result.json` of a finished run, else None."""
        if run not in self._results and (result := runs.result(run)) is not None:
            self._results[run] = result
        return self._results.get(run)

    def finished(self, wanted: Iterable[StudyRun]) -> dict[StudyRun, dict]:
        """The results of those of these runs that are finished, in their order."""
        return {run: result for run in wanted if (result := self.result(run)) is not None}

    def cell(self, setting: Setting, seeds: Sequence[StudyRun], command: str = "") -> Cell:
        """The finished ones of a setting's runs."""
        done = self.finished(seeds)
        histories = tuple(tuple(read_metrics(run.directory / METRICS)) for run in done)
        return Cell(setting, tuple(done.values()), histories, tuple(run.directory for run in done), command)

    def train(self, mine: Sequence[StudyRun], groups: Mapping[str, Sequence[StudyRun]]) -> None:
        """Train those of `mine` that are neither finished nor running elsewhere, and print the table after each.

        A run that diverges, or whose worker fails, is recorded in `failed`; the others go on. The table has a row for
        each of `groups`.
        """
        if self.processes > 1:
            self._train_at_once(mine, groups)
            return
        for run in mine:
            if self.result(run) is not None or run in self.failed:
                continue
            self.say(title(run))
            try:
                trained = runs.train(run, self.console)
            except Diverged as error:
                self._fail(run, error)
                continue
            if trained:
                self.console.print(self.table(groups, mine))
            else:
                self.say(ELSEWHERE)

    def _train_at_once(self, mine: Sequence[StudyRun], groups: Mapping[str, Sequence[StudyRun]]) -> None:
        """Train in worker processes, whose lines begin with the worker's number."""
        wanted = [run for run in mine if self.result(run) is None and run not in self.failed]
        if not wanted:
            return
        processes = min(self.processes, len(wanted))
        if processes > 1:
            self.say(workers.sharing(processes))
        with contextlib.closing(workers.train(wanted, processes)) as replies:
            for number, run, reply in replies:
                match reply:
                    case Reply("started"):
                        self.say(f"[{number}] {title(run)}")
                    case Reply("line", text):
                        self.say(f"[{number}] {text}")
                    case Reply("trained"):
                        self.console.print(self.table(groups, mine))
                    case Reply("elsewhere"):
                        self.say(f"[{number}] {ELSEWHERE}")
                    case Reply("Diverged", text):
                        self._fail(run, Diverged(text))
                    case Reply("InputError", text):
                        self._fail(run, InputError(text))
                    case Reply("CannotWrite", text):
                        self._fail(run, CannotWrite(text))
                    case Reply(_, text):
                        self._fail(run, Lost(text))

    def _fail(self, run: StudyRun, error: Exception) -> None:
        self.failed[run] = error
        self.say(f"{run.directory}: {error}")

    def raise_failures(self, command: str) -> None:
        """Raise an error with every run of the first kind of failure; do nothing if none failed.

        The kinds are bad input, files that cannot be written, lost workers, after which `command` goes on, and
        divergence.
        """
        kinds = {InputError: "refused", CannotWrite: "not written", Lost: "not finished", Diverged: "diverged"}
        for kind, what in kinds.items():
            failed = {run: error for run, error in self.failed.items() if isinstance(error, kind)}
            if failed:
                count, s = len(failed), "s" if len(failed) > 1 else ""
                errors = "; ".join(f"{run.directory}: {error}" for run, error in failed.items())
                remedy = f"; go on with: {command}" if kind is Lost else ""
                raise kind(f"{count} run{s} {what}, {errors}{remedy}")

    def say(self, line: str) -> None:
        """Print a line without wrapping, highlighting or markup."""
        self.console.out(line, highlight=False)

    def table(self, groups: Mapping[str, Sequence[StudyRun]], mine: Sequence[StudyRun]) -> Table:
        """Runs in all, done, running, failed and left, per experiment and together, and the time left for `mine`."""
        distinct = list(dict.fromkeys(itertools.chain(*groups.values())))
        return Table(
            [text("experiment", "name"), *(number(key, key) for key in ("runs", "done", "running", "failed", "left"))],
            [{"name": name, **self._counts(wanted)} for name, wanted in groups.items()],
            footer={"name": "distinct runs", **self._counts(distinct)},
            caption=f"time left for this process: {self.time_left(distinct, mine)}",
        )

    def time_left(self, all_runs: Sequence[StudyRun], mine: Sequence[StudyRun]) -> str:
        """An estimate for `mine` from the finished runs, in proportion to their work; "unknown" before the first."""
        left = sum(run.work for run in mine if self.result(run) is None and run not in self.failed)
        if not left:
            return "none"
        done = self.finished(all_runs)
        if not done:
            return "unknown"
        seconds = sum(result["seconds"] + result["compile_seconds"] for result in done.values())
        return duration(left * seconds / sum(run.work for run in done) / self.processes)

    def _counts(self, wanted: Sequence[StudyRun]) -> dict[str, Any]:
        done = self.finished(wanted)
        unfinished = [run for run in wanted if run not in done]
        failed = sum(run in self.failed for run in unfinished)
        running = sum(runs.running(run) for run in unfinished)
        return {
            "runs": len(wanted),
            "done": len(done),
            "running": running,
            "failed": failed,
            "left": len(unfinished) - failed - running,
        }


def title(run: StudyRun) -> str:
    """A run in the words of the console."""
    return f"{run.experiment}: {run.directory.parent.name}, seed {run.seed}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: "40 s", "3 min", "2 h 5 min", "3 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes % 1440 // 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
