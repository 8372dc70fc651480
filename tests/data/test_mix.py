"""Mixup and cutmix: float64 loops written from the papers, and pairs that do not depend on the number of devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jresnet.data.mix import Mix, draw_mix, mixed

scipy_stats = pytest.importorskip("scipy.stats")

SIZE = (6, 9)
IMAGES = 12


def draw_batch(images=IMAGES, size=SIZE, seed=0):
    """Both kinds and the ratios 0 and 1, for boxes within the image, cut off, whole images and none."""
    rng = np.random.default_rng(seed)
    ratios, centres = rng.uniform(size=images), rng.uniform(size=(images, 2))
    ratios[:4] = 0, 0, 1, 1
    centres[3], centres[4:6] = 0, 0.999
    return {
        "images": rng.normal(size=(images, *size, 3)),
        "labels": rng.integers(10, size=images).astype(np.int32),
        "mix": Mix(ratios.astype(np.float32), np.arange(images) % 2 > 0, centres.astype(np.float32)),
    }


def expected(batch, count):
    """Images, labels of the others, and ratios, by the papers' formulas for one image after another."""
    images, labels, (ratios, cuts, centres) = batch["images"], batch["labels"], batch["mix"]
    height, width = images.shape[1:3]
    found = images.copy(), labels.copy(), ratios.astype(np.float64)
    for i in range(count):
        j, ratio = count - 1 - i, float(ratios[i])
        if cuts[i]:
            row, column = int(centres[i][0] * height), int(centres[i][1] * width)
            half = [int(0.5 * math.sqrt(1 - ratio) * side) for side in (height, width)]
            box = (
                slice(max(row - half[0], 0), min(row + half[0], height)),
                slice(max(column - half[1], 0), min(column + half[1], width)),
            )
            found[0][i][box] = images[j][box]
            ratio = 1 - images[j][box][..., 0].size / (height * width)
        else:
            found[0][i] = ratio * images[i] + (1 - ratio) * images[j]
        found[1][i], found[2][i] = labels[j], ratio
    return found


def compare(found, batch, count):
    images, partners, ratios = expected(batch, count)
    np.testing.assert_allclose(found["images"], images, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found["partners"], partners)
    np.testing.assert_allclose(found["ratios"][:count], ratios[:count], rtol=0, atol=2e-7)
    np.testing.assert_array_equal(found["labels"], batch["labels"])
    assert "mix" not in found


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("count", [IMAGES, IMAGES - 1, 7])
def test_a_batch_is_mixed_by_the_papers_formulas_on_any_number_of_devices(devices, count):
    """Of padding too, which stays as it is; four devices have three images each, the last one perhaps none."""
    batch = draw_batch()
    given = batch if count == IMAGES else batch | {"mask": np.arange(IMAGES) < count}
    with jax.enable_x64():
        if devices == 1:
            found = jax.jit(mixed)(given)
        else:
            shares = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), given)
            found = jax.jit(jax.vmap(lambda share: mixed(share, "devices"), axis_name="devices"))(shares)
            found = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)
        compare(jax.device_get(found), batch, count)


def test_float32_images_are_mixed_in_float32():
    batch = draw_batch()
    batch["images"] = batch["images"].astype(np.float32)
    found = jax.jit(mixed)(batch)
    assert (found["images"].dtype, found["ratios"].dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(found["images"], expected(batch, IMAGES)[0], rtol=0, atol=1e-6)
    plain = {name: values for name, values in batch.items() if name != "mix"}
    assert mixed(plain) is plain


IMAGES_DRAWN = 20_000


@pytest.fixture(scope="module")
def draw():
    """`(seed, mixup, cutmix) -> Mix`, fetched; one program, as drawing from Beta takes a second to compile."""
    compiled = jax.jit(lambda seed, *alphas: draw_mix(jax.random.key(seed), IMAGES_DRAWN, *alphas))
    return lambda *arguments: jax.device_get(compiled(*arguments))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.4, 2.0)])
def test_draws_are_of_the_beta_distributions(draw, mixup, cutmix):
    mix = draw(0, mixup, cutmix)
    assert (mix.ratios.dtype, mix.cuts.dtype, mix.centres.dtype) == (np.float32, bool, np.float32)
    share = {(True, False): 0.0, (False, True): 1.0, (True, True): 0.5}[mixup > 0, cutmix > 0]
    assert abs(mix.cuts.mean() - share) <= 4 * math.sqrt(share * (1 - share) / IMAGES_DRAWN)
    for alpha, ratios in ((mixup, mix.ratios[~mix.cuts]), (cutmix, mix.ratios[mix.cuts])):
        assert (alpha > 0) == (len(ratios) > 0)
        if alpha:
            law = scipy_stats.beta(alpha, alpha)
            mean, variance = law.stats("mv")
            assert abs(ratios.mean() - mean) < 4 * law.std() / math.sqrt(len(ratios))
            assert abs(ratios.var() / variance - 1) < 0.05
            lower = ratios[ratios < 0.5].astype(np.float64)  # float32 rounds the others, of which many are close to 1
            assert scipy_stats.kstest(lower, lambda ratio, law=law: 2 * law.cdf(ratio)).pvalue > 1e-3
    for centres in mix.centres.T:
        assert scipy_stats.kstest(centres, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(mix.ratios, mix.centres.T)[np.triu_indices(3, 1)]).max() < 0.03


def test_draws_are_a_function_of_the_key(draw):
    first, again, other = (draw(seed, 0.2, 1.0) for seed in (1, 1, 2))
    for mine, repeated, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(mine, repeated)
        assert (mine != different).any()
    with jax.enable_x64():
        shapes = jax.eval_shape(lambda: draw_mix(jax.random.key(1), 50, 0.2, 1.0))
    assert [leaf.dtype for leaf in shapes] == [leaf.dtype for leaf in first]


@pytest.mark.parametrize("alpha", [1.2e-38, 1e-6, 1e6, 3e38])
def test_extreme_alphas_give_ratios(draw, alpha):
    ratios = draw(0, alpha, 0.0).ratios
    assert ((ratios >= 0) & (ratios <= 1)).all()
    assert (np.abs(ratios - 0.5) > 0.49).mean() > 0.99 if alpha < 1 else (np.abs(ratios - 0.5) < 0.01).all()


def test_boxes_are_of_the_right_area_wherever_they_fit():
    """The sides are those of the paper but for less than two pixels."""
    rng, images, size = np.random.default_rng(0), 4000, (32, 32)
    ratios, centres = rng.uniform(size=images).astype(np.float32), rng.uniform(size=(images, 2)).astype(np.float32)
    first = np.arange(images)[:, None, None, None] < images // 2  # the others have the value 0
    batch = {
        "images": np.broadcast_to(first, (images, *size, 1)).astype(np.float32),
        "labels": np.zeros(images, np.int32),
        "mix": Mix(ratios, np.ones(images, bool), centres),
    }
    found = jax.jit(mixed)(batch)
    other = np.asarray(found["images"])[..., 0] != batch["images"][..., 0]
    np.testing.assert_allclose(1 - other.mean((1, 2)), found["ratios"], rtol=0, atol=1e-6)
    sides = np.stack([other.any(2).sum(1), other.any(1).sum(1)], 1)
    whole = (np.abs(centres - 0.5) < ratios[:, None] / 4).all(1)  # no border cuts them
    exact = np.sqrt(1 - ratios)[:, None] * size
    assert whole.sum() > 100
    assert ((exact - 2 < sides) & (sides <= exact))[whole].all()
