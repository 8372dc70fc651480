"""docs/use.md: its commands run one after another from an empty directory, and print what it shows.

Numbers depend on the processor's rounding, and with them which class is found, so that only the words are compared.
"""

import contextlib
import io
import itertools
import pathlib
import re
import shlex
import socketserver

import pytest

import jresnet
from jresnet.cli import commands

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "use.md"
CLASSES = jresnet.load_dataset("synthetic").classes


def sessions(text):
    """The commands of the page's console blocks in their order, each with the lines below it."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        for session in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = session.replace("\\\n", " ").partition("\n")
            yield command, output


def words(output):
    """What of an output is compared: its lines; one for several mistakes in a row, of which others may make more."""
    output = re.sub(rf"\b({'|'.join(CLASSES)})\b", "CLASS", output)
    output = re.sub(r"\b[0-9a-f]{7,64}\b", "#", output)
    output = re.sub(r"-?\d[\d.,:e+-]*(?P<what> images| parameters| classes)?", counted, output)
    lines = (re.sub(r"[─━]+", "-", " ".join(line.split())) for line in output.strip().splitlines())
    return [line for line, same in itertools.groupby(lines) for _ in ([0] if line.startswith("test/") else same)]


def counted(number):
    """A number in an output: kept where it counts what is the same on every processor."""
    return number[0] if number["what"] else "#"


def printed(command):
    """What a command prints on both streams."""
    program, *rest = shlex.split(command)
    assert program == "jresnet", command
    both = io.StringIO()
    with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        commands.main(rest)
    return both.getvalue()


def agree(shown, real):
    """Whether an output is as shown, where "..." stands for any lines."""
    pattern = r"\n".join(r"(.*\n)*?.*" if line == "..." else re.escape(line) for line in shown)
    return re.fullmatch(pattern, "\n".join(real)) is not None


def test_the_comparison_tells_outputs_apart():
    assert agree(words("test accuracy 98.2% of 90 images"), words("test accuracy 7% of 90 images"))
    assert not agree(words("test accuracy 98.2% of 90 images"), words("test accuracy 98.2% of 60 images"))
    assert not agree(words("test accuracy 98.2%"), words("test loss 98.2%"))
    assert not agree(words("Epoch 0, loss 1\nEpoch 1, loss 2"), words("Epoch 0, loss 1"))
    assert agree(words("test/disc/1.png ring 70.1\ntest/ring/2.png disc 61"), words("test/disc/7.png ring 99.0"))
    assert agree(["a", "...", "d"], ["a", "b", "c", "d"]) and not agree(["a", "...", "d"], ["a", "b", "c"])


def test_every_command_prints_what_is_shown(tmp_path, monkeypatch):
    text = PAGE.read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", lambda *_, **__: None)  # watch would not end
    monkeypatch.setenv("COLUMNS", "120")
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    done = set()
    for command, output in sessions(text):
        done.add(command.split()[1])
        shown, real = words(output), words(printed(command))
        assert agree(shown, real), "\n".join([command, *real])
    assert done == {*commands.COMMANDS} - {"completion", "inspect", "convert"}


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_manual_names_every_command(name):
    assert f"jresnet {name}" in (PAGE.parent / "cli.md").read_text()
