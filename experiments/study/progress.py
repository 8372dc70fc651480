"""Training the runs of a study one after another, with a table of what is done, running and left."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console

from experiments.study import runs
from experiments.study.runs import StudyRun
from jresnet.errors import Diverged
from jresnet.records.tables import Table, number, text


class Progress:
    """Trains runs and caches their results.

    Args:
      console: where to print.

    Attributes:
      failed: directory -> error, of the runs that diverged in this process.
    """

    def __init__(self, console: rich.console.Console):
        self.console = console
        self.failed: dict[pathlib.Path, str] = {}
        self._results: dict[pathlib.Path, dict] = {}

    def result(self, run: StudyRun) -> dict | None:
        """`result.json` of a finished run, else None."""
        if run.directory not in self._results and (result := runs.result(run)) is not None:
            self._results[run.directory] = result
        return self._results.get(run.directory)

    def train(self, mine: Sequence[StudyRun], groups: Mapping[str, Sequence[StudyRun]]) -> None:
        """Train those of `mine` that are neither finished nor running elsewhere, and print the table after each.

        A run that diverges is recorded in `failed`; the others go on.

        Args:
          mine: the runs, in order.
          groups: experiment -> its runs, for the table.

        Raises:
          Interrupted: SIGINT or SIGTERM arrived; the run's state is saved.
        """
        for run in mine:
            if self.result(run) is not None or run.directory in self.failed:
                continue
            self.say(f"{run.experiment}: {run.directory.parent.name}, seed {run.seed}")
            try:
                trained = runs.train(run, self.console)
            except Diverged as error:
                self.failed[run.directory] = str(error)
                self.say(f"{run.directory}: {error}")
                continue
            if trained:
                self.console.print(self.table(groups, mine))
            else:
                self.say("done or running in another process")

    def raise_failures(self) -> None:
        """Raise Diverged with every run that diverged; do nothing if none did."""
        if self.failed:
            count, s = len(self.failed), "s" if len(self.failed) > 1 else ""
            errors = "; ".join(f"{directory}: {error}" for directory, error in self.failed.items())
            raise Diverged(f"{count} run{s} diverged, {errors}")

    def say(self, line: str) -> None:
        """Print a line without wrapping, highlighting or markup."""
        self.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def table(self, groups: Mapping[str, Sequence[StudyRun]], mine: Sequence[StudyRun]) -> Table:
        """Runs in all, done, running, failed and left, per experiment and together, and the time left for `mine`."""
        distinct = list({run.directory: run for wanted in groups.values() for run in wanted}.values())
        return Table(
            [text("experiment", "name"), *(number(key, key) for key in ("runs", "done", "running", "failed", "left"))],
            [{"name": name, **self._counts(wanted)} for name, wanted in groups.items()],
            footer={"name": "distinct runs", **self._counts(distinct)},
            caption=f"time left for this process: {self.time_left(distinct, mine)}",
        )

    def time_left(self, all_runs: Sequence[StudyRun], mine: Sequence[StudyRun]) -> str:
        """An estimate for `mine` from the finished runs, in proportion to their work; "unknown" before the first."""
        left = [run.work for run in mine if self.result(run) is None and run.directory not in self.failed]
        if not left:
            return "none"
        done = [(run.work, result) for run in all_runs if (result := self.result(run)) is not None]
        if not done:
            return "unknown"
        seconds = sum(result["seconds"] + result["compile_seconds"] for _, result in done)
        return duration(sum(left) * seconds / sum(work for work, _ in done))

    def _counts(self, wanted: Sequence[StudyRun]) -> dict[str, Any]:
        unfinished = [run for run in wanted if self.result(run) is None]
        failed = sum(run.directory in self.failed for run in unfinished)
        running = sum(runs.running(run) for run in unfinished)
        return {
            "runs": len(wanted),
            "done": len(wanted) - len(unfinished),
            "running": running,
            "failed": failed,
            "left": len(unfinished) - failed - running,
        }


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: "40 s", "3 min", "2 h 5 min", "3 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes % 1440 // 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
