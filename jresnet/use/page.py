"""The page of an evaluation: one file of HTML that loads nothing."""

import pathlib

import numpy as np

from jresnet.use import figures, html, tables
from jresnet.use.evaluation import Evaluation
from jresnet.use.metrics import BINS

_MOST_CLASSES = 100  # rows of the table of classes


def page(evaluation: Evaluation) -> bytes:
    """The tables and figures of an evaluation, and the images of its worst mistakes, as HTML in UTF-8."""
    names = [row.name for row in evaluation.classes]
    text = html.render(
        pathlib.Path(__file__).with_name("page.html.j2"),
        evaluation=evaluation,
        bins=BINS,
        called=tables.called,
        figures=tables.figures(evaluation),
        classes=tables.classes(evaluation, _MOST_CLASSES),
        against=tables.against(evaluation.name, evaluation.against) if evaluation.against else None,
        numbered=len(names) <= figures.MOST_NAMES and not all(map(figures.can_draw, names)),
        confusion=figures.svg("confusion", figures.confusion(np.array(evaluation.confusion), names)),
        reliability=figures.svg("reliability", figures.reliability(evaluation.reliability)),
    )
    return html.encoded(text)
