"""Image files to pixels: in parallel, cached by content, in a file where they would take too much memory."""

import io
import json
import logging
import os
import pathlib
import pickle
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rich.console

from jresnet.data import cache, memory
from jresnet.data.datasets import Dataset, Split
from jresnet.data.images import decoded, image_cache
from jresnet.data.mapped import MappedImages
from jresnet.errors import CannotWrite, InputError
from tests.support.datasets import pixels, refused


@pytest.fixture
def caching(tmp_path, monkeypatch):
    """A cache of its own, for whatever takes any time to decode; returns its directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "_WORTH_SECONDS", 0.0)
    return tmp_path / "cache/jresnet/datasets"


@pytest.fixture
def short_memory(monkeypatch):
    """So many bytes of memory that a hundred of the images would fit, and a quarter of them does not stay in a file."""
    monkeypatch.setattr(memory, "available", lambda: 100 * 4 * 5 * 3)


def write(folder: pathlib.Path, count: int) -> tuple[list[str], np.ndarray]:
    """Files of raw pixels, and the pixels, [count, 4, 5, 3]."""
    folder.mkdir(exist_ok=True)
    images = pixels(count, 4, 5, 3)
    for index, image in enumerate(images):
        (folder / str(index)).write_bytes(image.tobytes())
    return [str(folder / str(index)) for index in range(count)], images


class Decoder:
    """Reads files of raw pixels, refuses others, and counts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, file):
        self.calls += 1
        content = pathlib.Path(file).read_bytes()
        if len(content) != 60:
            raise InputError(f"{file} has {len(content)} bytes: cut it")
        return np.frombuffer(content, np.uint8).reshape(4, 5, 3)


def decode(files, decoder=None, settings="plain", console=None):
    return decoded.decode_files(files, decoder or Decoder(), (4, 5), settings, console)


# in parallel


def test_results_come_in_order_and_a_bounded_number_of_items_is_ahead():
    begun, taken = set(), 0

    def work(item):
        begun.add(item)
        time.sleep(0.002 * (item % 3))
        return -item

    for result in decoded._in_order(work, range(200), 1):
        assert result == -taken
        taken += 1
        assert len(begun) <= taken + 4 * decoded._MOST_THREADS
    assert taken == 200
    assert decoded.in_parallel(lambda item: item**2, range(100), "squaring", None) == [n**2 for n in range(100)]


def test_several_threads_work_at_once(monkeypatch):
    monkeypatch.setattr(decoded, "cpu_cores", lambda: 3)
    together = threading.Barrier(3, timeout=20)  # breaks unless three wait at it at once
    assert len(decoded.in_parallel(lambda _: together.wait(), range(3 * decoded._BLOCK), "waiting", None)) == 48


def test_the_first_exception_ends_the_work():
    done = []

    def work(item):
        if item % 100 == 50:
            raise InputError(f"no {item}")
        done.append(item)

    with pytest.raises(InputError, match="no 50"):
        decoded.in_parallel(work, range(100_000), "failing", None)
    assert len(done) < 5000 and threading.active_count() < 50


def test_a_terminal_shows_progress_of_long_work_and_nothing_is_left_of_it(monkeypatch):
    def shown(after, **options):
        monkeypatch.setattr("jresnet.data.progress._SHOWN_AFTER", after)
        output = io.StringIO()
        console = rich.console.Console(file=output, **options)
        decoded.in_parallel(lambda _: time.sleep(0.002), range(100), "reading things", console)
        return output.getvalue()

    assert "reading things" in shown(0.0, force_terminal=True)
    assert shown(10.0, force_terminal=True) == shown(0.0) == shown(0.0, force_terminal=True, quiet=True) == ""


# in memory


def test_images_are_decoded_in_order_and_refused_ones_are_named_and_empty(tmp_path, caching):
    files, images = write(tmp_path / "files", 40)
    pathlib.Path(files[7]).write_bytes(b"damaged")
    os.unlink(files[8])
    os.symlink(files[0], files[8])
    found, reasons = decode(files)
    assert isinstance(found, np.ndarray) and found.dtype == np.uint8
    assert reasons == {7: f"{files[7]} has 7 bytes: cut it"}
    expected = images.copy()
    expected[7], expected[8] = 0, images[0]
    np.testing.assert_array_equal(found, expected)


def test_equal_files_are_decoded_once_wherever_they_are(tmp_path, caching):
    files, images = write(tmp_path / "files", 40)
    pathlib.Path(files[7]).write_bytes(b"damaged")
    decode(files)
    shutil.move(tmp_path / "files", tmp_path / "moved")
    files = [file.replace("/files/", "/moved/") for file in files]
    decoder = Decoder()
    found, reasons = decode(files, decoder)
    assert decoder.calls == 1  # the refused file, whose name is another now
    assert reasons == {7: f"{files[7]} has 7 bytes: cut it"}
    np.testing.assert_array_equal(np.delete(found, 7, 0), np.delete(images, 7, 0))
    found[0] = 0  # a copy: the cache is not written to
    np.testing.assert_array_equal(decode(files)[0][0], images[0])


