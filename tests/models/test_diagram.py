"""The architecture's figure: every block, skip connection and shape is there, and no text lies on another."""

import itertools
import re

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jresnet import models
from jresnet.errors import CannotWrite, InputError
from jresnet.models import diagram, summary


def rows_of(model, size=(32, 32)):
    return {row.name: row for row in diagram.rows(summary.layers(model, size))}


def test_the_rows_of_the_reports_network():
    rows = rows_of(models.resnet18(width=42))
    assert list(rows) == ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"]
    assert [by_name.output for by_name in rows.values()] == [
        (32, 32, 42), (32, 32, 42), (16, 16, 84), (8, 8, 168), (4, 4, 336), (10,),
    ]  # fmt: skip
    first, second = rows["stage 2"].boxes
    assert first == ("layer2.0", ("3 x 3 conv, 84, /2", "3 x 3 conv, 84"), "block", "1 x 1 conv, 84, /2")
    assert second == ("layer2.1", ("3 x 3 conv, 84", "3 x 3 conv, 84"), "block", "identity")
    assert [box.skip for box in rows["stage 1"].boxes] == ["identity", "identity"]
    assert [box.title for box in rows["stem"].boxes + rows["head"].boxes] == ["conv1", "bn1", "avg_pool", "linear"]


def test_many_blocks_are_counted_and_zeros_are_named():
    boxes = rows_of(models.resnet110())["stage 3"].boxes
    assert [box.title for box in boxes] == ["layer3.0", "layer3.1", "15 more blocks", "layer3.17"]
    assert [box.skip for box in boxes] == ["channels of zeros", "identity", "identity", "identity"]


def test_every_block_is_drawn_while_they_are_few():
    boxes = rows_of(models.resnet_se443())["stage 1"].boxes
    assert [box.title for box in boxes] == ["layer1.0", "layer1.1", "layer1.2", "layer1.3"]


def test_a_pre_activation_networks_last_normalisation_belongs_to_the_head():
    rows = rows_of(models.wide_resnet16_8())
    assert [box.title for box in rows["head"].boxes] == ["bn", "avg_pool", "linear"]
    assert rows["stage 1"].boxes[0].skip == "1 x 1 conv, 128"


@pytest.mark.parametrize("suffix", diagram.FORMATS)
def test_files(tmp_path, suffix):
    path = tmp_path / f"network{suffix}"
    layers = summary.layers(models.resnet18(width=8), (32, 32))
    diagram.draw(layers, path, "ResNet-18 <&> $8")
    start = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", diagram.FORMATS)
def test_a_figure_has_the_same_bytes_every_time(tmp_path, suffix):
    layers = summary.layers(models.resnet18(width=8), (32, 32))
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    for path in (first, second):
        diagram.draw(layers, path, "title")
    assert first.read_bytes() == second.read_bytes()


def test_the_svg_names_every_block_and_shape(tmp_path):
    path = tmp_path / "network.svg"
    diagram.draw(summary.layers(models.resnet18(width=42), (32, 32)), path, "title")
    texts = re.findall(r">([^<>]+)</text>", path.read_text())
    for expected in ("title", "layer1.0", "layer4.1", "16 x 16 x 84", "3 x 3 conv, 336, /2", "identity", "linear, 10"):
        assert expected in texts, expected
    assert texts.count("identity") == 5


@pytest.mark.parametrize("name", ["resnet18", "imagenet_resnet50", "wide_resnet28_10", "resnet110", "resnet_se443"])
def test_no_text_overlaps_another_or_leaves_the_figure(name, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: drawn.append(self))
    model = models.VARIANTS[name]()
    size = (224, 224) if model.stem == "imagenet" else (32, 32)
    diagram.draw(
        summary.layers(model, size), tmp_path / "x.png", f"{name}, width {model.width}, {model.num_classes} classes"
    )
    (figure,) = drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.axes[0].texts if text.get_text()]
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (first, box), (second, other) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other), f"{first} on {second}"


def test_bad_places_are_refused(tmp_path):
    layers = summary.layers(models.resnet18(width=2), (32, 32))
    with pytest.raises(InputError, match=r"must end in one of \.svg, \.png, \.pdf"):
        diagram.draw(layers, tmp_path / "network.bmp", "")
    with pytest.raises(InputError, match="its directory does not exist"):
        diagram.draw(layers, tmp_path / "absent" / "network.svg", "")
    (tmp_path / "network.svg").mkdir()
    with pytest.raises(CannotWrite, match="cannot be written"):
        diagram.draw(layers, tmp_path / "network.svg", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.svg"]
