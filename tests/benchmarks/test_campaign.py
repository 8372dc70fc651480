"""The campaign: what it plans, that it keeps its limits, goes on where it was, and says what became of each step."""

import asyncio
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from functools import partial

import pytest

import experiments.speedrun
import experiments.tuned
from benchmarks import campaign, campaign_records, campaign_steps
from benchmarks.campaign_steps import Step, steps
from benchmarks.timing import Case
from benchmarks.variants import VARIANTS
from experiments import report
from experiments.study.experiment import Cell, Experiment, Setting, write_outcome
from jresnet import models
from jresnet.config import Config
from jresnet.errors import InputError

HERE = {"device": "Card", "devices": "Card x1", "versions": {}, "commit": "c0ffee"}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Runs a campaign of fake steps on a fake device; returns its status, and its rows as "name: status"."""
    monkeypatch.setattr(campaign, "machine", lambda options, environ: HERE)
    monkeypatch.setattr(campaign, "GRACE", 0.3)

    def run(planned, *options, output="out", minutes="1"):
        directory = tmp_path / output
        monkeypatch.setattr(campaign, "steps", lambda *_: planned(directory))
        status = campaign.main(["--output", str(directory), "--minutes", minutes, *options])
        path = directory / campaign.RECORD
        rows = json.loads(path.read_text())["steps"] if path.exists() else []
        return status, [f"{row['step']}: {row['status']}" for row in rows]

    return run


def writes(directory, name, before="", after=""):
    """A program that notes its start, then writes the record of a step."""
    record = {"benchmark": name, "environment": {"device": "Card"}}
    return (
        f"import json, pathlib, time; d = pathlib.Path({str(directory)!r}); "
        f"(d / 'starts').open('a').write('{name} '); {before}\n"
        f"(d / '{name}.json').write_text(json.dumps({record!r})); {after}"
    )


def step(directory, name, least=0.0, limit=math.inf, lacks="", **program):
    def headline(records):
        return next((f"result of {name}" for record in records if record["benchmark"] == name), None)

    return Step(name, (("-c", writes(directory, name, **program)),), headline, least, limit, lacks)


def started(directory):
    path = directory / "starts"
    return path.read_text().split() if path.exists() else []


def test_steps_run_in_order_and_the_table_says_what_became_of_each(fake, tmp_path, capsys):
    def planned(directory):
        return [
            step(directory, "first"),
            step(directory, "broken", before="raise SystemExit('no such kernel')"),
            step(directory, "silent", before="raise SystemExit(0)"),
            step(directory, "foreign", lacks="needs a GPU"),
            step(directory, "long", least=1e6),
            step(directory, "last"),
        ]

    status, rows = fake(planned)
    assert status == 1
    assert rows == [
        "first: done", "broken: failed", "silent: failed", "foreign: left out", "long: out of time", "last: done",
    ]  # fmt: skip
    assert started(tmp_path / "out") == ["first", "broken", "silent", "last"]
    out = capsys.readouterr().out
    for cells in ("first done 0 result of first", "broken failed 0 no such kernel", "foreign left out needs a GPU"):
        assert cells in " ".join(out.split())
    assert "the same command goes on" in out


def test_the_same_command_goes_on_where_it_was_and_tries_what_failed_last(fake, tmp_path):
    fails = "import os; os.path.exists(d / 'repaired') or exit('broken')"
    late = {"least": 1e6}

    def planned(directory):
        return [
            step(directory, "failing", before=fails), step(directory, "kept"), step(directory, "later", **late),
        ]  # fmt: skip

    assert fake(planned)[1] == ["failing: failed", "kept: done", "later: out of time"]
    late.clear()
    (tmp_path / "out" / "repaired").touch()
    status, rows = fake(planned)
    assert (status, rows) == (0, ["failing: done", "kept: had a record", "later: done"])
    assert started(tmp_path / "out") == ["failing", "kept", "later", "failing"]
    assert fake(planned)[1] == [f"{name}: had a record" for name in ("failing", "kept", "later")]


def test_a_step_is_stopped_at_its_own_limit_and_keeps_what_it_wrote(fake, tmp_path):
    """Also what it has started itself, and if it ignores SIGTERM."""
    spawn = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "(d / 'child').write_text(str(child.pid)); "
    )

    def planned(directory):
        stuck = step(directory, "stuck", limit=2.0, before=spawn, after="time.sleep(60)")
        # Its record is of use only when it is complete.
        return [dataclasses.replace(stuck, headline=lambda records: None), step(directory, "next")]

    began = time.monotonic()
    status, rows = fake(planned)
    assert time.monotonic() - began < 30
    assert (status, rows) == (0, ["stuck: out of time", "next: done"])
    assert (tmp_path / "out" / "stuck.json").exists()
    child = int((tmp_path / "out" / "child").read_text())
    for _ in range(50):
        if not running(child):
            break
        time.sleep(0.1)
    assert not running(child)
    # It had all the time it may have, so it waits for the others.
    (tmp_path / "out" / "next.json").unlink()
    fake(planned)
    assert started(tmp_path / "out") == ["stuck", "next", "next", "stuck"]


def running(process):
    """Whether a process exists and is no zombie."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_minutes_bound_the_whole_and_a_step_cut_short_comes_first_again(fake, tmp_path):
    naps = {"after": "time.sleep(60)"}

    def planned(directory):
        cut = step(directory, "cut", **naps)
        return [dataclasses.replace(cut, headline=lambda records: None) if naps else cut, step(directory, "next")]

    began = time.monotonic()
    assert fake(planned, minutes="0.02")[1] == ["cut: out of time", "next: out of time"]
    assert time.monotonic() - began < 30
    naps.clear()
    (tmp_path / "out" / "cut.json").unlink(missing_ok=True)
    assert fake(planned)[1] == ["cut: done", "next: done"]
    assert started(tmp_path / "out")[-2:] == ["cut", "next"]


