"""Training the runs of a study one after another, with a table of what is done, running and left."""

from collections.abc import Mapping, Sequence

import rich.box
import rich.console
import rich.table

from experiments.study import runs
from experiments.study.runs import Run
from jresnet.errors import Diverged


class Ledger:
    """What is known of a study's runs; records that were read once are not read again.

    Args:
      console: where progress goes.

    Attributes:
      failed: directory -> why, of the runs that diverged in this session.
    """

    def __init__(self, console: rich.console.Console):
        self.console = console
        self.failed: dict[str, str] = {}
        self._results: dict[str, dict] = {}

    def result(self, run: Run) -> dict | None:
        """`result.json` of a finished run, else None."""
        key = str(run.place)
        if key not in self._results and (found := runs.result(run)) is not None:
            self._results[key] = found
        return self._results.get(key)

    def finished(self, wanted: Sequence[Run]) -> bool:
        """Whether all of these are."""
        return all(self.result(run) is not None for run in wanted)

    def train(self, mine: Sequence[Run], groups: Mapping[str, Sequence[Run]]) -> None:
        """Train those of `mine` that are neither done nor being trained elsewhere, the table after each.

        A run that diverges is noted and left; the others go on.

        Args:
          mine: the runs, in order.
          groups: experiment -> its runs, for the table.

        Raises:
          Interrupted: SIGINT or SIGTERM came; the run's state is saved.
        """
        for run in mine:
            if self.result(run) is not None or str(run.place) in self.failed:
                continue
            self.say(f"{run.experiment}: {run.place.parent.name}, seed {run.seed}")
            try:
                trained = runs.train(run, self.console)
            except Diverged as error:
                self.failed[str(run.place)] = str(error)
                self.say(f"{run.place}: {error}")
                continue
            if trained:
                self.console.print(self.table(groups, mine))
            else:
                self.say("done or running in another process")

    def say(self, line: str) -> None:
        """Print a line as it is."""
        self.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def table(self, groups: Mapping[str, Sequence[Run]], mine: Sequence[Run]) -> rich.table.Table:
        """Runs done, running, failed and left, per experiment and in all, and the time left for `mine`."""
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption_justify="left")
        table.add_column("experiment")
        for head in ("runs", "done", "running", "failed", "left"):
            table.add_column(head, justify="right")
        for name, wanted in groups.items():
            table.add_row(name, *map(str, self._counts(wanted)))
        table.add_section()
        every = {run.place: run for wanted in groups.values() for run in wanted}
        table.add_row("distinct runs", *map(str, self._counts(list(every.values()))))
        table.caption = f"time left for this process: {self.time_left(list(every.values()), mine)}"
        return table

    def time_left(self, every: Sequence[Run], mine: Sequence[Run]) -> str:
        """An estimate from the finished runs, by their work; "unknown" before the first of them."""
        results = [(run.work, self.result(run)) for run in every]
        done = [(work, found["seconds"] + found["compile_seconds"]) for work, found in results if found is not None]
        left = [run.work for run in mine if self.result(run) is None and str(run.place) not in self.failed]
        if not left:
            return "none"
        if not done:
            return "unknown"
        seconds = sum(left) * sum(second for _, second in done) / sum(work for work, _ in done)
        return duration(seconds)

    def _counts(self, wanted: Sequence[Run]) -> tuple[int, int, int, int, int]:
        """Runs in all, done, running, failed, left."""
        open_runs = [run for run in wanted if self.result(run) is None]
        failed = sum(str(run.place) in self.failed for run in open_runs)
        running = sum(runs.running(run) for run in open_runs)
        return len(wanted), len(wanted) - len(open_runs), running, failed, len(open_runs) - running - failed


def duration(seconds: float) -> str:
    """Seconds as a reader says them: "40 s", "3 min", "2 h 5 min", "3 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes % 1440 // 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
