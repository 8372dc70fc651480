"""`python -m jresnet`: inspect prints a network's table and draws it, convert keeps every bit of the weights."""

import importlib.metadata
import json
import re

import numpy as np
import pytest

import jresnet
from jresnet.models import torch_weights
from tests.support.commands import refusal, run

NORMALISATION = ["--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.25", "0.3"]


def test_inspect_prints_the_reports_counts(capsys):
    status, out, _ = run(capsys, "inspect", "resnet18", "--width", "42")
    assert status == 0
    assert out.startswith("resnet18, width 42, 10 classes, images of 32 x 32")
    assert "4,815,940 trainable parameters: fits the budget of 5,000,000 by 184,060" in out
    assert "479.2 MFLOP" in out


def test_inspect_knows_each_networks_images_and_classes(capsys):
    _, out, _ = run(capsys, "inspect", "imagenet_resnet18", "--budget", "10000000")
    assert out.startswith("imagenet_resnet18, width 64, 1000 classes, images of 224 x 224")
    assert "11,689,512 trainable parameters: exceeds the budget of 10,000,000 by 1,689,512" in out


def test_inspect_reads_every_option(capsys, tmp_path):
    figure = tmp_path / "network.svg"
    _, out, _ = run(
        capsys, "inspect", "resnet50", "--width", 4, "--blocks", 1, 2, "--kernel-size", 5, 3, "--pool-size", 2,
        "--num-classes", 3, "--image-size", 8, 12, "--shortcut", "projection", "--stem", "small", "--figure", figure,
    )  # fmt: skip
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "layer1_0/conv2 convolution 8 x 12 x 4 5 x 5 1 400 38,400" in " ".join(lines)
    assert "layer2_1/conv3 convolution 4 x 6 x 32 1 x 1 1 256 6,144" in " ".join(lines)
    assert "avg_pool average pooling 2 x 3 x 32 2 x 2 2" in lines
    assert any(line.startswith("linear linear 3 579 576") for line in lines)
    assert figure.read_text().startswith("<?xml") and lines[-1] == str(figure)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the command: must be one of train, "),
        ("fly", "fly: must be one of train, "),
        ("inspect", "MODEL: must be given"),
        ("inspect resnet19", "model resnet19: must be one of resnet18, resnet34"),
        ("inspect resnet18 --width 0", "--width 0: must be at least 1"),
        ("inspect resnet18 --kernel-size 3 4 3 3", "--kernel-size 3 4 3 3: must be odd"),
        ("inspect resnet18 --kernel-size 3 5", "kernel_size (3, 5): give one number, or one for each of 4 stages"),
        ("inspect resnet18 --pool-size 5", "--pool-size 5: exceeds the last feature map, 4 x 4"),
        ("inspect resnet18 --image-size 8 0", "--image-size 8 0: must be from 1"),
        ("inspect resnet18 --image-size 8", "--image-size 8: must be 2 whole numbers"),
        ("inspect resnet18 --num-classes 0", "--num-classes 0: must be from 1"),
        ("inspect resnet18 --budget -1", "--budget -1: must be from 1"),
        ("inspect resnet18 --figure network.bmp", "--figure network.bmp: must end in one of"),
        ("inspect resnet18 --widht 3", "--widht: no such option: use --width"),
        ("inspect resnet_se443 --width 8", "squeeze 16: exceeds the stem's channels, 8"),
        ("convert a.pth", "TARGET: must be given"),
        ("convert --layout kuangliu", "SOURCE and TARGET: must be given"),
        ("convert none.pth b.pth", "none.pth: there is no such run or file of weights"),
        ("convert runs/mien run --width 3", "runs/mien: there is no such run or file of weights"),
        (f"convert {'x' * 300} b.pth", f"{'x' * 300}: cannot be reached (File name too long): check the path and"),
        (f"convert a.pth {'x' * 300}", f"{'x' * 300}: cannot be reached (File name too long): check the path and"),
        ("convert . b.pth --key model", "--key model: the run's own record says it: leave it out"),
        ("convert . b.pth --image-size 8 8", "--image-size 8 8: the run's own record says it: leave it out"),
        ("convert a.pth b.pth --layout keras", "--layout keras: must be one of kuangliu, torchvision"),
        ("convert a.pth b.pth --classes x y", "--classes x y: only a target directory records it"),
        ("convert a.pth b.pth --mean 0 0 0", "--mean 0.0 0.0 0.0: only a target directory records it"),
        ("convert a.pth run", "--mean and --std: weights from a file need the normalisation"),
        ("convert a.pth run --mean 0 0 0 --std 1 0 1", "--std 1.0 0.0 1.0: must be numbers above 0 and at most 1"),
        ("convert a.pth run --mean 0 0 0 --std 1 1e-300 1", "--std 1.0 1e-300 1.0: must be numbers above 0"),
        ("convert a.pth run --mean 0 0 0 --std 1 1 2", "--std 1.0 1.0 2.0: must be numbers above 0 and at most 1"),
        ("convert a.pth run --mean 0 0 0 --std nan 1 1", "--std nan 1.0 1.0: must be numbers above 0"),
        ("convert a.pth run --mean 0 nan 0 --std 1 1 1", "--mean 0.0 nan 0.0: must be numbers from 0 to 1"),
        ("convert a.pth run --mean 0 123 0 --std 1 1 1", "--mean 0.0 123.0 0.0: must be numbers from 0 to 1"),
        ("convert a.pth b.pth --image-size 0 0", "--image-size 0 0: must be from 1 to 2147483647"),
        ("convert a.pth b.pth --image-size -3 32", "--image-size -3 32: must be from 1 to 2147483647"),
        ("convert a.pth b.pth --image-size 65536 32768", "--image-size 65536 32768: must be below 2147483648 pixels"),
        ("inspect resnet18 --image-size 65536 32768", "--image-size 65536 32768: must be below 2147483648 pixels"),
        (
            "convert a.pth run --mean 0 0 0 --std 1 1 1 --classes a \x1b[2J c",
            "--classes: the class name '\\x1b[2J' holds",
        ),
        ("convert a.pth run --mean 0 0 0 --std 1 1 1 --classes a b a", "--classes: two classes have the name 'a'"),
        ("convert a.pth b.pth --epsilon 0", "--epsilon 0.0: must be above 0"),
        ("convert a.pth b.pth --shortcut A", "--shortcut A: must be one of projection, padding"),
        ("convert a.pth b.pth --stem large", "--stem large: must be one of small, small-pool, imagenet"),
        ("convert gs://bucket/a.pth b.pth", "gs://bucket/a.pth: is a URL, and jresnet reads and writes local files"),
        ("convert a.pth s3://bucket/b.pth", "s3://bucket/b.pth: is a URL, and jresnet reads and writes local files"),
        ("convert hf://user/model run", "hf://user/model: is a URL, and jresnet reads and writes local files"),
        ("inspect resnet18 --stem small-pool", "--pool-size 4: exceeds the last feature map, 2 x 2"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").touch()
    assert refusal(capsys, *words.split()).startswith(message)


def test_help_names_the_commands(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0 and "inspect" in out and "convert" in out


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights in kuangliu's layout, as DataParallel names them."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_resnet import ResNet

    torch.manual_seed(0)
    network = ResNet(4, num_classes=3)
    network(torch.randn(4, 3, 32, 32))
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save({"net": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, path)
    return path


def same_tensors(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert np.asarray(array).dtype == np.asarray(second[name]).dtype, name
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_files_convert_bit_for_bit_and_back(capsys, weights, tmp_path):
    pytest.importorskip("safetensors")
    there, back = tmp_path / "there.safetensors", tmp_path / "back.pt"
    assert run(capsys, "convert", weights, there, "--width", 4, "--layout", "torchvision")[0] == 0
    names = torch_weights.load(there)
    assert {"fc.bias", "layer2.0.downsample.1.num_batches_tracked"} <= names.keys()
    assert names["layer2.0.downsample.1.num_batches_tracked"] == 1
    assert run(capsys, "convert", there, back, "--width", 4)[:2] == (0, f"{back}\n")
    original = {name.removeprefix("module."): tensor for name, tensor in torch_weights.load(weights).items()}
    same_tensors(torch_weights.load(back), original)


def test_the_network_is_the_one_that_fits_and_what_is_assumed_is_said(capsys, weights, tmp_path):
    target = tmp_path / "there.pt"
    line = f"{weights}: read as resnet18 --width 4; assumed, as names and shapes do not tell it: "
    assumed = "no max pooling after the stem (else --stem small-pool), an epsilon of 1e-05 (else --epsilon)\n"
    assert run(capsys, "convert", weights, target) == (0, f"{target}\n", line + assumed)
    line = f"{weights}: read as resnet18 --width 4 --pool-size 0 --stem small-pool --epsilon 0.001\n"
    given = ["--width", 4, "--stem", "small-pool", "--epsilon", 1e-3]
    assert run(capsys, "convert", weights, target, *given) == (0, f"{target}\n", line)
    contradiction = refusal(capsys, "convert", weights, tmp_path / "other.pt", "--shortcut", "padding")
    assert contradiction.endswith("they fit resnet18: --model resnet18 --width 4")
    assert not (tmp_path / "other.pt").exists()


def test_pooling_into_several_cells_is_asked_for(capsys, tmp_path):
    """The same tensors are those of pooling by 2 on 32 x 32 pixels and by 4 on 64 x 64."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_resnet import ResNet

    path, target = tmp_path / "weights.pth", tmp_path / "out.pth"
    torch.save(ResNet(2, pool_size=2).state_dict(), path)
    message = refusal(capsys, "convert", path, target)
    assert message.endswith("they fit resnet18: --model resnet18 --width 2 --pool-size 2, or images of another size")
    assert run(capsys, "convert", path, target, "--pool-size", 2)[0] == 0
    assert run(capsys, "convert", path, target, "--image-size", 64, 64)[0] == 0


@pytest.mark.parametrize(
    ("target", "directory"),
    [
        ("lr0.01", True), ("resnet18-v1.5", True), ("w.pth", False), ("W.PTH", False), ("w.ckpt", False),
        ("w.pth/", True), ("there.pth", True), ("~/run.v2", True),
    ],
)  # fmt: skip
def test_a_name_without_a_suffix_of_weights_is_a_directory(capsys, tmp_path, monkeypatch, target, directory):
    """Only a directory needs the normalisation."""
    (tmp_path / "there.pth").mkdir()
    (tmp_path / "empty.pth").touch()
    monkeypatch.chdir(tmp_path)
    message = refusal(capsys, "convert", "empty.pth", target)
    assert ("--mean and --std: weights from a file need" in message) == directory
    assert message.startswith("empty.pth: ") or directory
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.pth", "there.pth"]


def test_the_home_directory_is_found_in_source_and_target(capsys, weights, monkeypatch):
    monkeypatch.setenv("HOME", str(weights.parent))
    status, out, _ = run(capsys, "convert", "~/weights.pth", "~/copy.pth")
    copy = weights.with_name("copy.pth")
    assert (status, out) == (0, f"{copy}\n") and copy.exists()
    assert "~user-that-is-not-there/a.pth: there is no such" in refusal(
        capsys, "convert", "~user-that-is-not-there/a.pth", "b"
    )


def test_convert_turns_a_file_into_a_run_and_a_run_into_a_file(capsys, weights, tmp_path):
    torch = pytest.importorskip("torch")
    directory, back = tmp_path / "run", tmp_path / "back.pth"
    names = ["--classes", "cat", "dog", "owl"]
    assert run(capsys, "convert", weights, directory, "--width", 4, *names, *NORMALISATION)[0] == 0
    classifier = jresnet.Classifier.load(directory)
    assert classifier.classes == ("cat", "dog", "owl")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)

    from benchmarks.torch_resnet import ResNet

    network = ResNet(4, num_classes=3)
    state_dict = torch_weights.load(weights)
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state_dict.items()})
    pixels = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.25, 0.3])
    logits = network.eval()(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32))
    np.testing.assert_allclose(classifier.predict(images), logits.softmax(1).detach().numpy(), atol=1e-6)

    assert run(capsys, "convert", directory, back)[0] == 0
    original = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    converted = torch_weights.load(back)
    same_tensors(
        {name: tensor for name, tensor in converted.items() if "tracked" not in name},
        {name: tensor for name, tensor in original.items() if "tracked" not in name},
    )


def test_options_that_contradict_a_runs_record_are_refused(capsys, weights, tmp_path):
    directory = tmp_path / "run"
    run(capsys, "convert", weights, directory, "--width", 4, *NORMALISATION)
    before = sorted(path for path in tmp_path.rglob("*"))
    target = tmp_path / "out.pth"
    assert refusal(capsys, "convert", directory, target, "--width", 4).startswith(
        "--width 4: the run's own record says it"
    )
    assert "both are directories" in refusal(capsys, "convert", directory, tmp_path / "other", *NORMALISATION)
    assert "exists already" in refusal(capsys, "convert", weights, directory, "--width", 4, *NORMALISATION)
    # Another experiment's name, so that training does not resume from converted weights.
    config = json.loads((directory / "config.json").read_text())
    assert config["experiment"] == "converted" and config["config"]["width"] == 4
    assert config["config"]["dataset"] == config["dataset"]["name"] == "converted"
    assert config["jresnet"] == importlib.metadata.version("jresnet")
    assert sorted(path for path in tmp_path.rglob("*")) == before
    # As earlier versions wrote it.
    del config["jresnet"]
    config["config"]["dataset"] = "cifar10"
    (directory / "config.json").write_text(json.dumps(config))
    assert jresnet.Classifier.load(directory).classes == ("0", "1", "2")


def test_weights_of_another_network_are_refused_and_nothing_is_written(capsys, weights, tmp_path):
    for target in (tmp_path / "out.pth", tmp_path / "run"):
        extra = [] if target.suffix else NORMALISATION
        message = refusal(capsys, "convert", weights, target, "--width", 5, *extra)
        assert re.search(
            r"\d+ of another shape, as bn1\.bias \(4,\), not \(5,\)\): they fit resnet18: --model", message
        )
        message = refusal(capsys, "convert", weights, target, "--width", 4, "--model", "resnet34", *extra)
        assert "missing, as layer1.2.bn1.bias (4,)): they fit resnet18: --model resnet18 --width 4" in message
        assert not target.exists()
    message = refusal(capsys, "convert", weights, tmp_path / "run", "--width", 4, "--classes", "a", *NORMALISATION)
    assert message.startswith(f"--classes a: {weights} has 3 classes: give as many names")
