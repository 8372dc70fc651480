"""Checkpoints: restored bit for bit, the latest are kept, and a damaged one is refused in one line."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.errors import InputError
from jresnet.train import checkpoint
from jresnet.train.checkpoint import Checkpoints, Meta


def state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "step": jnp.int32(seed),
        "key": jax.random.key(seed),
    }


def bits(tree):
    return jax.tree.map(np.asarray, tree | {"key": jax.random.key_data(tree["key"])})


@pytest.mark.parametrize("name", ["checkpoints", "run[1]/checkpoints", "[ab]/a b*?#{x}%41/checkpoints", "c[0]"])
def test_state_and_metadata_are_restored_bit_for_bit(tmp_path, name):
    with Checkpoints(tmp_path / name) as checkpoints:
        assert checkpoints.steps() == []
        checkpoints.save(7, state(7), Meta(seconds=1.25))
    with Checkpoints(tmp_path / name, keep=1) as checkpoints:
        assert checkpoints.steps() == [7]
        found, meta = checkpoints.restore(7, state())
        checkpoints.save(9, state(9), Meta())
    with Checkpoints(tmp_path / name, read_only=True) as checkpoints:
        assert checkpoints.steps() == [9]
        chex.assert_trees_all_equal(bits(checkpoints.restore_newest(state())[0]), bits(state(9)))
    chex.assert_trees_all_equal(bits(found), bits(state(7)))
    assert (meta.seconds, meta.history, meta.execution) == (1.25, None, None)


@pytest.mark.parametrize(("keep", "kept"), [(2, [3, 4]), (1, [4]), (None, [1, 2, 3, 4])])
def test_the_latest_are_kept(tmp_path, keep, kept):
    with Checkpoints(tmp_path, keep) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, state(step), Meta())
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == kept


def test_an_existing_step_is_not_overwritten(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Meta())
        checkpoints.save(1, state(2), Meta())
    with Checkpoints(tmp_path) as checkpoints:
        chex.assert_trees_all_equal(bits(checkpoints.restore(1, state())[0]), bits(state(1)))


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    consume = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    numbers = {"a": jnp.arange(100_000, dtype=jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, numbers, Meta())
        for _ in range(3):
            numbers = consume(numbers)
    with Checkpoints(tmp_path) as checkpoints:
        found, _ = checkpoints.restore(1, {"a": jnp.zeros(100_000)})
    np.testing.assert_array_equal(found["a"], np.arange(100_000))


def test_a_checkpoint_without_digests_is_restored_and_said_to_be_unverified(tmp_path, monkeypatch, caplog):
    """As versions before digests wrote it."""
    monkeypatch.setattr(checkpoint, "_record", lambda run, step, digests, meta: {"seconds": meta.seconds})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Meta(seconds=1.25))
    with Checkpoints(tmp_path, runs=("any",)) as checkpoints:
        found, meta = checkpoints.restore_newest(state())
    chex.assert_trees_all_equal(bits(found), bits(state(1)))
    assert (meta.seconds, meta.history) == (1.25, None)
    assert caplog.messages == [f"{tmp_path}/1: is of a version without digests: its arrays are not verified"]


@pytest.mark.parametrize(
    "record", [None, {}, {"seconds": "1"}, {"seconds": 1.0, "version": 2}, {"step": 1}, [], {"seconds": 1.0, "run": ""}]
)
def test_a_record_of_another_form_is_refused(tmp_path, monkeypatch, record):
    monkeypatch.setattr(checkpoint, "_record", lambda *_: record)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Meta())
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError) as caught:
        checkpoints.restore(1, state())
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [MemoryError("of the host"), PermissionError(13, "x"), ValueError("RESOURCE_EXHAUSTED: of a GPU")]
)
def test_what_passes_is_no_damage(tmp_path, monkeypatch, error):
    """Neither is the checkpoint set aside, nor an older one used."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), Meta())

    def fail(*_, **__):
        raise error

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._open(), "restore", fail)
        with pytest.raises(InputError, match="2: this checkpoint cannot be read now"):
            checkpoints.restore_newest(state())
        assert checkpoints.steps() == [1, 2]


def test_a_checkpoint_of_another_device_is_read(tmp_path):
    """As one that a GPU has written is verified on a CPU."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Meta())
    path = tmp_path / "1" / "state" / "_sharding"
    text = path.read_text()
    assert "cpu:0" in text
    path.write_text(text.replace("cpu:0", "cuda:0"))
    with Checkpoints(tmp_path) as checkpoints:
        found, _ = checkpoints.restore(1)
        chex.assert_trees_all_equal(bits(found), bits(state(1)))


def test_an_unfinished_checkpoint_is_ignored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Meta())
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), Meta())
    for path in (tmp_path / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError) as caught:
        checkpoints.restore(1, state())
    assert "this checkpoint cannot be restored" in str(caught.value) and "\n" not in str(caught.value)
