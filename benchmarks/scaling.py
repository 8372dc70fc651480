"""Scaling: images/s of the training step against the devices that share it, alternated in one run.

    python -m benchmarks.scaling --output scaling.json      # this machine's GPUs
    python -m benchmarks.scaling --device cpu --emulate 8   # devices that a CPU plays: they share its cores

Weak scaling gives every device the same batch; strong scaling shares one batch out among them. Efficiency is
images/s over n times those of one device, paired within rounds: 1 is perfect. The step is pmapped everywhere, on one
device too; "jit" is the step that a run on one device takes. Beside the JSON lies a figure.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import timing
from benchmarks.records import new_record, require_distinct, require_positive
from benchmarks.throughput import training_flops
from benchmarks.timing import Case, Device, Rival, Timing
from jresnet import cli
from jresnet.config import Precision
from jresnet.errors import InputError
from jresnet.records.environment import cpu_cores
from jresnet.records.figures import STYLES

Kind = Literal["weak", "strong"]
KINDS: tuple[Kind, ...] = ("weak", "strong")
STEPS: dict[Device, int] = {"cpu": 3, "gpu": 100}
"""Training steps per timed call: about a second's worth."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the training step on one device and on several, alternated in one run.

    Raises:
      InputError: a value breaks its rule.
    """

    device: Device = "gpu"
    """Where the steps run."""
    emulate: int = 1
    """Devices that the CPU plays; they share its cores, so that this shows what sharing costs, not what it gains."""
    counts: tuple[int, ...] = ()
    """Devices to time (default: 1, 2, 4, ... up to all)."""
    width: int = 42
    """Channels of the first stage."""
    share: int = 32
    """Images per step and device of weak scaling."""
    batch: int = 256
    """Images per step over all devices of strong scaling."""
    precision: Precision = "float32"
    """Arithmetic of the network."""
    rounds: int = 5
    """Times each number of devices is timed."""
    steps: int | None = None
    """Steps per timed call (default: 3 on a CPU, 100 on a GPU)."""
    output: Path | None = None
    """JSON file for the record; the figure lies beside it, as .svg."""

    def __post_init__(self):
        """Check the values that need no device."""
        require_positive(self, "emulate", "counts", "width", "share", "batch", "rounds", "steps")
        require_distinct(self, "counts")
        if self.emulate > 1 and self.device == "gpu":
            raise InputError(f"--emulate {self.emulate}: only a CPU plays devices: add --device cpu")

    def counts_of(self, available: int) -> list[int]:
        """The numbers of devices to time, one device always among them, as efficiency is relative to it.

        Raises:
          InputError: there are fewer devices, or the batch does not divide among them.
        """
        powers = [2**i for i in range(available.bit_length())]
        counts = sorted({1, *(self.counts or (*powers, available))})
        if counts[-1] > available:
            raise InputError(f"--counts {counts[-1]}: there are {available} devices")
        uneven = [count for count in counts if self.batch % count]
        if uneven:
            raise InputError(f"--batch {self.batch}: does not divide among {uneven[0]} devices")
        return counts


def batch_of(kind: Kind, count: int, options: Options) -> int:
    """Images per step over `count` devices."""
    return options.share * count if kind == "weak" else options.batch


def rival(kind: Kind, count: int | None, options: Options) -> Rival:
    """The library's step pmapped over so many devices, or jitted where that is None."""
    from benchmarks.jax_step import jax_rival

    case = Case(options.width, batch_of(kind, count or 1, options), options.precision, options.device)
    return jax_rival(case, count)


def measure(kind: Kind, counts: Sequence[int], options: Options) -> list[dict[str, Any]]:
    """One record for the jitted step and one per number of devices; those that failed say how."""
    builders = {form(count): lambda count=count: rival(kind, count, options) for count in (None, *counts)}
    timings = timing.contest(builders, options.steps or STEPS[options.device], options.rounds)
    alone = timings[form(1)]
    return [entry(kind, count, timings[form(count)], alone, options) for count in (None, *counts)]


