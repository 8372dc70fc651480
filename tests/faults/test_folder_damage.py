"""Folders with damaged, hostile and misplaced files: every image is read as it stands, or named in one line.

Never a traceback, a hang, memory without bound, a line on stderr, or another image than the file's.
"""

import io
import os
import pathlib
import shutil
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features

from jresnet.data.datasets import load_dataset
from tests.support.damage import refused, repeat, spoilt

RNG = np.random.default_rng(7)
SPLITS = {"train/a": 2, "train/b": 2, "val/a": 1, "test/b": 1}


def saved(kind, mode="RGB", **options):
    colors = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8))
    if mode in ("I;16", "F"):
        image = Image.fromarray(
            RNG.integers(0, 2**16, (8, 8), np.uint16) if mode == "I;16" else RNG.random((8, 8), "f")
        )
    else:
        image = colors.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6
FILES = [
    saved("PNG"), saved("PNG", "RGBA"), saved("PNG", "P", transparency=bytes(range(256))), saved("PNG", "I;16"),
    saved("PNG", exif=EXIF), saved("PNG", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
    saved("JPEG", exif=EXIF), saved("JPEG", progressive=True), saved("JPEG", "CMYK"), saved("JPEG", "L"), saved("GIF"),
    saved("MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]), saved("BMP"), saved("BMP", "1"),
    saved("WEBP"), saved("WEBP", "RGBA", lossless=True), saved("TIFF"), saved("TIFF", compression="tiff_lzw"),
    saved("TIFF", compression="tiff_adobe_deflate", exif=EXIF), saved("TIFF", "I;16"), saved("TIFF", "F"),
    saved("TIFF", "CMYK", compression="packbits"), saved("PPM"), saved("PPM", "L"), saved("JPEG2000"), saved("PCX"),
    saved("SGI"), saved("TGA", compression="tga_rle"), saved("DDS", "RGBA"), saved("QOI"),
    *([saved("AVIF")] if features.check("avif") else []),
]  # fmt: skip


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bombs():
    """Small files that ask for much."""
    end = chunk(b"IEND", b"")
    for side, text in ((9000, b""), (2**31 - 1, b""), (8, zlib.compress(bytes(2**23)))):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(bytes(2**18)))
        yield b"\x89PNG\r\n\x1a\n" + header + chunk(b"zTXt", b"a\0\0" + text) + pixels + end
    for tag, kind, count, value in (
        (256, 4, 1, 2**31), (257, 4, 1, 2**32 - 1), (258, 3, 2**31, 8), (273, 4, 2**30, 8), (279, 4, 1, 2**32 - 1),
        (34675, 7, 2**32 - 1, 8), (330, 4, 1, 8),
    ):  # fmt: skip
        tags = {256: (4, 1, 8), 257: (4, 1, 8), 258: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 8), 279: (4, 1, 64)}
        tags[tag] = kind, count, value
        entries = b"".join(struct.pack("<HHII", number, *entry) for number, entry in sorted(tags.items()))
        yield b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 8)
    yield b"P6 9000 9000 255\n"
    yield b"P5 8 8 1\n" + b"9" * 2**20
    yield b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0xF7, 0, 0) + bytes(768) + b"\x2c" + bytes(9) + b"\x08\0\x3b"
    yield b"BM" + struct.pack("<IIIIiiHHIIIIII", 2**31, 0, 54, 40, 2**30, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0)
    yield saved("JPEG")[:-2] + b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00" * 100_000 + b"\xff\xd9"


BOMBS = list(bombs())


