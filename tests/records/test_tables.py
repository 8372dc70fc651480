"""One table on a console, in Markdown and in CSV."""

import io

import pytest
import rich.console

from jresnet.records.tables import Column, Table, interval, number, spread, text

COLUMNS = (
    text("name", "name"),
    number("count", "count", ",d"),
    spread("test\nacc (%)", "mean", "std", ".2f", 100),
    interval("95 % CI", "low", "high", ".3f"),
    Column("pair", ("first", "second"), layout="{} minus {}", missing="-"),
)
ROWS = (
    {
        "name": "a|b", "count": 1234567, "mean": 0.91234567, "std": 0.012, "low": 0.9, "high": 0.95, "first": "x",
        "second": "y",
    },
    {"name": "[red]c\nd", "count": 2, "mean": 0.5, "low": None, "high": 0.7, "first": None},
)  # fmt: skip
TABLE = Table(
    COLUMNS, ROWS, caption="A note.\nAnother.", title="A [b]title", footer={"name": "total", "count": 1234569}
)


def printed(table, width):
    screen = io.StringIO()
    rich.console.Console(file=screen, width=width).print(table)
    return screen.getvalue()


def test_markdown():
    assert TABLE.markdown() == (
        "| name | count | test acc (%) | 95 % CI | pair |\n"
        "| :-- | --: | --: | --: | :-- |\n"
        "| a\\|b | 1,234,567 | 91.23 ± 1.20 | 0.900 to 0.950 | x minus y |\n"
        "| [red]c, d | 2 | 50.00 | n/a | - |\n"
        "| total | 1,234,569 | n/a | n/a | - |\n"
        "\n- A note.\n- Another.\n"
    )
    assert Table(COLUMNS[:1], ROWS[:1]).markdown() == "| name |\n| :-- |\n| a\\|b |\n"


def test_csv_has_the_raw_values_of_every_key():
    assert TABLE.csv().splitlines() == [
        "name,count,mean,std,low,high,first,second",
        "a|b,1234567,0.91234567,0.012,0.9,0.95,x,y",
        '"[red]c',
        'd",2,0.5,,,0.7,,',
    ]


def test_a_form_may_be_a_function():
    column = text("size", "size", lambda sides: " x ".join(map(str, sides)), missing="")
    assert [column.cell({"size": (3, 4)}), column.cell({})] == ["3 x 4", ""]


def test_a_console_shows_title_footer_and_notes_and_takes_no_text_for_markup():
    lines = [line.split() for line in printed(TABLE, 100).splitlines()]
    assert lines[0] == ["A", "[b]title"] and lines[-2:] == [["A", "note."], ["Another."]]
    assert ["[red]c", "2", "50.00", "n/a", "-"] in lines and ["total", "1,234,569", "n/a", "n/a", "-"] in lines
    # A header has its own lines; a deviation stands below its mean.
    assert ["a|b", "1,234,567", "91.23", "0.900", "to", "0.950", "x", "minus", "y"] in lines and ["±1.20"] in lines
    assert lines[1:3] == [["test"], ["name", "count", "acc", "(%)", "95", "%", "CI", "pair"]]


def test_numbers_are_justified_to_the_right():
    lines = printed(Table(COLUMNS[:2], ({"name": "a", "count": 1}, {"name": "b", "count": 12345})), 80).splitlines()
    assert [line.rstrip() for line in lines[2:]] == ["a          1", "b     12,345"]


def test_groups_are_set_apart():
    rows = [{"name": name, "group": group} for name, group in (("a", 0), ("b", 0), ("c", 1))]
    lines = [line.strip() for line in printed(Table(COLUMNS[:1], rows, group="group"), 80).splitlines()]
    assert lines[2:] == ["a", "b", "", "c"]


@pytest.mark.parametrize("width", [20, 30, 60])
def test_a_narrow_console_folds_and_loses_nothing(width):
    text = printed(TABLE, width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
