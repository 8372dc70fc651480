"""The wheel: it holds jresnet and nothing else, and trains a network outside the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import sys
import jresnet
assert jresnet.__file__.startswith(sys.argv[1]), jresnet.__file__
dataset = jresnet.load_dataset("synthetic").subset(train=64, test=32)
config = jresnet.Config(width=2, blocks=(1,), pool_size=8, epochs=1, batch_size=32)
result = jresnet.fit(config, dataset, "run")
print(jresnet.Classifier.load("run").predict(dataset.test.images).shape, result.commit)
"""


def pip(*words):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, words)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree, as the build leaves files behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("jresnet", "experiments", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", target, source)
    (path,) = target.glob("*.whl")
    return path


def test_it_holds_every_module_and_template_of_jresnet_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    kinds = (".py", ".css", ".html", ".j2")
    files = (path for path in (ROOT / "jresnet").rglob("*") if path.suffix in kinds)
    assert names == {path.relative_to(ROOT).as_posix() for path in files}


@pytest.mark.slow
def test_installed_outside_the_checkout_it_trains_a_network(wheel, tmp_path):
    site = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(site)], cwd=tmp_path, capture_output=True, text=True,
        # As users run it: with the compiler options of the library, which those of the other tests would replace.
        env=os.environ | {"PYTHONPATH": str(site), "XLA_FLAGS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(32, 10) None\n"
