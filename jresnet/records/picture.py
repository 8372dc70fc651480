"""A figure as a value in a notebook; imported only to draw, as matplotlib takes half a second."""

import io
from typing import IO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that notebooks show, although pyplot, which else arranges that, may never be imported."""

    def write_png(self, file: IO[bytes]) -> None:
        """Write the figure as PNG into an open file."""
        FigureCanvasAgg(self).print_png(file)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.write_png(buffer)
        return buffer.getvalue()
