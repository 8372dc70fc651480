"""One run's record: metrics.jsonl and TensorBoard events in its directory, its progress on the console."""

import json
import math
import os
import pathlib
from typing import IO, TYPE_CHECKING

import rich.console
import rich.progress

from jresnet.errors import InputError
from jresnet.records.files import _strict, write_bytes

if TYPE_CHECKING:
    import tensorboardX

METRICS = "metrics.jsonl"

_TAGS = {
    "train_loss": "loss/train",
    "test_loss": "loss/test",
    "validation_loss": "loss/validation",
    "train_accuracy": "accuracy/train",
    "test_accuracy": "accuracy/test",
    "validation_accuracy": "accuracy/validation",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}


class RunLog:
    """Writes one run's record as the run proceeds; a context manager that closes itself.

    `metrics.jsonl` holds one JSON object per epoch, on disk before `epoch` returns, so that a killed run
    loses nothing but the epoch it was in. Nothing is created before `begin`.

    Args:
      workdir: the run's directory.
      epochs: epochs of the whole run.
      steps_per_epoch: training steps in one epoch.
      console: where the epochs' lines go, and on a terminal a progress bar; None for silence.
      label: name of the run, shown beside the bar.
      writes: whether this process is the one that writes; others keep the history only.

    Attributes:
      history: the epochs' records so far, as `metrics.jsonl` holds them.
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
        """Remember where the record goes; see the class for the arguments."""
        self.history: list[dict] = []
        self._workdir = pathlib.Path(workdir)
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._console = console
        self._label = label
        self._writes = writes
        self._begun = False
        self._metrics: IO[bytes] | None = None
        self._events: tensorboardX.SummaryWriter | None = None
        self._events_from: int | None = None  # their first epoch, as long as they are not open
        self._progress: rich.progress.Progress | None = None
        self._task = rich.progress.TaskID(0)
        self._speed = ""

    def begin(self, first_epoch: int, first_step: int = 0) -> None:
        """Open the record for the epochs from `first_epoch` on; what it held of those is dropped.

        Args:
          first_epoch: first epoch still to be recorded, counted from 0.
          first_step: steps of that epoch which are already done.
        """
        self.close()
        path = self._workdir / METRICS
        self.history = [record for record in _surviving_records(path) if record["epoch"] < first_epoch]
        self._begun = True
        if not self._writes:
            return
        self._workdir.mkdir(parents=True, exist_ok=True)
        write_bytes(path, b"".join(map(_json_line, self.history)))
        self._metrics = path.open("ab")
        self._events_from = first_epoch
        self._progress = self._start_progress(first_epoch, first_step)

    def advance(self, step_in_epoch: int, epoch: int, stage: str) -> None:
        """Show on the bar that `step_in_epoch` training steps of `epoch` are done, and the stage it is in.

        Args:
          step_in_epoch: training steps of this epoch done so far.
          epoch: the epoch, counted from 0; the bar counts from 1.
          stage: "compile", "train" or "test".
        """
        if self._progress is not None:
            self._progress.update(
                self._task,
                completed=epoch * self._steps_per_epoch + step_in_epoch,
                epoch=epoch + 1,
                stage=stage,
                speed=self._speed,
            )

    def epoch(self, record: dict) -> None:
        """Record one finished epoch on disk, as TensorBoard scalars, and as the report's line on the console.

        Args:
          record: epoch, train_loss, train_accuracy (losses in nats, accuracies from 0 to 1); optionally
            test_loss, test_accuracy, validation_loss, validation_accuracy, learning_rate,
            images_per_second, seconds. NaN and infinity are written as null.

        Raises:
          RuntimeError: the record is not open.
        """
        if not self._begun:
            raise RuntimeError("RunLog.epoch needs an open record: call begin first")
        line = _json_line(record)
        if self._metrics is not None:
            self._metrics.write(line)
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
        self.history.append(json.loads(line))
        if self._events_from is not None:
            self._events, self._events_from = self._open_events(self._events_from), None
        if self._events is not None:
            for key, tag in _TAGS.items():
                if record.get(key) is not None:
                    self._events.add_scalar(tag, record[key], record["epoch"])
        if record.get("images_per_second") is not None:
            self._speed = f"{record['images_per_second']:,.0f} images/s"
        self._print(epoch_line(record))

    def close(self) -> None:
        """Close the files, with every event flushed, and take the bar away; does nothing a second time."""
        self._begun, self._events_from = False, None
        progress, self._progress = self._progress, None
        events, self._events = self._events, None
        metrics, self._metrics = self._metrics, None
        if progress is not None:
            progress.stop()
        if events is not None:
            events.close()
        if metrics is not None:
            metrics.close()

    def __enter__(self) -> "RunLog":
        """Return the record itself; `begin` opens it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the record, whether or not the run succeeded."""
        self.close()

    def _open_events(self, first_epoch: int) -> "tensorboardX.SummaryWriter | None":
        # When the first epoch has ended: tensorboardX imports PyTorch where that is installed, which takes seconds.
        try:
            import tensorboardX
        except ImportError:
            self._print("tensorboardX is not installed: this run writes no TensorBoard events")
            return None
        # tensorboardX names a file by the second of its creation and truncates one that has the same
        # name. The suffix keeps a quick resume from erasing the events of the epochs before it.
        return tensorboardX.SummaryWriter(
            str(self._workdir), purge_step=first_epoch, flush_secs=1, filename_suffix=f".{first_epoch}"
        )

    def _start_progress(self, first_epoch: int, first_step: int) -> rich.progress.Progress | None:
        console = self._console
        # FORCE_COLOR makes rich take a pipe for a terminal; only a real one can redraw a bar.
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
            # Long enough for one update per epoch; where updates are frequent rich keeps the last 1000.
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
        progress.start()
        return progress

    def _print(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def epoch_line(record: dict) -> str:
    """The report's line for one epoch's record: "Epoch 83, Train loss 0.421626, Test loss ...".

    A null (in `metrics.jsonl`, a value that was not finite) reads as nan; a figure that the run does not
    have is left out.
    """
    names = {
        "Train loss": "train_loss",
        "Test loss": "test_loss",
        "Train acc": "train_accuracy",
        "Test acc": "test_accuracy",
        "Validation acc": "validation_accuracy",
    }
    figures = {name: record[key] for name, key in names.items() if key in record}
    shown = (f"{name} {math.nan if value is None else value:.6f}" for name, value in figures.items())
    return ", ".join((f"Epoch {record['epoch']}", *shown))


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The epochs' records in a `metrics.jsonl`, in order.

    A last line that a killed run left incomplete, which its missing line break shows, is passed over.

    Raises:
      InputError: the file is missing, or another of its lines is not an epoch's JSON object.
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


def _json_line(record: dict) -> bytes:
    return json.dumps(_strict(record), allow_nan=False).encode() + b"\n"


def _surviving_records(path: pathlib.Path) -> list[dict]:
    """Every record that can be read, in a file that a killed run may have left in any state."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [record for record in map(_parse, lines) if record is not None]


def _parse(line: bytes) -> dict | None:
    """One line's record, or None: a beginning of a JSON object is never itself one, so torn lines fail."""
    try:
        record = json.loads(line.decode())
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("epoch"), int) else None