def form(count: int | None) -> str:
    """What a rival is called."""
    return "jit" if count is None else f"pmap {count}"


def entry(kind: Kind, devices: int | None, one: Timing, alone: Timing, options: Options) -> dict[str, Any]:
    """What so many devices did: seconds per step, images/s, and efficiency beside one device, by rounds."""
    count = devices or 1
    batch = batch_of(kind, count, options)
    record: dict[str, Any] = {"kind": kind, "form": form(devices), "devices": count, "batch_size": batch}
    record |= dataclasses.asdict(one)
    if not one.seconds:
        return record
    spread = timing.summary(one.seconds)
    record |= {"seconds_per_step": dataclasses.asdict(spread), "images_per_second": batch / spread.median}
    record["flops_per_second"] = batch * training_flops(options.width) / spread.median
    if ratio := timing.compared(one.seconds, alone.seconds):
        gain = batch / batch_of(kind, 1, options) / count
        record["efficiency"] = {name: value * gain if name != "n" else value for name, value in ratio.items()}
    return record


def note(options: Options, available: int) -> str:
    """What a reader must know of these devices."""
    if options.device == "gpu" or available == 1:
        return f"{available} device{'s' if available > 1 else ''}, each with arithmetic of its own"
    return (
        f"{available} emulated devices share {cpu_cores()} CPU cores: more of them add no arithmetic, so that 1/n "
        "is the efficiency to expect, and what is missing from that is the cost of sharing"
    )


def rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line per record."""
    return [
        [
            record["kind"], record["form"], str(record["batch_size"]),
            *(
                [f"{record['images_per_second']:,.0f}", timing.spread_text(record.get("efficiency"), ".2f")]
                if record["seconds"]
                else ["failed", record["error"] or ""]
            ),
        ]
        for record in records
    ]  # fmt: skip


def draw(records: Sequence[Mapping[str, Any]], path: Path, caption: str) -> None:
    """Images/s against devices as an SVG, with the line of perfect scaling from one device on."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    figure.suptitle(caption, fontsize="small", wrap=True)
    for axes, kind in zip(figure.subplots(1, 2, squeeze=False)[0], KINDS, strict=True):
        found = [r for r in records if r["kind"] == kind and r["form"] != form(None) and r["seconds"]]
        counts, rates = ([record[name] for record in found] for name in ("devices", "images_per_second"))
        axes.plot(counts, rates, marker="o", label="measured", color=STYLES["train"]["color"])
        if counts and counts[0] == 1:
            perfect = [rates[0] * count for count in counts]
            axes.plot(counts, perfect, linestyle=":", label="perfect", color=STYLES["test"]["color"])
        axes.set_title(f"{kind} scaling")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        ticks = [2**power * (rates[0] if rates else 1) for power in range(len(counts))]
        axes.set_yticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("devices")
        axes.set_ylabel("images/s")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.legend(frameon=False)
    FigureCanvasSVG(figure).print_svg(str(path))


def run(options: Options) -> None:
    """Time every number of devices both ways; print the table, write record and figure."""
    import jax

    if options.device == "cpu" and options.emulate > 1:
        jax.config.update("jax_num_cpu_devices", options.emulate)
    timing.select_device(options.device)
    available = len(jax.devices())
    counts = options.counts_of(available)
    record = new_record("scaling", options, options.device) | {"note": note(options, available), "cases": []}
    for kind in KINDS:
        record["cases"] += measure(kind, counts, options)
        timing.write_record(options.output, record)
    timing.print_table("Scaling", ("kind", "step", "batch", "images/s", "efficiency"), rows(record["cases"]))
    print(record["note"])
    if options.output:
        draw(record["cases"], options.output.with_suffix(".svg"), record["note"])
        print(options.output, options.output.with_suffix(".svg"), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; returns the exit status, see `jresnet.cli.exit_status`."""
    return cli.exit_status(lambda: run(cli.parse(Options, arguments, "python -m benchmarks.scaling")))


if __name__ == "__main__":
    sys.exit(main())
