"""A long run: after a warm-up its memory, threads and open files stay what they are."""

import ctypes
import dataclasses
import gc
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import pytest

from jresnet import records
from jresnet.train import loop
from tests.support import runs

EPOCHS, WARM, EVERY = 1000, 200, 10
CHECKPOINT_SECONDS = 0.5
"""Of training between two checkpoints: dozens are written."""


def usage():
    """Resident memory in KiB, and the numbers of threads and of open files, of this process."""
    # What was freed goes back to the system at no fixed time: glibc keeps it, and the compiler leaves much of it.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    status = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return {
        "KiB": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
    }


def train(workdir):
    """Train for EPOCHS epochs; returns the usage after every EVERY of them."""
    samples = []

    class Log(records.log.RunLog):
        """Takes a sample after every tenth epoch."""

        def epoch(self, record):
            super().epoch(record)
            if record.epoch % EVERY == EVERY - 1:
                samples.append(usage())

    loop.RunLog = Log
    config = dataclasses.replace(runs.CONFIG, epochs=EPOCHS, learning_rate=1e-4)
    loop.fit(config, runs.make_dataset(), workdir, checkpoint_seconds=CHECKPOINT_SECONDS)
    return samples


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists() or platform.libc_ver()[0] != "glibc",
    reason="needs Linux's /proc and glibc",
)
def test_a_thousand_epochs_take_no_more_memory_threads_or_files_than_two_hundred(tmp_path):
    """In a process of its own, so that only the run counts."""
    program = "import json, sys; from tests.faults import test_soak as t; print(json.dumps(t.train(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    samples = json.loads(done.stdout.splitlines()[-1])
    assert len(samples) == EPOCHS // EVERY
    # Medians: a checkpoint that is being written takes memory, threads and files of its own.
    # Orbax's pools start their threads one by one.
    for measure, relative, more in (("KiB", 0.02, 0), ("threads", 0, 2), ("files", 0, 0)):
        values = [sample[measure] for sample in samples]
        first = WARM // EVERY
        warm, last = statistics.median_low(values[first : first + 10]), statistics.median_low(values[-10:])
        print(f"{measure}: {warm} at epoch {WARM}, {last} at the end, at most {max(values)}")
        assert abs(last - warm) <= relative * warm + more, f"{measure}: {warm} after the warm-up, {last} at the end"
