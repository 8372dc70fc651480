"""Exponents of growing cost, from a record of `benchmarks.growth` alone: power laws, verdicts, tables, the figure."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks import timing
from jresnet.records.figures import STYLES

Axis = Literal["images", "width", "batch", "blocks"]
AXES: dict[Axis, str] = {
    "images": "training images",
    "width": "width",
    "batch": "batch size",
    "blocks": "blocks per stage",
}
COSTS = {"seconds": "time", "memory": "memory", "flops": "arithmetic"}
POINT_HEADER = ("varied", "value", "s/epoch", "images/s", "GFLOP/s", "memory MB", "parameters", "compile s")
FIT_HEADER = ("exponent in", "", "of time", "by round", "of memory", "of arithmetic")
LARGEST_MARGIN = 0.1
"""An exponent near 1 that is known less exactly than this is not judged."""


class Fit(NamedTuple):
    """cost = factor * value ** exponent; the error is the exponent's standard error, None from two points."""

    exponent: float
    error: float | None
    factor: float


def fit(values: Sequence[float], costs: Sequence[float]) -> Fit:
    """Fit a power law by least squares on logarithms.

    Args:
      values: at least two, not all equal, above 0.
      costs: as many, above 0.
    """
    xs, ys = [math.log(value) for value in values], [math.log(cost) for cost in costs]
    x, y = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((one - x) ** 2 for one in xs)
    exponent = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread
    factor = math.exp(y - exponent * x)
    if len(xs) == 2:
        return Fit(exponent, None, factor)
    residue = sum((b - y - exponent * (a - x)) ** 2 for a, b in zip(xs, ys, strict=True))
    return Fit(exponent, math.sqrt(residue / (len(xs) - 2) / spread), factor)


def of_axis(record: Mapping[str, Any], axis: Axis) -> list[dict[str, Any]]:
    """The points of an axis that were measured, ascending."""
    found = [entry for entry in record["points"] if entry["axis"] == axis and entry["seconds"]]
    return sorted(found, key=lambda entry: entry["value"])


def cost(entry: Mapping[str, Any], name: str) -> float:
    """What a point cost: seconds (the median over rounds), bytes, or floating-point operations."""
    return {
        "seconds": statistics.median(entry["seconds"]),
        "memory": entry["memory"]["total"],
        "flops": entry["flops"],
    }[name]


