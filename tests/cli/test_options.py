"""Command lines and exit statuses: every option parses, every mistake is one line and a status."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.study import single
from jresnet import cli
from jresnet.config import Config
from jresnet.errors import Diverged, InputError, Interrupted


@dataclasses.dataclass(frozen=True)
class Small:
    """Options of a small program."""

    count: int = 3
    """How many."""
    rate: float = 0.5
    """How fast."""
    name: str | None = None
    """What to call it."""
    limit: int | None = None
    """How many at most."""
    sizes: tuple[int, ...] = (1, 2)
    """How large."""
    colour: Literal["red", "dark-blue"] = "red"
    """Which colour."""
    shades: tuple[Literal["light", "dark"], ...] = ("light",)
    """Which shades."""
    two_words: bool = False
    """Whether."""

    def __post_init__(self):
        """Check one rule, as configurations do."""
        if self.count < 1:
            raise InputError(f"--count {self.count}: must be at least 1")


def parse(*words, default=None):
    return cli.parse(Small, words, "program", default)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("", "count", 3),
        ("--count 7", "count", 7),
        ("--count=7", "count", 7),
        ("--rate 1e-3", "rate", 0.001),
        ("--name 'two words'", "name", "two words"),
        ("--name ''", "name", ""),
        ("--limit 5", "limit", 5),
        ("--limit None", "limit", None),
        ("--sizes 2 2 2 2", "sizes", (2, 2, 2, 2)),
        ("--sizes 5 --rate 1", "sizes", (5,)),
        ("--colour dark-blue", "colour", "dark-blue"),
        ("--two-words", "two_words", True),
        ("--two_words", "two_words", True),
        ("--no-two-words", "two_words", False),
    ],
)
def test_options(line, field, value):
    assert getattr(parse(*shlex.split(line)), field) == value


def test_given_options_override_the_programs_defaults():
    default = Small(count=9, sizes=(4,), name="set")
    assert parse(default=default) == default
    assert parse("--count", "2", default=default) == dataclasses.replace(default, count=2)


def test_the_arguments_of_this_process_are_the_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--count", "8"])
    words = []
    assert cli.run_program(words.extend) == 0
    assert words == ["--count", "8"]
    assert cli.run_program(words.extend, ["--size", "2"]) == 0
    assert words == ["--count", "8", "--size", "2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--cuont 3", "--cuont: no such option: use --count, or see --help for all options"),
        ("--coun=3", "--coun=3: no such option: use --count, or see --help for all options"),
        ("--zebra", "--zebra: no such option: see --help for all options"),
        ("--tyro-print-completion x", "--tyro-print-completion: no such option: see --help for all options"),
        ("stray", "stray: neither an option nor the value of one: see --help for all options"),
        ("--two-words yes", "yes: neither an option nor the value of one: see --help for all options"),
        ("--count", "--count: lacks its value: give it a whole number"),
        ("--count --rate 1", "--count: lacks its value: give it a whole number"),
        ("--rate", "--rate: lacks its value: give it a number"),
        ("--name", "--name: lacks its value: give it a text"),
        ("--colour", "--colour: lacks its value: give it one of red, dark-blue"),
        ("--count three", "--count three: must be a whole number"),
        ("--count 1.5", "--count 1.5: must be a whole number"),
        ("--rate quick", "--rate quick: must be a number"),
        ("--limit many", "--limit many: must be a whole number"),
        ("--sizes 1 two", "--sizes 1 two: must be whole numbers, as in 2 2 2 2"),
        ("--sizes=2,2", "--sizes 2,2: must be whole numbers, as in 2 2 2 2"),
        ("--colour blue", "--colour blue: must be one of red, dark-blue"),
        ("--shades light pale", "--shades pale: must be some of light, dark"),
        ("--count 0", "--count 0: must be at least 1"),
        ("--count 5 --count x", "--count x: must be a whole number"),
    ],
)
def test_mistakes_are_one_line(line, message, capsys):
    with pytest.raises(InputError) as caught:
        parse(*shlex.split(line))
    assert str(caught.value) == message
    assert capsys.readouterr() == ("", "")


def test_help_exits_with_0_and_shows_the_docstrings(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("program", "--count", "How many.", "--two-words", "Which colour."):
        assert text in shown


def test_an_experiments_help_names_every_option_of_the_contract(capsys):
    with pytest.raises(SystemExit) as caught:
        single.main("final", Config(), ["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "python -m experiments.final" in shown
    contract = """
        --dataset --data-dir --epochs --batch-size --learning-rate --width --blocks --kernel-size --pool-size --seeds
        --first-seed --validation --precision --input --parallel --workdir --resume --quick
    """
    words = set(shown.replace(",", " ").split())
    assert [option for option in contract.split() if option not in words] == []
    for choices in ("float32|bfloat16", "auto|resident|tfds", "auto|jit|pmap"):
        assert choices in shown


def fail(error):
    def program():
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("--width 0: must be\n  at least 1"), 2, "--width 0: must be at least 1"),
        (Diverged("not finite at epoch 3, step 7"), 1, "not finite at epoch 3, step 7"),
        (Interrupted("saved; go on with: x", signal.SIGINT), 130, "saved; go on with: x"),
        (Interrupted("saved; go on with: x", signal.SIGTERM), 143, "saved; go on with: x"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted at once: --resume continues from the latest checkpoint, if there is one",
        ),
    ],
)
def test_an_error_becomes_one_line_and_a_status(error, status, line, capsys):
    assert cli.exit_status(fail(error)) == status
    assert capsys.readouterr() == ("", line + "\n")


def test_success_is_0_and_silent(capsys):
    assert cli.exit_status(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_an_unexpected_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.exit_status(lambda: print(1 / 0))


@pytest.mark.parametrize("printing", ["print('x' * 100, flush=True)", "console.print('x' * 100)"])
def test_a_closed_pipe_is_141_and_silent(printing):
    """Whether Python prints, which would fail again when it flushes on exit, or rich, which would exit by itself."""
    program = f"""
        import sys
        from jresnet import cli

        console = cli.make_console()

        def program():
            for _ in range(10_000):
                {printing}

        sys.exit(cli.exit_status(program))
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.read(10)
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_a_command_splits_into_its_words(words):
    assert shlex.split(cli.command("python -m program", words)) == ["python", "-m", "program", *words]


def test_a_shell_parses_a_command():
    words = ["--dataset", "npz:my images/a'b$HOME.npz", "*", "a;b", ""]
    line = cli.command(f"{sys.executable} -c 'import sys; print(sys.argv[1:])'", words)
    shown = subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout
    assert shown == f"{words}\n"


def test_a_pipe_gets_120_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe, os.fdopen(read):
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.make_console().width == 120
