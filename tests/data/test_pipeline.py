"""Batches: planned once, carried out alike by both inputs, every image exactly once."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from jresnet.config import Config
from jresnet.data import pipeline
from jresnet.data.augment import Augmentations
from jresnet.data.datasets import Split
from jresnet.data.mapped import MappedImages
from jresnet.data.plan import batches_of, epoch_plan, plan_for
from jresnet.errors import InputError
from jresnet.parallel.devices import Devices
from tests.support.augmentation import DRAWN, cut_out_reference, reference, with_pillow, within_4_sigma

ROOT = pathlib.Path(__file__).parents[2]
STATISTICS = ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
REPORTED = Augmentations(0.5, 0.5, 4)
CONFIG = Config(batch_size=16, parallel="jit")


def make_split(images: int, side: int = 8) -> Split:
    """Images that can be told apart: no two have the same pixels, and the label is the place."""
    rng = np.random.default_rng(3)
    return Split(rng.integers(0, 256, (images, side, side, 3), np.uint8), np.arange(images, dtype=np.int32))


def each_batch(
    kind: str,
    split: Split,
    config: Config = CONFIG,
    epoch: int = 0,
    first_step: int = 0,
    pace=lambda left: min(left, 3),
):
    """Every batch an input yields, one by one, fetched as the compiled program does."""
    config = dataclasses.replace(config, input=kind)
    source = pipeline.make_input(split, config, 5, STATISTICS, Devices(config))
    # At XLA's own level of optimisation, as TensorFlow's XLA compiles: the tests' is another.
    fetch = jax.jit(source.get_batch, compiler_options={"xla_backend_optimization_level": "3"})
    for work in source.epoch(epoch, first_step, pace):
        for i in range(work.first, work.last):
            yield jax.device_get(fetch(work.arrays, i))


def batches(*args, **kwargs):
    return list(each_batch(*args, **kwargs))


def labels_of(found: list[dict]) -> np.ndarray:
    return np.concatenate([batch["labels"] for batch in found])


@pytest.mark.parametrize("kind", ["resident", "tfds"])
@pytest.mark.parametrize(
    "images", [pytest.param(16, marks=pytest.mark.slow), 50, pytest.param(64, marks=pytest.mark.slow)]
)
def test_an_epoch_holds_every_image_once_in_batches_of_the_right_size(kind, images):
    found = batches(kind, make_split(images))
    assert sorted(labels_of(found)) == list(range(images))
    sizes = [len(batch["labels"]) for batch in found]
    assert sizes == [16] * (images // 16) + [images % 16] * (images % 16 > 0)
    assert all(batch["images"].dtype == np.float32 for batch in found)


def test_both_inputs_yield_the_same_batches():
    split = make_split(150)
    for mine, theirs in zip(batches("resident", split), batches("tfds", split), strict=True):
        np.testing.assert_array_equal(mine["labels"], theirs["labels"])
        np.testing.assert_array_equal(mine["images"], theirs["images"])


@pytest.mark.slow
def test_both_inputs_agree_in_every_bit_on_every_colour_as_gray():
    colours = np.arange(2**24, dtype=np.uint32).reshape(-1, 64, 64)
    images = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).astype(np.uint8)
    split = Split(images, np.arange(len(images), dtype=np.int32))
    config = dataclasses.replace(CONFIG, batch_size=256, crop_padding=0, flip=0.0, grayscale=1.0)
    for mine, theirs in zip(each_batch("resident", split, config), each_batch("tfds", split, config), strict=True):
        np.testing.assert_array_equal(mine["labels"], theirs["labels"])
        np.testing.assert_array_equal(mine["images"], theirs["images"])


@pytest.mark.slow
def test_where_xla_normalises_in_another_order_the_inputs_differ_by_a_rounding():
    """The last batch, of 104 images of 32x32, is such a case on two cores; the others agree in every bit."""
    split, config = make_split(360, side=32), dataclasses.replace(CONFIG, batch_size=128)
    for mine, theirs in zip(batches("resident", split, config), batches("tfds", split, config), strict=True):
        np.testing.assert_allclose(mine["images"], theirs["images"], rtol=0, atol=5e-7)


@pytest.mark.parametrize("kind", ["resident", pytest.param("tfds", marks=pytest.mark.slow)])
def test_the_augmentation_is_the_plans_applied_image_by_image(kind):
    split = make_split(20)
    plan = jax.device_get(epoch_plan(5, 0, 20, REPORTED))
    mean, std = (np.asarray(row) for row in STATISTICS)
    expected = {
        place: (reference(split.images[place], *draw, 4) / 255 - mean) / std
        for place, *draw in zip(plan.order, *plan.draws[:3], strict=True)
    }
    found = batches(kind, split)
    assert [*labels_of(found)] == [*plan.order]
    for image, label in zip(np.concatenate([b["images"] for b in found]), labels_of(found), strict=True):
        np.testing.assert_allclose(image, expected[label], atol=5e-6)


ALL = dataclasses.replace(
    CONFIG, alternate_flip=True, trivialaugment=True, cutout=5, mixup=0.25, cutmix=1.0, batch_size=24
)


CUTOUT = dataclasses.replace(CONFIG, cutout=4)


def test_with_every_augmentation_both_inputs_carry_out_the_plan_image_by_image():
    """In torchvision's order: crop, flip, gray levels, operator, normalisation, cutout; and mix is the plan's."""
    split, side = make_split(48, side=16), 16
    order, draws = jax.device_get(plan_for(ALL, 5, 1, 48))
    mean, std = (np.asarray(row) for row in STATISTICS)
    expected = {}
    for row, place in enumerate(order):
        image = reference(split.images[place], draws.offsets[row], draws.flips[row], False, 4).astype(np.uint8)
        if draws.grays[row]:
            image = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
        choice = [rows[row, 0] for rows in draws.operators]
        pixels = (with_pillow("trivialaugment", image, *choice) / 255 - mean) / std
        expected[place] = cut_out_reference(pixels, *np.int32(draws.centres[row] * side), 5)
    mine, theirs = (batches(kind, split, ALL, epoch=1) for kind in ("resident", "tfds"))
    chex.assert_trees_all_close(mine, theirs, rtol=0, atol=1e-6)
    assert [*labels_of(mine)] == [*order]
    a_level = 1 / 255 / min(STATISTICS[1])
    for i, batch in enumerate(mine):
        for image, label in zip(batch["images"], batch["labels"], strict=True):
            np.testing.assert_allclose(image, expected[label], rtol=0, atol=1.001 * a_level)
        chex.assert_trees_all_equal(batch["mix"], jax.tree.map(lambda a, i=i: a[24 * i : 24 * (i + 1)], draws.mix))
    assert any(not np.array_equal(a, b) for a, b in zip(mine[0]["images"], mine[1]["images"], strict=True))


def test_without_operators_cutout_is_the_devices_and_the_rest_the_hosts():
    found = {kind: batches(kind, make_split(48), CUTOUT) for kind in ("resident", "tfds")}
    chex.assert_trees_all_equal(*found.values())
    plain = batches("resident", make_split(48))
    for batch, whole in zip(found["tfds"], plain, strict=True):
        hidden = (batch["images"] == 0).all(-1)
        np.testing.assert_array_equal(batch["images"], np.where(hidden[..., None], 0, whole["images"]))
        # Between a quarter of the square, in a corner, and all of it.
        assert ((hidden.sum((1, 2)) >= 4) & (hidden.sum((1, 2)) <= 16)).all()
        assert "mix" not in batch and "operators" not in batch


@pytest.mark.parametrize("kind", ["resident", "tfds"])
def test_an_epoch_goes_on_from_any_step(kind, monkeypatch):
    """In stacks of two batches, from the middle of what was one, with draws that are left to the device."""
    monkeypatch.setattr(pipeline, "STREAMED_IMAGES", 32)
    split = make_split(50)
    whole = batches(kind, split, CUTOUT, epoch=2)
    for first in (1, 3, 4):
        chex.assert_trees_all_equal(batches(kind, split, CUTOUT, epoch=2, first_step=first), whole[first:])


def test_the_reports_draws_keep_their_keys_and_the_others_are_not_there():
    """So that a run goes on, bit for bit, from the checkpoint of a version without the others."""
    plan, more = (plan_for(config, 5, 1, 48) for config in (Config(), ALL))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 2), 1)
    order_key, draw_key = jax.random.split(key)
    crop_key, flip_key, gray_key = jax.random.split(draw_key, 3)
    expected = [
        jax.random.permutation(order_key, 48).astype(np.int32),
        jax.random.randint(crop_key, (48, 2), 0, 9, np.int32),
        jax.random.bernoulli(flip_key, 0.5, (48,)),
        jax.random.bernoulli(gray_key, 0.5, (48,)),
    ]
    chex.assert_trees_all_equal(jax.tree.leaves(plan), expected)
    # With the others, only the flips are other ones, as they alternate.
    expected[2] = more.draws.flips
    chex.assert_trees_all_equal([more.order, *more.draws[:3]], expected)


def test_images_are_flipped_in_every_second_epoch_wherever_they_stand_in_it():
    by_image, config = [], dataclasses.replace(CONFIG, alternate_flip=True)
    for epoch in range(3):
        plan = jax.device_get(plan_for(config, 5, epoch, 1000))
        by_image.append(dict(zip(plan.order, plan.draws.flips, strict=True)))
    first, second, third = ([flips[place] for place in range(1000)] for flips in by_image)
    assert third == first == [not flip for flip in second]
    assert within_4_sigma(sum(first), 1000, 0.5)
    other = jax.device_get(plan_for(config, 6, 0, 1000))
    moved = sum(flip != by_image[0][place] for place, flip in zip(other.order, other.draws.flips, strict=True))
    assert within_4_sigma(moved, 1000, 0.5)


@pytest.mark.parametrize("kind", ["resident", "tfds"])
def test_inputs_share_a_program_unless_they_do_something_else_to_the_pixels(kind):
    def program(**options):
        config = dataclasses.replace(CONFIG, input=kind, **options)
        source = pipeline.make_input(make_split(16), config, 0, STATISTICS, Devices(config))
        return source.get_batch, hash(source.get_batch)

    assert program(randaugment=(2, 9)) == program(randaugment=(1, 20), flip=0.1, grayscale=0.0, mixup=1.0)
    assert program(mixup=1.0) == program()
    others = ({}, {"trivialaugment": True}, {"randaugment": (2, 9)}, {"cutout": 3}, {"cutout": 4})
    assert len({program(**options) for options in others}) == len(others)


def test_the_pace_changes_the_calls_and_not_the_batches():
    split = make_split(90)
    paces = iter([1, 2, 1, 1])
    uneven = batches("resident", split, pace=lambda left: next(paces))
    chex.assert_trees_all_equal(uneven, batches("resident", split, pace=lambda left: left))


def test_a_stack_of_streamed_batches_keeps_one_shape_and_counts_only_its_own(monkeypatch):
    monkeypatch.setattr(pipeline, "STREAMED_IMAGES", 64)
    config = dataclasses.replace(CONFIG, input="tfds")
    source = pipeline.make_input(make_split(16 * 6), config, 5, STATISTICS, Devices(config))
    work = list(source.epoch(0, 0, lambda left: left))
    stacks = [w.arrays for w in work]
    assert all(stack["images"].dtype == np.float32 for stack in stacks)
    found = zip(work, stacks, strict=True)
    assert [(stack["labels"].shape, w.first, w.last) for w, stack in found] == [
        ((4, 16), 0, 4),
        ((4, 16), 0, 2),
    ]


def test_the_plan_depends_on_seed_and_epoch_alone_and_orders_are_uniform():
    plan = epoch_plan(0, 0, 1000, REPORTED)
    for other in (epoch_plan(1, 0, 1000, REPORTED), epoch_plan(0, 1, 1000, REPORTED)):
        same = [
            float(np.mean(np.asarray(a) == np.asarray(b)))
            for a, b in zip(jax.tree.leaves(plan), jax.tree.leaves(other), strict=True)
        ]
        # By chance 1/1000 of places, 1/9 of offsets and 1/2 of the coins agree.
        np.testing.assert_allclose(same, [1 / 1000, 1 / 9, 1 / 2, 1 / 2], atol=0.07)
    firsts = [int(epoch_plan(0, epoch, 4, REPORTED).order[0]) for epoch in range(400)]
    # 400 draws of 4: each 100 times, with a standard deviation of 8.7.
    assert np.abs(np.bincount(firsts, minlength=4) - 100).max() < 4 * 8.7


@pytest.mark.slow
def test_an_epochs_augmentations_are_as_frequent_as_configured():
    """What both inputs carry out, image by image; see above."""
    config = dataclasses.replace(CONFIG, crop_padding=2, flip=0.3, grayscale=0.1)
    draws = jax.device_get(plan_for(config, 0, 0, DRAWN).draws)
    assert within_4_sigma(draws.flips.sum(), DRAWN, 0.3)
    assert within_4_sigma(draws.grays.sum(), DRAWN, 0.1)
    assert all(within_4_sigma(count, DRAWN, 1 / 25) for count in np.bincount(draws.offsets @ [5, 1], minlength=25))


def test_padding_a_batch_for_several_devices_repeats_images_under_a_false_mask():
    plan = epoch_plan(0, 0, 21, REPORTED)
    full, tail, mask = batches_of(plan, 16, 4)
    assert full.order.shape == (1, 16) and tail.order.shape == (1, 8) and mask.shape == (1, 8)
    real = np.concatenate([np.asarray(full.order)[0], np.asarray(tail.order)[0][np.asarray(mask)[0]]])
    np.testing.assert_array_equal(real, plan.order)
    full, tail, mask = batches_of(plan, 7, 1)
    assert full.order.shape == (3, 7) and tail.order.size == 0 and mask is None


def test_auto_is_resident_while_the_images_take_a_quarter_of_the_devices_memory(monkeypatch):
    split = make_split(16)
    device = type("Device", (), {"memory_stats": lambda self: {"bytes_limit": 4 * split.images.nbytes}})()
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert pipeline.fits_on_device(split)
    device = type("Device", (), {"memory_stats": lambda self: {"bytes_limit": 4 * split.images.nbytes - 4}})()
    assert not pipeline.fits_on_device(split)


def mapped(split: Split, folder: pathlib.Path) -> Split:
    """The same split with its images in a file, among others and in another order."""
    order = np.random.default_rng(1).permutation(len(split) + 3)[: len(split)]
    stored = np.zeros((len(split) + 3, *split.images.shape[1:]), np.uint8)
    stored[order] = split.images
    (folder / "images").write_bytes(stored.tobytes())
    return Split(MappedImages(folder / "images", stored.shape, order), split.labels)


@pytest.mark.parametrize("kind", ["resident", "tfds"])
def test_images_in_a_file_make_the_batches_of_images_in_memory(tmp_path, kind):
    split = make_split(50)
    chex.assert_trees_all_equal(batches(kind, mapped(split, tmp_path)), batches(kind, split))


def test_images_in_a_file_are_streamed_and_resident_only_where_they_fit_into_memory(tmp_path, monkeypatch):
    split = mapped(make_split(16), tmp_path)
    assert isinstance(pipeline.make_input(split, CONFIG, 5, STATISTICS, Devices(CONFIG)), pipeline.Streamed)
    monkeypatch.setattr("jresnet.data.memory.available", lambda: 2 * split.images.nbytes)
    assert len(batches("resident", split)) == 1
    monkeypatch.setattr("jresnet.data.memory.available", lambda: 2 * split.images.nbytes - 1)
    with pytest.raises(InputError, match=r"^--input resident: 16 training images of 8 x 8 need .* choose --input tfds"):
        batches("resident", split)


def test_tfds_input_without_tensorflow_is_refused_and_resident_works(monkeypatch):
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--input tfds: needs TensorFlow"):
        batches("tfds", make_split(16))
    assert len(batches("resident", make_split(16))) == 1


@pytest.mark.slow
def test_flags_that_only_jaxs_xla_knows_do_not_end_a_process_that_streams():
    program = (
        "import os\n"
        "from tests.data.test_pipeline import batches, make_split\n"
        "print(len(batches('tfds', make_split(40))), os.environ['XLA_FLAGS'])"
    )
    flag = "--xla_gpu_experimental_enable_conv_fusion=true"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"XLA_FLAGS": flag, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", flag]