@pytest.mark.parametrize("change", ["content", "settings", "order", "pillow"])
def test_a_change_of_what_decides_the_pixels_decodes_again(tmp_path, caching, monkeypatch, change):
    files, images = write(tmp_path / "files", 3)
    decode(files)
    if change == "content":
        images[1] += 1
        pathlib.Path(files[1]).write_bytes(images[1].tobytes())
    if change == "order":
        files, images = files[::-1], images[::-1]
    if change == "pillow":
        monkeypatch.setattr("PIL.__version__", "0")
    decoder = Decoder()
    found, _ = decode(files, decoder, "other" if change == "settings" else "plain")
    assert decoder.calls == 3
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "no record", "a list", "rows", "kind"])
def test_a_damaged_cache_is_not_used(tmp_path, caching, damage):
    files, images = write(tmp_path / "files", 3)
    decode(files)
    (path,), (record,) = caching.glob("*.uint8"), caching.glob("*.json")
    content, stored = bytearray(path.read_bytes()), json.loads(record.read_text())
    content[100] ^= 1
    if damage in ("flipped", "short", "empty"):
        path.write_bytes({"flipped": content, "short": content[:-1], "empty": b""}[damage])
    elif damage == "no record":
        record.unlink()
    else:
        changed = {"a list": [], "rows": stored | {"refused": [3]}, "kind": stored | {"refused": [[]]}}[damage]
        record.write_text(json.dumps(changed))
    for mapped in (False, True):
        assert image_cache.load(path.stem, images.shape, mapped) is None
    decoder = Decoder()
    np.testing.assert_array_equal(decode(files, decoder)[0], images)
    assert decoder.calls == 3
    decode(files, decoder)
    assert decoder.calls == 3  # stored anew


def test_files_that_change_while_they_are_decoded_are_not_cached(tmp_path, caching, short_memory, monkeypatch):
    files, _ = write(tmp_path / "files", 60)

    def change(file):
        pathlib.Path(files[0]).write_bytes(pixels(4, 5, 3).tobytes())
        return np.zeros((4, 5, 3), np.uint8)

    with pytest.raises(InputError, match="change while they are read"):
        decode(files, change)
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    decode(files, change)
    assert not list(caching.iterdir())


def test_quick_work_and_work_without_room_is_not_cached(tmp_path, caching, monkeypatch):
    files, _ = write(tmp_path / "files", 3)
    monkeypatch.setattr(cache, "free", lambda: 3 * 60 * 4 - 1)
    decode(files)
    assert not list(caching.glob("*"))
    monkeypatch.setattr(cache, "free", lambda: 3 * 60 * 4)
    monkeypatch.setattr(decoded, "_WORTH_SECONDS", 10.0)
    decode(files)
    assert not list(caching.glob("*"))
    monkeypatch.setattr(decoded, "_WORTH_SECONDS", 0.0)
    decode(files)
    assert len(list(caching.glob("*"))) == 2


def test_a_cache_that_cannot_be_written_is_a_warning_only_while_it_is_not_needed(
    tmp_path, caching, monkeypatch, caplog
):
    files, images = write(tmp_path / "files", 60)
    (tmp_path / "cache").touch()
    caplog.set_level(logging.WARNING)
    np.testing.assert_array_equal(decode(files)[0], images)
    (line,) = caplog.messages
    assert "decoded images are not cached" in line and str(tmp_path) in line and "\n" not in line
    monkeypatch.setattr(memory, "available", lambda: 100 * 60)
    with pytest.raises(CannotWrite, match="XDG_CACHE_HOME: 60 images of 4 x 5 need 3,600 bytes, over 25% of"):
        decode(files)


# in a file


def test_images_over_a_quarter_of_the_memory_stay_in_a_file(tmp_path, caching, monkeypatch):
    files, images = write(tmp_path / "files", 50)
    pathlib.Path(files[7]).write_bytes(b"damaged")
    images[7] = 0
    for available in (50 * 60 * 4, 50 * 60 * 4 - 1):
        monkeypatch.setattr(memory, "available", lambda available=available: available)
        shutil.rmtree(caching, ignore_errors=True)
        fresh, decoder = decode(files), Decoder()
        again = decode(files, decoder)
        assert decoder.calls == 1
        for found, reasons in (fresh, again):
            assert isinstance(found, MappedImages) == (available < 50 * 60 * 4)
            assert [*reasons] == [7]
            np.testing.assert_array_equal(np.asarray(found), images)
    shutil.rmtree(caching)  # the file stays open
    np.testing.assert_array_equal(found[:], images)


