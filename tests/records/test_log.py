"""The log of a run, and JSON files: contents, durability, and what a resumed or killed run leaves."""

import io
import json
import math
import os
import stat
import struct
import sys

import numpy as np
import pytest
import rich.console
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jresnet.errors import CannotWrite, InputError
from jresnet.records import schema
from jresnet.records.epoch import Epoch, read_metrics
from jresnet.records.files import sweep, write_json
from jresnet.records.log import RunLog

REPORT_LINE = "Epoch 83, Train loss 0.421626, Test loss 0.388598, Train acc 0.854020, Test acc 0.868830"


def an_epoch(epoch, **changes):
    values = {
        "epoch": epoch,
        "train_loss": 0.421626,
        "test_loss": 0.388598,
        "train_accuracy": 0.85402,
        "test_accuracy": 0.86883,
        "learning_rate": 0.01,
        "images_per_second": 31250.0,
        "seconds": 1.6,
    }
    return Epoch(**values | changes)


def record(epoch, **changes):
    return schema.to_json(an_epoch(epoch, **changes))


def lines(*records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def opened(workdir, first_epoch=0, first_step=0, console=None, epochs=100, steps_per_epoch=10, history=None):
    """An open log; by default after epochs of which the checkpoint has the records."""
    log = RunLog(workdir, epochs=epochs, steps_per_epoch=steps_per_epoch, console=console, label="final")
    history = [record(epoch) for epoch in range(first_epoch)] if history is None else history
    if not (workdir / "metrics.jsonl").exists():
        (workdir / "metrics.jsonl").write_bytes(lines(*history))
    log.begin(first_epoch, first_step, history)
    return log


def read_events(path):
    """Read the events of a TFRecord file: length, its checksum, the event, its checksum."""
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def scalars(events):
    return {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}


def test_nothing_is_created_before_begin(tmp_path):
    RunLog(tmp_path / "run", epochs=1, steps_per_epoch=1).close()
    assert not (tmp_path / "run").exists()


def test_a_log_that_does_not_write_keeps_the_history_only(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(lines(record(0)))
    with RunLog(tmp_path, epochs=2, steps_per_epoch=1, writes=False) as log:
        log.begin(1, history=[record(0)])
        log.epoch(an_epoch(1))
    assert log.history == [record(0), record(1)]
    assert os.listdir(tmp_path) == ["metrics.jsonl"] and read_metrics(tmp_path / "metrics.jsonl") == [record(0)]


def test_tensorboardx_is_imported_after_the_first_epoch_only(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorboardX")
    with opened(tmp_path) as log:
        log.advance(3, 0, "train")
        assert "tensorboardX" not in sys.modules
        log.epoch(an_epoch(0))
        assert "tensorboardX" in sys.modules


def test_epochs_are_written_at_once_as_strict_json_lines(tmp_path):
    with opened(tmp_path) as log:
        log.epoch(an_epoch(0, train_loss=np.float32(0.25), seconds=np.float32(0.5)))
        assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
        log.epoch(an_epoch(np.int64(1)))
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines(record(0, train_loss=0.25, seconds=0.5), record(1))
    assert log.history == read_metrics(tmp_path / "metrics.jsonl")


def test_an_epoch_is_synced_to_disk_before_the_call_returns(tmp_path, monkeypatch):
    with opened(tmp_path) as log:
        metrics = os.stat(tmp_path / "metrics.jsonl").st_ino
        sizes, fsync = [], os.fsync

        def recorded(descriptor):
            if os.fstat(descriptor).st_ino == metrics:
                sizes.append(os.fstat(descriptor).st_size)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", recorded)
        log.epoch(an_epoch(0))
    assert sizes == [os.stat(tmp_path / "metrics.jsonl").st_size]


@pytest.mark.parametrize("number", [math.nan, math.inf, np.float32("nan"), -1.0])
def test_numbers_that_could_not_be_read_again_are_not_written(tmp_path, number):
    with opened(tmp_path) as log:
        log.epoch(an_epoch(0))
        before = (tmp_path / "metrics.jsonl").read_bytes()
        with pytest.raises(InputError, match=r"metrics\.jsonl: not a record of this version \(train_loss is "):
            log.epoch(an_epoch(1, train_loss=number))
        assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_epoch_needs_an_open_log_and_close_may_be_repeated(tmp_path):
    log = opened(tmp_path)
    log.close()
    log.close()
    with pytest.raises(RuntimeError, match="begin"):
        log.epoch(an_epoch(0))


@pytest.mark.parametrize(
    "truncated", [b'{"epoch": 2, "train_lo', b"\x00" * 40, b'{"epoch": 2, "name": "caf\xc3', b'{"epoch": 2', b""]
)
def test_resume_drops_later_epochs_and_a_truncated_line(tmp_path, truncated, caplog):
    (tmp_path / "metrics.jsonl").write_bytes(lines(record(0), record(1)) + truncated)
    with opened(tmp_path, first_epoch=1) as log:
        assert log.history == [record(0)]
        log.epoch(an_epoch(1, train_loss=0.25))
    assert read_metrics(tmp_path / "metrics.jsonl") == [record(0), record(1, train_loss=0.25)]
    assert not caplog.records


WHOLE = [record(0), record(1), record(2)]
ALTERED = {
    "deleted line": lines(WHOLE[0], WHOLE[2]),
    "empty": b"",
    "first line only": lines(WHOLE[0]),
    "doubled line": lines(WHOLE[0], WHOLE[0], WHOLE[1], WHOLE[2]),
    "shuffled": lines(WHOLE[1], WHOLE[0], WHOLE[2]),
    "another figure": lines(record(0, train_loss=0.5), WHOLE[1], WHOLE[2]),
    "another type": lines(WHOLE[0] | {"train_loss": "0.5"}, *WHOLE[1:]),
    "unknown field": lines(WHOLE[0] | {"loss": 0.5}, *WHOLE[1:]),
    "missing field": lines({"epoch": 0}, *WHOLE[1:]),
    "garbage": b"\x00" * 100 + b"\n",
    "missing": None,
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_file_that_is_not_the_checkpoints_history_is_set_aside_and_written_again(tmp_path, name, caplog):
    if ALTERED[name] is not None:
        (tmp_path / "metrics.jsonl").write_bytes(ALTERED[name])
    log = RunLog(tmp_path, epochs=3, steps_per_epoch=1)
    log.begin(2, history=WHOLE[:2])
    log.epoch(an_epoch(2))
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == WHOLE
    (warning,) = caplog.messages
    assert "metrics.jsonl" in warning and "written again" in warning and "\n" not in warning
    kept = list(tmp_path.glob("metrics.jsonl.damaged-*"))
    assert [path.read_bytes() for path in kept] == [ALTERED[name]] * (ALTERED[name] is not None)


def test_records_without_any_checkpoint_are_set_aside(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_bytes(lines(*WHOLE))
    RunLog(tmp_path, epochs=3, steps_per_epoch=1).begin(0)
    assert (tmp_path / "metrics.jsonl.damaged-1").read_bytes() == lines(*WHOLE)
    assert "has 3 epochs, but there is no checkpoint of them: written again; what was there is kept" in caplog.text


def test_epochs_after_a_checkpoint_within_the_first_are_dropped(tmp_path, caplog):
    """As where later checkpoints could not be written any more."""
    (tmp_path / "metrics.jsonl").write_bytes(lines(*WHOLE))
    RunLog(tmp_path, epochs=3, steps_per_epoch=1).begin(0, first_step=1)
    assert os.listdir(tmp_path) == ["metrics.jsonl"] and read_metrics(tmp_path / "metrics.jsonl") == []
    assert not caplog.records


def test_without_a_history_the_file_must_have_every_epoch(tmp_path):
    """As after a checkpoint of a version without digests."""
    log = RunLog(tmp_path, epochs=3, steps_per_epoch=1)
    (tmp_path / "metrics.jsonl").write_bytes(lines(*WHOLE))
    log.begin(2, history=None)
    assert log.history == WHOLE[:2]
    for content in (value for name, value in ALTERED.items() if name not in ("another figure", "missing")):
        (tmp_path / "metrics.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=r"metrics\.jsonl.*restore"):
            log.begin(2, history=None)
        assert (tmp_path / "metrics.jsonl").read_bytes() == content


def test_a_crash_in_begin_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    before = lines(*WHOLE)
    (tmp_path / "metrics.jsonl").write_bytes(before)

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(CannotWrite, match="disk full"):
        opened(tmp_path, first_epoch=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_events_contain_every_value_under_its_tag(tmp_path):
    with opened(tmp_path) as log:
        log.epoch(an_epoch(0, validation_loss=0.5, validation_accuracy=0.75))
        log.epoch(an_epoch(1))
    (path,) = tmp_path.glob("events.*")
    written = scalars(read_events(path))
    both = {"loss/train": 0.421626, "loss/test": 0.388598, "accuracy/train": 0.85402, "accuracy/test": 0.86883}
    both |= {"learning_rate": 0.01, "images_per_second": 31250.0}
    expected = {(tag, step): value for step in (0, 1) for tag, value in both.items()}
    expected |= {("loss/validation", 0): 0.5, ("accuracy/validation", 0): 0.75}
    assert written == pytest.approx(expected, rel=1e-6)


def test_resumed_events_purge_later_steps_and_keep_the_earlier_file(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)  # both writers are created in the same second
    with opened(tmp_path) as log:
        log.epoch(an_epoch(0, train_loss=0.5))
        log.epoch(an_epoch(1, train_loss=9.0))
    log.begin(1, history=log.history[:1])
    log.epoch(an_epoch(1, train_loss=0.25))
    log.close()
    first, second = (read_events(path) for path in sorted(tmp_path.glob("events.*")))
    assert scalars(first)["loss/train", 0] == 0.5
    assert ("loss/train", 0) not in scalars(second) and scalars(second)["loss/train", 1] == 0.25
    starts = [event.step for event in second if event.session_log.status == SessionLog.START]
    assert starts == [1]


def test_without_tensorboardx_the_run_continues_and_prints_one_notice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    screen = io.StringIO()
    with opened(tmp_path, console=rich.console.Console(file=screen)) as log:
        log.epoch(an_epoch(0))
        log.epoch(an_epoch(1))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert not list(tmp_path.glob("events.*"))
    assert screen.getvalue().count("tensorboardX is not installed") == 1


def test_the_console_line_has_the_format_of_the_report(tmp_path):
    screen = io.StringIO()
    with opened(tmp_path, console=rich.console.Console(file=screen, width=20)) as log:
        log.advance(3, 83, "train")
        log.epoch(an_epoch(83))
        log.epoch(an_epoch(84, validation_accuracy=0.861))
    second = REPORT_LINE.replace("83,", "84,") + ", Validation acc 0.861000"
    assert screen.getvalue() == f"{REPORT_LINE}\n{second}\n"


def test_a_pipe_gets_no_progress_bar_even_with_force_color(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = io.StringIO()
    with opened(tmp_path, console=rich.console.Console(file=screen, width=20)) as log:
        log.advance(3, 83, "train")
        log.epoch(an_epoch(83))
    assert screen.getvalue() == REPORT_LINE + "\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_resumed_bar_estimates_the_remaining_time_from_its_own_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    now, screen = [1000.0], Terminal()
    console = rich.console.Console(file=screen, width=120, get_time=lambda: now[0])
    with opened(tmp_path, first_epoch=50, first_step=4, console=console) as log:
        assert "50%" in screen.getvalue()
        for step in range(5, 9):
            now[0] += 2.0
            log.advance(step, 50, "train")
        log.epoch(an_epoch(50))
        now[0] += 2.0
        log.advance(9, 50, "train")
        log._progress.refresh()
    output = screen.getvalue()
    # Of 1000 steps 509 are done; 491 remain, at 2 s each.
    for part in ("final", "epoch 51/100", "train", "51%", "31,250 images/s", "0:16:22"):
        assert part in output
    assert REPORT_LINE.replace("83,", "50,") in output


def test_read_metrics_skips_a_truncated_line_only_at_the_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(record(0)) + b'{"epoch": 1, "tr')
    assert read_metrics(path) == [record(0)]
    for bad in (b'{"epoch": 1, "tr', b"[1, 2]", b'{"train_loss": 1.0}', b"", b"[" * 100_000, b'{"epoch": NaN}'):
        path.write_bytes(lines(record(0)) + bad + b"\n" + lines(record(2)))
        with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: "):
            read_metrics(path)
    path.write_bytes(lines(record(0)) + b'{"epoch": 1, "tr\n')
    with pytest.raises(InputError, match="line 2"):
        read_metrics(path)
    with pytest.raises(InputError, match="No such file"):
        read_metrics(tmp_path / "absent.jsonl")


def test_records_of_before_versions_are_read(tmp_path):
    old = {name: value for name, value in record(0).items() if name != "version"}
    (tmp_path / "metrics.jsonl").write_bytes(lines(old))
    assert read_metrics(tmp_path / "metrics.jsonl") == [old]
    (tmp_path / "metrics.jsonl").write_bytes(lines(old | {"version": 2}))
    with pytest.raises(InputError, match="its version is 2, and this jresnet reads 0 to 1"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_temporary_files_of_dead_processes_are_swept(tmp_path):
    names = (".config.json.0123abcd.tmp", ".probe.00000000.tmp")
    for name in (*names, "config.json", ".hidden", "a.tmp", ".config.json.0123abcd.tmp.gz"):
        (tmp_path / name).touch()
    sweep(tmp_path, older_than=3600)
    assert len(os.listdir(tmp_path)) == 6
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".config.json.0123abcd.tmp.gz", ".hidden", "a.tmp", "config.json"]
    sweep(tmp_path / "absent")


def test_write_json_is_strict_and_creates_an_ordinary_file(tmp_path):
    path = tmp_path / "result.json"
    previous = os.umask(0o022)
    try:
        write_json(path, {"seed": 1, "blocks": (2, 2), "loss": math.nan, "ok": True, "n": np.int32(3)})
    finally:
        os.umask(previous)
    expected = '{\n  "seed": 1,\n  "blocks": [\n    2,\n    2\n  ],\n  "loss": null,\n  "ok": true,\n  "n": 3\n}\n'
    assert path.read_text() == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_json_leaves_only_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "result.json"
    path.write_text("old")

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, crash)
    with pytest.raises(CannotWrite, match="disk full"):
        write_json(path, {"seed": 1})
    monkeypatch.undo()
    with pytest.raises(TypeError):
        write_json(path, {"seed": object()})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]