def test_an_interruption_stops_the_child_ends_with_the_table_and_names_the_remedy(fake, tmp_path, capsys, place):
    def planned(directory):
        stop = f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)"
        return [step(directory, "stopped", before=stop), step(directory, "next")]

    handler = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    status, _ = fake(planned)
    assert time.monotonic() - began < 30
    assert status == 130
    captured = capsys.readouterr()
    assert captured.out.count("out of time") == 2
    assert captured.err.splitlines()[-1] == "interrupted; go on with the same command"
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not (tmp_path / "out" / "stopped.json").exists()


TINY_ON_TWO_CORES = ("--device", "cpu", "--tiny")


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(campaign, "cpu_cores", lambda: 2)


def test_tiny_steps_on_a_cpu_run_at_once_but_never_two_in_one_place(fake, tmp_path, two_cores):
    """Each step notes whom it sees running; `other` waits until it has seen one."""
    entry = "import os; (d / 'on').mkdir(exist_ok=True); (d / 'on' / '{0}').touch(); "
    look = "(d / 'seen-{0}').write_text(' '.join(sorted(os.listdir(d / 'on')))); "
    leave = "(d / 'on' / '{0}').unlink()"
    wait = "[time.sleep(0.05) for _ in range(400) if len(os.listdir(d / 'on')) < 2]; "

    def planned(directory):
        inside = {name: (entry + "time.sleep(0.3); " + look + leave).format(name) for name in "ab"}
        shared = [dataclasses.replace(step(directory, name, before=inside[name]), shares="place") for name in "ab"]
        return [*shared, step(directory, "other", before=(entry + wait + look + leave).format("other"))]

    assert fake(planned, *TINY_ON_TWO_CORES)[0] == 0
    seen = {name: (tmp_path / "out" / f"seen-{name}").read_text().split() for name in ("a", "b", "other")}
    assert seen["other"] in (["a", "other"], ["b", "other"])
    assert "b" not in seen["a"]
    assert "a" not in seen["b"]


