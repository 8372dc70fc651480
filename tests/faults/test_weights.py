"""Generated files of weights, damaged and hostile: the tensors that were saved, or one line.

Never a traceback, never a hang, never memory without bound. Tensors are compared where the file has sums.
"""

import io
import json
import random
import struct
import zipfile

import numpy as np
import pytest

import jresnet
from jresnet.models import torch_weights
from jresnet.models.weights.state_dicts import clean
from jresnet.models.weights.tensors import array_of, check_values
from jresnet.models.weights.torch_files import load
from tests.support.damage import edited, put, refused, repeat, spoilt
from tests.support.weights import state_dict

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

PLAIN = state_dict(torch)
MODEL = jresnet.ResNet(stage_sizes=(1, 1), width=2, pool_size=4, num_classes=3)

# Operations of pickles: of the kinds that take memory, call something, or need what is not there.
SNIPPETS = (
    b"0", b"1", b"2", b"(", b")", b"]", b"}", b"N", b"\x88", b".", b"R", b"b", b"a", b"e", b"s", b"u", b"t", b"Q",
    b"\x81", b"\x85", b"\x86", b"\x87", b"\x92", b"\x93", b"\x94", b"\x8f", b"\x90", b"o", b"l", b"d", b"h\0", b"q\0",
    b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"p99999999999\n", b"K\xff", b"J\xff\xff\xff\xff", b"I01\n",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"L" + b"9" * 5000 + b"L\n", b"G\x7f\xf8\0\0\0\0\0\0", b"X\0\0\0\0",
    b"X\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8, b"\x8b\xff\xff\xff\x7f", b"cos\nsystem\n", b"cbuiltins\neval\n",
    b"cbuiltins\nbytearray\n\x8a\x06" + b"\xff" * 5 + b"\x0f\x85R", b"ctorch.storage\nUntypedStorage\n", b"\x82\x01",
    b"ctorch\nTensor\n\x8a\x06" + b"\xff" * 5 + b"\x0f\x85R", b"P1\n", b"i__main__\nNet\n",
    b"ccollections\nOrderedDict\n)R", b"ctorch._utils\n_rebuild_tensor_v2\n", b"\x80\x05", b"\x95" + b"\xff" * 8,
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"(" * 3000, b"]" * 3000, b"\x85" * 3000,
)  # fmt: skip


def archive(rng, data):
    """An archive of which one member is edited, dropped, doubled, renamed or compressed; its sums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = names[0] if rng.random() < 0.8 else rng.choice(names)
        for name in names:
            content = old.read(name)
            way = rng.choice(["edit"] * 7 + ["drop", "rename", "compress"]) if name == chosen else ""
            if way == "drop":
                continue
            content = (pickled(rng, content) if chosen == names[0] else spoilt(rng, content) or b"") if way else content
            kind = zipfile.ZIP_DEFLATED if way == "compress" else zipfile.ZIP_STORED
            new.writestr(name + "x" if way == "rename" else name, content, kind)
    return buffer.getvalue()


def pickled(rng, data):
    """A pickle with up to three changes: bytes replaced, removed or doubled, or operations put in."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(data)), rng.choice([0, 0, 1, 2, 20])
        put_in = rng.choice(
            [rng.choice(SNIPPETS), rng.choice(SNIPPETS), rng.randbytes(length), data[at : at + 40], b""]
        )
        data = data[:at] + put_in + data[at + length :]
    return data


def header(rng, data):
    """A .safetensors file with an edited header."""
    length = struct.unpack("<Q", data[:8])[0]
    text = edited(rng, json.loads(data[8 : 8 + length])).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def odd_tensor(rng):
    """A tensor of a kind that no layer has, or of values that none has, or what is no tensor."""
    return rng.choice([
        lambda: torch.zeros(1).expand(rng.choice([2**20, 2**31, 2**40])), lambda: torch.zeros(3).to_sparse(),
        lambda: torch.zeros(2, 3, 3, 3).to("meta"), lambda: torch.zeros(3).to(torch.float8_e5m2),
        lambda: torch.tensor(1.0), lambda: torch.zeros(0, 3), lambda: torch.zeros(3) > 1, lambda: torch.arange(3),
        lambda: torch.randn(3, dtype=torch.complex64).conj(), lambda: torch.full((3,), float("nan")),
        lambda: torch.full((2, 3, 3, 3), 1e300, dtype=torch.float64), lambda: torch.zeros([1] * 60),
        lambda: None, lambda: "x", lambda: np.float64(3), lambda: {"weight": torch.ones(3)}, lambda: [torch.ones(3)],
    ])()  # fmt: skip


