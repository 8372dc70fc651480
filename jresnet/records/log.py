"""The log of one run: metrics.jsonl and TensorBoard events in its directory, progress on the console."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import rich.console
import rich.progress

from jresnet.errors import InputError
from jresnet.records.files import Record, json_bytes, write_bytes

METRICS = "metrics.jsonl"

# Keys of an epoch's record: the names of their TensorBoard scalars, and those in the console's line or "".
_NAMES = {
    "train_loss": ("loss/train", "Train loss"),
    "test_loss": ("loss/test", "Test loss"),
    "validation_loss": ("loss/validation", ""),
    "train_accuracy": ("accuracy/train", "Train acc"),
    "test_accuracy": ("accuracy/test", "Test acc"),
    "validation_accuracy": ("accuracy/validation", "Validation acc"),
    "learning_rate": ("learning_rate", ""),
    "images_per_second": ("images_per_second", ""),
}


class RunLog:
    """Logs one run while it trains; a context manager that closes its files.

    `metrics.jsonl` holds one JSON object per epoch and is flushed to disk before `epoch` returns, so a killed
    run loses only the epoch that it was training. Nothing is created before `begin`, which opens the log.

    A console gets a line per epoch and, if it is a terminal, a progress bar next to `label`. Only one of a run's
    processes `writes` files; all keep `history`, the records of the epochs so far, as in `metrics.jsonl`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        epochs: int,
        steps_per_epoch: int,
        console: rich.console.Console | None = None,
        label: str = "",
        writes: bool = True,
    ):
        self.history: list[Record] = []
        self._workdir, self._console, self._label, self._writes = pathlib.Path(workdir), console, label, writes
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._closing = contextlib.ExitStack()
        self._first_epoch: int | None = None  # None while the log is closed
        self._add_scalar: Callable[[str, float, int], None] | None = None
        self._progress: rich.progress.Progress | None = None
        self._task = rich.progress.TaskID(0)

    def begin(self, first_epoch: int, first_step: int = 0) -> None:
        """Open the log to continue with `first_epoch`, counted from 0, of which `first_step` steps are already done.

        Records of that epoch and later ones are dropped.
        """
        self.close()
        path = self._workdir / METRICS
        # A killed run may have left the file in any state.
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        self.history = [record for line in lines if (record := _parse(line)) and record["epoch"] < first_epoch]
        self._first_epoch = first_epoch
        if not self._writes:
            return
        self._workdir.mkdir(parents=True, exist_ok=True)
        write_bytes(path, b"".join(json_bytes(record, indent=None) for record in self.history))
        self._progress = self._start_progress(first_epoch, first_step)

    def advance(self, step_in_epoch: int, epoch: int, stage: str) -> None:
        """Show on the bar that `step_in_epoch` training steps of this epoch are done; `stage` is shown as it is."""
        if self._progress is not None:
            completed = epoch * self._steps_per_epoch + step_in_epoch
            self._progress.update(self._task, completed=completed, epoch=epoch + 1, stage=stage)

    def epoch(self, record: Record) -> None:
        """Log a finished epoch: a line of metrics.jsonl, TensorBoard scalars, and the report's line on the console.

        The record has epoch, train_loss, train_accuracy (losses in nats, accuracies from 0 to 1); optionally test_loss,
        test_accuracy, validation_loss, validation_accuracy, learning_rate, images_per_second, seconds. NaN and infinity
        are written as null. RuntimeError if the log is not open.
        """
        if self._first_epoch is None:
            raise RuntimeError("RunLog.epoch needs an open log: call begin first")
        line = json_bytes(record, indent=None)
        if self._writes:
            with (self._workdir / METRICS).open("ab") as metrics:
                metrics.write(line)
                metrics.flush()
                os.fsync(metrics.fileno())
            self._add_scalar = self._add_scalar or self._open_events(self._first_epoch)
            for key, (tag, _) in _NAMES.items():
                if key in record:
                    self._add_scalar(tag, record[key], record["epoch"])
        self.history.append(json.loads(line))
        if self._progress is not None and "images_per_second" in record:
            self._progress.update(self._task, speed=f"{record['images_per_second']:,.0f} images/s")
        self._print(_epoch_line(record))

    def close(self) -> None:
        """Close the files, with every event flushed, and remove the bar; a second call does nothing."""
        self._first_epoch = self._add_scalar = self._progress = None
        self._closing.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open_events(self, first_epoch: int) -> Any:
        """Create the events file and return its `add_scalar`.

        Called after the first epoch: importing tensorboardX takes seconds, as it imports PyTorch if that is installed.
        """
        try:
            import tensorboardX
        except ImportError:
            self._print("tensorboardX is not installed: this run writes no TensorBoard events")
            return lambda tag, value, step: None
        # tensorboardX names a file after the current second and truncates a file of the same name.
        # The suffix keeps a quick resume from erasing the events of the epochs before it.
        events = tensorboardX.SummaryWriter(
            str(self._workdir), purge_step=first_epoch, flush_secs=1, filename_suffix=f".{first_epoch}"
        )
        self._closing.callback(events.close)
        return events.add_scalar

    def _start_progress(self, first_epoch: int, first_step: int) -> rich.progress.Progress | None:
        console = self._console
        # With FORCE_COLOR set rich takes a pipe for a terminal, but only a real one can redraw a bar.
        if console is None or not (console.is_interactive and console.file.isatty()):
            return None
        text = rich.progress.TextColumn
        progress = rich.progress.Progress(
            text("{task.description}", markup=False),
            text("epoch {task.fields[epoch]}/" + str(self._epochs)),
            text("{task.fields[stage]}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            text("{task.fields[speed]}"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
            # Long enough for one update per epoch; with frequent updates rich uses the last 1000.
            speed_estimate_period=24 * 3600,
        )
        self._task = progress.add_task(
            self._label,
            total=self._epochs * self._steps_per_epoch,
            completed=first_epoch * self._steps_per_epoch + first_step,
            epoch=min(first_epoch + 1, self._epochs),
            stage="",
            speed="",
        )
        return self._closing.enter_context(progress)

    def _print(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _epoch_line(record: Record) -> str:
    """An epoch's record as the report prints it: "Epoch 83, Train loss 0.421626, Test loss ..."."""
    parts = [f"{name} {record[key]:.6f}" for key, (_, name) in _NAMES.items() if name and key in record]
    return ", ".join([f"Epoch {record['epoch']}", *parts])


def read_metrics(path: str | os.PathLike[str]) -> list[Record]:
    """Read the records of the epochs from a `metrics.jsonl`, in order.

    An incomplete last line, left by a killed run and recognised by its missing line break, is skipped.

    Raises:
      InputError: the file is missing, or another line is not a JSON object with an epoch.
    """
    try:
        lines = pathlib.Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a run writes it when its first epoch starts") from None
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            raise InputError(f"{path}, line {number}: not one epoch's JSON object; remove the line or the file")
    return records


def _parse(line: bytes) -> Record | None:
    """The record on a line, or None; a truncated JSON object never parses as one."""
    try:
        record = json.loads(line.decode())
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("epoch"), int) else None