def test_what_is_measured_runs_alone_and_in_order_whatever_it_shares(fake, tmp_path, two_cores):
    alone = "(d / 'on').mkdir()"
    leave = "time.sleep(0.2); (d / 'on').rmdir()"

    def planned(directory):
        steps = [step(directory, name, before=alone, after=leave) for name in "abcd"]
        return [dataclasses.replace(step, shares="place") if step.name in "ac" else step for step in steps]

    assert fake(planned) == (0, [f"{name}: done" for name in "abcd"])
    assert started(tmp_path / "out") == list("abcd")
    assert fake(planned, "--device", "gpu", "--tiny", output="gpu") == (0, [f"{name}: done" for name in "abcd"])


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def place(request):
    """In the foreground, and as a shell starts a program in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("end", ["signal", "damage"])
def test_what_ends_the_campaign_stops_every_step_that_is_running(end, fake, tmp_path, capsys, two_cores, place):
    both = "[time.sleep(0.05) for _ in range(400) if len((d / 'starts').read_text().split()) < 2]; "
    note = f"import os, signal; (d / 'child').write_text(str(os.getpid())); {both}"
    stop = {
        "signal": f"{both}import os, signal; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)",
        "damage": f"{both}(d / 'damaged.json').write_text('{{')",
    }[end]

    def planned(directory):
        return [step(directory, "waits", before=f"{note}time.sleep(60)"), step(directory, "ends", before=stop)]

    began = time.monotonic()
    status, _ = fake(planned, *TINY_ON_TWO_CORES)
    assert time.monotonic() - began < 30
    assert status == {"signal": 130, "damage": 2}[end]
    error = capsys.readouterr().err
    assert {"signal": "go on with the same command", "damage": "damaged.json"}[end] in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not running(int((tmp_path / "out" / "child").read_text()))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--only", "torch"], ["torch-a", "torch-b"]),
        (["--only", "torch-b", "bits"], ["bits", "torch-b"]),
        (["--skip", "torch", "bits-"], None),
        (["--skip", "torch"], ["bits"]),
    ],
)
def test_steps_are_chosen_by_name_or_by_the_beginning_of_it(options, names, fake, capsys):
    def planned(directory):
        return [step(directory, name) for name in ("bits", "torch-a", "torch-b")]

    status, rows = fake(planned, *options)
    if names is None:
        assert status == 2
        assert "--skip torch bits-: no step bits-: choose from bits, torch-a, torch-b" in capsys.readouterr().err
    else:
        assert (status, rows) == (0, [f"{name}: done" for name in names])


def test_a_device_that_does_not_answer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^--device gpu: does not answer in --minutes 0\.001$"):
        campaign.machine(campaign.Options(minutes=0.001, output=tmp_path), os.environ)


def test_a_directory_of_another_device_is_refused_before_anything_runs(fake, tmp_path, capsys):
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "old.json").write_text(json.dumps({"benchmark": "x", "environment": {"device": "Other"}}))
    status, rows = fake(lambda directory: [step(directory, "a")])
    assert (status, rows) == (2, [])
    error = capsys.readouterr().err
    assert "holds records of Other, this is Card: choose another" in error
    assert error.count("\n") == 1


def test_committed_records_count_if_they_are_of_this_device(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "ROOT", tmp_path)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for name, device in (("a", "Card"), ("b", "Other")):
        (results / f"any-{name}.json").write_text(json.dumps({"benchmark": name, "environment": {"device": device}}))
    assert fake(lambda directory: [step(directory, name) for name in "ab"])[1] == ["a: had a record", "b: done"]


def test_counted_kernels_are_of_no_device(fake, tmp_path):
    """They are compiled for a described GPU, on any CPU."""
    record = {"benchmark": "kernels", "environment": {"device": "A CPU"}, "total": 366}
    record |= {"options": {"width": 42, "batch": 32, "precision": "bfloat16"}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kernels.json").write_text(json.dumps(record))
    real = next(step for step in steps("gpu", False, tmp_path, None) if step.name == "kernels")
    assert fake(lambda directory: [real]) == (0, ["kernels: had a record"])
    assert real.headline([record]) == "366 kernels and calls a step"
    assert real.headline([record | {"options": {"width": 64, "batch": 32, "precision": "bfloat16"}}]) is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "--output: name a directory"),
        (["--output", "x", "--minutes", "0"], "--minutes 0"),
        (["--output", "x", "--minutes", "nan"], "--minutes nan"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(options, complaint, capsys):
    assert campaign.main(options) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_the_list_is_in_order_of_worth_and_says_what_is_missing(tmp_path):
    """Without data and without PyTorch the library's own steps remain."""
    names = [step.name for step in steps("gpu", False, tmp_path, None)]
    groups = list(dict.fromkeys(name.partition("-")[0] for name in names))
    kinds = ["torch"] if importlib.util.find_spec("torch") else ["torch", "ours"]
    checks = ["smoke", "convolutions", "bits", "deterministic", "kernels"]
    trained = ["final", "study", "tuned"]
    assert groups == [*checks, *kinds, *trained, "variants", "accuracy", "speedrun", "compile", "graph"]
    cases = {(w, b, "bfloat16") for w in (42, 64) for b in (32, 64, 128, 512)} | {(w, 32, "float32") for w in (42, 64)}
    assert {name for name in names if name.startswith("torch")} == {f"torch-w{w}-b{b}-{p}" for w, b, p in cases}
    assert [name for name in names if name.startswith("final")] == [f"final-seed{seed}" for seed in range(3)]
    assert {f"variants-{name}" for name in VARIANTS} <= set(names)
    without = [step.name for step in steps("gpu", False, tmp_path, None) if "--dataset" in step.lacks]
    assert {name.partition("-")[0] for name in without} == {*trained, "accuracy", "speedrun"}
    assert [name for name in names if name.startswith("tuned")] == [
        "tuned-200",
        *(f"tuned-600-seed{seed}" for seed in range(5)),
    ]
    assert [name for name in names if name.startswith("speedrun")] == ["speedrun-9095", "speedrun-94", "speedrun-95"]
    assert not [step for step in steps("gpu", True, tmp_path, None) if "--dataset" in step.lacks]


