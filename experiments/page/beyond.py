"""Accuracy against the arithmetic and the time of training: published results, and runs of networks in the budget."""

import dataclasses
import pathlib
import string
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import final, report
from experiments.anchors import ANCHORS, Anchor
from experiments.study.results import NEARLY_CIFAR10, data_name
from experiments.study.stopped import Stopped
from jresnet.models.summary import training_flops
from jresnet.records.figures import STYLES
from jresnet.records.run import config_from_json
from jresnet.records.tables import Table, number, text
from jresnet.use.figures import FONT_SIZE, WIDTH, blank, shortened, styled

FIGURE = pathlib.Path("docs", "accuracy.svg")
LEAST = 0.9
"""Test accuracies below this are left out: the axes begin here, a little below the report's."""
NAMES = {"cifar10", NEARLY_CIFAR10}
"""Of the data that count as CIFAR-10, see `data_name`."""
_COLUMNS = (
    text("", "mark"),
    text("result", "name"),
    number("test accuracy (%)", "accuracy", ".2f", 100),
    text("protocol", "protocol"),
    number("n", "runs", "d"),
    number("parameters", "parameters", ",d"),
    number("epochs", "epochs", "d"),
    number("PFLOP", "petaflop", ".3g"),
    number("seconds", "seconds", ",.4g"),
    text("hardware", "hardware"),
    text("source", "source"),
)
_AXES = {"petaflop": "training (PFLOP)", "seconds": "training (seconds, each on its own hardware)"}


class Candidate(NamedTuple):
    """A setting that may have a place among the results.

    Attributes:
      name: in words.
      source: where its runs are recorded.
      chosen_on_test: whether test images chose the settings of its experiment.
      runs: the content of `result.json` by the run's directory.
    """

    name: str
    source: str
    chosen_on_test: bool
    runs: Mapping[pathlib.Path, dict]


def ours(candidates: Iterable[Candidate]) -> list[Anchor]:
    """The results of these settings; runs that several settings share count once."""
    distinct: dict[frozenset[pathlib.Path], Candidate] = {}
    for candidate in candidates:
        distinct.setdefault(frozenset(candidate.runs), candidate)
    return [anchor for candidate in distinct.values() for anchor in of_runs(candidate)]


def of_runs(candidate: Candidate) -> list[Anchor]:
    """The mean of a setting's runs on each device, as far as `counts` takes them, in the form of published results.

    Accuracy is that of the last epoch, every test image counted once.
    """
    devices: dict[str, list[dict]] = {}
    for record in filter(counts, candidate.runs.values()):
        devices.setdefault(record["device"], []).append(record)
    means = []
    for device, runs in devices.items():
        work = [
            run["epochs"] * run["dataset"]["train"] * training_flops(config_from_json(run["config"])) for run in runs
        ]
        means.append(
            Anchor(
                name=candidate.name, accuracy=fmean(run["test_accuracy"] for run in runs),
                **_protocol(candidate.chosen_on_test), runs=len(runs), parameters=runs[0]["parameters"],
                epochs=runs[0]["epochs"], petaflop=fmean(work) / 1e15, seconds=fmean(run["seconds"] for run in runs),
                hardware=device, source=candidate.source,
            )
        )  # fmt: skip
    return [mean for mean in means if mean.accuracy >= LEAST]


def _protocol(chosen_on_test: bool) -> dict[str, Any]:
    """How accuracies were measured, as entries of an `Anchor`."""
    chosen = ", settings chosen on the test images" if chosen_on_test else ""
    return {"protocol": f"last epoch{chosen}", "plain": not chosen_on_test}


def counts(record: dict) -> bool:
    """Whether a run is of a network in the budget, on all images of CIFAR-10, those held out included."""
    data = record["dataset"]
    images = (data["train"] + data["validation"], data["test"])
    tested = record.get("test_accuracy") is not None
    full = data_name(data) in NAMES and images == (report.TRAIN_IMAGES, report.TEST_IMAGES)
    return tested and full and record["parameters"] < report.BUDGET


