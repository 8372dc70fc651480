"""`jresnet export`: a trained network as a file for other programs."""

import dataclasses
from typing import ClassVar

import tyro.conf

from jresnet.cli.network import WeightsOptions
from jresnet.cli.program import make_console
from jresnet.models.weights.torch_names import Layout
from jresnet.use.export.artifact import Format, check_target, export


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(WeightsOptions):
    """Write a trained network for other programs: StableHLO, ONNX or safetensors, with a model card beside it."""

    GROUP: ClassVar = "export"

    run: tyro.conf.Positional[str]
    """A run's directory, or a file of weights, which needs --mean and --std."""
    target: tyro.conf.Positional[str]
    """The file to write; its suffix, .stablehlo, .onnx or .safetensors, is its format."""
    format: Format | None = None
    """The format, for a target without its suffix."""
    layout: Layout | None = None
    """Names of the tensors in a .safetensors file (default: kuangliu)."""
    licence: str | None = None
    """Licence of the weights, for the model card (default: not stated)."""


def run(options: Options) -> None:
    """Print the files that were written."""
    check_target(options.target, options.format, options.layout)
    classifier = options.load(options.run)
    files = export(classifier, options.target, options.format, layout=options.layout, licence=options.licence)
    for file in files:
        make_console().out(file, highlight=False)
