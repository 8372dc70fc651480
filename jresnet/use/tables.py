"""The tables of an evaluation."""

from collections.abc import Sequence

from jresnet.records.tables import Column, Table, interval, number, text
from jresnet.use.evaluation import Comparison, Evaluation, Mistake

_MOST_NUMBERS = 12  # classes of a confusion matrix that fits a console


def tables(evaluation: Evaluation, most_classes: int = 30, most_mistakes: int = 5) -> list[Table]:
    """All tables: the figures, those of the classes, the confusion matrix, the worst mistakes, and McNemar's test."""
    found = [figures(evaluation), classes(evaluation, most_classes)]
    if len(evaluation.classes) <= _MOST_NUMBERS:
        found.append(confusion(evaluation))
    if evaluation.mistakes:
        found.append(mistakes(evaluation.mistakes[:most_mistakes]))
    if evaluation.against:
        found.append(against(evaluation.name, evaluation.against))
    return found


def figures(evaluation: Evaluation) -> Table:
    """The figures of what was evaluated, and of all that is shown beside it."""
    columns = [
        text("", "name"),
        number("accuracy (%)", "accuracy", ".2f", 100),
        interval("95 % interval", "accuracy_low", "accuracy_high", ".2f", 100),
        number("top-5 (%)", "top5", ".2f", 100),
        number("AUC", "auc", ".4f"),
        number("cross-entropy", "cross_entropy", ".4f"),
        number("ECE (%)", "calibration_error", ".2f", 100),
    ]
    if evaluation.figures.top5 is None:
        del columns[3]
    rows = [{"name": name} | vars(found) for name, found in evaluation.systems.items()]
    count = f"{evaluation.figures.images:,} images of {len(evaluation.classes)} classes"
    return Table(columns, rows, title=f"{evaluation.dataset['name']}, {evaluation.split}: {count}", name="figures")


def classes(evaluation: Evaluation, most: int) -> Table:
    """The figures of each class, or of the `most` with the lowest recall if there are more."""
    columns = [
        text("class", "name"),
        number("images", "support", ","),
        number("precision (%)", "precision", ".1f", 100),
        number("recall (%)", "recall", ".1f", 100),
        number("F1 (%)", "f1", ".1f", 100),
        number("AUC", "auc", ".4f"),
    ]
    rows, caption = [*map(vars, evaluation.classes)], ""
    if len(rows) > most:
        caption = f"The {most} classes of {len(rows)} with the lowest recall."
        rows = sorted((row for row in rows if row["support"]), key=lambda row: row["recall"])[:most]
    return Table(columns, rows, caption, name="classes")


def confusion(evaluation: Evaluation) -> Table:
    """Images by true class and predicted class."""
    names = [row.name for row in evaluation.classes]
    columns: list[Column] = [text("class, taken for:", "name")]
    columns += [number(name, str(index), ",") for index, name in enumerate(names)]
    rows = [
        {"name": name} | {str(index): count for index, count in enumerate(counts)}
        for name, counts in zip(names, evaluation.confusion, strict=True)
    ]
    return Table(columns, rows, name="confusion")


def mistakes(worst: Sequence[Mistake]) -> Table:
    """The images for which a wrong class has the highest probability."""
    columns = [
        text("worst mistakes", "image"),
        text("class", "label"),
        text("taken for", "prediction"),
        number("probability (%)", "probability", ".2f", 100),
    ]
    rows = [vars(mistake) | {"image": called(mistake)} for mistake in worst]
    return Table(columns, rows, name="mistakes")


def called(mistake: Mistake) -> str:
    """The name of a mistaken image, or its index where images have no names."""
    return mistake.name or f"image {mistake.index}"


def against(name: str, comparison: Comparison) -> Table:
    """McNemar's test."""
    other = comparison.name.removeprefix("against: ")
    columns = [
        text("McNemar's exact test", "name"),
        number("both right", "both", ","),
        number("only first", "first", ","),
        number("only second", "second", ","),
        number("neither", "neither", ","),
        number("p", "p_value", ".3g"),
    ]
    return Table(columns, [{"name": f"{name} against {other}"} | vars(comparison.test)], name="against")
