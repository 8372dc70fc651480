"""The architecture as a figure: stages, blocks, skip connections and shapes (the figure of report section 3.3.1)."""

import itertools
import os
import pathlib
from typing import TYPE_CHECKING, NamedTuple

from jresnet.errors import InputError, by
from jresnet.models.summary import Layer
from jresnet.records.files import atomic_write, local_path

if TYPE_CHECKING:
    import matplotlib.axes

FORMATS = (".svg", ".png", ".pdf")
"""Suffixes of a figure's file."""

IDENTITY = "identity"
"""The label of a skip connection that leaves its input unchanged."""

MOST_BLOCKS = 4
"""Stages of up to this many blocks are drawn in full; longer ones show their first two blocks and the last."""

# Okabe and Ito, "Color Universal Design" (2008), the fills lightened.
_FILLS = {"stem": "#fbe7c6", "block": "#d5e8f5", "head": "#d3efe4"}
_LINE, _SKIP = "#333333", "#D55E00"
# In inches: width of a box, space between boxes, left margin for the rows' names, space above and below a row's boxes.
_BOX, _GAP, _MARGIN, _AIR = 1.5, 0.55, 1.45, 0.95
_NOTE = (
    "conv: convolution with batch normalisation and ReLU; /2: stride 2; + adds the skip connection, "
    "dashed where it changes the shape"
)


class Box(NamedTuple):
    """A box of the figure.

    Attributes:
      title: its name.
      lines: its layers, one a line.
      fill: "stem", "block" or "head", which decides the colour.
      skip: label of its skip connection, as "1 x 1 conv, 84, /2" or IDENTITY; None: it has none.
    """

    title: str
    lines: tuple[str, ...]
    fill: str
    skip: str | None = None

    @property
    def height(self) -> float:
        """In inches."""
        return 0.44 + 0.2 * len(self.lines)


class Row(NamedTuple):
    """The boxes of a stage, from left to right, and its output shape."""

    name: str
    boxes: tuple[Box, ...]
    output: tuple[int, ...]

    @property
    def height(self) -> float:
        """In inches, including skip connections above and the line to the next row below."""
        return max(box.height for box in self.boxes) + _AIR


def rows(layers: list[Layer]) -> list[Row]:
    """The rows of the figure: stem, stages, head.

    Args:
      layers: of a network, from `summary.layers`.
    """
    result: list[Row] = []
    for name, group in itertools.groupby(layers, key=_row_name):
        members = list(group)
        if name.startswith("stage"):
            boxes = _blocks(members, result[-1].output)
        else:
            boxes = [Box(top, tuple(map(_line, part)), name) for top, part in itertools.groupby(members, key=_top)]
        # The last layer may be the projection, which has the block's output shape too.
        result.append(Row(name, tuple(boxes), members[-1].output))
    return result


def draw(layers: list[Layer], path: str | os.PathLike[str], title: str) -> None:
    """Draw a network to a file, atomically.

    Args:
      layers: of the network, from `summary.layers`.
      path: ends in one of FORMATS.
      title: plain text above the figure.

    Raises:
      InputError: another suffix, or a path that cannot be written.
    """
    check_path(path)
    import matplotlib
    from matplotlib.figure import Figure

    drawn = rows(layers)
    columns = max(3, *(len(row.boxes) for row in drawn))
    width = _MARGIN + columns * (_BOX + _GAP)
    height = 1.0 + sum(row.height for row in drawn)
    figure = Figure(figsize=(width, height), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(-height, 0))
    axes.set_axis_off()
    axes.text(0.2, -0.3, title, fontsize=11, fontweight="bold", va="center", parse_math=False)
    axes.text(0.2, 0.25 - height, _NOTE, fontsize=7.5, va="center", color="#555555")
    top, previous = -0.45, None
    for row in drawn:
        # The boxes are below the space for their skip connections.
        y = top - _AIR * 0.6 - (row.height - _AIR) / 2
        top -= row.height
        if previous is not None:
            _draw_connection(axes, *previous, y)
        _draw_row(axes, row, y)
        previous = row, y
    suffix = pathlib.Path(path).suffix
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    # Reproducible bytes, and text stored as text, which makes the SVG a quarter of the size.
    reproducible = matplotlib.rc_context({"svg.hashsalt": "jresnet", "svg.fonttype": "none"})
    with atomic_write(path) as file, reproducible:
        figure.savefig(file, format=suffix[1:], metadata=undated.get(suffix))


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise InputError if the path's suffix is not in FORMATS or its directory does not exist."""
    if local_path(path, "--figure").suffix not in FORMATS:
        raise InputError(f"--figure {path}: must end in one of {', '.join(FORMATS)}: choose another name")
    if not local_path(path).absolute().parent.is_dir():
        raise InputError(f"--figure {path}: its directory does not exist: make it, or choose another path")


