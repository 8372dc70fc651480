"""`--config FILE.toml`: a file's options are those of the command line, which override them."""

import dataclasses

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from experiments import final
from experiments.study import single
from jresnet import cli
from jresnet.cli import train
from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.rules import literals


def parse(tmp_path, content, *words):
    path = tmp_path / "run.toml"
    path.write_text(content)
    return cli.parse(train.Options, [*words, "--config", str(path)], "jresnet train")


FILE = """
width = 8
blocks = [1, 2]
flip = 0.25
nesterov = true
learning-rate = 1e-2
model = "resnet20"
"""


def test_a_files_options_are_those_of_the_command_line(tmp_path):
    line = "--width 8 --blocks 1 2 --flip 0.25 --nesterov --learning-rate 1e-2 --model resnet20"
    assert parse(tmp_path, FILE) == cli.parse(train.Options, line.split(), "jresnet train")


@pytest.mark.parametrize("words", [["--width", "3"], ["--width=3"]])
def test_the_command_line_comes_first(tmp_path, words):
    options = parse(tmp_path, "width = 8\nepochs = 4", *words)
    assert (options.width, options.epochs) == (3, 4)
    assert parse(tmp_path, "nesterov = true", "--no-nesterov").nesterov is False
    assert parse(tmp_path, "blocks = [1, 1]", "--blocks", "2", "3").blocks == (2, 3)


def test_experiments_read_files_too(tmp_path):
    (tmp_path / "run.toml").write_text("epochs = 7")
    words = ["--config", str(tmp_path / "run.toml"), "--quick"]
    options = single.parse("python -m experiments.final", final.CONFIG, words, single.SingleOptions)
    assert (options.epochs, options.dataset) == (7, "synthetic")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("widht = 3", "widht: no such option: use width, or see --help for all options"),
        ("zebra = 3", "zebra: no such option: see --help for all options"),
        ("[network]\nwidth = 3", "network: no such option"),
        ("width = {a = 1}", "width: must be a text, a number, true, false, or a list of these"),
        ("width = []", "width: must be a text, a number, true, false, or a list of these"),
        ("width = 2020-01-01", "width: must be a text, a number, true, false, or a list of these"),
        ("width", "is not TOML"),
        ("width = 1\nwidth = 2", "is not TOML"),
        ("width = 'many'", "--width many: must be a whole number"),
        ("width = 0", "--width 0: must be at least 1"),
        ("crop_padding = -1", "--crop-padding -1: must be at least 0"),
        ("blocks = [1, 'x']", "--blocks 1 x: must be whole numbers"),
        ("nesterov = 1", "nesterov = 1: must be true or false"),
        ("nesterov = 'no'", 'nesterov = "no": must be true or false'),
        ("nesterov = [true]", "nesterov = [true]: must be true or false"),
        ("width = true", "width = true: must be a value, as --help has it, no switch"),
    ],
)
def test_mistakes_are_one_line(tmp_path, content, message):
    with pytest.raises(InputError) as caught:
        parse(tmp_path, content)
    line = str(caught.value)
    assert line.startswith(f"--config {tmp_path / 'run.toml'}: {message}") and "\n" not in line


def test_mistakes_of_the_command_line_do_not_name_the_file(tmp_path):
    with pytest.raises(InputError, match=r"^--width 0: must be at least 1"):
        parse(tmp_path, "width = 8\nepochs = 4", "--width", "0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config", "--config: lacks its value: give it a file, as in --config run.toml"),
        ("--config --width 3", "--config: lacks its value"),
        ("--config a.toml --config b.toml", "--config b.toml: a second file: give one"),
        ("--config missing.toml", "--config missing.toml: cannot be read (No such file or directory)"),
    ],
)
def test_a_missing_file_is_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        cli.parse(train.Options, words.split(), "jresnet train")
    assert str(caught.value).startswith(message)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_every_configuration_survives_a_file(tmp_path_factory, data):
    """Every option that is not at its default, in TOML, gives the same configuration again."""
    values = {
        "width": st.integers(1, 99),
        "blocks": st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
        "learning_rate": st.floats(1e-6, 10),
        "nesterov": st.booleans(),
        "data_dir": st.text("abc/~", min_size=1),
    } | {name: st.sampled_from(listed) for name, listed in literals(Config).items() if name != "test_from"}
    chosen = data.draw(st.fixed_dictionaries({}, optional=values))
    try:
        config = dataclasses.replace(Config(), **chosen)
    except InputError:
        reject()  # options that do not go together, as a schedule without its warm-up
    lines = [f"{name} = {toml(value)}" for name, value in chosen.items()]
    options = parse(tmp_path_factory.mktemp("toml"), "\n".join(lines))
    assert options.config == config


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)
