"""How every test runs: JAX on one CPU device, no silent promotion of ranks or dtypes, caches beside pytest's own."""

import os
import tempfile

import hypothesis
import jax

# The same examples every time; compiling the first of them takes longer than Hypothesis's deadline.
hypothesis.settings.register_profile("jresnet", deadline=None, derandomize=True)
hypothesis.settings.load_profile("jresnet")


def pytest_configure(config):
    cache = getattr(config, "cache", None)
    settings = {
        "jax_platforms": "cpu",
        "jax_numpy_rank_promotion": "raise",
        "jax_numpy_dtype_promotion": "strict",
        # Compiled programs stay out of the user's ~/.cache, and a second run of the tests finds them.
        "jax_compilation_cache_dir": str(cache.mkdir("xla")) if cache else tempfile.mkdtemp(prefix="xla-"),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    # Compiling is most of the tests' time, and for networks as small as theirs LLVM's optimisations do not pay.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()
    # Decoded data sets too.
    os.environ["XDG_CACHE_HOME"] = str(cache.mkdir("user")) if cache else tempfile.mkdtemp(prefix="user-")
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)  # for the programs that tests start
        jax.config.update(name, value)


def pytest_collection_modifyitems(items):
    # tests/train/test_loop.py takes longest: begun last, it would leave the other process without work.
    items.sort(key=lambda item: item.path.name != "test_loop.py")
