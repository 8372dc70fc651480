"""The network that tensors belong to, by their names and shapes alone; and the refusal that names it."""

import pytest

from jresnet import models
from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.models.weights import recognise, torch_names
from jresnet.models.weights.recognise import check_fit


def shapes_of(config, classes=10, size=None, layout="kuangliu"):
    network = models.from_config(config, classes)
    return torch_names.expected(network, size or models.usual_image_size(network), layout)[1]


QUICK = ("resnet18", "preact_resnet18", "wide_resnet16_8", "resnet_se443")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in models.VARIANTS]
)
def test_every_network_is_recognised_by_itself(name):
    assert recognise.recognise(shapes_of(Config(model=name), classes=7)) == Config(model=name)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (Config(width=6, blocks=(2, 1), pool_size=0), None),
        (Config(model="resnet20", blocks=(1, 1), shortcut="projection"), None),
        (Config(blocks=(1, 1), kernel_size=(5, 3), pool_size=8), None),  # four pooled cells
        (Config(blocks=(1,), kernel_size=5, pool_size=0), (9, 12)),
        (Config(model="resnet50", blocks=(1, 1), width=4, pool_size=0, shortcut="padding"), None),
        (Config(model="imagenet_resnet18", blocks=(1, 1)), (64, 75)),
    ],
)
@pytest.mark.parametrize("layout", ["kuangliu", "torchvision", "weiaicunzai"])
def test_what_differs_from_a_named_network_follows_from_the_shapes(config, size, layout):
    found = recognise.recognise(shapes_of(config, 7, size, layout), size)
    assert models.from_config(found, 7) == models.from_config(config, 7)


def test_names_are_translated_back():
    network = models.from_config(Config(model="resnet50", blocks=(1, 2), pool_size=0), 10)
    plain, _ = torch_names.expected(network, (32, 32), "kuangliu")
    for layout in ("kuangliu", "torchvision", "weiaicunzai"):
        paths, _ = torch_names.expected(network, (32, 32), layout)
        assert {torch_names.kuangliu_name(name): path for name, path in paths.items()} == plain
        assert torch_names.layout_of(paths) == layout


SMALL = shapes_of(Config(width=4, blocks=(1, 1), pool_size=0))


@pytest.mark.parametrize(
    "changes",
    [
        {"conv1.weight": None},
        {"conv1.weight": (4, 3, 5, 5)},
        {"conv1.weight": (4,)},
        {"linear.weight": ()},
        {"linear.weight": (0, 8)},
        {"linear.weight": (10, 0)},
        {"linear.weight": (10, 13)},
        {"linear.bias": (11,)},
        {"layer1.0.conv1.weight": ()},
        {"layer1.0.conv1.weight": (2**40, 4, 3, 3)},
        {"layer1.0.conv2.weight": (4, 4, 2, 2)},
        {"layer1.0.conv3.weight": (16, 4, 1, 1)},
        {"layer1.999999999.conv1.weight": (4, 4, 3, 3)},
        {"layer999999999.0.conv1.weight": (4, 4, 3, 3)},
        {"layer3.0.conv1.weight": (4, 4, 3, 3)},
        {"layer0.0.conv1.weight": (4, 4, 3, 3)},
        {"bn1.weight": None},
        {"extra": (1,)},
        dict.fromkeys(SMALL),
    ],
)
def test_tensors_of_no_network_of_the_family_are_not_recognised(changes):
    shapes = {name: shape for name, shape in (SMALL | changes).items() if shape is not None}
    assert recognise.recognise(SMALL) == Config(width=4, blocks=(1, 1), pool_size=0)
    assert recognise.recognise(shapes) is None


@pytest.mark.parametrize(
    ("asked", "config", "recipe"),
    [
        ({"model": "resnet20", "blocks": (1, 1)}, {"model": "resnet20", "blocks": (1, 1), "shortcut": "projection"},
         "they fit resnet20 with projection shortcuts: --model resnet20 --blocks 1 1 --shortcut projection"),
        ({}, {"width": 4, "blocks": (1, 1), "pool_size": 0},
         "they fit resnet18: --model resnet18 --width 4 --blocks 1 1 --pool-size 0"),
        ({"blocks": (1, 1), "pool_size": 0}, {"blocks": (1, 1), "pool_size": 8},
         "they fit resnet18: --model resnet18 --blocks 1 1 --pool-size 8, or images of another size"),
        ({"blocks": (1,)}, {"model": "imagenet_resnet18", "blocks": (1,)},
         "they fit imagenet_resnet18: --model imagenet_resnet18 --blocks 1"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_network_that_fits(asked, config, recipe):
    with pytest.raises(InputError) as caught:
        check_fit(shapes_of(Config(**config), size=(32, 32)), models.from_config(Config(**asked), 10), (32, 32))
    message = str(caught.value)
    assert message.endswith(recipe) and len(message) < 500


def test_a_refusal_names_the_number_of_classes():
    with pytest.raises(InputError, match=r"2 of another shape, .*: they fit resnet18 for 10 classes: "):
        check_fit(SMALL, models.from_config(Config(width=4, blocks=(1, 1), pool_size=0), 7), (32, 32))


def assumed(size=(32, 32), given=(), **options):
    return recognise.assumptions(models.from_config(Config(**options), 10), size, given)


def test_what_names_and_shapes_do_not_tell_is_said_where_it_applies():
    pool, epsilon = "no max pooling after the stem (else --stem small-pool)", "an epsilon of 1e-05 (else --epsilon)"
    assert assumed() == [pool, epsilon]
    assert assumed(given=("stem", "epsilon")) == []
    assert assumed(stem="small-pool", given=("stem",)) == [epsilon]
    assert assumed(model="imagenet_resnet18", size=(224, 224)) == [epsilon]
    assert "zeros before and after the channels" in assumed(model="resnet20")[1]
    assert "strides in their second convolution" in assumed(model="resnet50")[1]
    assert "from the activated input" in assumed(model="preact_resnet18")[1]
    assert assumed(size=(56, 56))[1] == "average pooling of 4 x 4 of 7 x 7 cells (else --pool-size 0, the whole map)"
    assert assumed(size=(56, 56), pool_size=0) == assumed(size=(56, 56), given=("pool_size",)) == [pool, epsilon]
