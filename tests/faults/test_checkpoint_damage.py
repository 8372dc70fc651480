"""Damaged checkpoints: whatever happens to one file, the restored arrays are the saved ones, or the damage is said."""

import logging
import random
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.errors import InputError
from jresnet.train.checkpoint import DAMAGED, Checkpoints, Meta

STEPS = (3, 6)


def state(step):
    """Arrays of the kinds that a run has, some large enough for files of their own."""
    rng = np.random.default_rng(step)
    params = {
        "stem": jnp.asarray(rng.normal(size=(3, 3, 3, 16)), jnp.float32),
        "kernel": jnp.asarray(rng.normal(size=(3, 3, 64, 128)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=257), jnp.bfloat16),
    }
    return (params, {"step": jnp.int32(step), "key": jax.random.key(step)}, jnp.float32(0.1))


def bits(tree):
    params, rest, rate = tree
    return jax.tree.map(np.asarray, (params, rest | {"key": jax.random.key_data(rest["key"])}, rate))


def meta(step):
    return Meta(seconds=step / 7, history=())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, state(step), meta(step))
    return directory


def flip(rng, path, files):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(rng, path, files):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def remove(rng, path, files):
    path.unlink()


def erase(rng, path, files):
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 5000))
    data[start:end] = bytes(end - start)
    path.write_bytes(data)


def swap(rng, path, files):
    other = rng.choice(files)
    content = path.read_bytes(), other.read_bytes()
    path.write_bytes(content[1])
    other.write_bytes(content[0])


def exchange(rng, path, files):
    """The two checkpoints under each other's name."""
    directory = next(parent for parent in path.parents if parent.name == "checkpoints")
    first, second = (directory / str(step) for step in STEPS)
    first.rename(directory / "aside")
    second.rename(first)
    (directory / "aside").rename(second)


def stale(rng, path, files):
    """What a process that was killed while it wrote leaves behind."""
    directory = next(parent for parent in path.parents if parent.name == "checkpoints")
    name = rng.choice(["9.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp-17956", "6.orbax-checkpoint-tmp-0", "tmp"])
    shutil.copytree(directory / "3", directory / name)
    flip(rng, rng.choice([p for p in (directory / name).rglob("*") if p.is_file() and p.stat().st_size]), files)


DAMAGES = (flip, flip, flip, cut, remove, erase, swap, exchange, stale)


def damage(rng, directory):
    """Damage a copy of the checkpoints in one way; returns the way's name."""
    way = rng.choice(DAMAGES)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)
    newest = [path for path in files if path.relative_to(directory).parts[0] == str(STEPS[-1])]
    way(rng, rng.choice(newest if rng.random() < 0.8 else files), files)
    return way.__name__


def judge(saved, folder, seed, caplog, capfd):
    """Restore from a damaged copy: the state of one of the steps bit for bit, and every other step named."""
    caplog.clear()
    rng = random.Random(seed)
    directory = folder / f"{seed}" / "checkpoints"
    shutil.copytree(saved, directory)
    way = damage(rng, directory)
    before = {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with Checkpoints(directory) as checkpoints:
        try:
            found, about = checkpoints.restore_newest(state(0))
        except InputError as error:
            assert "\n" not in str(error) and "no older one is sound" in str(error), (way, error)
            assert way in ("swap", "exchange"), way
            return way, None
    step = int(found[1]["step"])
    chex.assert_trees_all_equal(bits(found), bits(state(step)))
    assert about.seconds == step / 7
    named = [other for other in STEPS if other > step]
    assert len(caplog.messages) == len(named) and all("\n" not in line for line in caplog.messages)
    for other in named:
        assert any(f"/checkpoints/{other}: " in line for line in caplog.messages)
    # Nothing is lost but the unfinished directories of dead processes.
    aside = directory.with_name(DAMAGED)
    for path, content in before.items():
        number, *rest = path.parts
        if number.isdecimal():
            kept = aside / f"{number}-1" if int(number) in named else directory / number
            assert kept.joinpath(*rest).read_bytes() == content
    assert capfd.readouterr() == ("", ""), way
    shutil.rmtree(folder / f"{seed}")
    return way, step


@pytest.mark.parametrize(
    "seeds", [range(40), pytest.param(range(40, 500), marks=pytest.mark.slow)], ids=["40 cases", "the rest of 500"]
)
def test_no_damage_is_silent(saved, tmp_path, caplog, capfd, seeds):
    caplog.set_level(logging.WARNING)
    results = [judge(saved, tmp_path, seed, caplog, capfd) for seed in seeds]
    assert {way for way, _ in results} == {way.__name__ for way in DAMAGES}
    assert any(step == STEPS[0] for _, step in results)
