"""Image files become the pixels that a viewer shows, in arithmetic that is written out here again."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from jresnet.data.images import color, image_file, whole
from jresnet.data.images.resize import resized
from jresnet.errors import InputError
from tests.support.datasets import pixels

BLUE = (10, 20, 250)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows, *extra, interlaced=0):
    """A PNG of these rows, each of which begins with the byte of its filter."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture
def read(tmp_path):
    """Decode an image, saved or given as bytes; returns the pixels, and sets `read.notes`."""

    def read(image, kind="PNG", background=BLUE, **options):
        path = tmp_path / "image"
        path.write_bytes(image) if isinstance(image, bytes) else image.save(path, kind, **options)
        read.notes = []
        with image_file.without_warnings():
            found = image_file.pixels(str(path), background, read.notes.append)
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert image_file.image_size(str(path)) == found.shape[:2]
        return found

    return read


def rounded(over, under):
    """over / under to the nearest integer, in integers; there are no ties, as `under` is odd."""
    return (2 * over + under) // (2 * under)


def composited(color, alpha, background):
    opacity = np.asarray(alpha, np.int64)[..., None]
    return rounded(color * opacity + np.array(background) * (255 - opacity), 255)


# Orientation. What is stored for a picture, by EXIF's definition of where its first row and first column are shown.
SHOWN = pixels(6, 4, 3) // 8 * 8
STORED = {
    1: SHOWN,
    2: np.stack([row[::-1] for row in SHOWN]),
    3: np.stack([row[::-1] for row in SHOWN[::-1]]),
    4: np.stack(list(SHOWN[::-1])),
    5: np.stack([[SHOWN[y, x] for y in range(6)] for x in range(4)]),
    6: np.stack([[SHOWN[y, x] for y in range(6)] for x in (3, 2, 1, 0)]),
    7: np.stack([[SHOWN[y, x] for y in range(5, -1, -1)] for x in (3, 2, 1, 0)]),
    8: np.stack([[SHOWN[y, x] for y in range(5, -1, -1)] for x in range(4)]),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_as_their_exif_data_say(read, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(read(Image.fromarray(STORED[orientation]), kind, exif=exif, **options), SHOWN)


@pytest.mark.parametrize("orientation", STORED)
def test_jpeg_orientation(read, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = np.kron(STORED[orientation], np.ones((8, 8, 1), np.uint8))
    found = read(Image.fromarray(big), "JPEG", exif=exif, quality=100, subsampling=0)
    assert abs(found[4::8, 4::8].astype(int) - SHOWN).max() <= 3


def test_exif_behind_the_pixels_of_a_png_and_what_is_no_orientation(read):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = chunk(b"eXIf", exif.tobytes()[6:])
    rows = b"".join(b"\0" + row.tobytes() for row in STORED[6])
    turned = png(6, 4, 8, 2, rows)
    assert np.array_equal(read(turned[:-12] + data + turned[-12:]), SHOWN)
    for value in (0, 9, 700):
        exif[0x0112] = value
        assert np.array_equal(read(Image.fromarray(SHOWN), exif=exif), SHOWN)
    damaged = turned[:-12] + chunk(b"eXIf", b"MM\0*\0\0\0\x08\0") + turned[-12:]
    assert np.array_equal(read(damaged), STORED[6])
    assert read.notes, "damaged EXIF data are passed over, and named"


# Transparency.


@pytest.mark.parametrize("background", [(255, 255, 255), BLUE])
def test_alpha_is_composited_exactly(read, background):
    every = np.stack(np.meshgrid(np.arange(0, 256, 5), np.arange(256), indexing="ij"), -1).astype(np.uint8)
    rgba = np.concatenate([every[..., :1], 255 - every[..., :1], pixels(52, 256, 1), every[..., 1:]], -1)
    expected = composited(rgba[..., :3], rgba[..., 3], background)
    assert np.array_equal(read(Image.fromarray(rgba), background=background), expected)
    assert np.array_equal(read(Image.fromarray(rgba), "TIFF", background=background), expected)
    gray = read(Image.frombytes("LA", (256, 8), every[:8].tobytes()), background=background)
    assert np.array_equal(gray, composited(every[:8, :, :1], every[:8, :, 1], background))


def test_palettes(read):
    indices = pixels(5, 7) % 4
    colors, opacity = pixels(4, 3), np.array([0, 128, 255, 7], np.uint8)
    image = Image.frombytes("P", (7, 5), indices.tobytes())
    image.putpalette(colors.tobytes())
    assert np.array_equal(read(image), colors[indices])
    shown = composited(colors[indices], opacity[indices], BLUE)
    assert np.array_equal(read(image, transparency=opacity.tobytes()), shown)
    assert read.notes == []
    one = composited(colors[indices], np.where(indices == 2, 0, 255), BLUE)
    assert np.array_equal(read(image, transparency=2), one)
    assert np.array_equal(read(image, "GIF", transparency=2), one)


@pytest.mark.parametrize(
    ("depth", "colour", "stored", "transparent", "expected"),
    [
        (1, 0, b"\x50", struct.pack(">H", 1), [0, BLUE, 0, BLUE]),
        (2, 0, b"\x1b", struct.pack(">H", 1), [0, BLUE, 170, 255]),
        (4, 0, b"\x01\x3f", struct.pack(">H", 3), [0, 17, BLUE, 255]),
        (8, 0, b"\0\x11\x80\xff", struct.pack(">H", 0x80), [0, 17, BLUE, 255]),
        (16, 0, struct.pack(">4H", 0, 0x8000, 0x8001, 65535), struct.pack(">H", 0x8000), [0, BLUE, 128, 255]),
        (8, 2, bytes([1, 2, 3, 3, 2, 1] * 2), bytes([0, 3, 0, 2, 0, 1]), [(1, 2, 3), BLUE] * 2),
        (16, 2, bytes([1, 9, 2, 9, 3, 9, 3, 9, 2, 9, 1, 9] * 2), bytes([3, 9, 2, 9, 1, 9]), [(1, 2, 3), BLUE] * 2),
        (16, 4, bytes([200, 9, 128, 9] * 4), None, [composited(np.full(3, 200), np.array(128), BLUE)] * 4),
        (16, 6, bytes([1, 9, 2, 9, 3, 9, 0, 0] * 4), None, [BLUE] * 4),
    ],
)
def test_depths_and_transparent_levels_of_png(read, depth, colour, stored, transparent, expected):
    extra = [] if transparent is None else [chunk(b"tRNS", transparent)]
    found = read(png(4, 1, depth, colour, b"\0" + stored, *extra))
    assert found[0].tolist() == [np.broadcast_to(color, 3).tolist() for color in expected]


# Levels of more than 8 bits.


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_rounded(read, kind):
    every = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    expected = rounded(every[..., None].astype(np.int64) * 255, 65535)
    assert np.array_equal(read(Image.fromarray(every), kind), np.repeat(expected, 3, 2))


def test_16_bits_of_ppm_and_of_tiff_with_white_at_zero_or_12_bits(read):
    assert read(b"P5 2 1 65535\n" + struct.pack(">2H", 40000, 257))[0, :, 0].tolist() == [156, 1]
    levels_stored = np.array([[0, 257, 65535]], np.uint16)
    inverted = Image.fromarray(levels_stored)
    assert read(inverted, "TIFF", tiffinfo={262: 0})[0, :, 0].tolist() == [255, 254, 0]
    assert read(tiff(bits=12, data=b"\0\x08\0\xff\xff\0"), "TIFF")[0, :, 0].tolist() == [0, 128, 255]


def tiff(bits, data):
    """A TIFF of one row of 3 gray levels of 12 bits."""
    tags = [(256, 3), (257, 1), (258, bits), (259, 1), (262, 1), (273, 200), (277, 1), (278, 1), (279, len(data))]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + data


def test_floats_and_32_bit_integers_have_a_range(read):
    floats = np.array([[0, 0.5, 1, 0.1, 254.4 / 255]], np.float32)
    assert read(Image.fromarray(floats), "TIFF")[0, :, 0].tolist() == [0, 128, 255, 26, 254]
    whole_levels = np.array([[0, 7, 255]], np.int32)
    assert read(Image.fromarray(whole_levels), "TIFF")[0, :, 1].tolist() == [0, 7, 255]
    for bad, reason in (
        (np.array([[0, 200.0]], np.float32), "floats from 0 to 200, not from 0 to 1"),
        (np.array([[-0.25, 1]], np.float32), "floats from -0.25 to 1"),
        (np.array([[0, np.nan]], np.float32), "floats from nan to nan"),
        (np.array([[0, np.inf]], np.float32), "to inf"),
        (np.array([[0, 65535]], np.int32), "32-bit integers from 0 to 65535, not from 0 to 255: save it with 8 or 16"),
    ):
        with pytest.raises(InputError, match=reason):
            read(Image.fromarray(bad), "TIFF")


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB", "HSV", "PA", "La", "RGBa"])
def test_other_modes_keep_their_colours(mode):
    """White, gray and black are the same in every one of them."""
    gray = np.repeat(np.array([[255, 128, 0]], np.uint8)[..., None], 3, -1)
    gray = gray[:, ::2] if mode == "1" else gray
    image = Image.fromarray(gray)
    if mode == "LAB":
        image = Image.frombytes("LAB", (3, 1), bytes([255, 0, 0, 137, 0, 0, 0, 0, 0]))
    elif mode in ("La", "RGBa", "PA"):
        image = image.convert("L").convert({"La": "LA", "PA": "P", "RGBa": "RGBA"}[mode]).convert(mode)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    assert abs(image_file.decode(image).astype(int) - gray).max() <= (2 if mode in ("LAB", "YCbCr") else 0)


def test_cmyk_of_jpeg(read):
    """Adobe's programs, and Pillow, store it inverted."""
    ink = np.zeros((8, 24, 4), np.uint8)
    ink[:, :8], ink[:, 8:16] = (0, 255, 255, 0), (0, 0, 0, 255)
    found = read(Image.frombytes("CMYK", (24, 8), ink.tobytes()), "JPEG", quality=100)
    assert abs(found[4, [4, 12, 20]].astype(int) - [(255, 0, 0), (0, 0, 0), (255, 255, 255)]).max() <= 3


def test_large_images_are_converted_in_strips(monkeypatch):
    image = pixels(37, 11, 4)
    at_once = image_file.decode(Image.fromarray(image), BLUE)
    monkeypatch.setattr(color, "_STRIP", 25)
    assert np.array_equal(image_file.decode(Image.fromarray(image), BLUE), at_once)


# Several pictures.


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_of_several_pictures_the_first_is_read_which_is_noted(read, kind):
    first, second = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read(first, kind, save_all=True, append_images=[second], **options)
    assert abs(found.astype(int) - (255, 0, 0)).max() <= 2
    assert len(read.notes) == 1 and "first" in read.notes[0]
    read(first, kind)
    assert read.notes == []


# Damage.

UNWRITABLE = {"CUR", "PSD", "SUN", "ICNS"}  # by Pillow, or not in this size


def saved(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [kind for kind in image_file.FORMATS if kind not in UNWRITABLE])
def test_every_format_is_known_by_content_and_refused_when_its_pixels_end_early(read, kind):
    if kind == "AVIF":
        from PIL import features

        if not features.check("avif"):
            pytest.skip("Pillow was built without it")
    data = saved(kind)
    intact = read(data)
    assert intact.shape == (16, 16, 3)
    for cut in (1, 2, 3, 4, 11, 40, len(data) // 3, len(data) - 20):
        try:
            assert np.array_equal(read(data[:-cut]), intact)  # what is missing is no pixel
            assert kind not in ("PNG", "JPEG", "MPO", "GIF", "WEBP", "TIFF", "PPM") and cut < 40
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_a_jpeg_without_its_end_is_refused_even_if_all_pixels_are_there(read, options):
    data = saved("JPEG", **options)
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    with_thumbnail = data[:2] + thumbnail + data[2:]
    for intact in (data, with_thumbnail, data + b"\0" * 100):
        assert np.array_equal(read(intact), read(data))
    for damaged in (data[:-2], data[:-1], with_thumbnail[:-2]):
        with pytest.raises(ValueError, match="ends early"):
            whole.check("JPEG", damaged)


@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_png_with_fewer_pixels_than_its_header_says_is_refused(read, interlaced):
    """Also if its stream of compressed pixels ends properly, which Pillow takes for black pixels."""
    for height, width in ((5, 8), (1, 1), (2, 3), (8, 8)):
        size = adam7(width, height) if interlaced else height * (1 + width)
        row = b"\0" + b"\x07" * width
        rows = bytes(size) if interlaced else row * height
        assert read(png(width, height, 8, 0, rows, interlaced=interlaced)).shape == (height, width, 3)
        for cut in {1, size // 2, width + 1, width + 2, size - 1} - {size}:
            with pytest.raises(InputError, match=r"pixels end early|truncated"):
                read(png(width, height, 8, 0, rows[:-cut], interlaced=interlaced))


def adam7(width, height):
    """Bytes of the rows of an interlaced PNG of 8-bit levels, counted pixel by pixel."""
    grid = np.array([
        [1, 6, 4, 6, 2, 6, 4, 6], [7, 7, 7, 7, 7, 7, 7, 7], [5, 6, 5, 6, 5, 6, 5, 6], [7, 7, 7, 7, 7, 7, 7, 7],
        [3, 6, 4, 6, 3, 6, 4, 6], [7, 7, 7, 7, 7, 7, 7, 7], [5, 6, 5, 6, 5, 6, 5, 6], [7, 7, 7, 7, 7, 7, 7, 7],
    ])  # fmt: skip
    part = grid[:height, :width]
    return part.size + sum(number in row for row in part for number in range(1, 8))


def test_a_png_with_a_flipped_bit_is_refused(read):
    data = saved("PNG")
    for at in range(8, len(data) - 12, 17):
        with pytest.raises(InputError):
            read(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])


def test_too_many_scans_pixels_and_bytes_are_refused(read, monkeypatch):
    data = saved("JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff\xda", start + 2)] if data.count(b"\xff\xda") > 1 else data[start:-2]
    with pytest.raises(InputError, match="scans"):
        read(data[:-2] + scan * 1001 + data[-2:])
    monkeypatch.setattr(image_file, "_LARGEST_FILE", 100)
    with pytest.raises(InputError, match=r"has [\d,]+ bytes, over the limit of 100"):
        read(data)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 255)
    with pytest.raises(InputError, match="16 x 16 pixels exceed the limit of 255"):
        read(data)


def test_decode_names_the_file_and_takes_images(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(InputError, match=f"{tmp_path}/a.jpg cannot be read as an image .*: repair or remove it"):
        image_file.decode(str(tmp_path / "a.jpg"))
    Image.fromarray(SHOWN).save(tmp_path / "b", "PNG")
    for given in (str(tmp_path / "b"), tmp_path / "b", Image.fromarray(SHOWN)):
        assert np.array_equal(image_file.decode(given), SHOWN)


# Sizes.


def triangle(levels_in, new):
    """Linear interpolation of the first axis, antialiased, in float64."""
    old = len(levels_in)
    scale = old / new
    width = max(1.0, scale)
    centers = (np.arange(new) + 0.5) * scale
    distance = abs(np.arange(old) + 0.5 - centers[:, None]) / width
    weights = np.maximum(0, 1 - distance)
    weights /= weights.sum(1, keepdims=True)
    return np.tensordot(weights, levels_in.astype(float), 1)


def stretched(image, size):
    return triangle(triangle(image, size[0]).transpose(1, 0, 2), size[1]).transpose(1, 0, 2)


@pytest.mark.parametrize("size", [(8, 6), (24, 18), (17, 5), (3, 40), (1, 1)])
def test_stretch_is_bilinear_and_antialiased(size):
    image = pixels(16, 12, 3)
    assert abs(resized(image, size, "stretch", BLUE) - stretched(image, size)).max() < 1.01


def test_crop_cuts_the_centre_and_pad_adds_the_background():
    image = pixels(16, 40, 3)
    crop = resized(image, (8, 10), "crop", BLUE)
    assert abs(crop - stretched(image[:, 10:30], (8, 10)))[:, 1:-1].max() < 1.01
    tall = resized(image.transpose(1, 0, 2), (10, 8), "crop", BLUE)
    assert abs(tall - stretched(image.transpose(1, 0, 2)[10:30], (10, 8)))[1:-1].max() < 1.01
    pad = resized(image, (12, 20), "pad", BLUE)
    assert (pad[:2] == BLUE).all() and (pad[-2:] == BLUE).all()
    assert abs(pad[2:-2] - stretched(image, (8, 20))).max() < 1.01
    thin = resized(pixels(1, 300, 3), (10, 10), "pad", BLUE)
    assert (np.delete(thin, 4, 0) == BLUE).all() and (thin[4] != BLUE).any()


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_an_image_of_the_size_is_untouched(resize):
    image = pixels(9, 7, 3)
    assert np.array_equal(resized(image, (9, 7), resize, BLUE), image)
    assert resized(image, (5, 3), resize, BLUE).shape == (5, 3, 3)
    flat = np.full((9, 7, 3), 77, np.uint8)
    assert (resized(flat, (90, 70), resize, (77, 77, 77)) == 77).all()
