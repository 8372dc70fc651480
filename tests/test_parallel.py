"""One device or several: the same parameters, statistics, sums and figures; batches that do not divide are refused."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from jresnet import parallel
from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.parallel import Devices

ROOT = pathlib.Path(parallel.__file__).parent.parent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What training on one jitted and on 1, 2, 4 and 8 pmapped devices came to, float64."""
    folder = tmp_path_factory.mktemp("ways")
    program = pathlib.Path(__file__).with_name("parallel_program.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, program, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_any_number_of_devices_comes_to_the_same(outcomes, count):
    expected, found = outcomes["jit"], outcomes[f"pmap{count}"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Images and recorded losses are float32; the arithmetic between them is float64.
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-8, err_msg=name)


def test_every_image_is_counted_once(outcomes):
    for way, found in outcomes.items():
        assert found["images"] == 38, way
        assert found["losses"].shape == found["predictions"].shape == found["confidences"].shape == (21,), way


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    with pytest.raises(InputError, match=r"--batch-size 32: does not divide among 3 devices: choose 30 or 33"):
        Devices(Config(batch_size=32))
    with pytest.raises(InputError, match=r"--batch-size 2: .* choose 3, or"):
        Devices(Config(batch_size=2, parallel="pmap"))
    assert Devices(Config(batch_size=33)).count == 3
    assert Devices(Config(batch_size=32, parallel="jit")).count == 1


@pytest.mark.parametrize("count", [1, 2, 4])
def test_join_takes_back_what_split_does(monkeypatch, count):
    monkeypatch.setattr(jax, "local_device_count", lambda: count)
    devices = Devices(Config(batch_size=8, parallel="pmap"))
    array = np.arange(2 * 8 * 3).reshape(2, 8, 3)
    parts = devices.split(array)
    assert parts.shape == (count, 2, 8 // count, 3)
    np.testing.assert_array_equal(np.concatenate(np.asarray(parts), 1), array)
    np.testing.assert_array_equal(devices.join(parts), array)


def test_the_users_own_flag_is_kept(monkeypatch):
    parallel.compiler_options.cache_clear()
    assert "LIBRARY_FUSION_TYPE_REDUCE" in str(parallel.compiler_options())
    parallel.compiler_options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT")
    assert parallel.compiler_options() is None
    parallel.compiler_options.cache_clear()


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    assert parallel._understood("xla_no_such_option", "1") is None
    monkeypatch.delenv("XLA_FLAGS")
    parallel.once_options.cache_clear()
    assert parallel.once_options() == {"xla_backend_optimization_level": "0"}
    parallel.once_options.cache_clear()


CACHE = "from jresnet import parallel; import jax; parallel.enable_compile_cache(); "
CACHE += "print(jax.config.jax_compilation_cache_dir)"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/somewhere"}, "/somewhere/jresnet/xla"),
        ({"HOME": "/home/user"}, "/home/user/.cache/jresnet/xla"),
        ({"HOME": "/home/user", "JAX_COMPILATION_CACHE_DIR": "/mine"}, "/mine"),
    ],
)
def test_the_compile_cache_is_the_users(variables, expected):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "XDG_CACHE"))}
    done = subprocess.run(
        [sys.executable, "-c", CACHE], env=kept | {"PYTHONPATH": str(ROOT)} | variables, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == expected
