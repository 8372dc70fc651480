"""Which network of the family a state dict belongs to, by its names and shapes; and what these cannot tell."""

import itertools
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from jresnet.config import Config, Model, Stem
from jresnet.errors import InputError
from jresnet.models.blocks import BasicBlock, Block, Bottleneck, PreactBlock
from jresnet.models.build import from_config, usual_image_size
from jresnet.models.resnet import ResNet
from jresnet.models.variants import VARIANTS
from jresnet.models.weights.torch_names import Shapes, expected, kuangliu_name, layout_of
from jresnet.rules import as_typed, flag

OPTIONS = ("width", "blocks", "kernel_size", "pool_size", "shortcut", "stem", "epsilon")
"""The fields of `Config` by which a network differs from the named one; dropout has no part in its function."""
_LONGEST = 80  # characters of a tensor's name in a message


class _Facts(NamedTuple):
    """What names and shapes say of a network; the fields are those of `ResNet`, None where they say nothing."""

    block_cls: type[Block]
    stage_sizes: tuple[int, ...]
    width: int
    stem_width: int
    kernel_sizes: tuple[int, ...]
    imagenet_stem: bool
    projects: bool | None
    final_norm: bool
    squeezes: bool
    num_classes: int
    inputs: int  # of the linear layer


def recognise(
    shapes: Shapes, image_size: tuple[int, int] | None = None, stem: Stem | None = None, model: Model | None = None
) -> Config | None:
    """The network of the family that these tensors fit, described with the fewest options.

    Of its options, those that are the named network's own are None. Names and shapes determine all that they have to
    do with; max pooling after a small stem, for one, is as `stem` says.

    Args:
      shapes: of the tensors by name in any layout, without `num_batches_tracked`, for images of three channels.
      image_size: (height, width) of the images in pixels; None: as usual for the network.
      stem: of the network, if it is known; another than the first convolution's size allows is passed over.
      model: only this network is considered; None: all are.

    Returns:
      The configuration, of which only the network's options are set; None if no network fits.
    """
    facts = _facts({kuangliu_name(name): shape for name, shape in shapes.items()})
    if facts is None:
        return None
    found = []
    for name, variant in VARIANTS.items():
        if model in (None, name):
            with_options = _described(name, variant(), facts, image_size, stem)
            if with_options is not None:
                found.append(with_options)
    config = min(found, key=lambda config: len(_differing(config)), default=None)
    if config is None:
        return None
    network = from_config(config, facts.num_classes)
    size = image_size or usual_image_size(network)
    return None if _faults(shapes, expected(network, size, layout_of(shapes))[1]) else config


def _facts(shapes: Shapes) -> _Facts | None:
    """What the shapes, by kuangliu's names, say; None if they are of no residual network."""
    blocks: dict[int, set[int]] = {}
    for name in shapes:
        if found := re.match(r"layer(\d{1,9})\.(\d{1,9})\.", name):
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    stages = sorted(blocks)
    contiguous = [blocks[stage] == set(range(len(blocks[stage]))) for stage in stages]
    if not stages or stages != list(range(1, len(stages) + 1)) or not all(contiguous):
        return None
    try:
        stem_width, _, _, stem_size = shapes["conv1.weight"]
        first = [shapes[f"layer{stage}.0.conv1.weight"] for stage in stages]
        kernel_sizes = tuple(shapes[f"layer{stage}.0.conv2.weight"][3] for stage in stages)
        num_classes, inputs = shapes["linear.weight"]
        width = first[0][0]
    except (KeyError, IndexError, ValueError):  # a name that is missing, or a tensor of another rank
        return None
    preactivated, bottleneck = "bn1.weight" not in shapes, "layer1.0.conv3.weight" in shapes
    if min(width, num_classes) < 1 or (preactivated and bottleneck) or stem_size not in (7, kernel_sizes[0]):
        return None
    block_cls = PreactBlock if preactivated else Bottleneck if bottleneck else BasicBlock
    changes_shape = len(stages) > 1 or stem_width != width * block_cls.expansion
    return _Facts(
        block_cls, tuple(len(blocks[stage]) for stage in stages), width, stem_width, kernel_sizes,
        imagenet_stem=stem_size != kernel_sizes[0],
        projects=any(".shortcut." in name for name in shapes) if changes_shape else None,
        final_norm="bn.weight" in shapes, squeezes="se.fc1.weight" in shapes, num_classes=num_classes, inputs=inputs,
    )  # fmt: skip


def _described(
    name: Model, own: ResNet, facts: _Facts, image_size: tuple[int, int] | None, stem: Stem | None
) -> Config | None:
    """The facts as options of the network `name`, which is `own` by itself; None if it has no such options."""
    fixed = (own.block_cls, own.final_norm, own.squeeze is not None, own.stem_width or facts.width)
    if fixed != (facts.block_cls, facts.final_norm, facts.squeezes, facts.stem_width):
        return None
    if (own.stem == "imagenet") != facts.imagenet_stem:  # the others are nearer
        return None
    one = len(set(facts.kernel_sizes)) == 1
    shortcut = own.shortcut if facts.projects is None else "projection" if facts.projects else "padding"
    values: dict[str, tuple[Any, Any]] = {
        "width": (own.width, facts.width),
        "blocks": (own.stage_sizes, facts.stage_sizes),
        "kernel_size": (own.kernel_sizes[0], facts.kernel_sizes[0] if one else facts.kernel_sizes),
        "shortcut": (own.shortcut, shortcut),
        "stem": (own.stem, "small-pool" if stem == "small-pool" and not facts.imagenet_stem else own.stem),
    }
    options = {option: value for option, (usual, value) in values.items() if value != usual}
    try:
        network = from_config(Config(model=name, **options), facts.num_classes)
        pool_size = _pool_size(network, facts, image_size or usual_image_size(network))
        return Config(model=name, pool_size=pool_size, **options)
    except InputError:  # as for more stages or blocks than a configuration may have
        return None


