"""The record of published weights: its figures follow from its counts, and it names files, not paths."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from experiments import published
from experiments.records import ROOT
from jresnet.cli.program import run_program
from jresnet.errors import InputError


def test_the_committed_record_agrees_with_itself_and_with_what_was_published():
    record = published.read(ROOT)
    assert published.drifts(record) == []
    assert {network.sha256: network.published for network in record.networks} == published.PUBLISHED
    for network in record.networks:
        assert network.accuracy == network.published and network.total == record.dataset["test"] == 10_000


def test_an_accuracy_that_its_counts_do_not_give_is_found():
    record = published.read(ROOT)
    for changes in ({"accuracy": 0.92}, {"correct": 9_000}, {"total": 0}):
        first, *others = record.networks
        networks = (dataclasses.replace(first, **changes), *others)
        (line,) = published.drifts(dataclasses.replace(record, networks=networks))
        assert "experiments/results/published.json: the accuracy of resnet20" in line


def test_images_of_another_size_are_refused(tmp_path, capsys):
    images, labels = np.zeros((4, 8, 9, 3), np.uint8), np.array([0, 1, 0, 1])
    images[0] = 255
    np.savez(
        path := tmp_path / "c.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels
    )
    assert run_program(published.main, ["none.pth", "--dataset", f"npz:{path}"]) == 2
    line = f"--dataset npz:{path}: its images are 8 x 9, and the networks were trained on 32 x 32: give CIFAR-10\n"
    assert capsys.readouterr().err == line


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(InputError, match="cannot be read"):
        published.evaluate(str(path), None)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is not ResNet-20 or ResNet-56 of akamaster"):
        published.evaluate(str(path), None)


@pytest.mark.slow
def test_weights_are_converted_evaluated_and_recorded(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    from tests.support import published as twins

    path, output = tmp_path / "weights.pth", tmp_path / "record.json"
    network = twins.drawn(twins.akamaster((1, 1, 1), 4))
    torch.save({"state_dict": twins.as_saved(network, "module.")}, path)
    monkeypatch.setattr(published, "PUBLISHED", {hashlib.sha256(path.read_bytes()).hexdigest(): 0.25})
    assert run_program(published.main, [str(path), "--dataset", "synthetic", "--output", str(output)]) == 0

    from jresnet import load_dataset

    images = load_dataset("synthetic").test.images / 255
    pixels = torch.tensor((images - published.MEAN) / published.STD, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        predictions = torch.cat([network(part).argmax(1) for part in pixels.split(500)]).numpy()
    correct = int((predictions == load_dataset("synthetic").test.labels).sum())
    record = json.loads(output.read_text())
    (entry,) = record["networks"]
    assert (entry["correct"], entry["total"], entry["published"]) == (correct, len(predictions), 0.25)
    assert entry["network"] == "resnet20 --width 4 --blocks 1 1 1" and entry["file"] == "weights.pth"
    assert str(tmp_path) not in output.read_text()
    assert f"weights.pth: {correct / len(predictions):.2%} of" in capsys.readouterr().out
