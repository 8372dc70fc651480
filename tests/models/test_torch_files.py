"""Files of weights as people have them: the tensors that were saved, however they are wrapped, or one line."""

import argparse
import collections
import datetime
import json
import os
import pathlib
import struct
import zipfile

import numpy as np
import pytest

import jresnet
from jresnet.errors import InputError
from jresnet.models import torch_weights
from jresnet.models.weights.state_dicts import clean
from jresnet.models.weights.tensors import array_of, check_values
from jresnet.models.weights.torch_files import load, save
from tests.support.weights import state_dict

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

PLAIN = state_dict(torch)
OTHER = state_dict(torch, seed=1)
MODEL = jresnet.ResNet(stage_sizes=(1, 1), width=2, pool_size=4, num_classes=3)


def prefixed(prefix, tensors=PLAIN):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def same(loaded, expected=PLAIN):
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        array = torch.as_tensor(np.asarray(array_of(loaded[name])))
        assert torch.equal(array, tensor.float() if tensor.dtype == torch.bfloat16 else tensor), name


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and message.count(": ") >= 1 and len(message) < 700, message
    return message


def saved(path, value, **options):
    torch.save(value, path, **options)
    return path


# What a file is


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_is_known_by_its_content_whatever_it_is_called(tmp_path, kind):
    for suffix in ("", ".pth", ".pt", ".th", ".tar", ".pth.tar", ".pt.tar", ".ckpt", ".bin", ".PTH", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        if kind == "safetensors":
            safetensors.save_file(PLAIN, path)
        else:
            saved(path, PLAIN, _use_new_zipfile_serialization=kind == "zip")
        same(load(path))


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_all_protocols_hold_what_they_hold(tmp_path, protocol, new):
    beside = {"acc": np.float64(93.1), "lrs": [0.1] * 2000, "shape": torch.Size([3, 4]), "big": 2**80, "pair": (1, "b")}
    optimizer = {"state": {n: {"exp_avg": t} for n, t in enumerate(PLAIN.values())}, "param_groups": [{"lr": 0.1}]}
    value = {"net": PLAIN, "optimizer": optimizer, **beside}
    path = saved(tmp_path / "w.pth", value, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    same(load(path))


def test_views_and_shared_storages_are_the_tensors_that_were_saved(tmp_path):
    long = torch.arange(100.0)
    tensors = PLAIN | {
        "conv1.weight": long[10:64].reshape(3, 2, 3, 3).transpose(0, 1),
        "linear.weight": long[3:15].reshape(4, 3).T,
        "layer1.0.conv1.weight": PLAIN["layer1.0.conv2.weight"],
        "linear.bias": torch.randn(3, dtype=torch.complex64).conj().imag,
        "bn1.weight": torch.nn.Parameter(torch.ones(2)),
        "bn1.bias": torch.zeros(1).expand(2),
    }
    assert tensors["linear.bias"].is_neg()
    for new in (True, False):
        same(load(saved(tmp_path / "w.pth", tensors, _use_new_zipfile_serialization=new)), tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_other_precisions_keep_their_bits(tmp_path, dtype, kind):
    tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in PLAIN.items()}
    path = tmp_path / "w"
    safetensors.save_file(tensors, path) if kind == "safetensors" else torch.save(tensors, path)
    same(load(path), tensors)


def test_an_archive_of_a_big_endian_machine_is_read(tmp_path):
    saved(tmp_path / "little.pth", PLAIN)
    widths = {str(n): t.element_size() for n, t in enumerate(PLAIN.values())}
    with zipfile.ZipFile(tmp_path / "little.pth") as old, zipfile.ZipFile(tmp_path / "big.pth", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            _, part, key = name.rpartition("/data/")
            if part:
                data = np.frombuffer(data, f"V{widths[key]}").tobytes()
                data = np.frombuffer(data, np.uint8).reshape(-1, widths[key])[:, ::-1].tobytes()
            new.writestr(name, b"big" if name.endswith("byteorder") else data)
    same(load(tmp_path / "big.pth"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"no weights", "neither PyTorch's nor"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a page of the web"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(600), "compressed"),
        (bytes(257) + b"ustar" + bytes(600), "tar archive"),
        (b"\x80\x04\x95\x05\0\0\0\0\0\0\0}\x94.", "none that torch.save wrote"),
        (b"PK\x05\x06" + bytes(18), "without the one data.pkl"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, words):
    (tmp_path / "weights.pth").write_bytes(content)
    message = refusal(load, tmp_path / "weights.pth")
    assert message.startswith(f"{tmp_path / 'weights.pth'}: ") and words in message


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_by_name(tmp_path):
    torch.jit.script(torch.nn.Conv2d(3, 2, 3)).save(str(tmp_path / "script.pt"))
    assert "TorchScript" in refusal(load, tmp_path / "script.pt")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    assert "a device or a pipe" in refusal(load, tmp_path / "pipe")
    assert "a device or a pipe" in refusal(load, "/dev/zero")
    assert "a directory" in refusal(load, tmp_path)
    assert "there is no such file" in refusal(load, tmp_path / "none.pth")
    assert "cannot be read" in refusal(load, "a\0b")
    monkeypatch.setenv("HOME", str(tmp_path))
    save("~/mine.PTH", {"conv1.weight": np.ones((2, 3, 3, 3), np.float32)})
    assert load("~/mine.PTH").keys() == {"conv1.weight"}
    for suffix in (".th", ".bin", ".ckpt", ".pth.tar"):
        save(tmp_path / f"w{suffix}", {"a.weight": np.ones(2, np.float32)})
        assert torch.load(tmp_path / f"w{suffix}", weights_only=True)["a.weight"].tolist() == [1, 1]


# Where the state dict is


@pytest.mark.parametrize(
    "wrapped",
    [
        {"model_state_dict": PLAIN, "epoch": 5, "loss": 0.4},
        {"model": {"state_dict": PLAIN}},
        {"a": {"b": {"c": [3, PLAIN]}}, "beside": {"mean": torch.zeros(3), "std": torch.ones(3)}},
        (PLAIN, {"state": {0: {"momentum_buffer": torch.zeros(2, 3, 3, 3)}}}),
        collections.OrderedDict(net=collections.OrderedDict(PLAIN)),
        {"model": PLAIN, "best": dict(PLAIN)},
        {"model_ema": {"n_averaged": torch.tensor(5)} | prefixed("module.")},
        {"state": {name: {"momentum_buffer": t} for name, t in PLAIN.items()}, "net": PLAIN},
    ],
)
def test_a_state_dict_is_found_at_any_depth(tmp_path, wrapped):
    same(load(saved(tmp_path / "w.pth", wrapped)))


def test_of_several_state_dicts_one_is_chosen(tmp_path):
    path = saved(tmp_path / "w.pth", {"state": {"model": PLAIN}, "model_ema": prefixed("module.", OTHER), "epoch": 3})
    message = refusal(load, path)
    assert "model_ema, state.model" in message and "--key" in message
    same(load(path, "state.model"))
    same(load(path, key="model_ema"), OTHER)
    message = refusal(load, path, "ema")
    assert "key ema" in message and "model_ema, state.model" in message
    message = refusal(load, saved(tmp_path / "plain.pth", PLAIN), "model")
    assert message.endswith("key model: the file holds one state dict and nothing around it: omit --key (key=)")
    path = saved(path, {"a.b": PLAIN, "a": {"b": OTHER}})
    assert "holds 2 state dicts, a.b, a.b (1)" in refusal(load, path)
    same(load(path, "a.b (1)"), OTHER)
    # In one mapping, as of a Lightning module that holds both.
    path = saved(tmp_path / "l.ckpt", {"state_dict": prefixed("net.") | prefixed("ema.net.", OTHER)})
    assert "state_dict.ema.net, state_dict.net" in refusal(load, path)
    same(load(path, "state_dict.ema.net"), OTHER)
    same(load(path, "state_dict.net"))


@pytest.mark.parametrize("value", [{}, [], 3, None, "x", {"a": 1}, {1: torch.ones(2)}, torch.ones(3), [torch.ones(2)]])
def test_a_file_without_a_state_dict_is_refused(tmp_path, value):
    assert "holds no state dict: save model.state_dict()" in refusal(load, saved(tmp_path / "w.pth", value))


# Names


@pytest.mark.parametrize("prefix", [
    "module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "net._orig_mod.", "module.model.", "a.b.",
    "model.module.encoder.",
])  # fmt: skip
def test_the_prefix_of_the_network_is_dropped(prefix, caplog):
    same(clean(prefixed(prefix)))
    assert not caplog.messages
    same(clean(prefixed(prefix) | {"criterion.weight": torch.ones(3), "acc.tp": torch.tensor(3)}))
    (said,) = caplog.messages
    assert "criterion.weight, acc.tp" in said
    same(clean(clean(prefixed(prefix))))


def test_networks_of_other_layouts_are_found_too():
    names = {
        name: f"conv{int(name[5]) + 1}_x.0.residual_function.{name[9:]}" for name in PLAIN if name.startswith("layer")
    }
    names |= {name: f"conv1.0.{name[6:]}" for name in PLAIN if name.startswith("conv1.")}
    other = {names.get(name, name.replace("linear", "fc")): tensor for name, tensor in PLAIN.items()}
    same(clean(prefixed("student.", other) | {"teacher.bias": torch.ones(3)}), other)


def test_a_network_without_its_first_convolution_keeps_all_of_its_names():
    body = {name: tensor for name, tensor in PLAIN.items() if not name.startswith("conv1.")}
    same(clean(body), body)
    same(clean(prefixed("model.", body)), body)


def test_parts_within_names_that_wrappers_add_are_dropped():
    names = {name.replace("layer1.0.", "layer1._orig_mod.0.module."): tensor for name, tensor in PLAIN.items()}
    assert names.keys() != PLAIN.keys()
    same(clean(names))


def test_counters_are_passed_over_and_metrics_said(caplog):
    modules = {name.rpartition(".")[0] for name in PLAIN}
    counters = {f"{module}.total_ops": torch.zeros(1) for module in modules} | {"total_params": torch.zeros(1)}
    same(clean(PLAIN | counters | {"n_averaged": torch.tensor(3)}))
    assert not caplog.messages
    metrics = {f"metric{n}.count": torch.tensor(n) for n in range(9)}
    same(clean(PLAIN | metrics))
    (said,) = caplog.messages
    assert said.count("metric") == 5 and said.endswith("and 4 more")
    assert "n_tracked" in clean(PLAIN | {"n_tracked": torch.zeros(2)})  # what may be a layer is left to the comparison


def test_two_tensors_of_one_name_are_refused(tmp_path):
    message = refusal(load, saved(tmp_path / "w.pth", PLAIN | {"module.conv1.weight": OTHER["conv1.weight"]}))
    assert "conv1.weight, module.conv1.weight are two tensors of one name" in message
    assert "2 networks" in refusal(clean, prefixed("a.") | prefixed("b.", OTHER))


@pytest.mark.parametrize("old", ["fc.1", "linear.1", "classifier", "head", "fc", "output"])
def test_a_head_has_its_layouts_name(old):
    names = {name.replace("linear", old): tensor for name, tensor in PLAIN.items()}
    same(clean(names))
    torchvision = {name.replace("shortcut", "downsample"): tensor for name, tensor in names.items()}
    assert {"fc.weight", "fc.bias"} <= clean(torchvision).keys()


def test_a_head_beside_its_backbone_is_part_of_the_network(caplog):
    body = {f"encoder.{name}": tensor for name, tensor in PLAIN.items() if "linear" not in name}
    same(clean(body | {"fc.weight": PLAIN["linear.weight"], "fc.bias": PLAIN["linear.bias"]}))
    assert not caplog.messages
    two = {f"{name}.{leaf}": PLAIN[f"linear.{leaf}"] for name in ("fc", "head") for leaf in ("weight", "bias")}
    assert not {"linear.weight", "fc.weight"} & clean(body | two).keys() and caplog.messages


# Objects


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(93.1), np.int64(3), np.bool_(True), np.eye(3), np.dtype("f4"), argparse.Namespace(lr=0.1),
        pathlib.Path("runs"), datetime.datetime(2020, 1, 1), torch.Size([1]), torch.device("cuda:0"), torch.float16,
        {1, 2}, frozenset([1]), b"bytes", 1j, range(3), collections.Counter("a"), collections.defaultdict(list),
        slice(1),
        torch.ones(2, 2).to_sparse(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_beside_the_weights_are_admitted(tmp_path, beside):
    same(load(saved(tmp_path / "w.pth", {"net": PLAIN, "beside": beside})))
    same(load(saved(tmp_path / "w.pth", {"beside": [beside], "net": PLAIN}, _use_new_zipfile_serialization=False)))


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


class Options(argparse.Namespace):
    pass


def test_what_could_run_code_is_named_and_runs_none(tmp_path):
    ran = tmp_path / "ran"
    for value, name in (
        (Payload(str(ran)), "io.open"),
        (Options(), f"{__name__}.Options"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (os.system, "posix.system"),
        (getattr, "builtins.getattr"),
    ):
        for new in (True, False):
            path = saved(tmp_path / "w.pth", {"net": PLAIN, "x": value}, _use_new_zipfile_serialization=new)
            message = refusal(load, path)
            assert f"it names {name}, which could run code): save model.state_dict()" in message
    assert not ran.exists()


def test_names_from_a_file_cannot_act_on_a_terminal(tmp_path):
    assert "\x1b" not in refusal(load, saved(tmp_path / "w.pth", PLAIN | {"\x1b[31m.bias": torch.tensor(True)}))


# Values


BIAS = PLAIN["linear.bias"]


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_hold_no_plain_numbers_are_named(tmp_path):
    kinds = {
        "complex64": BIAS.to(torch.complex64), "bool": BIAS > 0, "int8": BIAS.to(torch.int8), "int64": BIAS.long(),
        "sparse": BIAS.to_sparse(), "quantised": torch.quantize_per_tensor(BIAS, 0.1, 0, torch.qint8),
        "meta": BIAS.to("meta"), "float8_e4m3fn": BIAS.to(torch.float8_e4m3fn),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "uint16": BIAS.to(torch.uint16),
    }  # fmt: skip
    kinds["complex128"] = torch.randn(3, dtype=torch.complex128).conj()
    for kind, tensor in kinds.items():
        tensors = PLAIN | {"linear.bias": tensor}
        for message in (
            refusal(load, saved(tmp_path / "w.pth", tensors)),
            refusal(torch_weights.from_state_dict, tensors, MODEL, (8, 8)),
            refusal(torch_weights.classes_of, tensors),
        ):
            assert f"linear.bias holds no plain numbers of weights ({kind})" in message
    for tensor in (torch.tensor(1.0), torch.zeros(0), np.array(None), np.array("x")):
        assert "linear.bias" in refusal(clean, PLAIN | {"linear.bias": tensor})
    for key in (3, None, b"x", (1, 2), True):
        assert "is no name of a tensor" in refusal(clean, PLAIN | {key: BIAS})
        assert "is no name of a tensor" in refusal(load, saved(tmp_path / "w.pth", PLAIN | {key: BIAS}))


def test_impossible_values_are_refused_or_said(caplog):
    sound = {name: tensor.numpy() for name, tensor in PLAIN.items()}
    sound |= {"linear.bias": np.array([3e38, -1e-300, 0.0])}
    check_values("w.pth", sound, strict=True)
    check_values("w.pth", {name: tensor.bfloat16() for name, tensor in PLAIN.items()}, strict=True)
    assert not caplog.messages
    for bad in (np.nan, -np.inf, 1e300, -4e38):
        faulty = sound | {"linear.bias": np.array([1.0, bad, 0.0])}
        message = refusal(check_values, "w.pth", faulty, strict=True)
        assert message.startswith(
            "w.pth: linear.bias has values that are NaN, infinite or beyond float32's range (1 of 3): "
        )
        caplog.clear()
        check_values("w.pth", faulty, strict=False)
        assert "w.pth: linear.bias has values that are NaN" in caplog.text
    faulty = sound | {"bn1.running_var": np.float32([-1, 1]), "conv1.weight": np.full((2, 3, 3, 3), np.nan)}
    message = refusal(check_values, "w.pth", faulty, strict=True)
    assert "bn1.running_var has negative values" in message or "conv1.weight has values" in message
    assert "; other such tensors: 1" in message


# Damage


def test_a_flipped_bit_of_an_archive_is_refused_or_changes_nothing(tmp_path):
    path = saved(tmp_path / "w.pth", {"net": PLAIN})
    content = path.read_bytes()
    refused = 0
    for place in np.random.default_rng(0).integers(0, 8 * len(content), 100):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            same(load(path))
        except InputError:
            refused += 1
    assert 40 < refused < 100  # the rest is between the members, which are aligned


def test_every_flip_within_the_tensors_of_an_archive_is_refused(tmp_path):
    path = saved(tmp_path / "w.pth", PLAIN)
    content = path.read_bytes()
    for tensor in PLAIN.values():
        place = content.index(tensor.numpy().tobytes())
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert "Bad CRC-32" in refusal(load, path)


def test_an_archive_without_checksums_is_read_and_said(tmp_path, caplog):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "w.pth", PLAIN)
    finally:
        torch.serialization.set_crc32_options(before)
    same(load(path))
    assert "written without checksums" in caplog.text


def test_a_file_that_is_cut_off_or_goes_on_is_refused(tmp_path):
    for kind in ("zip", "legacy", "safetensors"):
        path = tmp_path / kind
        if kind == "safetensors":
            safetensors.save_file(PLAIN, path)
        else:
            saved(path, PLAIN, _use_new_zipfile_serialization=kind == "zip")
        content = path.read_bytes()
        for length in [*range(0, len(content), 301), len(content) - 1]:
            path.write_bytes(content[:length])
            refusal(load, path)
        path.write_bytes(content + b"\0")
        if kind != "zip":
            refusal(load, path)


def safetensors_file(path, header, data=b"\0\0\x80?" * 4):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(begin=0, end=16, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_headers_of_safetensors_are_checked(tmp_path):
    path = tmp_path / "w.safetensors"
    assert (
        load(safetensors_file(path, {"a.bias": entry(), "__metadata__": {"format": "pt"}}))["a.bias"].tolist()
        == [1] * 4
    )
    good = json.dumps({"a.bias": entry()}).encode()
    for header in (
        {"a.bias": entry(0, 12, (3,))},  # not all of the file
        {"a.bias": entry(0, 8, (2,)), "b.bias": entry(4, 16, (3,))},  # overlap
        {"a.bias": entry(0, 8, (2,)), "b.bias": entry(12, 16, (1,))},  # a gap
        {"a.bias": entry(0, 20, (5,))},
        {"a.bias": entry(0, 16, (2,))},
        {"a.bias": entry(0, 16, (-4,))},
        {"a.bias": entry(0, 16, (4.0,))},
        {"a.bias": entry(0, 16, (True, 4))},
        {"a.bias": entry(0, 16, (2**63, 0))},
        {"a.bias": entry(-16, 0)},
        {"a.bias": entry(dtype="F31")},
        {"a.bias": entry(dtype=["F32"])},
        {"a.bias": entry() | {"more": 1}},
        {"a.bias": [1]},
        good[:-1] + b', "a.bias": ' + json.dumps(entry()).encode() + b"}",  # the same name again
        good.replace(b"16", b"NaN"),
        good.replace(b"16", b"1" * 5000),
        good[:-1],
        b"{" * 50_000,
        b'{"\xff": 1}',
    ):
        message = refusal(load, safetensors_file(path, header))
        assert "cannot be read as tensors alone" in message, (header, message)


# Sizes


def test_shapes_are_judged_before_memory_is_taken(tmp_path):
    for shape, strides in (((2**31,), (0,)), ((2**20, 2**20), (0, 0)), ((2**40,), (0,))):
        big = torch.zeros(1).as_strided(shape, strides)
        for new in (True, False):
            path = saved(tmp_path / "w.pth", PLAIN | {"linear.bias": big}, _use_new_zipfile_serialization=new)
            assert "linear.bias of shape" in refusal(load, path)
        assert "linear.bias" in refusal(torch_weights.from_state_dict, PLAIN | {"linear.bias": big}, MODEL, (8, 8))
    many = {f"a{n}.bias": torch.zeros(1).expand(4000) for n in range(200)}
    assert "is not in the file in full" in refusal(load, saved(tmp_path / "w.pth", many))


def test_a_storage_that_claims_more_than_the_file_has_is_refused(tmp_path):
    path = saved(tmp_path / "w.pth", {"a.bias": torch.ones(4)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    four = b"\x04" + bytes(7) + torch.ones(4).numpy().tobytes()
    assert content.endswith(four)
    path.write_bytes(content.removesuffix(four) + struct.pack("<q", 2**40) + four[8:])
    assert "claims" in refusal(load, path)
    path.write_bytes(content.replace(b"K\x04", b"K\x7f"))  # in the pickle: the storage's length and the tensor's
    assert "claims" in refusal(load, path)
    saved(path, {"a.bias": torch.ones(4)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"K\x04", b"K\x7f"))
    assert "claims" in refusal(load, tmp_path / "new.pth")
