"""Running the commands of `jresnet` in this process."""

from jresnet.cli import commands


def run(capsys, *words):
    """The exit status of a command line, and what it printed on stdout and on stderr."""
    status = commands.main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refusal(capsys, *words):
    """The one line on stderr of a command line that is refused."""
    status, out, err = run(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    return err.strip()
