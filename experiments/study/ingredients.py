"""The ingredients of recipes beyond the report's: what an ablation adds or leaves out, and whose cost is measured."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Ingredient(NamedTuple):
    """One ingredient: its name in tables, and the options that it changes."""

    label: str
    changes: Mapping[str, Any]


INGREDIENTS: Mapping[str, Ingredient] = {
    "grayscale": Ingredient("grayscale 0.5", {"grayscale": 0.5}),  # the report's own, section 3.2
    "label-smoothing": Ingredient("label smoothing 0.1", {"label_smoothing": 0.1}),  # Szegedy et al. 2015
    "cutout": Ingredient("cutout 8", {"cutout": 8}),  # a quarter of the side: 16 suits runs of hundreds of epochs
    # 0.999 is usual over hundreds of epochs. At 352 steps an epoch it averages over 1,000 steps, three of the eight
    # epochs of an ablation, and would lag behind; 0.99 averages over 100 steps.
    "ema": Ingredient("EMA 0.99", {"ema_decay": 0.99}),
    "alternate-flip": Ingredient("alternating flip", {"alternate_flip": True}),  # Jordan 2024
    "kernels": Ingredient("weight decay on kernels", {"weight_decay_on": "kernels"}),  # He et al. 2018, section 3.1
    # With the warm-up that there is, so that the shape alone changes.
    "one-cycle": Ingredient("one-cycle", {"schedule": "one-cycle"}),  # Smith and Topin 2017, as airbench has it
    "mixup": Ingredient("mixup 0.2", {"mixup": 0.2}),  # Zhang et al. 2017, the weak end of their range
    "cutmix": Ingredient("cutmix 1.0", {"cutmix": 1.0}),  # Yun et al. 2019
    "trivialaugment": Ingredient("TrivialAugment", {"trivialaugment": True}),
    "randaugment": Ingredient("RandAugment 2 9", {"randaugment": (2, 9)}),  # Cubuk et al. 2019
    "zero-init": Ingredient("zero-init", {"zero_init": True}),  # Goyal et al. 2017, section 5.1
    "clipping": Ingredient("clipping 1.0", {"clip_norm": 1.0}),
    "accumulation": Ingredient("accumulation of 2", {"accumulate": 2}),
    "sam": Ingredient("SAM 0.05", {"sam": 0.05}),  # Foret et al. 2020, section 3.1; two gradients per step
    "muon": Ingredient("Muon", {"optimizer": "muon"}),  # its rate's default; SGD keeps the base's for the rest
    # AdamW's usual rate and decay for networks from scratch; Nesterov's momentum is SGD's.
    "adamw": Ingredient(
        "AdamW", {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "nesterov": False}
    ),
}
"""By their names on command lines; comments say where values are from."""
