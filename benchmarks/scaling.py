"""Scaling: images/s of the training step on several devices, alternated in one run.

    python -m benchmarks.scaling --output scaling.json      # the GPUs of this machine
    python -m benchmarks.scaling --device cpu --emulate 8   # emulated devices, which share the CPU's cores

Weak scaling gives every device the same batch; strong scaling splits one batch among them. Efficiency is images/s on n
devices over n times those of one, paired within rounds: 1 is perfect. The step is pmapped everywhere, on one device
too; "jit" is the step that a run on one device uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from benchmarks import figures, timing
from benchmarks.jax_step import STEPS, jax_rival
from benchmarks.records import BenchmarkOptions, new_record, run_benchmark, select_device, write_record
from benchmarks.timing import Case, Device, Rival, Timing
from jresnet.config import Config, Precision
from jresnet.models.summary import training_flops
from jresnet.records.environment import cpu_cores
from jresnet.records.tables import number, text
from jresnet.rules import require

Kind = Literal["weak", "strong"]
KINDS: tuple[Kind, ...] = ("weak", "strong")
COLUMNS = (
    text("kind", "kind"),
    text("step", "form"),
    number("batch", "batch_size"),
    number("images/s", "images_per_second", ",.0f", missing="failed"),
    number("efficiency", "shown", missing=""),
)


@dataclass(frozen=True)
class Options(BenchmarkOptions):
    """Time the training step on one device and on several, alternated in one run."""

    device: Device = "gpu"
    """Where the steps run."""
    emulate: int = 1
    """Devices to emulate on the CPU; they share its cores, so this shows the cost of several devices, not the gain."""
    counts: tuple[int, ...] = ()
    """Devices to time (default: 1, 2, 4, ... up to all)."""
    width: int = 42
    """Channels of the first stage."""
    share: int = 32
    """Images per step and device in weak scaling."""
    batch: int = 256
    """Images per step over all devices in strong scaling."""
    precision: Precision = "float32"
    """Dtype of the network's arithmetic."""
    steps: int | None = None
    """Steps per timed call (default: 3 on a CPU, 128 on a GPU)."""
    output: Path | None = None
    """JSON file for the record; the figure is written beside it, as .svg."""

    def __post_init__(self):
        super().__post_init__()
        possible = self.emulate == 1 or self.device == "cpu"
        require(self, "emulate", possible, "only CPU devices can be emulated: add --device cpu")

    def counts_of(self, available: int) -> list[int]:
        """The numbers of devices to time, always including one, which efficiency is relative to."""
        powers = [2**i for i in range(available.bit_length())]
        counts = sorted({1, *(self.counts or (*powers, available))})
        most = f"must be at most {available}, the number of devices"
        require(self, "counts", counts[-1] <= available, most, counts[-1])
        uneven = next((count for count in counts if self.batch % count), None)
        require(self, "batch", uneven is None, f"does not divide among {uneven} devices")
        return counts


def batch_of(kind: Kind, count: int, options: Options) -> int:
    """Images per step over `count` devices."""
    return options.share * count if kind == "weak" else options.batch


def measure(kind: Kind, counts: Sequence[int], options: Options) -> list[dict[str, Any]]:
    """Time the jitted step and each number of devices; returns a record for each."""

    def build(count: int | None) -> Rival:
        case = Case(options.width, batch_of(kind, count or 1, options), options.precision, options.device)
        return jax_rival(case, count)

    builders = {form(count): partial(build, count) for count in (None, *counts)}
    timings = timing.contest(builders, options.steps or STEPS[options.device], options.rounds)
    single = timings[form(1)]
    return [entry(kind, count, timings[form(count)], single, options) for count in (None, *counts)]


def form(count: int | None) -> str:
    """The name of a rival."""
    return "jit" if count is None else f"pmap {count}"


def entry(kind: Kind, devices: int | None, result: Timing, single: Timing, options: Options) -> dict[str, Any]:
    """The record of one number of devices; its efficiency is relative to `single`, the timing of one device."""
    count = devices or 1
    batch = batch_of(kind, count, options)
    record = {"kind": kind, "form": form(devices), "devices": count, "batch_size": batch}
    record |= result.record(
        images_per_second=batch, flops_per_second=batch * training_flops(Config(width=options.width))
    )
    if ratio := timing.compared(result.seconds, single.seconds):
        gain = batch / batch_of(kind, 1, options) / count
        record["efficiency"] = {name: value * gain if name != "n" else value for name, value in ratio.items()}
    return record


def note(options: Options, available: int) -> str:
    """How to read the efficiencies on these devices."""
    if options.device == "gpu" or available == 1:
        return f"{available} device{'s' if available > 1 else ''}, each with its own arithmetic units"
    return (
        f"{available} emulated devices share {cpu_cores()} CPU cores: more of them add no arithmetic units, so the "
        "efficiency to expect is 1/n, and the shortfall from that is the cost of using several devices"
    )


def rows(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per number of devices; where one failed, its error stands in place of the efficiency."""
    return [{**case, "shown": timing.spread_text(case.get("efficiency"), ".2f") or case["error"]} for case in cases]


def draw(records: Sequence[Mapping[str, Any]], path: Path, caption: str) -> None:
    """Draw images/s against devices as an SVG, with the line of perfect scaling from one device on."""
    figure = figures.new((8, 4), caption)
    for axes, kind in zip(figure.subplots(1, 2, squeeze=False)[0], KINDS, strict=True):
        timed = [r for r in records if r["kind"] == kind and r["form"] != form(None) and r["seconds"]]
        counts, rates = ([record[name] for record in timed] for name in ("devices", "images_per_second"))
        axes.plot(counts, rates, marker="o", label="measured", color=figures.BLUE)
        if counts and counts[0] == 1:
            perfect = [rates[0] * count for count in counts]
            axes.plot(counts, perfect, linestyle=":", label="perfect", color=figures.ORANGE)
        ticks = [2**power * (rates[0] if rates else 1) for power in range(len(counts))]
        figures.logarithmic(axes, "devices", counts, ticks, ",.0f")
        axes.set_title(f"{kind} scaling")
        axes.set_ylabel("images/s")
        axes.legend(frameon=False)
    figure.savefig(path)


def run(options: Options) -> None:
    """Time every number of devices in both kinds of scaling; print the table, write record and figure."""
    if options.device == "cpu" and options.emulate > 1:
        jax.config.update("jax_num_cpu_devices", options.emulate)
    select_device(options.device)
    available = len(jax.devices())
    counts = options.counts_of(available)
    record = new_record("scaling", options) | {"note": note(options, available), "cases": []}
    for kind in KINDS:
        record["cases"] += measure(kind, counts, options)
        write_record(options.output, record)
    timing.print_table("Scaling", COLUMNS, rows(record["cases"]))
    print(record["note"])
    if options.output:
        draw(record["cases"], options.output.with_suffix(".svg"), record["note"])
        print(options.output, options.output.with_suffix(".svg"), sep="\n")


main = partial(run_benchmark, "scaling", Options, run)

if __name__ == "__main__":
    raise SystemExit(main())