def saved(rng):
    """A file of a state dict wrapped and named at random, with odd things beside it or in it."""
    tensors = dict(PLAIN)
    for _ in range(rng.choice([0, 1, 3])):
        name = rng.choice([*PLAIN, "total_ops", "acc.tp", "module.conv1.weight", "head.1.weight", "", ".", "é" * 300])
        tensors[rng.choice([name, name, name, 3, None])] = odd_tensor(rng)
    prefix = rng.choice(["", "", "module.", "net._orig_mod.", "layer1.0.", "a" * 250])
    value = {prefix + name if isinstance(name, str) else name: tensor for name, tensor in tensors.items()}
    for _ in range(rng.choice([0, 1, 2, 20])):
        value = rng.choice(
            [{"net": value}, {"a.b": value, "epoch": 1}, [value], (1, value), {"x": value, "y": value}, {3: value}]
        )
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=rng.choice([2, 4]), _use_new_zipfile_serialization=rng.random() < 0.5)
    return buffer.getvalue()


def files():
    """The bytes of a good file of each kind."""
    buffers = {}
    for kind in ("zip", "legacy"):
        torch.save({"net": PLAIN, "epoch": 3}, buffer := io.BytesIO(), _use_new_zipfile_serialization=kind == "zip")
        buffers[kind] = buffer.getvalue()
    return buffers | {"safetensors": safetensors.save(PLAIN)}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_file_of_weights_is_read_as_it_was_saved_or_refused(tmp_path, examples):
    path, good = tmp_path / "weights.pth", files()

    def make(rng):
        way = rng.choice(["spoilt", "archive", "archive", "legacy", "header", "saved"])
        if way == "spoilt":
            kind = rng.choice(list(good))
            return kind, spoilt(rng, good[kind])
        made = {
            "archive": lambda: archive(rng, good["zip"]), "legacy": lambda: pickled(rng, good["legacy"]),
            "header": lambda: header(rng, good["safetensors"]), "saved": lambda: saved(rng),
        }  # fmt: skip
        return way, made[way]()

    def check(case):
        way, content = case
        put(path, content)
        tensors, message = refused(lambda: load(path), path)
        if message is not None:
            assert "takes longer" not in message and "MemoryError" not in message and len(message) < 1000
            return
        assert clean(tensors) == tensors
        arrays = {name: array_of(tensor) for name, tensor in tensors.items()}
        if way == "zip":
            assert {name: array.tobytes() for name, array in arrays.items()} == EXPECTED
        _, message = refused(lambda: check_values(str(path), tensors, strict=True), path)
        if message is not None:
            return
        _, unfit = refused(lambda: torch_weights.from_state_dict(tensors, MODEL, (8, 8)))
        counted, _ = refused(lambda: torch_weights.classes_of(tensors))
        assert unfit is not None or counted == 3

    repeat(check, examples, make)


EXPECTED = {name: tensor.numpy().tobytes() for name, tensor in PLAIN.items()}