def test_without_pytorch_the_library_is_timed_alone(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    every = {step.name: step for step in steps("gpu", False, tmp_path, None)}
    assert every["torch-w42-b32-bfloat16"].lacks == "PyTorch is not installed"
    ours = every["ours-w42-b32-bfloat16"]
    assert not ours.lacks
    (command,) = ours.commands
    assert command[command.index("--rivals") + 1] == "none"


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="these steps need PyTorch")
def test_every_commands_options_are_ones_that_its_program_knows(tmp_path):
    """A misspelt option would show on the GPU only."""
    from benchmarks import convolutions, kernels, throughput, time_to_accuracy, variants
    from experiments.study import plan
    from experiments.study.options import parse
    from experiments.study.single import SingleOptions
    from jresnet import cli

    kinds = {
        f"benchmarks.{module.__name__.rpartition('.')[2]}": module.Options
        for module in (convolutions, kernels, throughput, variants, time_to_accuracy)
    }
    for device, tiny in (("gpu", False), ("cpu", True)):
        for planned in steps(device, tiny, tmp_path / "a directory", "synthetic"):
            for _, module, *words in planned.commands:
                if module == "experiments.reproduce":
                    plan.parse(words, module)
                elif module == "experiments.final":
                    parse(module, report.FINAL, words, SingleOptions)
                elif module in ("experiments.tuned", "experiments.speedrun"):
                    own = {"experiments.tuned": experiments.tuned, "experiments.speedrun": experiments.speedrun}
                    assert str(own[module].parse(words).directory).startswith(str(tmp_path / "a directory"))
                else:
                    parsed = cli.parse(kinds[module], words, module)
                    assert str(parsed.output).startswith(str(tmp_path / "a directory"))
    first = {step.name.partition("-")[0]: step for step in reversed(steps("gpu", False, tmp_path, None))}
    for name, mode in {"torch": "eager", "compile": "compile", "graph": "graph"}.items():
        (command,) = first[name].commands
        assert command[command.index("--rivals") + 1] == mode


