"""A study's plan: which runs there are, who trains which, what waits for what; nothing is trained here but in name."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from experiments import report
from experiments.study import plan, runs
from experiments.study.plan import Plan, StudyOptions
from experiments.study.progress import Progress, duration
from jresnet import cli
from jresnet.data.datasets import Split
from jresnet.errors import Diverged, InputError
from jresnet.train import loop
from tests.support.studies import FakeFit, five_classes

DATASET = five_classes()


def made(tmp_path, dataset=DATASET, **options):
    options = {"seeds": 2, "epochs": 1, "workdir": str(tmp_path / "study"), "dataset": "made"} | options
    return Plan(StudyOptions(**options), dataset, Progress(cli.make_console()))


def everything(study):
    return [experiment for stage in study.ready()[0] for experiment in stage]


@pytest.fixture
def fit(monkeypatch):
    fake = FakeFit()
    monkeypatch.setattr(loop, "fit", fake)
    return fake


def train(study):
    stages, waiting = study.ready()
    study.progress.train(study.mine(stages), study.groups([e for stage in stages for e in stage]))
    return waiting


def test_equal_settings_of_several_experiments_are_one_run(tmp_path):
    study = made(tmp_path)
    every = study.runs(everything(study))
    # 26 cells; rate 0.01 is the augmented run, batch 64 the rate 0.001, width 64 the batch 32, 42 the final model, ...
    assert sum(len(experiment.settings) for experiment in everything(study)) == 26
    assert len(every) == 2 * 16 == len({run.directory for run in every})
    directories = {name: [run.directory for run in of] for name, of in study.groups(everything(study)).items()}
    assert directories["augmentation"][1] == directories["learning_rate"][0] == directories["grayscale"][3]
    assert directories["initial"][0] == directories["augmentation"][0]
    assert (
        directories["learning_rate"][2] == directories["batch_size"][1]
        and directories["batch_size"][0] == directories["width"][1]
    )
    assert directories["final"][0] == directories["width"][0] == directories["blocks"][1] == directories["pool_size"][2]


def test_directories_have_readable_names(tmp_path):
    study = made(tmp_path, width_scale=0.125, epochs=5)
    (final,) = (e for e in everything(study) if e.name == "final")
    directory = study.runs([final])[0].directory.relative_to(tmp_path / "study" / "runs")
    assert directory.name == "seed-0"
    assert str(directory.parent)[:-11] == "width5-batch32-rate0.001-crop4-flip0.5-gray0.5-5epochs"
    names = [run.directory.parent.name for run in study.runs(everything(study))]
    for part in ("plain-", "blocks1111", "kernel5", "pool2", "-gray0.5-", "crop4-flip0.5-5epochs"):
        assert any(part in name for name in names)


def test_a_run_is_its_configuration_seed_and_data(tmp_path):
    config = report.FINAL

    def directory(dataset=DATASET, seed=0, **changes):
        return runs.study_run("x", dataclasses.replace(config, **changes), seed, dataset, tmp_path).directory

    same = [directory(budget=None), directory(data_dir="elsewhere"), directory(input="tfds"), directory(parallel="jit")]
    assert set(same) == {directory()}
    changed = ({"seed": 1}, {"width": 41}, {"weight_decay": 0.0}, {"dataset": five_classes(59)}, {"validation": 5})
    assert len({directory(), *(directory(**changes) for changes in changed)}) == 6


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_every_run_is_in_one_shard(tmp_path, count):
    stages = made(tmp_path).ready()[0]
    shares = [made(tmp_path, shard=f"{i}/{count}").mine(stages) for i in range(1, count + 1)]
    every = [run.directory for share in shares for run in share]
    assert len(every) == len(set(every)) == 32
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_every_setting_has_its_first_seed_before_any_has_its_second(tmp_path):
    study = made(tmp_path)
    assert [run.seed for run in study.mine(study.ready()[0])] == [0] * 16 + [1] * 16


def test_the_scale_is_applied_everywhere_and_coarse_scales_are_refused(tmp_path):
    study = made(tmp_path, width_scale=0.125, epochs=5, precision="bfloat16", validation=7)
    configs = [setting.config for experiment in everything(study) for setting in experiment.settings]
    assert {config.width for config in configs} == {5, 8, 10}
    assert {(c.epochs, c.precision, c.validation, c.dataset) for c in configs} == {(5, "bfloat16", 7, "made")}
    with pytest.raises(InputError, match=r"--width-scale 0.01: makes two of width's settings \(42, 64, 80\) the same"):
        everything(made(tmp_path, width_scale=0.01))


def blank(images):
    """Black images that take no memory."""
    pixels = np.broadcast_to(np.uint8(0), (images, *DATASET.image_size, 3))
    return Split(pixels, np.zeros(images, np.int32))


def test_validation_images(tmp_path):
    for train_images, expected in ((60_000, 5000), (50_000, 5000), (60, 6)):
        dataset = dataclasses.replace(DATASET, train=blank(train_images))
        assert StudyOptions().held_out(dataset) == expected
    assert StudyOptions(select="test").held_out(DATASET) == 0
    assert StudyOptions(validation=9, select="test").held_out(DATASET) == 9
    assert StudyOptions().held_out(five_classes(validation=10)) == 0, "it has validation images"
    for options, dataset in ((StudyOptions(validation=0), DATASET), (StudyOptions(), five_classes(train=9))):
        with pytest.raises(InputError, match="--select validation: needs validation images"):
            options.held_out(dataset)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"seeds": 0}, "--seeds 0: must be at least 1"),
        ({"first_seed": 2**32 - 1}, "--first-seed 4294967295: seeds must lie"),
        ({"shard": "0/3"}, "--shard 0/3: must be i/n"),
        ({"shard": "4/3"}, "--shard 4/3: must be i/n with i from 1 to n"),
        ({"shard": "2"}, "--shard 2: must be i/n"),
        ({"only": ("width", "wdith")}, "--only wdith: no such experiment: choose from initial, augmentation"),
        ({"width_scale": 0.0}, "--width-scale 0.0: must be above 0"),
    ],
)
def test_bad_options(options, complaint):
    with pytest.raises(InputError) as caught:
        StudyOptions(**options)
    assert str(caught.value).startswith(complaint)


def test_a_study_resumes(tmp_path, fit):
    train(made(tmp_path, only=("learning_rate",)))
    assert len(fit.made) == 6
    train(made(tmp_path, only=("learning_rate", "augmentation")))
    assert len(fit.made) == 8, "only the run without augmentation was missing, once per seed"
    train(made(tmp_path, only=("learning_rate",), seeds=3))
    assert len(fit.made) == 11
    again = made(tmp_path, only=("learning_rate",), seeds=3)
    cells = again.cells(everything(again)[0])
    assert [[record["seed"] for record in cell.records] for cell in cells] == [[0, 1, 2]] * 3
    assert all(len(cell.histories) == len(cell.directories) == 3 for cell in cells)


def test_the_command_of_a_cell_repeats_its_runs(tmp_path):
    study = made(tmp_path, first_seed=4, train_images=50)
    found = {setting.label: setting.config for e in everything(study) if e.name == "blocks" for setting in e.settings}
    assert plan.command(found["1 1 1 1"], study.options) == (
        "python -m experiments.augmentation --dataset made --validation 6 --width 42 --blocks 1 1 1 1 --epochs 1 "
        "--batch-size 32 --learning-rate 0.001 --train-images 50 --seeds 2 --first-seed 4"
    )


HOLDER = """
import fcntl, pathlib, sys
place = pathlib.Path(sys.argv[1])
place.mkdir(parents=True)
file = (place / "lock").open("ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_held_by_another_process_is_running_and_left_alone(tmp_path, fit):
    study = made(tmp_path, only=("learning_rate",), seeds=1)
    first, *_ = study.mine(study.ready()[0])
    assert not runs.running(first)
    command = [sys.executable, "-c", HOLDER, str(first.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert runs.running(first)
        assert not runs.train(first, None)
        train(study)
        assert len(fit.made) == 2
        table = study.progress.table(study.groups(everything(study)), [])
        assert table.cells[-1] == ["distinct runs", "3", "2", "1", "0", "0"]
        other.stdin.close()
    assert not runs.running(first)
    train(study)
    assert len(fit.made) == 3


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path, fit):
    def accuracy(config, seed):
        if config.learning_rate == 0.005:
            raise Diverged("the loss is not finite")
        return 0.5

    fit.accuracy = accuracy
    study = made(tmp_path, only=("learning_rate",))
    train(study)
    assert len(fit.made) == 4 and len(study.progress.failed) == 2
    table = study.progress.table(study.groups(everything(study)), study.mine(study.ready()[0]))
    assert table.cells[-1] == ["distinct runs", "6", "4", "0", "2", "0"]


def test_time_left_is_in_proportion_to_work(tmp_path, fit):
    study = made(tmp_path, only=("width",), seeds=1)
    mine = study.mine(study.ready()[0])
    assert study.progress.time_left(mine, mine) == "unknown"
    study.progress.train(mine[:1], study.groups(everything(study)))
    left = sum(run.work for run in mine[1:]) / mine[0].work * 3.0
    assert mine[1].work / mine[0].work == pytest.approx(11_173_962 / 4_815_940, rel=0.01)
    assert study.progress.time_left(mine, mine) == duration(left)
    assert study.progress.time_left(mine, mine[:1]) == "none"


def test_durations():
    seconds = (0.4, 59, 60, 3599, 3600, 7500, 90_000)
    assert [*map(duration, seconds)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 0 min",
        "1 h 0 min",
        "2 h 5 min",
        "1 d 1 h",
    ]


def test_a_study_that_follows_builds_on_its_own_choices(tmp_path, fit):
    """The best are 0.005, 128 and, among the networks within the budget, 42."""
    best = {"learning_rate": {0.005: 0.2}, "batch_size": {128: 0.2}, "width": {80: 0.2, 42: 0.1}}
    fit.accuracy = lambda config, seed: 0.1 + sum(of.get(getattr(config, name), 0) for name, of in best.items())
    study = made(tmp_path, follow=True)
    for waiting in (
        {name: "learning_rate" for name in ("batch_size", "width", "blocks", "kernel_size", "pool_size", "final")},
        {name: "batch_size" for name in ("width", "blocks", "kernel_size", "pool_size", "final")},
        {name: "width" for name in ("blocks", "kernel_size", "pool_size", "final")},
        {},
    ):
        assert train(study) == waiting
    configs = {e.name: e.settings[0].config for e in everything(study)}
    assert configs["batch_size"].learning_rate == 0.005
    assert (configs["width"].learning_rate, configs["width"].batch_size) == (0.005, 128)
    final = configs["final"]
    assert (final.learning_rate, final.batch_size, final.width) == (0.005, 128, 42)
    by_default = {e.name: e.settings[0].config for e in everything(made(tmp_path))}["final"]
    assert (by_default.learning_rate, by_default.batch_size, by_default.width) == (0.001, 32, 42)


def test_only_requested_experiments_wait(tmp_path, fit):
    study = made(tmp_path, follow=True, only=("final",))
    assert study.ready() == ([[]], {"final": "learning_rate"})


def test_shards_of_a_study_that_follows_keep_their_runs(tmp_path, fit):
    fit.accuracy = lambda config, seed: config.learning_rate
    before = made(tmp_path, follow=True, shard="1/2")
    first = [run.directory for run in before.mine(before.ready()[0])]
    train(before)
    train(made(tmp_path, follow=True, shard="2/2"))
    after = made(tmp_path, follow=True, shard="1/2")
    stages, waiting = after.ready()
    assert waiting["final"] == "batch_size"
    assert [run.directory for run in after.mine(stages)][: len(first)] == first


def check(study):
    with pytest.raises(InputError) as caught:
        study.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_records_of_other_data_or_versions_and_damaged_ones_are_refused(tmp_path, fit):
    only = {"only": ("initial",), "seeds": 1}
    study = made(tmp_path, **only)
    study.check()
    assert not (tmp_path / "study").exists()
    train(study)
    made(tmp_path, **only).check()
    assert "is of other data (made, sha256" in check(made(tmp_path, five_classes(train=55), **only))
    (directory,) = (tmp_path / "study" / "runs").glob("*/seed-0")
    for name, content, part in (
        ("result.json", lambda text: text.replace('"test_accuracy": 0.5', '"test_accuracy": 0.9'), "edited"),
        ("result.json", lambda text: text[:-20], "truncated"),
        ("metrics.jsonl", lambda text: text.replace("0.5", "0.6"), "edited"),
        ("config.json", lambda text: text[: len(text) // 2], "not a readable record"),
        ("config.json", lambda text: text.replace('"momentum"', '"impulse"'), "not a record of this version"),
        ("config.json", lambda text: "{}", "not a record of this version"),
    ):
        good = (directory / name).read_text()
        assert content(good) != good
        (directory / name).write_text(content(good))
        message = check(made(tmp_path, **only))
        assert part in message and name in message
        assert (directory / name).read_text() == content(good), "nothing is repaired or deleted"
        (directory / name).write_text(good)
    made(tmp_path, **only).check()


def test_a_run_in_the_directory_of_another_is_refused(tmp_path, fit):
    study = made(tmp_path, only=("learning_rate",), seeds=1)
    train(study)
    first, second, _ = (run.directory for run in study.mine(study.ready()[0]))
    first.rename(tmp_path / "aside")
    second.rename(first)
    assert "holds another run (learning_rate 0.005, not 0.01)" in check(made(tmp_path, only=("learning_rate",)))


def test_the_directory_of_a_single_experiment_is_refused(tmp_path):
    (tmp_path / "study" / "seed-0").mkdir(parents=True)
    assert "holds runs of a single experiment" in check(made(tmp_path))
    (tmp_path / "file").write_text("")
    assert "is not a directory" in check(made(tmp_path, workdir=str(tmp_path / "file")))


def test_impossible_networks_are_refused_before_anything_is_trained(tmp_path):
    small = Split(np.zeros((60, 16, 16, 3), np.uint8), DATASET.train.labels)
    dataset = dataclasses.replace(DATASET, train=small, test=small.take(slice(10)))
    assert "--pool-size 4: exceeds the last feature map" in check(made(tmp_path, dataset))
    assert "--validation 60: must lie below 60" in check(made(tmp_path, validation=60))