def tensor_pickle(shape=b"K\x01\x85", strides=b"K\x01\x85"):
    """Operations that push a float32 tensor of a storage of one element."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + shape + strides + b"\x89}tR"


def text(name):
    return b"X" + struct.pack("<I", len(name)) + name


def bombs():
    """Pickles of operations that a careless reader takes long for, or much memory."""
    one, kernel = tensor_pickle() + b"q\1", tensor_pickle(b"(" + b"K\1" * 4 + b"t", b"(" + b"K\1" * 4 + b"t") + b"q\1"
    many, few, prime = 120_000, 19_900, 2**61 - 1
    networks = (part % n for n in range(few // 2) for part in (b"n%d.conv1.weight", b"n%d.layer1.0.conv1.weight"))
    kernels = {"networks": networks, "parts": (b"1." * 90 + b"%d.conv1.weight" % n for n in range(few))}
    tables = (b"}(" + text(b"a") + b"h\1" + text(b"b") + b"h\1uq\1" for _ in range(many // 3))
    pairs, long = b"".join(text(b"%d" % n) + b"N\x86" for n in range(few)), b"x" * 2**25
    numbers = (b"\x8a\x0b" + (n * prime).to_bytes(11, "little") + b"N" for n in range(many))
    return {
        "deep": (text(b"a") + b"}") * many + b"s" * (many - 1),
        "deep key": b"}" + b")" + b"\x85" * 3 * many + b"Ns",
        "doubled lists": one + b"h\1h\1\x86q\1" * (many // 2),
        "doubled tables": one + b"".join(tables),
        "long names": one + text(b"x" * 200) + b"q\2](" + b"}h\2h\1s" * few + b"e",
        "colliding keys": b"}(" + b"".join(numbers) + b"u",
        "colliding places": b"N" + b"".join(b"p%d\n" % (n * prime) for n in range(many)),
        "copied pairs": b"](" + pairs + b"eq\2ccollections\nOrderedDict\nq\3" + b"h\3h\2\x85R" * (many // 2),
        "copied sizes": b"](" + b"K\1" * many + b"eq\2ctorch\nSize\nq\3" + b"h\3h\2\x85R" * (many // 2),
        "copied names": text(b"torch._utils") + b"q\2" + text(b"_rebuild_" + long) + b"q\3" + b"h\2h\3\x93" * many,
        "copied keys": one + text(long) + b"q\2" + b"}h\2h\1s" * (many // 2),
        "long number": b"\x8b" + struct.pack("<i", 2**25) + b"\x7f" * 2**25,
        "array of bytes": b"cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R",
        "tensor": b"ctorch\nTensor\n\x8a\x06\0\0\0\0\0\x01\x85R",
    } | {
        kind: kernel + b"}(" + b"".join(text(name) + b"h\1" for name in names) + b"u" for kind, names in kernels.items()
    }  # fmt: skip


REASONS = {
    "colliding places": "an impossible place in the memo",
    "copied pairs": "it would take more memory than its file",
    "copied sizes": "a tensor of impossible shape",
    "copied names": "a name of more than 1000 characters",
    "networks": "holds 100 state dicts, n0, n1, n10, ",
}
"""Of the pickles that are refused; the others hold no state dict."""
READ = {
    "long names": {"x" * 200: (1,)},
    "parts": {f"{'1.' * 90}{n}.conv1.weight": (1, 1, 1, 1) for n in range(19_900)},
}
"""The shapes of the tensors, of one element each, in those that are read."""


@pytest.mark.slow
def test_no_pickle_takes_long_or_much_memory(tmp_path):
    cases = bombs()

    def check(name):
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + cases[name] + b".")
            archive.writestr("a/data/0", struct.pack("<f", 1.5))
        tensors, message = refused(lambda: load(tmp_path / "w.pth"), tmp_path)
        if name in READ:
            assert message is None, name
            assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == READ[name]
            assert all(tensor.item() == 1.5 for tensor in tensors.values())
        else:
            assert REASONS.get(name, "holds no state dict") in str(message), name

    names = iter(cases)
    repeat(check, len(cases), lambda rng: next(names))


def test_what_our_reader_takes_of_safetensors_its_library_takes_too(tmp_path):
    """The library checks headers as well: nothing passes here that is refused there."""
    path, good = tmp_path / "w.safetensors", safetensors.save(PLAIN)
    taken = 0
    for number in range(150):
        content = header(random.Random(number), good)
        path.write_bytes(content)
        loaded, _ = refused(lambda: load(path), path)
        if loaded is not None:
            theirs = safetensors.load(content)
            for name, array in loaded.items():
                found = [tensor.numpy() for other, tensor in theirs.items() if other.endswith(name)]
                assert any(array.tobytes() == one.tobytes() for one in found), name
            taken += 1
    assert taken
