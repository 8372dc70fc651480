"""One device or several: the same parameters, statistics, sums and figures; batches that do not divide are refused."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.parallel import compiler
from jresnet.parallel.compiler import compiler_options, run_once_options
from jresnet.parallel.devices import Devices

ROOT = pathlib.Path(__file__).parents[2]


def outcomes(folder, dtype, *ways, **options):
    """What training in each of these ways came to, see the program."""
    program = ROOT / "tests" / "support" / "parallel_program.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, program, folder, dtype, json.dumps(options), *ways]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


def assert_same(found, expected, names, tolerance):
    assert found.keys() == expected.keys()
    for name in names:
        # The state's names are places in it; figures, unlike the state, are float32 either way.
        close = tolerance if name.startswith("[") else 1e-5
        np.testing.assert_allclose(found[name], expected[name], rtol=close, atol=close, err_msg=name)


def assert_all_same(found, dtype, tolerance):
    """Every way came to what one jitted device did, having counted every image once."""
    expected = found["jit"]
    assert {value.dtype for name, value in expected.items() if "params" in name} == {np.dtype(dtype)}
    for way, other in found.items():
        if way.endswith(("-saved", "-restored")):
            continue
        assert other["[2]"] == 12 and other["images"] == 38, way
        assert other["losses"].shape == other["predictions"].shape == other["confidences"].shape == (21,), way
        assert_same(other, expected, expected, tolerance)


def assert_restored(found, source, target):
    """The state restored elsewhere is the one that was saved, bit for bit."""
    saved, restored = found[f"{source}-saved"], found[f"{source}-{target}-restored"]
    assert saved["[2]"] == 6 and saved.keys() == restored.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(restored[name], value, err_msg=name)


def test_several_devices_come_to_what_one_does_and_a_checkpoint_of_theirs_goes_on_there(tmp_path):
    found = outcomes(tmp_path, "float64", "jit", "pmap4", "pmap4-jit")
    assert_all_same(found, "float64", 1e-10)
    assert_restored(found, "pmap4", "jit")


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_any_number_of_devices_comes_to_the_same(tmp_path, dtype, tolerance):
    counts = ("pmap1", "pmap2", "pmap4", "pmap8")
    found = outcomes(tmp_path, dtype, "jit", *counts, "jit-pmap4", "pmap8-pmap2", "pmap2-pmap8")
    assert len(found) == 16  # five ways, what each saved, three that went on, what each restored
    assert_all_same(found, dtype, tolerance)
    for source, target in (("jit", "pmap4"), ("pmap8", "pmap2"), ("pmap2", "pmap8")):
        assert_restored(found, source, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance", "options"),
    [
        ("float64", 1e-10, {"optimizer": "muon", "ema_decay": 0.8, "clip_norm": 1.0, "label_smoothing": 0.1}),
        ("float64", 1e-10, {"sam": 0.05, "weight_decay_on": "kernels"}),
        ("float32", 1e-4, {"mixup": 0.5, "cutmix": 1.0, "trivialaugment": True, "cutout": 3, "alternate_flip": True}),
    ],
)  # fmt: skip
def test_ingredients_come_to_the_same_on_several_devices(tmp_path, dtype, tolerance, options):
    found = outcomes(tmp_path, dtype, "jit", "pmap4", "pmap4-jit", **options)
    assert_all_same(found, dtype, tolerance)
    assert_restored(found, "pmap4", "jit")


@pytest.mark.slow
def test_the_collectives_of_a_step_are_as_many_as_documented():
    program = ROOT / "tests" / "support" / "collectives_program.py"
    done = subprocess.run(
        [sys.executable, program], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    counted = {way: (int(count), int(size)) for way, count, size in map(str.split, done.stdout.splitlines())}
    text = (ROOT / "docs" / "scaling.md").read_text()
    for way, (count, size) in counted.items():
        assert f"| all-reduces per step, `--batch-norm {way}` | {count} |" in text
        assert f"| {size / 1e6:.2f} MB |" in text
    small = counted["synchronised"][1] - 4 * 4_815_940
    assert f"The {counted['synchronised'][0] - 1} small ones carry {small / 1e3:.0f} kB" in text


def count_devices(monkeypatch, count, processes=1, index=0):
    """Let JAX say that it has this many devices."""
    counts = {
        "device_count": count, "local_device_count": count // processes, "process_count": processes,
        "process_index": index,
    }  # fmt: skip
    for name, value in counts.items():
        monkeypatch.setattr(jax, name, lambda value=value: value)


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    count_devices(monkeypatch, 3)
    with pytest.raises(InputError, match=r"--batch-size 32: does not divide among 3 devices: choose 30 or 33"):
        Devices(Config(batch_size=32))
    with pytest.raises(InputError, match=r"--batch-size 2: .* choose 3, or"):
        Devices(Config(batch_size=2, parallel="pmap"))
    assert Devices(Config(batch_size=33)).count == 3
    assert Devices(Config(batch_size=32, parallel="jit")).count == 1


def test_the_processes_parts_make_up_the_batch(monkeypatch):
    array = np.arange(2 * 8 * 3).reshape(2, 8, 3)
    parts = []
    for index in range(2):
        count_devices(monkeypatch, 4, processes=2, index=index)
        devices = Devices(Config(batch_size=8))
        assert devices.count == 4
        parts.append(devices.local_shard(array))
        assert parts[-1].shape == (2, 4, 3)
    np.testing.assert_array_equal(np.concatenate(parts, 1), array)


def test_several_processes_need_pmap_and_equally_many_devices(monkeypatch):
    count_devices(monkeypatch, 4, processes=2)
    with pytest.raises(InputError, match="--parallel jit: uses one device, but 2 processes are running: choose pmap"):
        Devices(Config(parallel="jit"))
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    with pytest.raises(InputError, match="4 devices over 2 processes: every process needs the same number of devices"):
        Devices(Config())


def test_the_users_own_flag_is_kept(monkeypatch):
    compiler_options.cache_clear()
    assert "LIBRARY_FUSION_TYPE_REDUCE" in str(compiler_options())
    compiler_options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT")
    assert compiler_options() is None
    compiler_options.cache_clear()


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    assert compiler._supported({"xla_no_such_option": "1"}) == {}
    monkeypatch.delenv("XLA_FLAGS")
    run_once_options.cache_clear()
    assert run_once_options() == {"xla_backend_optimization_level": "1"}
    run_once_options.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """Let JAX say that it computes on a GPU, and forget the options once found, before and after."""
    compiler_options.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield monkeypatch
    compiler_options.cache_clear()


def test_a_deterministic_gpu_gets_its_options(gpu):
    assert compiler_options() == (compiler.GPU_OPTIONS["xla"] or None)
    assert set(compiler._PROMISES) < set(compiler_options(deterministic=True))


def test_a_user_who_turns_a_promise_off_is_told(gpu):
    gpu.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=4 --xla_gpu_deterministic_ops=false")
    with pytest.raises(InputError, match="--deterministic: XLA_FLAGS turns xla_gpu_deterministic_ops off: remove it"):
        compiler_options(deterministic=True)
    gpu.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert "xla_gpu_deterministic_ops" not in compiler_options(deterministic=True)


def test_an_xla_that_cannot_be_deterministic_is_named(gpu):
    gpu.setattr(compiler, "_PROMISES", {"xla_no_such_option": "True"})
    with pytest.raises(InputError, match="--deterministic: this version of XLA lacks xla_no_such_option: install jax"):
        compiler_options(deterministic=True)


def test_on_a_cpu_deterministic_changes_nothing():
    assert compiler_options(deterministic=True) == compiler_options()


CACHE = "from jresnet.parallel.compiler import enable_compile_cache; import jax; enable_compile_cache(DETERMINISTIC); "
CACHE += "print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)"


@pytest.mark.parametrize(
    ("variables", "deterministic", "expected"),
    [
        ({"XDG_CACHE_HOME": "/somewhere"}, False, "/somewhere/jresnet/xla 0.05"),
        ({"XDG_CACHE_HOME": "/somewhere"}, True, "/somewhere/jresnet/xla-deterministic 0.05"),
        ({"HOME": "/home/user"}, False, "/home/user/.cache/jresnet/xla 0.05"),
        ({"HOME": "/home/user", "JAX_COMPILATION_CACHE_DIR": "/mine"}, False, "/mine 1.0"),
        ({"HOME": "/user", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "3"}, False, "/user/.cache/jresnet/xla 3.0"),
    ],
)
def test_the_compile_cache_is_the_users(variables, deterministic, expected):
    unset = ("JAX_COMPILATION", "JAX_PERSISTENT", "XDG_CACHE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    program = CACHE.replace("DETERMINISTIC", str(deterministic))
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept | {"PYTHONPATH": str(ROOT)} | variables, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == expected


def test_a_cache_is_warm_once_there_is_a_program_in_it(tmp_path):
    name = "jax_compilation_cache_dir"
    before = jax.config.values[name]
    try:
        for directory, state in ((None, "cold"), (tmp_path / "none", "cold"), (tmp_path, "cold")):
            jax.config.update(name, directory and str(directory))
            assert compiler.compile_cache() == state
        (tmp_path / "program").touch()
        assert compiler.compile_cache() == "warm"
    finally:
        jax.config.update(name, before)
