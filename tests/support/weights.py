"""State dicts of a tiny network, in PyTorch's tensors, for tests of files of weights."""

import itertools


def state_dict(torch, seed=0, head="linear"):
    """Random weights and statistics of a network of two stages of one block, width 2, 3 classes, for 8 x 8 pixels."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}

    def normal(name, *shape):
        tensors[name] = torch.randn(shape, generator=generator)

    def convolution(name, norm, outputs, inputs, side):
        normal(f"{name}.weight", outputs, inputs, side, side)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            normal(f"{norm}.{leaf}", outputs)
        tensors[f"{norm}.running_var"].abs_()
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", "bn1", 2, 3, 3)
    for stage, number in itertools.product((1, 2), (1, 2)):
        inputs = 2 * stage if number == 2 else 2
        convolution(f"layer{stage}.0.conv{number}", f"layer{stage}.0.bn{number}", 2 * stage, inputs, 3)
    convolution("layer2.0.shortcut.0", "layer2.0.shortcut.1", 4, 2, 1)
    normal(f"{head}.weight", 3, 4)
    normal(f"{head}.bias", 3)
    return tensors
