"""Commands in records: as typed, but for paths that only one machine has."""

import pytest

from experiments.study.commands import without_paths


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("python -m experiments.tuned --dataset npz:data/c.npz --seeds 2 --workdir runs/x", None),
        ("program b.pth weights/b.pth . --output=results/d.json --dataset=npz:data/c.npz 'two words'", None),
        ("program /data/a.th ../b.pth ~/c.pth runs/../../d", "program a.th b.pth c.pth d"),
        (
            "program npz:/data/c.npz --dataset=folder:/data/d/ --output=/tmp/d.json",
            "program npz:c.npz --dataset=folder:d --output=d.json",
        ),
        ("program --workdir '/home/a name/runs'", "program --workdir runs"),
        ("program --workdir /", None),
    ],
)
def test_a_command_is_as_typed_but_for_paths_that_only_one_machine_has(typed, kept):
    assert without_paths(typed) == (kept or typed)
    assert without_paths(without_paths(typed)) == without_paths(typed)
