"""The head of the README: the best of the committed speedruns, in words and as a curve."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from experiments import final, report
from experiments.page.beyond import counts
from experiments.study import speedruns
from experiments.study.committed import Study
from experiments.study.progress import duration
from experiments.study.results import data_name
from jresnet.records.epoch import METRICS, read_metrics
from jresnet.records.figures import legend, panel
from jresnet.use.figures import WIDTH, blank, styled

FIGURE = pathlib.Path("docs", "speedrun.svg")
REPORTED = final.EXPERIMENT.reported["final"][report.COMPARED]


class Fastest(NamedTuple):
    """A speedrun and its runs.

    Attributes:
      record: the speedrun's.
      runs: the content of `result.json` by the run's directory.
    """

    record: speedruns.Record
    runs: Mapping[pathlib.Path, dict]


def find(studies: Sequence[Study]) -> Fastest | None:
    """The most accurate speedrun that reached its target on all test images of CIFAR-10; of equals the quickest.

    Those with runs that went on from a checkpoint are left out: their times are not those of one piece.
    """
    found = []
    for study in studies:
        record, runs = study.speedrun, study.runs
        if not record or record.resumed:
            continue
        if record.reached and record.split == "test" and all(map(counts, runs.values())):
            found.append(Fastest(record, runs))
    return max(found, key=lambda fast: (fast.record.mean, -fast.record.seconds.median), default=None)


def lines(fast: Fastest | None) -> list[str]:
    """What it reached, where and how, its command and its curve; nothing if there is none."""
    if fast is None:
        return []
    record, results = fast.record, list(fast.runs.values())
    accuracy, reported = f"{100 * record.mean:.2f} %", f"{100 * REPORTED:.2f} %"
    runs = "one run"
    if record.low is not None and record.high is not None:
        runs = f"the mean of {record.n} runs [{100 * record.low:.2f} %, {100 * record.high:.2f} %]"
    compilation = f"compilation took another {duration(record.compile_seconds)}"
    if record.cache == "warm":
        compilation += ", with programs compiled before"
    devices = " and ".join(sorted({result["device"] for result in results}))
    return [
        "",
        f"**{accuracy} of CIFAR-10's test images after {duration(record.seconds.median)}** and {results[0]['epochs']} "
        f"epochs, with the report's network of {record.parameters:,} parameters; the report has {reported} after "
        f"{report.FINAL.epochs} epochs. This is {runs}, evaluated once, after the last epoch, every image counted "
        f"once. The time is that of training and evaluation; {compilation}. "
        f"Device: {devices}. Data: {data_name(results[0]['dataset'])}.",
        "", "```", record.command, "```", "",
        f'<img src="{FIGURE.as_posix()}" width="700" alt="Accuracy on training images after each epoch, and on test '
        f'images after the last, {accuracy}, beside the report\'s {reported}">',
    ]  # fmt: skip


def histories(fast: Fastest | None) -> Sequence[Sequence[dict]]:
    """What `figure` shows, the lines of each run's `metrics.jsonl`: none if there is no speedrun."""
    return [read_metrics(run / METRICS) for run in fast.runs] if fast else []


@styled
def figure(histories: Sequence[Sequence[dict]]) -> Figure:
    """Accuracy of runs against the epoch, beside the report's; a band spans them."""
    drawing = blank(2 * WIDTH, 2.6)
    axes = drawing.subplots()
    axes.axhline(100 * REPORTED, color="black", linewidth=0.9, label=f"report ({100 * REPORTED:.2f} %)", zorder=2)
    panel(axes, histories, "accuracy", last=True)
    legend(axes)
    return drawing
