"""Tables: rows of raw values, and columns that format them for a console, Markdown and CSV."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.box
import rich.table
import rich.text

from jresnet.errors import visible

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table; the functions below make the usual kinds.

    Attributes:
      header: its heading; line breaks in it count on a console only.
      keys: of the row's values that it shows; each has its own column in CSV.
      form: format specification of a value, or a function from a value to its text.
      scale: factor on the values, for example 100 for shares shown in percent.
      layout: template of the cell where there are several values.
      right: right-justified, as for numbers.
      missing: the text where the first value is None or absent. If only a later one is, the first is shown alone.
    """

    header: str
    keys: tuple[str, ...]
    form: str | Callable[[Any], str] = ""
    scale: float = 1
    layout: str = "{}"
    right: bool = False
    missing: str = "n/a"

    def cell(self, row: Row) -> str:
        """The row's text in this column; it may have several lines."""
        values = [row.get(key) for key in self.keys]
        texts = [self._text(value) for value in values if value is not None]
        if values[0] is None:
            return self.missing
        return self.layout.format(*texts) if len(texts) == len(values) else texts[0]

    def _text(self, value: Any) -> str:
        value = value if self.scale == 1 else value * self.scale
        return self.form(value) if callable(self.form) else format(value, self.form)


def text(header: str, key: str, form: Callable[[Any], str] = str, missing: str = "n/a") -> Column:
    """Left-justified text."""
    return Column(header, (key,), form, missing=missing)


def number(header: str, key: str, form: str = "", scale: float = 1, missing: str = "n/a") -> Column:
    """A number times `scale`."""
    return Column(header, (key,), form, scale, right=True, missing=missing)


def spread(header: str, mean: str, std: str, form: str, scale: float = 1) -> Column:
    """Mean ± standard deviation."""
    return Column(header, (mean, std), form, scale, "{} ± {}", right=True)


def interval(header: str, low: str, high: str, form: str, scale: float = 1, missing: str = "n/a") -> Column:
    """The two ends of an interval."""
    return Column(header, (low, high), form, scale, "{} to {}", right=True, missing=missing)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; `console.print(table)` prints it with rich.

    Attributes:
      columns: from left to right.
      rows: a value, or None, under each key of the columns.
      caption: notes below the table, one per line.
      title: its heading on a console.
      name: of its files, without suffix.
      footer: a last row, for example of totals, set apart on a console; not in CSV.
      group: key of the rows; on a console a blank line separates rows with different values.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""
    title: str = ""
    name: str = ""
    footer: Row | None = None
    group: str = ""

    @property
    def headers(self) -> list[str]:
        """The columns' headers, each on one line."""
        return [column.header.replace("\n", " ") for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """Every row's texts, the footer's included."""
        rows = [*self.rows, self.footer] if self.footer else self.rows
        return [[column.cell(row) for column in self.columns] for row in rows]

    def markdown(self) -> str:
        """The table in Markdown, with the caption's lines as a list below it."""
        rules = ["--:" if column.right else ":--" for column in self.columns]
        lines = ["| " + " | ".join(map(escaped, line)) + " |" for line in (self.headers, rules, *self.cells)]
        notes = ["", *(f"- {line}" for line in self.caption.splitlines())] if self.caption else []
        return "\n".join([*lines, *notes]) + "\n"

    def csv(self) -> str:
        """The raw values as CSV below a line of their keys; None is an empty field.

        A text that a spreadsheet would take for a formula gets an apostrophe in front.
        """
        keys = [key for column in self.columns for key in column.keys]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([keys, *([_inert(row.get(key)) for key in keys] for row in self.rows)])
        return text.getvalue()

    def __rich__(self) -> rich.table.Table:
        """The table for a console; where that is narrow, cells are folded over several lines, never cut off."""
        table = rich.table.Table(
            title=_text(self.title),
            title_justify="left",
            caption=_text(self.caption),
            caption_justify="left",
            box=rich.box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            collapse_padding=True,
            show_footer=self.footer is not None,
        )
        for column in self.columns:
            table.add_column(
                _text(column.header),
                _text(column.cell(self.footer) if self.footer else ""),
                justify="right" if column.right else "left",
                overflow="fold",
            )
        for _, rows in itertools.groupby(self.rows, lambda row: row.get(self.group)):
            for row in rows:
                # A deviation below its mean: the columns of an experiment then fit into 80 characters.
                table.add_row(*(_text(column.cell(row).replace(" ± ", "\n±")) for column in self.columns))
            table.add_section()
        return table


def escaped(text: str) -> str:
    """A text on one line of Markdown, in which a name cannot become markup of HTML, a link or another cell."""
    line = ", ".join(text.splitlines()).replace("\\", "\\\\").replace("|", "\\|")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _text(text: str) -> rich.text.Text:
    """A text for the console, which interprets nothing in it."""
    return rich.text.Text(visible(text))
