"""State dicts as people save them: which mapping of a file is one, which tensors are a network's, by which names.

All of it looks at names and shapes alone, before memory is taken for what a file says.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jresnet.errors import InputError, listed
from jresnet.models.weights.tensors import LEAVES, check_tensor, is_tensor, shape_of
from jresnet.models.weights.torch_pickle import Table

__all__ = ["choose", "clean"]

COUNTERS = {"n_averaged", "total_ops", "total_params"}
"""Last parts of names that AveragedModel and thop add, and that are passed over without a word."""
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that DataParallel, torch.compile, FSDP and checkpointing add, at any depth."""
PREFIXES = {"model", "net", "backbone", "encoder", "network"}
"""First parts of names that are dropped also where no conv1 shows where the network is."""
LOSSES = {"criterion", "loss", "loss_fn"}
STEM = re.compile(r"((?:.*\.)?)conv1(?:\.0)?\.weight", re.DOTALL)
BLOCK = re.compile(r"[^.]*\d[^.]*\.\d+\.")
"""As layer1.0. or conv2_x.0."""
HEAD = re.compile(r"(fc|linear|classifier|head)(\.\d+)?")
CONTAINERS = (Mapping, list, tuple)
SHOWN = 5
"""Names in a message, at most."""
DEPTH, TENSORS, NETWORKS = 16, 20_000, 100
"""How deep a state dict may lie in a file, how many named tensors may be there, and how many networks in a mapping."""


def choose(tree: Any, key: str | None = None) -> dict[str, Any]:
    """The state dict in a value that was saved.

    Args:
      tree: `Table`s, lists and tuples within each other, in which tensors are `Stored`.
      key: the dotted path of a mapping, or of the network within it where names begin with it; None for the only
        mapping that looks like a network's, or if none does the largest.

    Returns:
      The tensors, and whatever stands beside them, by name.

    Raises:
      InputError: there is none, none of this key, or several.
    """
    places: dict[str, Mapping[str, Any]] = {}
    for label, place in _places(tree):
        places[label if label not in places else f"{label} ({len(places)})"] = place  # as a.b, and b within a
    if not places:
        raise InputError("holds no state dict: save model.state_dict()")
    if key is not None:
        if key not in places:
            if places.keys() == {"."}:
                raise InputError(f"key {key}: the file holds one state dict and nothing around it: omit --key (key=)")
            raise InputError(f"key {key}: must be one of {listed(places, SHOWN)}: choose one of them")
        return _named(places[key])
    networks = {label: place for label, place in places.items() if _is_network(place)}
    # Copies of one, as under "net" and "best_net", are no choice.
    distinct = {_content(place): label for label, place in reversed(networks.items())}
    if len(distinct) > 1:
        raise InputError(f"holds {len(networks)} state dicts, {listed(networks, SHOWN)}: choose one with --key (key=)")
    return _named(networks[next(iter(distinct.values()))] if distinct else max(places.values(), key=_tensor_count))


def clean(tensors: Mapping[str, Any], source: str = "the state dict") -> dict[str, Any]:
    """The tensors of a network by plain names, as `ResNet().state_dict()` has them.

    Parts of names that wrappers add are dropped, and the prefix under which the network lies; what lies elsewhere, and
    what is no tensor, is passed over, which a warning says, except for well-known counters; num_batches_tracked stays.
    A linear layer in a `Sequential`, or called classifier or head, gets its layout's name.

    Args:
      tensors: PyTorch's tensors, arrays, or the descriptions of tensors in a file.
      source: where they are from, for the warning.

    Returns:
      The tensors themselves; unchanged if they are clean already.

    Raises:
      InputError: two tensors get one name, or several networks are there; or a tensor holds no plain numbers.
    """
    plain: dict[str, Any] = {}
    origin: dict[str, str] = {}
    others: list[str] = []
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise InputError(f"the key {name!r:.80} is no name of a tensor: save model.state_dict()")
        short = _unwrapped(name)
        if short.rpartition(".")[2] in COUNTERS:
            continue
        if not is_tensor(tensor):
            others.append(name)
        elif short in plain:
            pair = listed([origin[short], name], SHOWN)
            raise InputError(f"{pair} are two tensors of one name: save the state dict of one network")
        else:
            plain[short], origin[short] = tensor, name
    prefix = _prefix(plain)
    inside = {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}
    outside = {name: value for name, value in plain.items() if not name.startswith(prefix)}
    head = _head(outside) if not any(_is_head(name, value) for name, value in inside.items()) else {}
    inside |= head
    metrics = [name for name, value in inside.items() if _is_metric(name, value)]
    for name in metrics:
        del inside[name]
    others += [origin[name] for name in outside if name not in head] + [origin[prefix + name] for name in metrics]
    for name, tensor in inside.items():
        check_tensor(name, tensor)
    if others:
        text = "%s: passed over, as no part of the network: %s"
        logging.getLogger(__name__).warning(text, source, listed(others, SHOWN))
    return _renamed_head(inside)


# Which mapping of a tree


