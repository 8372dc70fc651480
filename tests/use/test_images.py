"""What predict accepts: every form of one picture gives the same pixels, and what is no image is refused."""

import numpy as np
import pytest
from PIL import Image

from jresnet.data.images import image_file
from jresnet.errors import InputError
from jresnet.use.images import Form, each, levels

FORM = Form((4, 5), None, (255, 255, 255))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)


def test_floats_are_levels_divided_by_255_rounded_half_up(pixels):
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(levels((pixels / 255).astype(dtype)), pixels)
    np.testing.assert_array_equal(levels(np.array([[0.0, 0.5 / 255, 0.499 / 255, 1.0]]))[0, :, 0], [0, 1, 0, 255])


def test_gray_images_have_equal_channels(pixels):
    gray = pixels[..., 0]
    for array in (gray, gray[..., None]):
        np.testing.assert_array_equal(levels(array), np.stack([gray] * 3, axis=2))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5), np.int64), "it is int64 of shape (4, 5): give uint8 from 0 to 255, or floats from 0 to 1"),
        (np.zeros((4, 5), bool), "it is bool of shape (4, 5): give uint8"),
        (
            np.full((4, 5), np.nan, np.float32),
            "it is float32 of shape (4, 5), from nan to nan: give floats from 0 to 1",
        ),
        (np.full((4, 5), 1.5), "it is float64 of shape (4, 5), from 1.5 to 1.5: give floats from 0 to 1"),
        (np.array([[-1e-9, 1.0]]), "it is float64 of shape (1, 2), from -1e-09 to 1: give floats"),
        (np.zeros((3, 4, 5), np.uint8), "if its channels are first, image.transpose(1, 2, 0)"),
        (np.zeros((7, 4, 5), np.uint8), "several along a first axis; gray ones as images[..., None]"),
        (np.zeros((4, 5, 4), np.uint8), "without transparency"),
        (np.zeros((0, 5, 3), np.uint8), "it is uint8 of shape (0, 5, 3): give"),
        (np.zeros(5, np.uint8), "it is uint8 of shape (5,): give (height, width), (height, width, 1) or"),
        (np.array("a"), "it is <U1 of shape (): give"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array, message):
    with pytest.raises(InputError) as refusal:
        levels(array)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_images_come_one_by_one(pixels):
    pillow = Image.fromarray(pixels)
    several = ["a.png", pillow, pixels, pixels[None], np.stack([pixels, pixels])[..., :1], (pixels, ["b.png"])]
    kinds = [item.shape if isinstance(item, np.ndarray) else item for item in each(several)]
    assert kinds == ["a.png", pillow, (4, 5, 3), (4, 5, 3), (4, 5, 1), (4, 5, 1), (4, 5, 3), "b.png"]
    assert list(each("a.png")) == ["a.png"] and list(each(3)) == [3] and list(each([])) == []


def test_files_are_decoded_as_in_training(tmp_path, pixels):
    """Transparency, orientation and 16 bits are those of `image_file.decode`, which its own tests judge."""
    alpha = np.dstack([pixels, pixels[..., :1]])
    Image.fromarray(alpha, "RGBA").save(tmp_path / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    paths = [tmp_path / name for name in ("alpha.png", "turned.png", "deep.png")]
    decoded = [image_file.decode(path, (255, 255, 255)) for path in paths]
    np.testing.assert_array_equal(FORM.fit_all(paths), decoded)
    with Image.open(paths[0]) as image:
        np.testing.assert_array_equal(FORM.fit(image), decoded[0])
    assert not np.array_equal(decoded[0], pixels)


def test_refusals_name_files_and_count_other_images(tmp_path, pixels):
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(pixels[:, :3]).save(tmp_path / "narrow.png")
    text, narrow = FORM.fit_all([tmp_path / "text.png", tmp_path / "narrow.png"])
    assert str(text).startswith(f"{tmp_path}/text.png cannot be read as an image (it is no image of a known format)")
    assert str(narrow).startswith(f"{tmp_path}/narrow.png has 4 x 3 pixels, and the network's images have 4 x 5")
    with pytest.raises(InputError, match=r"^image 2: it has 4 x 3 pixels"):
        list(FORM.batches([pixels, pixels, pixels[:, :3]], 2))


def test_no_more_than_a_batch_is_in_memory(pixels):
    taken = 0

    def images():
        nonlocal taken
        for _ in range(7):
            taken += 1
            yield pixels

    sizes = []
    for batch in FORM.batches(images(), 3):
        sizes.append(len(batch))
        assert taken <= sum(sizes) and batch.shape[1:] == (4, 5, 3)
    assert sizes == [3, 3, 1]
