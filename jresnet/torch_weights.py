"""The public home of `jresnet.models.torch_weights`: PyTorch's weights in and out."""

from jresnet.models.torch_weights import (
    Layout,
    classes_of,
    expected,
    from_state_dict,
    layout_of,
    load,
    relayout,
    save,
    to_state_dict,
    torch_name,
)

__all__ = [
    "Layout", "classes_of", "expected", "from_state_dict", "layout_of", "load", "relayout", "save", "to_state_dict",
    "torch_name",
]  # fmt: skip