def _places(tree: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with tensors by its dotted path, each of several networks in one by its own; "." is the tree."""
    seen: set[int] = set()
    total = 0
    queue: list[tuple[tuple[str, ...], Any]] = [((), tree)] if isinstance(tree, CONTAINERS) else []
    for path, value in queue:
        if id(value) in seen or len(path) > DEPTH:
            continue
        seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else ((str(n), inner) for n, inner in enumerate(value))
        queue += [((*path, name), inner) for name, inner in items if isinstance(inner, CONTAINERS)]
        count = sum(map(is_tensor, value.values())) if isinstance(value, Mapping) else 0
        total += count
        if total > TENSORS:
            raise InputError(f"holds more than {TENSORS} named tensors: save model.state_dict() alone")
        if count:
            for root, part in _parts(value).items():
                yield ".".join((*path, root)).removesuffix(".") or ".", part


def _parts(mapping: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The networks in a mapping by their prefixes, if there are several; else the mapping, under ""."""
    short = {name: _unwrapped(name) for name, value in mapping.items() if is_tensor(value)}
    roots = _roots({short[name]: mapping[name] for name in short})[:NETWORKS]
    if len(roots) < 2:
        return {"": mapping}
    owners = {
        name: max((root for root in roots if short[name].startswith(root)), key=len, default=None) for name in short
    }
    return {root: {name: mapping[name] for name in short if owners[name] == root} for root in roots}


def _is_network(place: Mapping[str, Any]) -> bool:
    """Whether a mapping looks like one network's: it has its first convolution, or at least some of four dimensions."""
    tensors = {_unwrapped(name): value for name, value in place.items() if is_tensor(value)}
    kernels = [name for name, value in tensors.items() if len(shape_of(value)) == 4 and name.endswith(".weight")]
    roots = _roots(tensors)
    return len(roots) == 1 or (not roots and len(kernels) > 1)


def _content(place: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset((_unwrapped(name), value) for name, value in place.items() if is_tensor(value))


def _tensor_count(place: Mapping[str, Any]) -> int:
    return sum(map(is_tensor, place.values()))


def _named(place: Mapping[str, Any]) -> dict[str, Any]:
    """The place's entries; InputError if tensors are among them whose keys are no names."""
    if isinstance(place, Table) and place.unnamed:
        raise InputError(f"the key {place.unnamed} is no name of a tensor: save model.state_dict()")
    return dict(place)


# Names


def _unwrapped(name: str) -> str:
    """The name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _roots(tensors: Mapping[str, Any]) -> list[str]:
    """Prefixes, "" or with a dot at the end, under which a network lies: a first convolution, and numbered blocks."""
    kernels = [name for name, tensor in tensors.items() if len(shape_of(tensor)) == 4]
    stems = {match[1] for name in kernels if (match := STEM.fullmatch(name))}
    starts = ((name, start) for name in kernels for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))))
    return sorted({name[:start] for name, start in starts if name[:start] in stems and BLOCK.match(name, start)})


def _prefix(tensors: Mapping[str, Any]) -> str:
    """The prefix under which the network lies."""
    roots = _roots(tensors)
    if len(roots) > 1:
        names = listed([root.removesuffix(".") or "." for root in roots], SHOWN)
        raise InputError(f"the names are those of {len(roots)} networks, {names}: give the tensors of one")
    if roots:
        return roots[0]
    prefix = ""
    while tensors:
        firsts = {name[len(prefix) :].partition(".")[0] for name in tensors}
        if len(firsts) > 1 or not firsts <= PREFIXES:
            break
        prefix += firsts.pop() + "."
    return prefix


def _head(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The only linear layer among tensors beside a network that is called as one, if there is one."""
    heads = [name.removesuffix(".weight") for name, tensor in tensors.items() if _is_head(name, tensor)]
    if len(heads) != 1 or not HEAD.fullmatch(heads[0]) or f"{heads[0]}.bias" not in tensors:
        return {}
    return {name: tensors[name] for name in (f"{heads[0]}.weight", f"{heads[0]}.bias")}


def _renamed_head(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors with the linear layer, if there is just one, under its layout's name."""
    heads = [name.removesuffix(".weight") for name, tensor in tensors.items() if _is_head(name, tensor)]
    if len(heads) != 1 or f"{heads[0]}.bias" not in tensors:
        return tensors
    (old,) = heads
    first = old.partition(".")[0]
    kinds = [("residual_function", "fc"), ("downsample", "fc"), ("shortcut", "linear")]
    new = next((head for kind, head in kinds if any(f".{kind}." in name for name in tensors)), None)
    new = new or (first if first in ("fc", "linear") else "linear")
    leaves = {f"{old}.{leaf}": f"{new}.{leaf}" for leaf in ("weight", "bias")}
    return {leaves.get(name, name): tensor for name, tensor in tensors.items()}


def _is_head(name: str, tensor: Any) -> bool:
    return name.endswith(".weight") and len(shape_of(tensor)) == 2 and not re.search(r"(^|\.)layer\d", name)


def _is_metric(name: str, tensor: Any) -> bool:
    """Whether it is a single number that no layer has, or belongs to the loss."""
    leaf = name.rpartition(".")[2]
    number = shape_of(tensor) == () and leaf not in LEAVES and leaf != "num_batches_tracked"
    return number or name.partition(".")[0] in LOSSES