def result(config, seed=0, **values):
    """A run's result."""
    config = dict(vars(models.fill_defaults(config)))
    record = {"experiment": "final", "config": config, "seed": seed, "dataset": {"sha256": "data"}, "device": "Card x1"}
    record |= {"commit": "c", "versions": {}, "seconds": 170.0, "train_loss": 0.1, "train_accuracy": 0.9}
    return record | {"test_loss": 0.2, "test_accuracy": 0.91} | values


def test_a_run_is_found_by_configuration_seed_and_data():
    settings = [campaign_steps.Setting("final", report.FINAL)]

    def found(record, seed=0, sha256="data"):
        return campaign_records.settings(settings, seed, sha256, [{"benchmark": "throughput"}, record])

    assert found(result(report.FINAL)) == "final 91.00% in 170 s"
    assert found(result(dataclasses.replace(report.FINAL, budget=None))) is not None
    assert found(result(dataclasses.replace(report.FINAL, width=16))) is None
    assert found(result(report.FINAL, seed=1)) is None
    assert found(result(report.FINAL), seed=1) is None
    assert found(result(report.FINAL), sha256="other data") is None


def test_equal_runs_are_compared_to_the_last_bit_within_one_version():
    config = Config(epochs=2)

    def said(*records):
        return campaign_records.equal(config, records)

    first = result(config)
    assert said(first) is None
    assert said(first, result(config, commit="d")) is None
    assert said(first, result(config)) == "two equal runs agree to the last bit"
    assert said(first, result(config, train_loss=math.nextafter(0.1, 1))) == "two equal runs DIFFER"


def test_convolutions_count_when_every_case_is_there():
    options = {"widths": [42, 64], "precisions": ["float32"]}
    cases = [{"shapes": 11, "failed": []}, {"shapes": 11, "failed": ["output of x: 1.0e+00"]}]

    def said(options, cases):
        record = {"benchmark": "convolutions", "options": options | {"rounds": 5}, "cases": cases}
        return campaign_records.convolutions({"widths": [42, 64], "precisions": ["float32"]}, [record])

    assert said(options, cases) == "22 shapes, 1 results wrong: output of x: 1.0e+00"
    assert said(options, cases[:1]) is None
    assert said(options | {"widths": [42]}, cases[:1]) is None


def test_a_check_is_not_repeated_if_a_campaign_of_the_same_scale_has_done_it(tmp_path):
    bits = next(step for step in steps("gpu", False, tmp_path, None) if step.name == "bits")
    row = {"step": "bits", "status": campaign.DONE, "headline": "two equal runs agree"}
    record = {"benchmark": "campaign", "tiny": False, "steps": [row]}
    assert bits.headline([record]) == "two equal runs agree"
    assert bits.headline([record | {"tiny": True}]) is None
    assert bits.headline([record | {"steps": [row | {"status": campaign.FAILED}]}]) is None


def test_a_speed_is_found_by_case_and_rivals():
    case = Case(42, 32, "bfloat16", "gpu")
    jax = {"seconds": [1.0], "images_per_second": 30000.0}
    entry = vars(case) | {
        "rivals": {"jax": jax, "torch eager": {"seconds": [2.0]}, "torch graph": {"seconds": []}},
        "speed_of_jax_over": {"torch eager": {"median": 2.0}, "torch graph": None},
    }
    records = [{"benchmark": "variants", "cases": [entry]}, {"benchmark": "throughput", "cases": [entry]}]

    def said(case, *modes):
        return campaign_records.speed(case, modes, records)

    assert said(case) == "30,000 images/s"
    assert said(case, "eager", "graph") == "30,000 images/s, 2.00 x eager, graph failed"
    assert said(case, "compile") is None
    assert said(dataclasses.replace(case, batch_size=64)) is None
    jax["seconds"] = []
    assert said(case) is None