def fits(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fits along one axis, from its points, cost -> record; empty with fewer than two.

    `by_round` holds the least and the greatest exponent of time over single rounds.
    """
    if len(found) < 2:
        return {}
    values = [entry["value"] for entry in found]
    result: dict[str, Any] = {name: fit(values, [cost(entry, name) for entry in found])._asdict() for name in COSTS}
    rounds = zip(*(entry["seconds"] for entry in found), strict=False)
    each = [fit(values, seconds).exponent for seconds in rounds]
    result["seconds"]["by_round"] = [min(each), max(each)]
    return result


def verdict(name: str, one: Mapping[str, Any], count: int) -> str:
    """Whether a cost is at most linear in the training images, by a one-sided t-test at 5 % on `count` points."""
    exponent, error = one["exponent"], one["error"]
    if error is None:
        return f"{COSTS[name]} in the images: exponent {exponent:.3f} from two points, of unknown error: not judged"
    from scipy import stats

    margin = float(stats.t.ppf(0.95, count - 2)) * error
    said = f"{COSTS[name]} in the images: exponent {exponent:.3f}, standard error {error:.3f}"
    if exponent - margin > 1:
        return f"{said}: SUPER-LINEAR"
    if exponent + margin > 1 and margin > LARGEST_MARGIN:
        return f"{said}: too uncertain to judge: raise --rounds, or measure on an idle machine"
    return f"{said}: at most linear"


def point_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A line for every point."""
    rows = []
    for axis, title in AXES.items():
        for entry in of_axis(record, axis):
            spread = timing.summary(entry["seconds"])
            rows.append(
                [
                    title, f"{entry['value']:,}",
                    timing.spread_text(dataclasses.asdict(spread), ".3g"),
                    f"{entry['images'] / spread.median:,.0f}",
                    f"{entry['flops'] / spread.median / 1e9:,.1f}",
                    f"{entry['memory']['total'] / 1e6:,.1f}",
                    f"{entry['parameters']:,}",
                    f"{entry['compile_seconds']:.1f}",
                ]
            )  # fmt: skip
    return rows


def fit_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A line for every axis with exponents."""
    rows = []
    for axis, title in AXES.items():
        if found := record["fits"].get(axis):
            low, high = found["seconds"]["by_round"]
            errors = [shown(found[name]) for name in COSTS]
            rows.append([title, "", errors[0], f"{low:.3f} to {high:.3f}", *errors[1:]])
    return rows


def shown(one: Mapping[str, Any]) -> str:
    """An exponent with its standard error."""
    return f"{one['exponent']:.3f}" + ("" if one["error"] is None else f" ± {one['error']:.3f}")


def draw(record: Mapping[str, Any], path: Path, caption: str) -> None:
    """Time and memory against each size as an SVG, logarithmic, with the fitted power laws."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    axes = [axis for axis in AXES if record["fits"].get(axis)]
    figure = Figure(figsize=(3.2 * len(axes), 6), layout="constrained")
    figure.suptitle(caption, fontsize="small", wrap=True)
    rows = {"seconds": ("seconds per epoch", 1.0, "train"), "memory": ("memory (MB)", 1e6, "test")}
    grid = figure.subplots(len(rows), len(axes), squeeze=False)
    for panels, (name, (label, unit, style)) in zip(grid, rows.items(), strict=True):
        panels[0].set_ylabel(label)
        for panel, axis in zip(panels, axes, strict=True):
            found, law = of_axis(record, axis), record["fits"][axis][name]
            values = [entry["value"] for entry in found]
            color = STYLES[style]["color"]
            costs = [cost(entry, name) / unit for entry in found]
            panel.plot(values, costs, "o", color=color)
            line = [law["factor"] * value ** law["exponent"] / unit for value in values]
            panel.plot(values, line, color=color, linewidth=1, label=f"exponent {shown(law)}")
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xticks(values, [f"{value:,}" for value in values])
            ticks = [min(costs), math.sqrt(min(costs) * max(costs)), max(costs)]
            panel.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
            panel.minorticks_off()
            panel.set_xlabel(AXES[axis])
            panel.grid(color="#dddddd", linewidth=0.6)
            panel.legend(frameon=False, fontsize="small")
    FigureCanvasSVG(figure).print_svg(str(path))


def show(record: Mapping[str, Any], output: Path | None) -> None:
    """Print tables, failures and verdicts; draw the figure beside the record's file."""
    timing.print_table("Cost of an epoch", POINT_HEADER, point_rows(record))
    timing.print_table("Growth: exponent ± standard error", FIT_HEADER, fit_rows(record))
    for entry in record["points"]:
        if entry["error"]:
            print(f"{AXES[entry['axis']]} {entry['value']:,}: failed: {entry['error']}")
    if found := record["fits"].get("images"):
        for name in ("seconds", "memory"):
            print(verdict(name, found[name], len(of_axis(record, "images"))))
    if output:
        print(output)
        if any(record["fits"].values()):
            draw(record, output.with_suffix(".svg"), caption(record))
            print(output.with_suffix(".svg"))


def caption(record: Mapping[str, Any]) -> str:
    """What was held fixed, and where."""
    options, where = record["options"], record["environment"]
    base = ", ".join(f"{AXES[axis]} {options[f'base_{axis}']:,}" for axis in AXES)
    return f"Cost of an epoch; where not varied: {base}; {options['precision']}; {where['device']}"
