"""Completion: the scripts know every command, option and choice."""

import dataclasses
import shutil
import subprocess

import pytest

from jresnet import cli
from jresnet.cli import commands, completion
from jresnet.errors import InputError


def completed(script, *words):
    """What bash would offer for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    program = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _tyro_jresnet; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{script}\n{program}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_commands_options_and_choices():
    script = completion.script("bash")
    assert set(commands.COMMANDS) <= {*completed(script, "jresnet", "")}
    options = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(commands.module("train").Options)}
    assert options | {"--config"} <= {*completed(script, "jresnet", "train", "--")}
    assert {*completed(script, "jresnet", "train", "--schedule", "")} >= {"constant", "cosine", "linear", "step"}
    assert "complete -o default -F" in script, "files are offered where nothing else fits"


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_finds_the_script_in_its_path(tmp_path):
    (tmp_path / "_jresnet").write_text(completion.script("zsh"))
    program = f"fpath=('{tmp_path}' $fpath); autoload -Uz compinit && compinit -D && print $_comps[jresnet]"
    done = subprocess.run(["zsh", "-fc", program], capture_output=True, text=True, check=True)
    assert done.stdout == "_jresnet\n"
    assert "completion_array || _files" in completion.script("zsh"), "files are offered where nothing else fits"


def test_the_command_prints_a_script(capsys):
    assert cli.run_program(commands.run, ["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef jresnet\n")
    with pytest.raises(InputError, match=r"^shell fish: must be one of bash, zsh$"):
        commands.run(["completion", "fish"])