def edited(rng, data):
    """A file in whose header a number is absurd; a PNG's checksum is made anew."""
    at = rng.randrange(min(len(data), 80))
    number = rng.choice([b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0"])
    data = data[:at] + number + data[at + len(number) :]
    if data.startswith(b"\x89PNG") and len(data) > 40:
        data = data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]
    return data


def made(rng):
    """Names -> contents of a folder's files, and the names of those that are no longer what they were."""
    names = [f"{place}/{number}.{rng.choice('pjx')}" for place, count in SPLITS.items() for number in range(count)]
    files = {name: rng.choice(FILES) for name in names}
    harmed = rng.sample(names, rng.choice([1, 1, 1, 2, 4]))
    for name in harmed:
        way = rng.choice(["spoil", "spoil", "edit", "edit", "edit", "bomb", "cut", "text"])
        data = files[name]
        files[name] = {
            "spoil": lambda data=data: spoilt(rng, data),
            "edit": lambda data=data: edited(rng, data),
            "bomb": lambda: rng.choice(BOMBS),
            "cut": lambda data=data: data[: -rng.randrange(1, 30)],
            "text": lambda: rng.choice(
                [b"text", b"P6", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM"]
            ),
        }[way]()
    return files, harmed, rng.choice([None, None, None, "loop", "link", "fifo", "deep", "beside", "name"])


def arrange(root, files, trick):
    """Write the files, and one thing more that people or strangers leave."""
    shutil.rmtree(root, ignore_errors=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)
    place = root / "train/a"
    if trick == "loop":
        for name in ("x", "y"):
            (place / name).symlink_to(root)
    elif trick == "link":
        (place / "link").symlink_to("/dev/zero")
        (place / "gone").symlink_to("gone")
    elif trick == "fifo":
        os.mkfifo(place / "pipe.png")
    elif trick == "deep":
        os.makedirs(place / "/".join("d" * 30))
    elif trick == "beside":
        (root / "train/image").write_bytes(FILES[0])
    elif trick == "name":
        pathlib.Path(os.fsdecode(os.fsencode(place) + b"/\xff\x1b[31m\n")).write_bytes(FILES[0] + b"\0")


@pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_folder_is_read_or_everything_wrong_in_it_named(tmp_path, examples, capfd, caplog):
    root = tmp_path / "data"
    for number, content in enumerate(FILES):
        for split in ("train", "test"):
            for name in "ab":
                path = tmp_path / f"intact/{split}/{name}/{number:03}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    intact = load_dataset(f"folder:{tmp_path / 'intact'}").train.images
    originals = dict(zip(FILES, intact, strict=False))
    outcomes = {"read": 0, "skipped": 0, "refused": 0}

    def agree(dataset, files, harmed):
        splits = {"train": dataset.train, "val": dataset.validation, "test": dataset.test}
        for split, part in splits.items():
            expected = [name for name in sorted(files) if name.startswith(f"{split}/") and name not in dataset.skipped]
            rows = iter(range(len(part)))
            for name in expected:
                if files[name] is None:
                    continue
                row = next(rows)
                assert part.labels[row] == "ab".index(name.split("/")[1])
                if name not in harmed:
                    assert np.array_equal(part.images[row], originals[files[name]]), name

    def check(case):
        files, harmed, trick = case
        arrange(root, files, trick)
        caplog.clear()
        source = f"folder:{root}"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset, message = refused(lambda: load_dataset(source), root)
            if dataset is not None:
                outcomes["read"] += 1
                assert trick in (None, "deep", "name")
                if trick != "name":
                    agree(dataset, files, harmed)
            else:
                assert len(message) < 6000
                skipping, _ = refused(lambda: load_dataset(source, skip_unreadable=True))
                outcomes["refused" if skipping is None else "skipped"] += 1
                if skipping is not None:
                    strange = [name for name in skipping.skipped if name in files and name not in harmed]
                    assert strange == [] and skipping.skipped
                    if trick != "name":
                        agree(skipping, files, harmed)
        assert all("\n" not in line and "\x1b" not in line for line in caplog.messages)
        printed = capfd.readouterr()
        # dav1d, the decoder of AVIF, says so of damage, and has no switch that Pillow could use.
        assert printed.out == "" and all(line.startswith("Error parsing") for line in printed.err.splitlines())

    repeat(check, examples, made)
    assert min(outcomes.values()) > examples / 20, outcomes