def test_images_that_fit_neither_memory_nor_disk_nor_addresses_are_refused(tmp_path, short_memory, monkeypatch):
    files, _ = write(tmp_path / "files", 60)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "free", lambda: 3599)
    words = f"3,600 bytes, 6,000 bytes of memory are available, and {tmp_path}/cache/jresnet/datasets"
    with pytest.raises(InputError, match=rf"^60 images of 4 x 5 need {words}, .* has 3,599 bytes free: make room"):
        decode(files)
    monkeypatch.setattr(memory, "address_space", lambda: 3599)
    with pytest.raises(InputError, match="3,600 bytes of memory, and 6,000 bytes are available: lower --image-size"):
        decode(files)


def test_views_of_images_in_a_file_are_what_numpy_gives(tmp_path):
    images = pixels(30, 4, 5, 3)
    (tmp_path / "images").write_bytes(images.tobytes())
    mapped = MappedImages(tmp_path / "images", images.shape)
    mask = np.arange(30) % 3 == 1
    expected = images
    for rows in (slice(3, 28), np.array([5, 1, 1, 24, *range(20)]), mask[:24], slice(None, None, -2), slice(0)):
        mapped, expected = mapped.select(rows), expected[rows]
        assert (mapped.shape, mapped.nbytes, len(mapped)) == (expected.shape, expected.nbytes, len(expected))
        np.testing.assert_array_equal(np.asarray(mapped), expected)
        for part in (slice(2, 5), np.array([3, 0]), 0, -1)[: 4 * bool(len(expected))]:
            np.testing.assert_array_equal(mapped[part], expected[part])
            assert mapped[part].base is None and mapped[part].flags.writeable
    with pytest.raises(ValueError, match="copied"):
        np.asarray(mapped, copy=False)


def test_images_in_a_file_are_pickled_as_its_path(tmp_path):
    images = pixels(3000, 4, 5, 3)
    (tmp_path / "images").write_bytes(images.tobytes())
    content = pickle.dumps(MappedImages(tmp_path / "images", images.shape).select(np.array([4, 2])))
    assert len(content) < 2000
    np.testing.assert_array_equal(np.asarray(pickle.loads(content)), images[[4, 2]])
    (tmp_path / "images").unlink()
    gone = pickle.loads(content)
    assert gone.shape == (2, 4, 5, 3)
    with pytest.raises(InputError, match=r"cannot be mapped .* start again"):
        gone[0]


def test_a_data_set_in_a_file_is_the_one_in_memory(tmp_path):
    images, labels = pixels(60, 4, 5, 3), np.arange(60, dtype=np.int32) % 3
    (tmp_path / "images").write_bytes(images.tobytes())
    mapped = MappedImages(tmp_path / "images", images.shape)
    sets = []
    for whole in (Split(images, labels), Split(mapped, labels)):
        parts = (whole.take(slice(0, 45)), whole.take(slice(0)), whole.take(slice(45, 60)))
        sets.append(Dataset("images", *parts, ("a", "b", "c")))
    for change in (lambda d: d, lambda d: d.hold_out(9, 1), lambda d: d.fold(3, 1), lambda d: d.subset(20, 7)):
        mine, theirs = map(change, sets)
        assert mine.sha256 == theirs.sha256 and mine.channel_statistics == theirs.channel_statistics
        assert all(isinstance(getattr(theirs, name).images, MappedImages) for name in ("train", "validation", "test"))


def test_several_that_decode_at_once_agree_and_leave_sound_files(tmp_path, caching, short_memory):
    """Threads stand for processes, as nothing but files is shared."""
    files, images = write(tmp_path / "files", 80)
    together = threading.Barrier(4, timeout=20)

    def decode_last_together(file):
        if file == files[-1]:
            together.wait()
        return Decoder()(file)

    with ThreadPoolExecutor(4) as pool:
        for found, _ in pool.map(lambda _: decode(files, decode_last_together), range(4)):
            np.testing.assert_array_equal(np.asarray(found), images)
    decoder = Decoder()
    np.testing.assert_array_equal(np.asarray(decode(files, decoder)[0]), images)
    assert decoder.calls == 0 and sorted(path.suffix for path in caching.iterdir()) == [".json", ".uint8"]


# through load_dataset


def test_memory_that_runs_out_while_data_are_read_is_a_line(tmp_path, monkeypatch):
    def fail(*_):
        np.empty(2**60, np.uint8)

    monkeypatch.setattr("jresnet.data.datasets.read_folder", fail)
    refused(f"folder:{tmp_path}", "more memory than there is (Unable to allocate 1.00 EiB", "give fewer images")
