"""Memory: what a run needs is judged before anything is written, and a memory that runs out is one line."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet import cli
from jresnet.errors import InputError
from jresnet.parallel.devices import Devices
from jresnet.train import loop, memory, optim
from tests.support.runs import CONFIG, make_dataset

ROOT = pathlib.Path(__file__).parents[2]


def refused(tmp_path, **changes):
    """The message of a run that is refused before its directory is made."""
    with pytest.raises(InputError) as caught:
        loop.fit(dataclasses.replace(CONFIG, **changes), make_dataset(), tmp_path / "run")
    assert os.listdir(tmp_path) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parameters_that_no_batch_makes_fit_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "left", lambda: 12_000_000_000 - 1)
    # Two blocks of 3x3 kernels, the stem and the shortcut: about (18 + 54 + 2) width**2 parameters.
    message = refused(tmp_path, width=4_000)
    assert message.startswith("training ") and "at least 14.2 GB of memory, and 12.0 GB are there: lower" in message


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("averages", [False, True])
def test_memory_for_gradients_moments_and_averages_is_counted(monkeypatch, name, averages):
    """Beside the bytes of a state for one kernel of a convolution, and its gradient."""
    config = dataclasses.replace(CONFIG, optimizer=name, ema_decay=0.9 if averages else None)
    kernel = {"kernel": jax.ShapeDtypeStruct((3, 3, 10, 100), jnp.float32)}
    state = jax.eval_shape(optim.optimizer(config, 1).init, kernel)
    arrays = [leaf for leaf in jax.tree.leaves((kernel, kernel, state)) if leaf.shape == kernel["kernel"].shape]
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in arrays) + (36_000 if averages else 0)
    monkeypatch.setattr(memory, "left", lambda: needed)
    memory.check_state(9000, config)
    with pytest.raises(InputError, match=rf"9,001 parameters needs at least {needed + needed // 9000:,} bytes"):
        memory.check_state(9001, config)


def test_a_step_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "left", lambda: 100_000)
    message = refused(tmp_path, batch_size=64)
    assert message.startswith("a step of --batch-size 64 needs ") and "and 100,000 bytes are there" in message
    assert message.endswith(": lower --batch-size, --width or --blocks, or raise --accumulate")


def test_the_remedy_is_none_that_the_options_refuse(monkeypatch):
    monkeypatch.setattr(memory, "left", lambda: 0)
    program = jax.jit(lambda x: x + 1).lower(jnp.ones(9)).compile()
    for config in (CONFIG, dataclasses.replace(CONFIG, sam=0.05)):
        with pytest.raises(InputError) as caught:
            memory.check_step(program, config, Devices(config))
        assert ("--accumulate" in str(caught.value)) == (not config.sam)


def test_the_memory_of_a_step_is_what_xla_says_it_needs(monkeypatch):
    def outer(x):
        return jnp.sort(jnp.outer(x, x), axis=0).sum()

    program = jax.jit(outer).lower(jax.ShapeDtypeStruct((1000,), jnp.float32)).compile()
    devices = Devices(CONFIG)
    for left, fits in ((5_000_000, True), (3_900_000, False)):  # of 1000 x 1000 float32 numbers
        monkeypatch.setattr(memory, "left", lambda left=left: left)
        if fits:
            memory.check_step(program, CONFIG, devices)
        else:
            with pytest.raises(InputError, match=r"needs 4\.0 MB of memory, and 3\.9 MB are there"):
                memory.check_step(program, CONFIG, devices)


def test_the_memory_that_is_left_on_a_device_is_its_own(monkeypatch):
    class Gpu:
        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 300}

    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu()])
    assert memory.left() == 700


ALLOCATIONS = {
    "jax": lambda: jnp.zeros(2**46, jnp.int8).block_until_ready(),
    "numpy": lambda: np.ones(2**46, np.int8),
    "python": lambda: bytearray(2**46),
}


@pytest.mark.parametrize("allocate", ALLOCATIONS.values(), ids=ALLOCATIONS)
def test_a_memory_that_runs_out_is_one_line(allocate, capsys):
    with pytest.raises(InputError, match=r"there is not enough memory .*: lower --batch-size"), memory.limited():
        allocate()
    assert cli.exit_status(allocate) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("there is not enough memory (")


def test_other_errors_are_left_alone():
    with pytest.raises(ZeroDivisionError), memory.limited():
        _ = 1 / 0


PROGRAM = (
    "-m experiments.augmentation --quick --epochs 1 --blocks 1 1 --pool-size 4 --crop-padding 0 --input resident "
    "--workdir run"
)
SCALES = {"network": "--width 20000", "step": "--width 64 --batch-size 4000"}


@pytest.mark.slow
@pytest.mark.parametrize("options", SCALES.values(), ids=SCALES)
def test_a_program_within_6_gib_of_addresses_says_what_does_not_fit(tmp_path, options):
    command = f"ulimit -v {6 * 2**20}; exec {sys.executable} {PROGRAM} {options}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "of memory, and" in done.stderr and not (tmp_path / "run").exists()