def tuned(config, seed=0, **values):
    """A result of the tuned recipe, which its outcome lists."""
    record = result(config, seed, experiment="tuned", concluded=True, validation_accuracy=0.9631, test_accuracy=0.96)
    return record | values


def planned_tuned(directory):
    """The tuned recipe's steps by name, on data whose sha256 is "data"."""
    images = types.SimpleNamespace(sha256="data")
    made = campaign_steps._tuned(campaign_steps.FULL, directory, "npz:cifar10.npz", images)
    return {step.name: step for step in made}


def test_longer_runs_of_the_tuned_recipe_wait_for_a_validation_accuracy(tmp_path):
    every = planned_tuned(tmp_path)
    first, long = every["tuned-200"], every["tuned-600-seed3"]
    assert first.waits([]) is None and (first.after, long.after) == ("", "tuned-200")
    assert long.waits([]) == "waits for tuned-200"
    recipe = dataclasses.replace(experiments.tuned.CONFIG, precision="bfloat16")
    passed = tuned(recipe)
    low = passed | {"validation_accuracy": 0.9629}
    assert first.headline([passed]) == "validation 96.31% in 170 s"
    assert long.waits([low]) == "tuned-200 reached 96.29% of validation images, not 96.30%"
    assert long.waits([passed]) is long.waits([low, passed]) is None
    final = dataclasses.replace(recipe, epochs=600, validation=0, test_after="training")
    others = [tuned(final), passed | {"seed": 1}, tuned(dataclasses.replace(recipe, cutout=16))]
    others += [tuned(dataclasses.replace(recipe, precision="float32")), passed | {"dataset": {"sha256": "other"}}]
    others.append(passed | {"concluded": False})
    assert first.headline(others) is None
    assert long.waits(others) == "waits for tuned-200"
    assert long.headline([tuned(final, seed=3)]) == "test 96.00% in 170 s"
    unlisted = tuned(final, seed=3, concluded=False)
    assert long.headline([tuned(final, seed=2), tuned(recipe, seed=3), unlisted, passed]) is None


def test_the_tuned_recipes_long_runs_grow_one_setting(tmp_path):
    every = planned_tuned(tmp_path)
    commands = [every[f"tuned-600-seed{seed}"].commands for seed in range(5)]
    options = [experiments.tuned.parse(words) for ((_, _, *words),) in commands]
    assert [(o.first_seed, o.seeds) for o in options] == [(0, seeds) for seeds in range(1, 6)]
    assert {(o.epochs, o.validation, o.test_after, o.precision, o.workdir) for o in options} == {
        (600, 0, "training", "bfloat16", str(tmp_path / "tuned-600"))
    }
    ((_, _, *words),) = every["tuned-200"].commands
    first = experiments.tuned.parse(words)
    assert (first.epochs, first.validation, first.test_after, first.seeds) == (200, 5000, "never", 1)


def test_a_result_is_concluded_when_the_outcome_of_its_study_lists_it(tmp_path):
    run = tmp_path / "study" / "runs" / "name" / "seed-0"
    assert not campaign.concluded(run)
    run.mkdir(parents=True)
    setting = Setting("a", Config())
    cell = Cell(setting, directories=(run,))
    write_outcome(tmp_path / "study", "command", [(Experiment("x", "", "", (setting,)), [cell])])
    assert campaign.concluded(run) and not campaign.concluded(run.with_name("seed-1"))
    assert not campaign.concluded(tmp_path / "study" / "smoke")


def test_what_waits_for_a_step_that_failed_comes_after_it(tmp_path, monkeypatch):
    """Both come last, so that what the repaired step lets run does run in the same campaign."""
    order = []

    async def run_step(self, step, environ):
        order.append(step.name)

    monkeypatch.setattr(campaign.Campaign, "run_step", run_step)
    planned = [step(tmp_path, name) for name in ("gate", "long", "other")]
    planned[1] = dataclasses.replace(planned[1], after="gate")
    options = campaign.Options(output=tmp_path)
    campaigns = [campaign.Campaign(options, HERE, planned, lambda: 1.0) for _ in range(2)]
    campaigns[1].rows = {"gate": {"step": "gate", "exhausted": True}}
    for each in campaigns:
        asyncio.run(each.run({}))
    assert order == ["gate", "long", "other", "other", "gate", "long"]


