"""The log of one run: metrics.jsonl and TensorBoard events in its directory, progress on the console."""

import contextlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import rich.console
import rich.progress

from jresnet.errors import InputError
from jresnet.records import schema
from jresnet.records.epoch import METRICS, Epoch, read_metrics
from jresnet.records.files import Record, free_name, json_bytes, parse_json, write_bytes, writing

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
        self._write_events: Callable[[Record], None] | None = None
        self._progress: rich.progress.Progress | None = None
        self._task = rich.progress.TaskID(0)

    def begin(self, first_epoch: int, first_step: int = 0, history: Sequence[Record] | None = ()) -> None:
        """Open the log to continue with `first_epoch`, counted from 0, of which `first_step` steps are already done.

        `history` are the records of the epochs before it, as the checkpoint has them. `metrics.jsonl` must begin with
        them; otherwise it is set aside, which a warning says, and written again. Records of later epochs are dropped.
        With None, for checkpoints that have no history, the file's own records count.

        Raises:
          InputError: there is no history, and the file does not have the record of every epoch before.
        """
        self.close()
        path = self._workdir / METRICS
        if history is None:
            history = _recorded(path, first_epoch)
        self.history = list(history)
        self._first_epoch = first_epoch
        if not self._writes:
            return
        with writing(self._workdir):
            self._workdir.mkdir(parents=True, exist_ok=True)
        fresh = first_epoch == first_step == 0
        _set_aside_unless(path, self.history, fresh)
        write_bytes(path, b"".join(json_bytes(record, indent=None) for record in self.history))
        self._progress = self._start_progress(first_epoch, first_step)

    def advance(self, step_in_epoch: int, epoch: int, stage: str) -> None:
        """Show on the bar that `step_in_epoch` training steps of this epoch are done; `stage` is shown as it is."""
        if self._progress is not None:
            completed = epoch * self._steps_per_epoch + step_in_epoch
            self._progress.update(self._task, completed=completed, epoch=epoch + 1, stage=stage)

    def epoch(self, epoch: Epoch) -> None:
        """Log a finished epoch: a line of metrics.jsonl, TensorBoard scalars, and the report's line on the console.

        Raises:
          RuntimeError: the log is not open.
          InputError: a number is not finite, or out of its range.
          CannotWrite: a file cannot be written.
        """
        if self._first_epoch is None:
            raise RuntimeError("RunLog.epoch needs an open log: call begin first")
        path = self._workdir / METRICS
        line = json_bytes(schema.to_json(epoch), indent=None)
        record = parse_json(line)
        schema.parse(Epoch, record, path)  # what could not be read again is not written
        if self._writes:
            with writing(path), path.open("ab") as metrics:
                metrics.write(line)
                metrics.flush()
                os.fsync(metrics.fileno())
            with writing(self._workdir / "events.out.tfevents.*"):
                self._write_events = self._write_events or self._open_events(self._first_epoch)
                self._write_events(record)
        self.history.append(record)
        if self._progress is not None:
            self._progress.update(self._task, speed=f"{epoch.images_per_second:,.0f} images/s")
        self._print(_epoch_line(record))

    def close(self) -> None:
        """Close the files and remove the bar; a second call does nothing."""
        self._first_epoch = self._write_events = self._progress = None
        self._closing.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open_events(self, first_epoch: int) -> Callable[[Record], None]:
        """Create the events file and return what adds an epoch's record to it.

        Called after the first epoch: importing tensorboardX takes seconds, as it imports PyTorch if that is installed.
        Its `SummaryWriter` would write in a thread of its own, whose errors reach nobody.
        """
        try:
            from tensorboardX import event_file_writer
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
        except ImportError:
            self._print("tensorboardX is not installed: this run writes no TensorBoard events")
            return lambda record: None
        # Its files are named after the current second and truncate one of the same name.
        # The suffix keeps a quick resume from erasing the events of the epochs before it.
        events = event_file_writer.EventsWriter(str(self._workdir / "events"), f".{first_epoch}")
        # Every epoch is flushed, so that closing fails only where that has failed before.
        self._closing.enter_context(contextlib.suppress(OSError))
        self._closing.callback(events.close)
        now = time.time()
        if first_epoch:  # TensorBoard then drops what an earlier file has of this epoch and later ones
            start = SessionLog(status=SessionLog.START)
            events.write_event(Event(wall_time=now, step=first_epoch, session_log=start))

        def write(record: Record) -> None:
            scalars = [
                Summary.Value(tag=tag, simple_value=record[key]) for key, (tag, _) in _NAMES.items() if key in record
            ]
            step, summary = record["epoch"], Summary(value=scalars)
            events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            events.flush()

        return write

    def _start_progress(self, first_epoch: int, first_step: int) -> rich.progress.Progress | None:
        console = self._console
        if console is None or not can_redraw(console):
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


def can_redraw(console: rich.console.Console) -> bool:
    """Whether a console can show a bar: a terminal, or a notebook, whose output rich takes for no terminal."""
    # With FORCE_COLOR set rich takes a pipe for a terminal, but only a real one can redraw a bar.
    return console.is_jupyter or (console.is_interactive and console.file.isatty())


def _epoch_line(record: Record) -> str:
    """An epoch's record as the report prints it: "Epoch 83, Train loss 0.421626, Test loss ..."."""
    parts = [f"{name} {record[key]:.6f}" for key, (_, name) in _NAMES.items() if name and key in record]
    return ", ".join([f"Epoch {record['epoch']}", *parts])


def _recorded(path: pathlib.Path, epochs: int) -> list[Record]:
    """The records of the first epochs in a `metrics.jsonl`; InputError if it does not have so many."""
    if epochs == 0:
        return []
    records = read_metrics(path)
    if len(records) < epochs:
        raise InputError(
            f"{path}: records {len(records)} epochs, but the checkpoint follows {epochs}: restore it from a copy, or "
            f"move {path.parent} away to train again from the start"
        )
    return records[:epochs]


def _set_aside_unless(path: pathlib.Path, history: list[Record], fresh: bool) -> None:
    """Rename a `metrics.jsonl` that does not begin with this history, and say so; a fresh run's must be empty."""
    if not history and not path.exists():
        return
    try:
        recorded = read_metrics(path)
        if recorded[: len(history)] == history and not (fresh and recorded):
            return
        problem = f"{path}: of its {len(recorded)} epochs the first {len(history)} are not those of the checkpoint"
        if fresh:
            problem = f"{path}: has {len(recorded)} epochs, but there is no checkpoint of them"
    except InputError as error:
        problem = str(error).partition(": restore")[0]  # which is done here
    kept = ""
    if path.exists():
        aside = free_name(path.with_name(f"{path.name}.damaged"))
        with writing(aside):
            path.rename(aside)
        kept = f"; what was there is kept as {aside.name}"
    logging.getLogger(__name__).warning(f"{problem}: written again{kept}")