def _pool_size(network: ResNet, facts: _Facts, image_size: tuple[int, int]) -> int | None:
    """The option by which the pooling leaves as many cells as the linear layer takes; None for the network's own.

    One cell is taken for the whole map, where the network's own window does not fit.
    """
    height, width = network.feature_map(image_size)
    channels = facts.width * 2 ** (len(facts.stage_sizes) - 1) * facts.block_cls.expansion
    cells = facts.inputs // channels
    if cells == (1 if network.pool_size is None else (height // network.pool_size) * (width // network.pool_size)):
        return None
    if cells == 1:
        return 0
    sides = range(min(height, width, 512), 0, -1)
    return next((side for side in sides if (height // side) * (width // side) == cells), None)


def check_fit(shapes: Shapes, model: ResNet, image_size: tuple[int, int]) -> dict[str, tuple[str, ...]]:
    """The path of our variable for each tensor's name.

    Raises:
      InputError: the tensors do not fit the network; the message counts the missing, unknown and wrongly shaped ones,
        and names the network of the family that they do fit. Or `image_size` is no size of images.
    """
    paths, wanted = expected(model, image_size, layout_of(shapes))
    faults = _faults(shapes, wanted)
    if not faults:
        return paths
    nearest = recognise(shapes, image_size, model.stem)
    remedy = "choose the network they belong to, and its images' size"
    if nearest is not None:
        remedy = f"they fit {_recipe(nearest, shapes, model)}"
    raise InputError(f"the weights do not fit the network ({'; '.join(faults)}): {remedy}")


def _faults(shapes: Shapes, wanted: Shapes) -> list[str]:
    """How many tensors are missing, unknown or of another shape, with the first of each; empty if all fit."""
    names = sorted({*wanted, *shapes})
    missing = [f"{name} {wanted[name]}" for name in names if name not in shapes]
    unknown = [f"{name[:_LONGEST]} {shapes[name]}" for name in names if name not in wanted]
    both = [name for name in names if name in wanted and name in shapes]
    other = [f"{name} {shapes[name]}, not {wanted[name]}" for name in both if shapes[name] != wanted[name]]
    kinds = {"missing": missing, "unknown": unknown, "of another shape": other}
    return [f"{len(names)} {kind}, as {names[0]}" for kind, names in kinds.items() if names]


def _recipe(config: Config, shapes: Shapes, asked: ResNet) -> str:
    """A network in words, and the options that describe it."""
    classes = next(shape[0] for name, shape in shapes.items() if kuangliu_name(name) == "linear.weight")
    words = f" with {config.shortcut} shortcuts" if config.shortcut else ""
    words += "" if classes == asked.num_classes else f" for {classes} classes"
    other = ", or images of another size" if config.pool_size else ""
    return f"{config.model}{words}: --model {as_words(config)}{other}"


def as_words(config: Config) -> str:
    """The network of a configuration as on the command line: "resnet20 --shortcut projection"."""
    return " ".join([config.model, *itertools.chain.from_iterable(_differing(config))])


def _differing(config: Config) -> list[tuple[str, str]]:
    """The network's options that are set, and their values, as on the command line."""
    return [(flag(name), as_typed(value)) for name in OPTIONS if (value := getattr(config, name)) is not None]


def assumptions(model: ResNet, image_size: tuple[int, int], given: Collection[str]) -> list[str]:
    """What the names and shapes of a network's tensors do not tell of its function, and is as in `model`.

    Args:
      model: the network.
      image_size: (height, width) of its images in pixels.
      given: options that were given, and are not assumed.

    Returns:
      A phrase for each, with the option that changes it, if there is one.
    """
    stages, (height, width) = len(model.stage_sizes), model.feature_map(image_size)
    pool = model.pool_size
    changes_shape = stages > 1 or (model.stem_width or model.width) != model.width * model.block_cls.expansion
    cells = 1 if pool is None else (height // pool) * (width // pool)
    phrases = {
        "no max pooling after the stem (else --stem small-pool)": model.stem == "small" and "stem" not in given,
        "shortcuts of every second pixel, zeros before and after the channels": (
            changes_shape and model.shortcut == "padding"
        ),
        "shortcuts from the activated input": changes_shape and model.block_cls.preactivated,
        "the blocks' strides in their second convolution": stages > 1 and model.block_cls is Bottleneck,
        f"average pooling of {pool} x {pool} of {height} x {width} cells (else --pool-size 0, the whole map)": (
            cells == 1 and pool is not None and (pool, pool) != (height, width) and "pool_size" not in given
        ),
        f"an epsilon of {model.epsilon:g} (else --epsilon)": "epsilon" not in given,
    }
    return [phrase for phrase, applies in phrases.items() if applies]
