"""A network layer by layer: against PyTorch's own count of operations and published figures."""

from functools import partial

import pytest

from jresnet import cli, models
from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.models import summary

# Multiply-adds for one image. torchvision's documentation gives resnet18 1.81 and resnet50 4.09 GFLOPS, counting
# one per multiply-add; at two, the report's network has 479.2 MFLOP and that of 64 channels 1.111 GFLOP.
PUBLISHED = [
    (partial(models.resnet18, width=42), (32, 32), 479.2e6 / 2, 0.05e6),
    (models.resnet18, (32, 32), 1.111e9 / 2, 0.0005e9),
    (models.imagenet_resnet18, (224, 224), 1.81e9, 0.005e9),
    (models.imagenet_resnet50, (224, 224), 4.09e9, 0.005e9),
]


def totals(layers):
    return sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)


@pytest.mark.parametrize(("variant", "size", "macs", "tolerance"), PUBLISHED)
def test_published_work_per_image(variant, size, macs, tolerance):
    assert totals(summary.layers(variant(), size))[1] == pytest.approx(macs, abs=tolerance)


DEEPEST = ("resnet101", "resnet110", "resnet152")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in DEEPEST else ()) for name in models.VARIANTS]
)
def test_the_layers_hold_every_parameter(name):
    model = models.VARIANTS[name]()
    assert totals(summary.layers(model, (40, 48)))[0] == models.parameter_count(model, (40, 48))


SHAPES = [
    ({"width": 4, "stage_sizes": (1, 2, 1), "kernel_size": 5, "pool_size": 8, "num_classes": 7}, (32, 32)),
    ({"width": 8, "stage_sizes": (2, 1), "pool_size": 3, "num_classes": 3}, (27, 21)),
    ({"width": 3, "stage_sizes": (1,), "kernel_size": 1, "pool_size": 2}, (7, 5)),
]


@pytest.mark.parametrize(("options", "size"), SHAPES)
def test_work_and_parameters_as_torch_counts_them(options, size):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.torch_resnet import ResNet

    renamed = {{"stage_sizes": "blocks"}.get(name, name): value for name, value in options.items()}
    with torch.device("meta"):
        network, images = ResNet(**renamed, image_size=size).eval(), torch.zeros(1, 3, *size)
    with FlopCounterMode(display=False) as counter:
        network(images)
    parameters, macs = totals(summary.layers(models.ResNet(**options), size))
    assert 2 * macs == counter.get_total_flops()
    assert parameters == sum(parameter.numel() for parameter in network.parameters())


# Networks under the report's budget: options, parameters and multiply-adds for one image. The wide ones are Zagoruyko
# and Komodakis' of 6n + 4 layers, whose table 4 gives WRN-40-2 2.2 million parameters.
WIDE = {"model": "wide_resnet28_10", "dropout": 0.0}
BUDGETED = [
    (WIDE | {"width": 56, "blocks": (4, 4, 4)}, 4_480_474, 648_661_184),
    (WIDE | {"width": 32, "blocks": (6, 6, 6)}, 2_243_546, 327_599_360),
    ({"model": "resnet_se443"}, 4_697_742, 798_690_304),
    ({"model": "resnet18", "width": 42}, 4_815_940, 239_600_928),
]


def wide_counts(blocks, width):
    """Parameters and multiply-adds of three stages of pre-activation blocks after a stem of 16 channels."""
    parameters, macs, channels, side = 3 * 9 * 16, 3 * 9 * 16 * 32**2, 16, 32
    for stage in range(3):
        features, side = width * 2**stage, 32 // 2**stage
        for block in range(blocks):
            kernels = 9 * channels * features + 9 * features**2 + (channels * features if block == 0 else 0)
            parameters += kernels + 2 * channels + 2 * features
            macs += kernels * side**2
            channels = features
    return parameters + 2 * channels + 10 * channels + 10, macs + 10 * channels


def torch_counts(model, **options):
    """Parameters and multiply-adds as PyTorch counts them."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from tests.support.torch_family import FAMILY

    with torch.device("meta"):
        network, images = FAMILY[model](**options).eval(), torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        network(images)
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize(("options", "parameters", "macs"), BUDGETED)
def test_networks_under_the_budget_by_options(options, parameters, macs):
    assert parameters < summary.BUDGET
    assert totals(summary.layers(models.from_config(Config(**options), 10), (32, 32))) == (parameters, macs)
    counted = wide_counts(options["blocks"][0], options["width"]) if "blocks" in options else torch_counts(**options)
    assert counted == (parameters, macs)


def test_layers_say_what_they_are():
    layers = {layer.name: layer for layer in summary.layers(models.imagenet_resnet18(), (64, 32))}
    assert layers["conv1"] == ("conv1", "convolution", (32, 16, 64), (7, 7), (2, 2), 9408, 9408 * 32 * 16)
    assert layers["max_pool"] == ("max_pool", "max pooling", (16, 8, 64), (3, 3), (2, 2), 0, 0)
    shortcut = ("layer2_0/shortcut_conv", "convolution", (8, 4, 128), (1, 1), (2, 2), 8192, 8192 * 8 * 4)
    assert layers["layer2_0/shortcut_conv"] == shortcut
    assert layers["avg_pool"] == ("avg_pool", "average pooling", (1, 1, 512), (2, 1), (2, 1), 0, 0)
    assert layers["linear"] == ("linear", "linear", (1000,), None, None, 513_000, 512_000)
    assert next(iter(layers)) == "conv1" and [*layers][-2:] == ["avg_pool", "linear"]


def test_a_network_that_cannot_see_the_images_is_refused():
    with pytest.raises(InputError, match="exceeds the last feature map, 2 x 2"):
        summary.layers(models.resnet18(), (16, 16))


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        (4_815_940, "fits the budget of 4,815,940 by 0"),
        (4_815_939, "exceeds the budget of 4,815,939 by 1"),
        (5_000_000, "fits the budget of 5,000,000 by 184,060"),
    ],
)
def test_the_table_has_the_totals_and_the_verdict(budget, verdict):
    layers = summary.layers(models.resnet18(width=42), (32, 32))
    console = cli.make_console()
    with console.capture() as capture:
        console.print(summary.table(layers, "a title", budget))
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert lines[0] == "a title"
    assert "layer4_1/conv2 convolution 4 x 4 x 336 3 x 3 1 1,016,064 16,257,024 6.8" in lines
    assert "avg_pool average pooling 1 x 1 x 336 4 x 4 4" in lines
    assert "total 4,815,940 239,600,928 100.0" in lines
    assert f"4,815,940 trainable parameters: {verdict}" in lines
    assert "239,600,928 multiply-adds for one image, 479.2 MFLOP at 2 each" in lines