def of_stopped(run: Stopped, source: str) -> Anchor:
    """The report's final model, stopped before its last epoch; its settings are the report's choice."""
    done = len(run.epochs)
    return Anchor(
        name=f"final model, stopped after {done} of {run.planned} epochs",
        accuracy=run.test_accuracy, **_protocol(chosen_on_test=True), runs=1,
        parameters=int(final.EXPERIMENT.reported["final"]["parameters"]), epochs=done,
        petaflop=done * dict(run.dataset)["train"] * training_flops(report.FINAL) / 1e15,
        seconds=sum(epoch.seconds for epoch in run.epochs), hardware=run.device, source=source,
    )  # fmt: skip


def marks(results: Sequence[Anchor]) -> dict[str, Anchor]:
    """Published results by number, and these, which are ours, by letter."""
    letters = (prefix + letter for prefix in ("", *string.ascii_uppercase) for letter in string.ascii_uppercase)
    return {str(i): anchor for i, anchor in enumerate(ANCHORS, 1)} | dict(zip(letters, results, strict=False))


def table(marked: Mapping[str, Anchor]) -> Table:
    """Every result with its mark in the figure, protocol and source."""
    rows = [{"mark": mark} | dataclasses.asdict(anchor) for mark, anchor in marked.items()]
    how = (f"{mark}: {anchor.arithmetic}" for mark, anchor in marked.items() if anchor.arithmetic)
    caption = (
        "Numbers are published results, letters ours. PFLOP are the source's or computed, at 2 operations per "
        f"multiply-add and 3 forward passes' work for training ({'; '.join(how)}). Seconds are of training; ours, of "
        "training and evaluation, without compilation."
    )
    return Table(_COLUMNS, rows, caption=caption, name="beyond")


@styled
def figure(marked: Mapping[str, Anchor]) -> Figure:
    """Accuracy against PFLOP above accuracy against seconds, with a key of the `marks`.

    Hollow marks are accuracies of the best test epoch, of settings chosen on the test images, of several views of each
    image, or of no stated protocol.
    """
    drawing = blank(WIDTH, 5.0 + 0.16 * len(marked))
    panels = drawing.subplots(2, 1)
    for axes, (key, label) in zip(panels, _AXES.items(), strict=True):
        for mark, anchor in marked.items():
            x = getattr(anchor, key)
            if x is None:
                continue
            own = not mark.isdigit()
            color = STYLES["train" if own else "test"]["color"]
            axes.plot(
                x, 100 * anchor.accuracy, marker="D" if own else "o", markersize=5 if own else 11, linestyle="",
                color=color, markerfacecolor=color if anchor.plain else "white", zorder=4 if own else 3,
            )  # fmt: skip
            inside: dict[str, Any] = {"ha": "center", "textcoords": "offset points", "fontsize": FONT_SIZE - 2}
            if own:
                inside |= {"xytext": (0, -5), "va": "top", "color": color}
            else:
                inside |= {"xytext": (0, 0), "va": "center_baseline", "color": "white" if anchor.plain else color}
            axes.annotate(mark, (x, 100 * anchor.accuracy), zorder=5, **inside)
        axes.set(xscale="log", xlabel=label, ylabel="test accuracy (%)", ylim=(100 * LEAST - 0.6, 98.4))
        axes.margins(x=0.08)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], linestyle="", color=STYLES["test" if mark.isdigit() else "train"]["color"], marker=f"${mark}$")
        for mark in marked
    ]
    labels = [shortened(anchor.name, 52) for anchor in marked.values()]
    key_box = drawing.legend(
        handles, labels, loc="outside lower left", frameon=False, fontsize=FONT_SIZE - 2, labelspacing=0.3
    )
    for label_text in key_box.get_texts():
        label_text.set_parse_math(False)
    return drawing
