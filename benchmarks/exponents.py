"""Growth of cost, evaluated from a record of `benchmarks.growth`: power laws, verdicts, tables and the figure."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from benchmarks import figures, timing
from jresnet.records.tables import Column, number, text

Axis = Literal["images", "width", "batch", "blocks"]
AXES: dict[Axis, str] = {
    "images": "training images",
    "width": "width",
    "batch": "batch size",
    "blocks": "blocks per stage",
}
COSTS = {"seconds": "time", "memory": "memory", "flops": "arithmetic"}
LARGEST_MARGIN = 0.1
"""An exponent near 1 with a larger margin of error is not judged."""


def fit(values: Sequence[float], costs: Sequence[float]) -> dict[str, Any]:
    """Fit the power law cost = factor * value ** exponent by least squares on logarithms.

    Values, at least two and not all equal, and costs are above 0. The exponent's standard `error` is None for two
    points.
    """
    line = stats.linregress(np.log(values), np.log(costs))
    # The error is NaN for constant costs, which a power law fits exactly.
    error = float(np.nan_to_num(line.stderr)) if len(values) > 2 else None
    return {"exponent": float(line.slope), "error": error, "factor": math.exp(line.intercept)}


def along(axis: Axis, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measured points of an axis, ascending."""
    points = [entry for entry in record["points"] if entry["axis"] == axis and entry["seconds"]]
    return sorted(points, key=lambda entry: entry["value"])


def cost(entry: Mapping[str, Any], name: str) -> float:
    """A point's cost: seconds (the median over rounds), bytes or floating-point operations."""
    if name == "seconds":
        return statistics.median(entry["seconds"])
    return entry["memory"]["total"] if name == "memory" else entry["flops"]


def fits(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fit of each cost along one axis; empty with fewer than two points.

    `by_round` is the least and the greatest exponent of time over single rounds.
    """
    if len(points) < 2:
        return {}
    values = [entry["value"] for entry in points]
    result: dict[str, Any] = {name: fit(values, [cost(entry, name) for entry in points]) for name in COSTS}
    rounds = zip(*(entry["seconds"] for entry in points), strict=False)
    by_round = [fit(values, seconds)["exponent"] for seconds in rounds]
    result["seconds"]["by_round"] = [min(by_round), max(by_round)]
    return result


def verdict(name: str, law: Mapping[str, Any], count: int) -> str:
    """Whether a cost is at most linear in the training images, by a one-sided t-test at 5 % on `count` points."""
    exponent, error = law["exponent"], law["error"]
    if error is None:
        return f"{COSTS[name]} in the images: exponent {exponent:.3f} from two points, of unknown error: not judged"
    margin = float(stats.t.ppf(0.95, count - 2)) * error
    if exponent - margin > 1:
        judgement = "SUPER-LINEAR"
    elif exponent + margin > 1 and margin > LARGEST_MARGIN:
        judgement = "too uncertain to judge: raise --rounds, or measure on an idle machine"
    else:
        judgement = "at most linear"
    return f"{COSTS[name]} in the images: exponent {exponent:.3f}, standard error {error:.3f}: {judgement}"


def law_text(law: Mapping[str, Any]) -> str:
    """An exponent with its standard error."""
    return f"{law['exponent']:.3f}" + ("" if law["error"] is None else f" ± {law['error']:.3f}")


POINTS = (
    text("varied", "axis", AXES.__getitem__),
    text("value", "value", "{:,}".format),
    timing.spread("s/epoch", "seconds", ".3g"),
    number("images/s", "images_per_second", ",.0f"),
    number("GFLOP/s", "flops_per_second", ",.1f", 1e-9),
    number("memory MB", "memory", ",.1f", 1e-6),
    number("parameters", "parameters", ","),
    number("compile s", "compile_seconds", ".1f"),
)
FITS = (
    text("exponent in", "axis", AXES.__getitem__),
    Column("of time", ("seconds",), law_text, right=True),
    Column("by round", ("seconds",), lambda law: "{:.3f} to {:.3f}".format(*law["by_round"]), right=True),
    Column("of memory", ("memory",), law_text, right=True),
    Column("of arithmetic", ("flops",), law_text, right=True),
)


def point_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A point's values, with the rates of its median epoch."""
    spread = timing.summary(entry["seconds"])
    return {
        **entry,
        "seconds": dataclasses.asdict(spread),
        "images_per_second": entry["images"] / spread.median,
        "flops_per_second": entry["flops"] / spread.median,
        "memory": entry["memory"]["total"],
    }


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw time and memory against each size as an SVG, with the fitted power laws."""
    options = record["options"]
    base = ", ".join(f"{name} {options[f'base_{axis}']:,}" for axis, name in AXES.items())
    caption = f"Cost of an epoch; where not varied: {base}; {options['precision']}; {record['environment']['device']}"
    drawn = [axis for axis in AXES if record["fits"].get(axis)]
    figure = figures.new((3.2 * len(drawn), 6), caption)
    rows = {"seconds": ("seconds per epoch", 1.0, figures.BLUE), "memory": ("memory (MB)", 1e6, figures.ORANGE)}
    grid = figure.subplots(len(rows), len(drawn), squeeze=False)
    for panels, (name, (label, unit, color)) in zip(grid, rows.items(), strict=True):
        panels[0].set_ylabel(label)
        for panel, axis in zip(panels, drawn, strict=True):
            points, law = along(axis, record), record["fits"][axis][name]
            values = [entry["value"] for entry in points]
            costs = [cost(entry, name) / unit for entry in points]
            panel.plot(values, costs, "o", color=color)
            line = [law["factor"] * value ** law["exponent"] / unit for value in values]
            panel.plot(values, line, color=color, linewidth=1, label=f"exponent {law_text(law)}")
            ticks = [min(costs), math.sqrt(min(costs) * max(costs)), max(costs)]
            figures.logarithmic(panel, AXES[axis], values, ticks, ".3g")
            panel.legend(frameon=False, fontsize="small")
    figure.savefig(path)


def show(record: Mapping[str, Any], output: Path | None) -> None:
    """Print tables, failures and verdicts; draw the figure beside the record's file."""
    timing.print_table("Cost of an epoch", POINTS, [point_row(entry) for axis in AXES for entry in along(axis, record)])
    fitted = [{"axis": axis, **record["fits"][axis]} for axis in AXES if record["fits"].get(axis)]
    timing.print_table("Growth: exponent ± standard error", FITS, fitted)
    for entry in record["points"]:
        if entry["error"]:
            print(f"{AXES[entry['axis']]} {entry['value']:,}: failed: {entry['error']}")
    if laws := record["fits"].get("images"):
        for name in ("seconds", "memory"):
            print(verdict(name, laws[name], len(along("images", record))))
    if output:
        print(output)
        if any(record["fits"].values()):
            draw(record, output.with_suffix(".svg"))
            print(output.with_suffix(".svg"))
