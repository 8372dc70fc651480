"""`export`: a trained network as a file for other programs, with a model card beside it."""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator
from typing import Literal, get_args

import jax

from jresnet.errors import InputError
from jresnet.models import torch_weights
from jresnet.records.files import check_creatable, kind, local_path, write_bytes, write_json
from jresnet.use.classifier import Classifier
from jresnet.use.export import card, stablehlo

Format = Literal["stablehlo", "onnx", "safetensors"]
"""Each is also the suffix of its files."""
FORMATS: tuple[Format, ...] = get_args(Format)

MAX_BYTES = 2**31 - 2**24
"""Of the weights in a program: FlatBuffers and protocol buffers end at 2 GiB, and the rest of it needs room too."""
# Libraries that a format needs beyond those of jresnet, and how they are installed.
_NEEDS: dict[Format, tuple[str, str]] = {
    "onnx": ("onnx", "the extra of that name: pip install 'jresnet[onnx]'"),
    "safetensors": ("safetensors", "it: pip install safetensors"),
}


def export(
    classifier: Classifier, path: str | os.PathLike[str], format: Format | None = None, *,
    layout: torch_weights.Layout | None = None, licence: str | None = None,
) -> list[pathlib.Path]:  # fmt: skip
    """Write a classifier as a file, and its model card in Markdown and in JSON, `path`.md and `path`.json.

    Programs take uint8 [n, height, width, 3] and return probabilities, float32 [n, classes], for any n from 1 on.

    Args:
      classifier: the trained network.
      path: of the file; a name without the format's suffix gets it.
      format: "stablehlo", a program for JAX; "onnx"; or "safetensors", the weights alone by PyTorch's names. None: the
        path's suffix decides.
      layout: of the names in a .safetensors file; None: kuangliu's.
      licence: of the weights, for the card.

    Returns:
      The three files. The JSON card is written last: if it is there, all are complete.

    Raises:
      InputError: a format that is none, a file that exists, a directory in its place, or a library that is not
        installed.
      CannotWrite: a file cannot be written; then none is left.
    """
    target, format = check_target(path, format, layout)
    if format != "safetensors":
        _check_size(classifier, target)
    files = beside(target)
    with _all_or_none(files):
        form, contract = _write(classifier, target, format, layout or "kuangliu")
        described = card.describe(classifier, target, form, contract, licence)
        write_bytes(files[1], card.markdown(described).encode())
        write_json(files[2], described)
    return files


def check_target(
    path: str | os.PathLike[str], format: Format | None, layout: torch_weights.Layout | None = None
) -> tuple[pathlib.Path, Format]:
    """The file that `export` writes, and its format; checked before anything is loaded.

    Raises:
      InputError: as `export`.
    """
    given = local_path(path)
    if not given.name or kind(given) == "directory":
        raise InputError(f"{os.fspath(path) or repr('')}: is a directory: name a file in it")
    found = _format_of(given, format)
    if layout is not None and found != "safetensors":
        raise InputError(f"--layout {layout}: only .safetensors files have names of tensors: leave it out")
    target = given if _suffix(given) == found else given.with_name(f"{given.name}.{found}")
    if found in _NEEDS:
        library, remedy = _NEEDS[found]
        if importlib.util.find_spec(library) is None:
            raise InputError(f"{target}: writing it needs {library}, which is not installed: install {remedy}")
    _check_place(target)
    return target, found


def _format_of(given: pathlib.Path, format: Format | None) -> Format:
    """The format that is asked for by its name, by the path's suffix, or by both alike; InputError for neither."""
    if format is not None and format not in FORMATS:
        raise InputError(f"--format {format!s:.80}: must be one of {', '.join(FORMATS)}")
    own = next((name for name in FORMATS if name == _suffix(given)), None)
    if format is not None and own not in (None, format):
        raise InputError(f"--format {format}: {given} ends in the suffix of another: leave it out, or change the name")
    found = format or own
    if found is None:
        suffixes = ", ".join(f".{name}" for name in FORMATS)
        raise InputError(f"{given}: must end in one of {suffixes}: choose another name, or give --format")
    return found


def _suffix(path: pathlib.Path) -> str:
    return path.suffix.removeprefix(".").lower()


def _check_place(target: pathlib.Path) -> None:
    """InputError unless the files can be written and are new."""
    if kind(target.parent) != "directory":
        raise InputError(f"{target}: {target.parent} is not a directory: make it, or choose another")
    for file in beside(target):
        if kind(file) or os.path.lexists(file):  # a link to nothing too
            raise InputError(f"{file}: exists already: choose another name, or remove it")
    check_creatable(target.parent, str(target))


def beside(target: pathlib.Path) -> list[pathlib.Path]:
    """An artifact and its cards."""
    return [target, *(target.with_name(f"{target.name}.{suffix}") for suffix in ("md", "json"))]


def _check_size(classifier: Classifier, target: pathlib.Path) -> None:
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(classifier.variables))
    if size > MAX_BYTES:
        rule = f"its weights take {size:,} bytes, and the format holds {MAX_BYTES:,}"
        raise InputError(f"{target}: {rule}: export .safetensors, or a smaller network")


def _write(
    classifier: Classifier, target: pathlib.Path, format: Format, layout: torch_weights.Layout
) -> tuple[str, dict[str, dict[str, object]]]:
    """Write the artifact; returns its format in words, and the card's sections of input and output."""
    if format == "safetensors":
        image_size = classifier.image_size
        tensors = torch_weights.to_state_dict(classifier.variables, classifier.model, layout, image_size)
        torch_weights.save(target, tensors)
        return f"safetensors, weights in {layout}'s layout", card.outside(classifier)
    if format == "onnx":
        from jresnet.use.export import onnx  # which needs the extra

        write_bytes(target, onnx.model(classifier))
        return f"ONNX, opset {onnx.OPSET}, IR version {onnx.IR_VERSION}", card.inside(classifier)
    write_bytes(target, stablehlo.program(classifier))
    return f"StableHLO by jax.export, for {' and '.join(stablehlo.PLATFORMS)}", card.inside(classifier)


@contextlib.contextmanager
def _all_or_none(files: list[pathlib.Path]) -> Iterator[None]:
    """Remove these files if the block that writes them fails."""
    try:
        yield
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise
