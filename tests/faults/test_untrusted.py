"""Files and names from strangers: none runs code, fills the memory, becomes a path or becomes markup."""

import ast
import csv
import dataclasses
import html.parser
import io
import json
import os
import pathlib
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import xml.etree.ElementTree
import zipfile
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

import jresnet
from experiments.page import page, predictions
from jresnet import models
from jresnet.data import cache, checks, tfds_reader
from jresnet.data.datasets import load_dataset
from jresnet.errors import InputError
from jresnet.use import classifier
from tests.support import pages
from tests.support.datasets import arrays, pixels, refused

ROOT = pathlib.Path(__file__).parents[2]
GIB = 2**30


@pytest.fixture
def payload(tmp_path):
    """An object whose unpickling creates a directory, and at the end a check that it was not created."""
    executed = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(executed),)

    yield Payload()
    assert not executed.exists()
    pickle.loads(pickle.dumps(Payload()))
    assert executed.exists(), "the payload works"


@pytest.fixture(scope="module")
def torch():
    """PyTorch, imported before `memory` sets its limit."""
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def torch_weights():
    """The module, with the library of .safetensors imported."""
    pytest.importorskip("safetensors.flax")
    return jresnet.torch_weights


@pytest.fixture
def memory():
    """Let no allocation take the process above 2 GiB more than it has."""
    status = pathlib.Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("the process's size is read from /proc")
    pages_now = int(status.read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages_now * resource.getpagesize() + 2 * GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def header(shape, descr="|u1"):
    """The start of an .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def raw_header(text):
    """The start of an .npy file with this text as its header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def npz(path, key, member, compression=zipfile.ZIP_STORED):
    """A valid .npz file, in which `key` has the bytes `member`."""
    np.savez(path, **arrays(**{key: None}))
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr(f"{key}.npy", member)
    return f"npz:{path}"


# No code runs


def test_objects_in_the_arrays_of_a_run_or_of_the_cache_are_never_unpickled(tmp_path, payload, monkeypatch):
    data = pages.dataset()
    objects = np.array([payload] * len(data.test), object)
    np.savez(tmp_path / "predictions.npz", test_predictions=objects, test_confidences=objects)
    with pytest.raises(InputError, match="not a run's predictions"):
        predictions.read(tmp_path, {"test_accuracy": 1.0}, data)
    (tmp_path / "predictions.npz").write_bytes(pickle.dumps(payload))
    with pytest.raises(InputError, match="not a run's predictions"):
        predictions.read(tmp_path, {"test_accuracy": 1.0}, data)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.store("data", {"train_images": pixels(2, 3)})
    (path,) = tmp_path.glob("jresnet/datasets/*.npz")
    assert list(cache.load("data")) == ["train_images"]
    np.savez(path, train_images=objects)
    pickled, archive = pickle.dumps(payload), path.read_bytes()
    for content in (archive, pickled, archive[: len(archive) // 2], b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        # The digest of the forged file too, as whoever can write one can write both.
        record = {"size": len(content), "sha256": cache.digest([path])}
        path.with_suffix(".json").write_text(json.dumps(record))
        assert not cache.load("data")
    for text in ("[" * 100_000, "[]", '"pickle"', '{"size": {}, "sha256": 1}', "", "\x80\x04"):
        path.with_suffix(".json").write_text(text)
        assert cache.load("data") is None


def test_predictions_of_other_classes_or_types_are_refused(tmp_path):
    """Labels index the confusion matrix."""
    data = pages.dataset(per_class=200)
    right, sure = data.test.labels.copy(), np.ones(len(data.test), np.float32)
    for wrong in (3, -1, 2**31 - 1):
        labels = right.copy()
        labels[0] = wrong
        np.savez(tmp_path / "predictions.npz", test_predictions=labels, test_confidences=sure)
        with pytest.raises(InputError, match="does not give the test accuracy"):
            predictions.read(tmp_path, {"test_accuracy": 1.0}, data)
    np.savez(tmp_path / "predictions.npz", test_predictions=right, test_confidences=sure.astype(str))
    with pytest.raises(InputError, match="does not give the test accuracy"):
        predictions.read(tmp_path, {"test_accuracy": 1.0}, data)


@pytest.mark.parametrize("kind", ["zip", "legacy", "tar", "pickle"])
def test_weights_are_never_unpickled_as_objects(tmp_path, torch, torch_weights, payload, kind, recwarn):
    path = tmp_path / "weights.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"fc.bias": payload}))
    elif kind == "tar":
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in ("storages", "tensors", "pickle"):
                member = tarfile.TarInfo(name)
                member.size = len(pickle.dumps(payload))
                archive.addfile(member, io.BytesIO(pickle.dumps(payload)))
    else:
        torch.save({"fc.bias": payload}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InputError, match="cannot be read as tensors alone") as caught:
        torch_weights.load(path)
    assert "\n" not in str(caught.value)


def test_no_file_of_a_checkpoint_is_unpickled(tmp_path, payload):
    """The files around the arrays one by one, as Orbax does without some of them; then every file of the run."""
    config = jresnet.Config(width=2, blocks=(1,), pool_size=8, parallel="jit")
    shapes = models.variable_shapes(models.from_config(config, 3), (8, 8))
    variables = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape), shapes)
    run = tmp_path / "run"
    classifier.store(run, config, variables, ("a", "b", "c"), (8, 8), (0.5,) * 3, (0.2,) * 3)
    jresnet.Classifier.load(run)
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    around = [path for path in files if path.parent.name != "d" and path.suffix != ".ocdbt"]
    assert len(around) >= 5
    refusals = 0
    for planted in (*([path] for path in around), files):
        intact = {path: path.read_bytes() for path in planted}
        for path in planted:
            path.write_bytes(pickle.dumps(payload))
        try:
            jresnet.Classifier.load(run)
        except InputError as error:
            assert "\n" not in str(error)
            refusals += 1
        for path, content in intact.items():
            path.write_bytes(content)
    assert refusals >= 3
    jresnet.Classifier.load(run)


def test_tfds_imports_no_module_that_a_data_set_names(tmp_path, monkeypatch):
    """As it would if a directory on Python's path, such as the working directory, came with the data."""
    pytest.importorskip("tensorflow_datasets")
    (tmp_path / "stranger.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    directory = tmp_path / "mine" / "1.0.0"
    directory.mkdir(parents=True)
    info = {"name": "mine", "version": "1.0.0", "fileFormat": "tfrecord", "splits": []}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    own = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    inner = {"pythonClassName": "stranger.Feature", "tensor": {}}
    for features in (
        {"type": "stranger.Feature", "content": {}},
        inner,
        {"type": own, "content": {"image": inner}},
        {"pythonClassName": own, "featuresDict": {"features": {"image": inner}}},
    ):
        (directory / "features.json").write_text(json.dumps(features))
        refused("mine", "features.json names stranger.Feature", "could run any code", data_dir=str(tmp_path))
    assert not (tmp_path / "executed").exists() and "stranger" not in sys.modules
    import tensorflow_datasets as tfds

    with pytest.raises(ValueError, match="Unrecognized FeatureConnector"):  # TFDS itself imports it, as before
        tfds.features.FeatureConnector.from_config(str(directory))
    assert (tmp_path / "executed").exists()
    del sys.modules["stranger"]


def test_only_formats_that_need_no_other_program_are_decoded(tmp_path, monkeypatch):
    """Pillow goes by content, and renders EPS with Ghostscript."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels(6, 5, 3)).save(tmp_path / split / name / "1.png")
    bad = tmp_path / "train" / "b" / "2.png"
    Image.fromarray(pixels(6, 5, 3)).save(bad, format="EPS")
    monkeypatch.setattr(subprocess, "check_call", lambda *_: pytest.fail("started a program"))
    monkeypatch.setattr(subprocess, "run", lambda *_: pytest.fail("started a program"))
    refused(f"folder:{tmp_path}", bad, "cannot be used")


# Calls that unpickle or execute what they are given, by module, and the only places where each may stand.
FORBIDDEN = {
    "pickle": {"load", "loads", "Unpickler"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "dill": {"load", "loads"},
    "cloudpickle": {"load", "loads"},
    "joblib": {"load"},
    "yaml": {"load", "load_all", "unsafe_load", "full_load"},
    "np": {"load"},
    "numpy": {"load"},
    "pd": {"read_pickle"},
}
ALLOWED = {("experiments/study/worker.py", "pickle.load")}  # the pipe from a study to its own workers


def calls(tree):
    """Every call in a module that could run code from its argument, as "module.function" or "function"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN:
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name in FORBIDDEN[node.module])
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in ("eval", "exec", "compile", "__import__"):
            yield function.id
        name, keywords = ast.unparse(function), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        module, _, attribute = name.rpartition(".")
        if attribute in FORBIDDEN.get(module, ()) or (name == "torch.load" and keywords.get("weights_only") != "True"):
            yield name
        for keyword in ("allow_pickle", "shell"):
            if keywords.get(keyword, "False") != "False":
                yield f"{name} with {keyword}"


def test_no_code_path_unpickles_or_executes_what_it_reads():
    found = {
        (path.relative_to(ROOT).as_posix(), call)
        for package in ("jresnet", "experiments", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        for call in calls(ast.parse(path.read_text()))
    }
    assert found == ALLOWED
    bad = "pickle.loads(a); torch.load(a); np.load(a); f(a, allow_pickle=True); eval(a)\nfrom pickle import load"
    assert len(list(calls(ast.parse(bad)))) == 6


# Memory and time


@pytest.mark.parametrize(
    ("member", "part"),
    [
        (header((10**11,)) + bytes(99), "shorter than its header says"),
        (header((2**62, 2**62, 2**62)), "shorter than its header says"),
        (header((2**50,), "|V0"), "neither numbers nor text"),
        (header((2**50,), "<U0"), "shorter than its header says"),
        (header((-1, 6, 5, 3)) + bytes(990), "shorter than its header says"),
        (header((0, 2**63, 2**63)), "shorter than its header says"),
        (raw_header("{'descr': '|u1', 'fortran_order': False, 'shape': (True, 6, 5, 3)}\n"), "no possible shape"),
        (raw_header("(" * 9000), "damaged"),
        (raw_header("-" * 9000 + "1"), "damaged"),
        (raw_header("{'descr': '|O', 'fortran_order': __import__('os').system('true'), 'shape': ()}"), "damaged"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), "damaged"),
    ],
)  # fmt: skip
def test_crafted_arrays_are_refused(tmp_path, memory, member, part):
    for key in ("train_images", "train_labels", "classes"):
        refused(npz(tmp_path / "data.npz", key, member), tmp_path / "data.npz", part)


def test_an_archive_that_claims_100_gigabytes_is_refused(tmp_path, memory):
    """In the array's header and in the archive's, which numpy and zipfile believe."""
    size = 10**11
    name = npz(tmp_path / "data.npz", "train_images", header((10**7 - 1, 100, 100)) + bytes(99))
    content = bytearray((tmp_path / "data.npz").read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    assert content[entry + 46 :].startswith(b"train_images.npy")
    # The uncompressed size goes into a ZIP64 field behind the entry's name.
    extra = struct.pack("<HHQ", 1, 8, size)
    struct.pack_into("<I", content, entry + 24, 0xFFFFFFFF)
    struct.pack_into("<H", content, entry + 30, len(extra))
    content[entry + 62 : entry + 62] = extra
    end = content.rindex(b"PK\x05\x06")
    struct.pack_into("<I", content, end + 12, struct.unpack_from("<I", content, end + 12)[0] + len(extra))
    (tmp_path / "data.npz").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "data.npz") as archive:
        assert archive.getinfo("train_images.npy").file_size == size
    refused(name, "100,000,000,000 bytes of memory", "if the file can be trusted")


def test_a_zip_bomb_is_refused(tmp_path, memory, monkeypatch):
    images = header((2**24 // 75, 5, 5, 3)) + bytes(2**24 // 75 * 75)
    name = npz(tmp_path / "data.npz", "train_images", images, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr("jresnet.data.arrays.npz._LARGE", 2**23)
    refused(name, "train_images", "over 100 times as many")
    # Small arrays may be compressed as far as deflate can.
    labels = np.sort(np.arange(9) % 3)
    np.savez_compressed(tmp_path / "data.npz", **arrays(train_images=np.zeros((9, 60, 50, 3), np.uint8),
                        test_images=np.zeros((4, 60, 50, 3), np.uint8), train_labels=labels))  # fmt: skip
    assert len(load_dataset(f"npz:{tmp_path / 'data.npz'}").train) == 9


def test_images_larger_than_the_memory_are_refused(tmp_path, memory, monkeypatch):
    """A PNG's header says its size; no pixel needs to follow."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels(6, 5, 3)).save(tmp_path / split / name / "1.png")
    for side in (10_000, 60_000, 2**31 - 1):
        chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = b"IDAT" + zlib.compress(bytes(9999))
        chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND"))
        (tmp_path / "train/a/0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        refused(f"folder:{tmp_path}", tmp_path / "train/a/0.png", "cannot be used", "remove")


def test_weights_larger_than_their_file_are_refused(tmp_path, torch, torch_weights, memory):
    def reason(name):
        with pytest.raises(InputError) as caught:
            torch_weights.load(tmp_path / name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    torch.save({"linear.bias": torch.zeros(1000)}, tmp_path / "good.pth")
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in good.namelist():
            bomb.writestr(member, bytes(10**8) if member.endswith("data/0") else good.read(member))
    assert "a compressed archive" in reason("bomb.pth")
    torch.save({"linear.bias": torch.zeros(1).expand(2**40)}, tmp_path / "expanded.pth")
    assert "linear.bias of shape (1099511627776,) is not in the file" in reason("expanded.pth")


def test_tensors_without_plain_numbers_are_refused(tmp_path, torch, torch_weights, recwarn):
    model = jresnet.resnet18(num_classes=3, width=2)
    good = {name: torch.zeros(shape) for name, shape in torch_weights.expected(model, (32, 32), "kuangliu")[1].items()}
    torch_weights.from_state_dict(good, model)
    bias = good["linear.bias"]
    for bad in (bias.to_sparse(), bias.to("meta"), bias.to(torch.float8_e4m3fn)):
        torch.save(good | {"linear.bias": bad}, tmp_path / "weights.pth")
        with pytest.raises(InputError, match=r"linear\.bias holds no plain numbers of weights") as caught:
            torch_weights.from_state_dict(tmp_path / "weights.pth", model)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (2**63, "{}"),
        (2**40, "{}"),
        (None, "[" * 50_000),
        (None, '{"fc.bias": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4]}}'),
        (None, '{"fc.bias": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 4]}}'),
        (None, '{"fc.bias": {"dtype": "F32", "shape": [0, 9223372036854775807], "data_offsets": [0, 0]}}'),
    ],
)
def test_absurd_headers_of_safetensors_are_refused(tmp_path, torch_weights, memory, length, text):
    content = struct.pack("<Q", length or len(text)) + text.encode() + bytes(4)
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as tensors alone") as caught:
        torch_weights.load(tmp_path / "weights.safetensors")
    assert "\n" not in str(caught.value)


# Names are neither paths nor markup


@pytest.mark.parametrize(
    "name", ["../../x", "/etc", "mine/../../x", "./mine", "file:///etc", "mine/..:1.0.0/x", "a\nb"]
)
def test_a_name_that_is_no_data_set_of_tfds_reads_no_directory(tmp_path, monkeypatch, name):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds_reader, "_prepare", lambda *_: pytest.fail("would write"))
    (tmp_path / "data").mkdir()
    refused(name, "TFDS has no such data set", data_dir=str(tmp_path / "data"))
    assert [path.name for path in tmp_path.iterdir()] == ["data"] and not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    "name", ["a\x1b[31m", "a\nb", "a\rb", "a\x00b", "a\x7f", "a\x9b31m", "a\u2028b", "a\u202etxt", "\udcff"]
)
def test_class_names_that_control_a_terminal_are_refused(tmp_path, name):
    assert not checks.is_printable(name)
    labels = np.arange(9) % 3
    with pytest.raises(InputError, match="holds control characters: rename the class") as caught:
        checks.checked_classes({"train": labels}, ("a", name, "c"))
    assert checks.is_printable(str(caught.value))


def test_other_class_names_are_kept(tmp_path):
    names = ("漢字 Ω", "می\u200cخواهم", "👩\u200d🔬", "a\u00a0b\u3000c", "[red]", "=1+1", "<b>")  # noqa: RUF001
    assert checks.checked_classes({"train": np.arange(len(names))}, names) == names


HOSTILE = (
    "../../x", "/tmp/absolute",
    "<script>alert(1)</script>", '" onerror="alert(1)', "'><svg onload=alert(1)>", "=cmd|'/c calc'!A0", "a|b\\|c",
    "javascript:alert(1)", "[x](javascript:alert(1))", "]]>--><script>", "{{7*7}}{% raw %}", "&lt;b&gt;", "-1+1",
)  # fmt: skip


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a study whose classes, data set, command and setting have hostile names."""
    directory = tmp_path_factory.mktemp("hostile") / "deep" / "study"
    data = dataclasses.replace(pages.dataset(HOSTILE, per_class=3), name="npz:/x/<img src=x>\udcff\n|.npz")
    experiment, cells = pages.final(directory / "runs", data, seeds=1)
    (cell,) = (dataclasses.replace(cell, command="python -m x '<script>' \udcff javascript:x") for cell in cells)
    command = "=python -m x --dataset '<script>alert(2)</script>' \udcff\n"
    page.write(pages.outcome([(experiment, (cell,))], data, command=command), directory)
    return directory


def test_hostile_names_stay_text_on_the_page(hostile):
    shown = Tags((hostile / "report.html").read_text())
    tags = {tag for tag, _ in shown.tags}
    assert not tags & {"script", "svg", "iframe", "object", "embed", "base", "link", "form"}
    for tag, attributes in shown.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:image/").startswith("data:image/"), tag
        assert attributes.get("href", "#").startswith("#")
    for name in HOSTILE:
        assert name in shown.text
    assert "<img src=x>\\udcff" in shown.text and "49{%" not in shown.text


def test_hostile_names_are_no_paths(hostile):
    parents = hostile.parent.parent
    assert [path.name for path in parents.iterdir()] == ["deep"]
    assert [path.name for path in hostile.parent.iterdir()] == ["study"]
    names = {path.name for path in hostile.iterdir()}
    assert names == {"runs", "figures", "tables", "outcome.json", "report.html"}
    assert all(path.is_file() for folder in ("figures", "tables") for path in (hostile / folder).iterdir())


def test_hostile_names_stay_text_in_figures(hostile):
    drawings = list(hostile.glob("figures/*.svg"))
    assert len(drawings) >= 5
    for path in drawings:
        elements = xml.etree.ElementTree.parse(path).iter()
        assert not {element.tag.rpartition("}")[2] for element in elements} & {"script", "foreignObject", "image-set"}


def test_hostile_names_stay_one_cell_in_tables(hostile):
    with (hostile / "tables" / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"].removeprefix("'") for row in rows] == [name.removeprefix("'") for name in HOSTILE]
    files = [path.read_text() for path in hostile.glob("tables/*.csv")]
    texts = [text for file in files for row in csv.reader(io.StringIO(file)) for text in row]
    numbers = [text for text in texts if text.startswith(tuple("=+-@\t\r"))]
    assert all(np.isfinite(float(number)) for number in numbers)
    for path in hostile.glob("tables/*.md"):
        head, _, *lines = path.read_text().split("\n\n")[0].splitlines()
        for line in lines:
            # A pipe separates cells unless an odd number of backslashes precedes it.
            bare = line.replace("\\\\", "").replace("\\|", "")
            assert bare.count("|") == head.count("|") and "<" not in bare and "](" not in bare


def test_symbolic_links_in_a_folder_are_read_as_what_they_point_to(tmp_path):
    Image.fromarray(pixels(6, 5, 3)).save(tmp_path / "elsewhere.png")
    (tmp_path / "secret.txt").write_text("secret")
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            (tmp_path / "data" / split / name / "1.png").symlink_to(tmp_path / "elsewhere.png")
    dataset = load_dataset(f"folder:{tmp_path / 'data'}")
    assert dataset.classes == ("a", "b") and len(dataset.train) == 2
    (tmp_path / "data/train/a/2.png").symlink_to(tmp_path / "secret.txt")
    message = refused(f"folder:{tmp_path / 'data'}", tmp_path / "data/train/a/2.png", "cannot be used")
    assert "secret" not in message
    (tmp_path / "data/train/a/2.png").unlink()
    (tmp_path / "data/train/a/zero.png").symlink_to("/dev/zero")
    refused(f"folder:{tmp_path / 'data'}", tmp_path / "data/train/a/zero.png", "it is no file")
