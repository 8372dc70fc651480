"""README's table against the records: in agreement as committed, and every changed digit is found."""

import json
import math
import shutil

import pytest

from experiments import readme
from jresnet.errors import InputError

STUDY = "augmentation-width16-jpegq75"


@pytest.fixture
def root(tmp_path):
    """A copy of the committed README and records."""
    shutil.copy(readme.ROOT / "README.md", tmp_path)
    shutil.copytree(readme.ROOT / readme.RESULTS, tmp_path / readme.RESULTS)
    return tmp_path


def between(root):
    text = (root / "README.md").read_text()
    return text.partition(readme.BEGIN)[2].partition(readme.END)[0]


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_readme_agrees_with_the_committed_records():
    assert readme.check() == []


def test_the_table_says_what_was_run_and_what_came_of_it(root):
    text = between(root)
    records = [
        json.loads((root / readme.RESULTS / STUDY / f"seed-{seed}" / "result.json").read_text()) for seed in range(2)
    ]
    a, b = (100 * record["test_accuracy"] for record in records)
    mean, std = (a + b) / 2, abs(a - b) / math.sqrt(2)
    half = 12.7062 * std / math.sqrt(2)  # Student's t with one degree of freedom
    assert f"| 2 | {mean:.2f} ± {std:.2f} | {mean - half:.2f} to {mean + half:.2f} |" in text
    assert "width 16, 6 epochs on CIFAR-10 (JPEG q75), 50,000 training and 10,000 test images" in text
    for part in (records[0]["device"], records[0]["commit"], "jax 0.10.2", "sha256 1abb6cef1d3d", "--seeds 2"):
        assert part in text


@pytest.mark.parametrize(("old", "new"), [("75.14", "75.24"), ("| 2 |", "| 3 |"), ("width 16, 6", "width 64, 6")])
def test_a_changed_readme_is_found_and_mended(root, old, new):
    committed = (root / "README.md").read_text()
    begin = committed.index(readme.BEGIN)
    head, block = committed[:begin], committed[begin:]
    assert old in block
    (root / "README.md").write_text(head + block.replace(old, new, 1))
    (drift,) = readme.check(root)
    assert drift.startswith("README.md: ") and new in drift and old in drift and "\n" not in drift
    readme.update(root)
    assert (root / "README.md").read_text() == committed and readme.check(root) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("test_accuracy", "0.7576", "0.7577"),
        ("test_accuracy_batch_mean", "0.7581608280254777", "0.7581608280254776"),
        ("train_loss", "0.719122890625", "0.719122890626"),
        ("seconds", "1134.190520395994", "1134.190520396994"),
    ],
)
def test_a_changed_digit_in_a_record_is_found(root, name, old, new):
    path = root / readme.RESULTS / STUDY / "seed-0" / "result.json"
    change(path, f'"{name}": {old}', f'"{name}": {new}')
    where = f"experiments/results/{STUDY}/seed-0/result.json: {name} is {new}"
    assert any(line.startswith(where) for line in readme.check(root))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("result.json", '"seed": 0', '"seed": 2'),
        ("result.json", '"parameters": 701466', '"parameters": 701467'),
        ("metrics.jsonl", '"epoch": 2, "train_loss": 0.9', '"epoch": 2, "train_loss": 0.8'),
    ],
)
def test_what_no_other_figure_contradicts_is_told_by_the_sums(root, name, old, new):
    change(root / readme.RESULTS / STUDY / "seed-0" / name, old, new)
    lines = readme.check(root)
    assert f"experiments/results/{STUDY}/seed-0/{name}: not as the run wrote it (truncated or edited)" in lines[0]


def test_a_record_without_sums_is_refused(root):
    (root / readme.RESULTS / STUDY / "seed-0" / "sha256sums.txt").unlink()
    with pytest.raises(InputError, match=r"sha256sums\.txt: missing or unreadable"):
        readme.check(root)


def test_a_missing_epoch_is_found(root):
    path = root / readme.RESULTS / STUDY / "seed-1" / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    (line,) = readme.check(root)
    assert line.startswith(f"experiments/results/{STUDY}/seed-1/metrics.jsonl: not the 6 epochs")


def test_channels_of_a_reduced_study_are_said_beside_the_reports(root):
    lines = between(root).splitlines()
    shown = [line.split("|")[2].strip() for line in lines if line.startswith("| 4.2.3 Channels |")]
    assert shown == ["42 (here 5)", "64 (here 8)", "80 (here 10)"]


def test_another_study_is_another_table(root):
    old, new = (root / readme.RESULTS / name for name in (STUDY, "z-again"))
    shutil.copytree(old, new)
    assert readme.check(root)
    before = between(root).count("| 4.1 Data augmentation |")
    readme.update(root)
    assert between(root).count("| 4.1 Data augmentation |") == before + 1 and "**z-again**" in between(root)
    shutil.rmtree(new)
    assert readme.check(root)


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        ("README.md", "<!-- results: end -->", "", "lacks its markers"),
        (f"experiments/results/{STUDY}/outcome.json", '"settings"', '"setting"', "not a study's"),
        (f"experiments/results/{STUDY}/outcome.json", '"seed-1"', '"seed-7"', "seed-7/result.json: not a readable"),
        (f"experiments/results/{STUDY}/seed-0/result.json", '"test_loss"', '"tests_loss"', "not a run's result"),
        (f"experiments/results/{STUDY}/seed-0/result.json", '"width"', '"breadth"', "data set and width"),
    ],
)
def test_damaged_files_are_refused_in_a_line(root, path, old, new, complaint):
    change(root / path, old, new)
    before = (root / "README.md").read_text()
    for action in (readme.check, readme.update):
        with pytest.raises(InputError, match=complaint) as caught:
            action(root)
        assert "\n" not in str(caught.value)
    assert (root / "README.md").read_text() == before


def test_a_directory_without_an_outcome_is_refused(root):
    (root / readme.RESULTS / "loose").mkdir()
    with pytest.raises(InputError, match=r"loose/outcome\.json"):
        readme.check(root)