def test_a_step_that_waits_is_left_out_until_records_let_it_run(fake, tmp_path):
    """In the same campaign, or in a later one."""

    def waits(records):
        return None if any(record["benchmark"] == "first" for record in records) else "waits for first"

    def planned(directory):
        return [dataclasses.replace(step(directory, "second"), waits=waits), step(directory, "first")]

    assert fake(planned) == (0, ["second: left out", "first: done"])
    assert fake(planned) == (0, ["second: done", "first: had a record"])
    rows = json.loads((tmp_path / "out" / campaign.RECORD).read_text())["steps"]
    assert started(tmp_path / "out") == ["first", "second"]
    assert [row["headline"] for row in rows] == ["result of second", "result of first"]


def test_a_speed_run_is_found_below_the_directory_when_it_is_complete(fake, tmp_path):
    config = dataclasses.replace(experiments.speedrun.RECIPES["0.94"], precision="bfloat16")
    record = {"target": 0.94, "dataset": {"sha256": "data"}, "n": 2, "diverged": 0, "mean": 0.945, "reached": True}
    record |= {"config": json.loads(json.dumps(vars(models.fill_defaults(config))))}
    record |= {"seconds": {"median": 5.5}, "provenance": {"Device": "Card x1", "Commit": "c"}}

    def said(target=0.94, seeds=2, sha256="data", config=config, **changes):
        return campaign_records.speedrun(target, seeds, config, sha256, [{"benchmark": "x"}, record | changes])

    assert said() == "94.00% reached: 94.50% in 5.5 s, 2 runs"
    assert said(mean=0.93, reached=False) == "94.00% not reached: 93.00% in 5.5 s, 2 runs"
    assert said(seeds=3) is said(target=0.95) is said(sha256="other") is None
    assert said(config=dataclasses.replace(config, cutout=8)) is None
    assert said(seeds=3, diverged=1) is not None, "a run that diverges does so again"
    path = tmp_path / "out" / "speedrun-94" / "speedrun.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    own = next(step for step in steps("gpu", False, tmp_path, None) if step.name == "speedrun-94")
    real = dataclasses.replace(own, headline=partial(campaign_records.speedrun, 0.94, 2, config, "data"))
    assert fake(lambda directory: [real]) == (0, ["speedrun-94: had a record"])
    # Neither is it taken for a run's result.
    assert campaign_records.equal(Config(), [record]) is None
    path.write_text(json.dumps(record | {"provenance": {"Device": "Other x1"}}))
    assert fake(lambda directory: [real])[0] == 2


@pytest.mark.slow
def test_the_tiny_campaign_runs_every_step_then_finds_them_all_done(tmp_path):
    """The real programs, on two cores."""
    command = [sys.executable, "-m", "benchmarks.campaign", "--device", "cpu", "--tiny", "--output", str(tmp_path)]
    seen = []
    for _ in range(2):
        subprocess.run([*command, "--minutes", "15"], check=True, capture_output=True, cwd=campaign.ROOT)
        rows = json.loads((tmp_path / campaign.RECORD).read_text())["steps"]
        seen.append({row["step"]: row["status"] for row in rows})
    possible = {step.name: not step.lacks for step in steps("cpu", True, tmp_path, None)}
    assert seen[0].keys() == possible.keys()
    assert {name for name, can in possible.items() if can} == {name for name, s in seen[1].items() if s == campaign.HAD}
    assert set(seen[0].values()) <= {campaign.DONE, campaign.HAD, campaign.LEFT}
    here = json.loads((tmp_path / campaign.RECORD).read_text())["environment"]
    assert here["devices"].startswith("cpu: ")
    assert here["device"] in here["devices"]
