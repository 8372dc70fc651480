"""`--help`: every option of every program stands under its group, with its default and an example."""

import dataclasses
import re

import pytest

from experiments import final
from experiments.study import single
from jresnet import cli
from jresnet.cli import commands, help
from jresnet.config import Config


def shown(capsys, words, run=commands.run):
    with pytest.raises(SystemExit) as caught:
        run([*words, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_option_of_a_command_is_explained(capsys, name):
    text = shown(capsys, [name])
    assert f"example: jresnet {commands.COMMANDS[name]}" in " ".join(text.split())
    for field in dataclasses.fields(commands.module(name).Options):
        if not help.is_positional(field.type):
            assert re.search(rf"^ *--{field.name.replace('_', '-')}\b", text, re.MULTILINE), field.name
    for options in help.grouped(commands.module(name).Options).values():
        assert all(option.meaning for option in options), name


def test_options_stand_under_their_groups(capsys):
    text = shown(capsys, ["train"])
    headings = re.findall(r"^([a-z][a-z ]*)$", text, re.MULTILINE)
    assert headings == ["data", "network", "training", "devices", "record", "every command"]
    below = {heading: text.split(f"\n{heading}\n")[1].split("\n\n")[0] for heading in headings}
    for heading, option in {"data": "--flip", "network": "--width", "training": "--schedule"}.items():
        assert option in below[heading]
    assert "--precision" in below["devices"] and "--num-processes" in below["devices"] and "--seed" in below["record"]


def test_defaults_are_the_programs_own(capsys):
    def run(words):
        single.parse("python -m experiments.final", final.CONFIG, words, single.SingleOptions)

    text = " ".join(shown(capsys, [], run).split())
    assert "--width N Channels" in text and "(default: 42)" in text
    assert "--batch-size N Images per training step, over all devices. (default: 32)" in text
    text = " ".join(shown(capsys, [], lambda words: cli.parse(Config, words, "p")).split())
    assert "--batch-size N Images per training step, over all devices. (default: 64)" in text


def test_every_field_of_the_configuration_has_a_group():
    assert {*help.grouped(Config)} == {"data", "network", "training", "devices"}
    assert sum(map(len, help.grouped(Config).values())) == len(dataclasses.fields(Config))