def _row_name(layer: Layer) -> str:
    """The row of a layer: "stage 2" for layer2_0/conv1, "stem" before the stages, "head" after them."""
    top = _top(layer)
    if top.startswith("layer"):
        return f"stage {top.removeprefix('layer').partition('_')[0]}"
    return "head" if top in ("bn", "avg_pool", "linear") else "stem"


def _top(layer: Layer) -> str:
    """The network's own module that contains a layer: "layer2_0" for layer2_0/conv1."""
    return layer.name.split("/")[0]


def _blocks(members: list[Layer], shape: tuple[int, ...]) -> list[Box]:
    """A box for each block of a stage with this input shape; long stages are shortened."""
    boxes = []
    for name, group in itertools.groupby(members, key=_top):
        layers = [layer for layer in group if layer.kind == "convolution"]
        lines = tuple(_line(layer) for layer in layers if "shortcut" not in layer.name)
        projections = [_line(layer) for layer in layers if "shortcut" in layer.name]
        same = layers[-1].output == shape
        skip = projections[0] if projections else IDENTITY if same else "channels of zeros"
        boxes.append(Box(name.replace("_", "."), lines, "block", skip))
        shape = layers[-1].output
    if len(boxes) > MOST_BLOCKS:
        others = Box(f"{len(boxes) - 3} more blocks", ("like the one", "before"), "block", IDENTITY)
        boxes = [*boxes[:2], others, boxes[-1]]
    return boxes


def _line(layer: Layer) -> str:
    if layer.kind == "convolution":
        step = f", /{layer.stride[0]}" if layer.stride and layer.stride[0] > 1 else ""
        return f"{by(layer.kernel)} conv, {layer.output[-1]}{step}"
    if layer.kind == "linear":
        return f"linear, {layer.output[-1]}"
    return f"{by(layer.kernel)} {layer.kind}" if layer.kernel else layer.kind


def _left(number: int) -> float:
    """The left edge of a row's box, counted from 0."""
    return _MARGIN + number * (_BOX + _GAP)


def _draw_row(axes: "matplotlib.axes.Axes", row: Row, y: float) -> None:
    """Draw a row of boxes centred at y, with its name on the left and arrows between the boxes."""
    axes.text(0.2, y + 0.12, row.name, fontsize=10, fontweight="bold", va="center")
    axes.text(0.2, y - 0.12, by(row.output), fontsize=8, va="center", color="#555555")
    for number, box in enumerate(row.boxes):
        left = _left(number)
        arrow = {"arrowstyle": "-|>", "color": _LINE, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (left, y), (left - (_GAP if number else _GAP / 2), y), arrowprops=arrow)
        _draw_box(axes, box, left, y)


def _draw_connection(axes: "matplotlib.axes.Axes", row: Row, y: float, below: float) -> None:
    """Draw the line from the end of a row at y to the start of the next one."""
    right, start = _left(len(row.boxes)) - _GAP / 2, _MARGIN - _GAP / 2
    between = y - (row.height - _AIR) / 2 - _AIR * 0.25
    axes.plot(
        [_left(len(row.boxes)) - _GAP, right, right, start, start], [y, y, between, between, below],
        color=_LINE, linewidth=1, zorder=1,
    )  # fmt: skip


def _draw_box(axes: "matplotlib.axes.Axes", box: Box, left: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    low, top, middle = y - box.height / 2, y + box.height / 2, left + _BOX / 2
    style = "round,pad=0,rounding_size=0.08"
    patch = FancyBboxPatch((left, low), _BOX, box.height, boxstyle=style, zorder=2)
    patch.set(facecolor=_FILLS[box.fill], edgecolor=_LINE)
    axes.add_patch(patch)
    axes.text(middle, top - 0.16, box.title, fontsize=9, fontweight="bold", ha="center", va="center")
    for number, line in enumerate(box.lines):
        axes.text(middle, top - 0.39 - 0.2 * number, line, fontsize=8, ha="center", va="center")
    if box.skip is not None:
        _draw_skip(axes, box.skip, left, y, top + 0.18)


def _draw_skip(axes: "matplotlib.axes.Axes", skip: str, left: float, y: float, top: float) -> None:
    """Draw the skip connection over a block: solid for the identity, dashed if it changes the shape."""
    start, end = left - _GAP / 4, left + _BOX + _GAP / 3
    dashed = "-" if skip == IDENTITY else "--"
    axes.plot([start, start, end, end], [y, top, top, y], color=_SKIP, linewidth=1.2, linestyle=dashed, zorder=2)
    axes.text((start + end) / 2, top + 0.1, skip, fontsize=7.5, ha="center", va="center", color=_SKIP)
    axes.plot([end], [y], marker="o", markersize=9, markerfacecolor="white", markeredgecolor=_SKIP, zorder=3)
    axes.plot([end], [y], marker="+", markersize=6, color=_LINE, zorder=4)
