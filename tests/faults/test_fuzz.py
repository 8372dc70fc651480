"""Random command lines and damaged records: each is used exactly as it stands, or refused in one line.

Never a traceback, never a hang, never memory without bound, never another value than the one that was given.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from benchmarks import campaign
from benchmarks import records as benchmark_records
from experiments import costs, cross_validation, final
from experiments.study import committed, options, plan, runs, single
from jresnet import cli, models
from jresnet.cli import commands, verify
from jresnet.cli.help import is_positional
from jresnet.config import Config
from jresnet.records import run_directory, schema
from jresnet.records.epoch import METRICS, read_metrics
from jresnet.records.files import read_json
from jresnet.records.lock import check_free, hold, is_held
from jresnet.records.log import RunLog
from jresnet.rules import flag
from jresnet.use.classifier import Classifier, store
from tests.support.damage import WORDS, command_lines, damaged, every_edit, fuzz, put, refused, repeat, values
from tests.support.runs import OF_SESSIONS
from tests.support.studies import TINY, FakeFit, five_classes, tiny_npz

ROOT = pathlib.Path(__file__).parents[2]
CONFIG, RESULT, SUMS, PREDICTIONS = "config.json", "result.json", "sha256sums.txt", "predictions.npz"


def examples(few, many):
    """Run a test on a few cases by default, and on many others among the slow tests."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


# Command lines.

PROGRAMS = {
    single.SingleOptions: lambda words: options.parse("final", final.CONFIG, words, single.SingleOptions),
    plan.StudyOptions: lambda words: plan.parse(words, "reproduce"),
    cross_validation.Options: cross_validation.parse_options,
    **{
        kind: functools.partial(lambda kind, words: cli.parse(kind, words, "jresnet"), kind)
        for kind in (commands.module(name).Options for name in commands.COMMANDS)
    },
}

POSITIONAL = {
    commands.module(name).Options: words.split()
    for name, words in {
        "inspect": "resnet18", "convert": "a.pth b.pth", "evaluate": "runs/a", "predict": "runs/a a.png",
        "export": "runs/a a.onnx", "watch": "runs",
    }.items()
}  # fmt: skip
"""Words that a command wants besides its options; the commands that have no others are left out."""


def flags(kind):
    return [flag(field.name) for field in dataclasses.fields(kind)]


@examples(60, 900)
def test_a_command_line_gives_options_or_one_line(examples, capsys):
    def check(case):
        kind, words = case
        try:
            found, _ = refused(lambda: PROGRAMS[kind](words))
        except SystemExit as stop:
            assert stop.code == 0 and {"-h", "--help"} & set(words)
            return
        finally:
            printed = capsys.readouterr()
        assert printed == ("", "")
        if found is not None:
            assert type(found) is kind
            assert kind(**vars(found)) == found  # which checks every rule again

    lines = st.sampled_from(list(PROGRAMS)).flatmap(
        lambda kind: st.tuples(st.just(kind), command_lines([*flags(kind), "--help"]))
    )
    fuzz(check, examples, lines)


@examples(60, 600)
def test_an_accepted_value_is_the_one_that_was_typed(examples):
    """In Python's own reading of numbers; names as they stand."""

    def check(case):
        kind, name, word = case
        found, message = refused(lambda: PROGRAMS[kind]([*POSITIONAL.get(kind, []), f"{flag(name)}={word}"]))
        if found is None:
            assert flag(name) in message or word in message
            return
        value = getattr(found, name)
        value = value[0] if isinstance(value, tuple) else value
        if isinstance(value, float):
            assert value == float(word) and math.isfinite(value)
        elif isinstance(value, int):
            assert value == int(word)
        elif value is not None:
            assert value == word
        else:
            assert word == "None"
        assert type(found)(**vars(found) | {name: getattr(type(found), name, None)}) is not None

    def names(kind):
        hints = typing.get_type_hints(kind)
        fields = [field for field in dataclasses.fields(kind) if not is_positional(field.type)]
        return [field.name for field in fields if hints[field.name] is not bool and field.name != "image_size"]

    def valued(kind):
        return st.tuples(st.just(kind), st.sampled_from(names(kind)), values())

    fuzz(check, examples, st.sampled_from([*filter(names, PROGRAMS)]).flatmap(valued))


@pytest.mark.parametrize("word", WORDS, ids=range(len(WORDS)))
def test_verify_refuses_what_is_no_directory_with_runs(word, tmp_path, monkeypatch):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b" / "c")
    _, message = refused(lambda: verify.run(verify.Options(word)))
    assert "there is no run in it" in message


@examples(20, 100)
def test_a_grid_varies_the_options_that_it_names_and_no_others(examples):
    names = ["learning-rate", "batch_size", "blocks", "nesterov", "schedule", "dataset", "x"]
    extra = st.sampled_from(
        ["", " ", "0.1", "16", "2 2", "cosine", "1 --dataset synthetic", "-h", "--help", "a\nb", "9" * 5000]
    )
    words = st.tuples(st.sampled_from(names), st.lists(st.one_of(extra, values()), max_size=3)).map(
        lambda pair: f"{pair[0]}={','.join(pair[1])}"
    )

    def check(words):
        kept = dataclasses.replace(cross_validation.parse_options([]), grid=tuple(words))
        settings, _ = refused(lambda: cross_validation.parse_grid(kept))
        for named, config in settings or ():
            varied = {name for name, value in vars(config).items() if value != getattr(kept, name)}
            assert varied <= {name.replace("-", "_") for name in named}

    fuzz(check, examples, st.lists(words, max_size=2))


@pytest.mark.parametrize("word", ["learning-rate=0.1 --dataset synthetic,0.2", "width=-h", "flip=0 --help"])
def test_a_grid_with_another_option_in_a_value_is_refused(word):
    _, message = refused(lambda: cross_validation.parse_grid(cross_validation.parse_options(["--grid", word])))
    assert message.startswith(f"--grid {word}: must hold values only")


# The schema, against a checker of its own.

NUMBER = st.one_of(st.integers(-3, 3), st.floats(-2, 2), st.sampled_from([2**63, 10**400, 1e308, 1e400, -0.0]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, st.sampled_from(["", "red", "1", "x" * 100, "\ud800", "a\nb"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abcv"), inner, max_size=3)),
    max_leaves=6,
)


def hints(depth=2):
    """Type hints of the kinds that records have, with a strategy of values that often fit."""
    bounds = st.sampled_from([(0, 1), (0, 2**63 - 1), (-1.5, math.inf)])
    plain = st.sampled_from([int, float, str, bool, Any, Literal["red", "blue"], Literal[1, 2]])
    ranged = st.tuples(st.sampled_from([int, float]), bounds).map(lambda p: Annotated[p[0], schema.Range(*p[1])])
    leaf = st.one_of(plain, ranged)
    if depth == 0:
        return leaf
    inner = hints(depth - 1)
    return st.one_of(
        leaf,
        inner.map(lambda hint: hint | None if hint is not Any else Any),
        st.tuples(inner, inner).map(lambda pair: typing.Union[pair]),  # noqa: UP007
        inner.map(lambda hint: tuple[hint, ...]),
        st.lists(inner, min_size=1, max_size=3).map(lambda kinds: tuple[*kinds]),
        inner.map(lambda hint: dict[str, hint]),
        st.lists(inner, min_size=1, max_size=3).map(record_of),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda kinds: Annotated[Mapping[str, Any], schema.Checked(record_of(kinds))]
        ),
    )


def record_of(kinds):
    """A dataclass with fields a, b, ... of these kinds, the last of them optional if there are several."""
    fields = [(name, kind) for name, kind in zip("abc", kinds, strict=False)]
    if len(fields) > 1:
        name, kind = fields[-1]
        fields[-1] = (name, kind, dataclasses.field(default=None))
    return dataclasses.make_dataclass("Made", fields, frozen=True)


def fitting(hint):
    """Values that fit the hint, or nearly."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and isinstance(parts[1], schema.Checked):
        return fitting(parts[1].kind)
    if origin is Annotated:
        return fitting(parts[0])
    if origin is Literal:
        return st.sampled_from([*parts, True, 1.0, "x"])
    if origin in (typing.Union, types.UnionType):
        return st.one_of([fitting(part) for part in parts])
    if origin is tuple:
        return (
            st.lists(fitting(parts[0]), max_size=3) if parts[-1] is ... else st.tuples(*map(fitting, parts)).map(list)
        )
    if origin is dict:
        return st.dictionaries(st.sampled_from("xyz"), fitting(parts[1]), max_size=2)
    if dataclasses.is_dataclass(hint):
        return st.fixed_dictionaries({f.name: fitting(f.type) for f in dataclasses.fields(hint)})
    basic = {int: NUMBER, float: NUMBER, str: st.sampled_from(["", "red"]), bool: st.booleans(), type(None): st.none()}
    return basic.get(hint, JSON)


def fits(hint, value):
    """Whether a JSON value is of the hint's kind; written apart from the schema."""
    if hint is Any:
        return True
    if hint is type(None):
        return value is None
    if hint in (int, str, bool):
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float) and -(2**1023) < value < 2**1023
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            return False
        known = {field.name: field for field in dataclasses.fields(hint)}
        return all(name in known and fits(known[name].type, item) for name, item in value.items()) and all(
            name in value or field.default is None for name, field in known.items()
        )
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is Annotated and isinstance(parts[1], schema.Checked):
        return fits(parts[1].kind, value)
    if origin is Annotated:
        return fits(parts[0], value) and parts[1].least <= value <= parts[1].greatest
    if origin is tuple:
        if not isinstance(value, list) or (parts[-1] is not ... and len(parts) != len(value)):
            return False
        kinds = [parts[0]] * len(value) if parts[-1] is ... else parts
        return all(map(fits, kinds, value))
    if origin is dict:
        return isinstance(value, dict) and all(fits(parts[1], item) for item in value.values())
    return any(fits(part, value) for part in parts)


def same(found, given):
    """Whether a converted value is the given one: numbers by value, sequences and objects item by item."""
    if dataclasses.is_dataclass(found):
        return all(same(getattr(found, name), item) for name, item in given.items())
    if isinstance(given, dict):
        return found.keys() == given.keys() and all(same(found[name], item) for name, item in given.items())
    if isinstance(given, list):
        return len(found) == len(given) and all(map(same, found, given))
    if isinstance(given, bool) or given is None or isinstance(given, str):
        return found is given or (isinstance(given, str) and found == given)
    return not isinstance(found, bool) and found == type(found)(given)


@examples(150, 1000)
def test_the_schema_accepts_what_fits_and_nothing_else(examples):
    outcomes = {True: 0, False: 0}

    def check(case):
        hint, value = case
        kind = dataclasses.make_dataclass("Made", [("a", hint)])
        record, message = refused(lambda: schema.parse(kind, {"a": value}, "file.json"), "file.json")
        expected = fits(hint, value)
        outcomes[expected] += 1
        assert (message is None) == expected, (hint, value, message)
        if expected:
            assert same(record.a, value), (hint, value, record)
        else:
            assert len(message) < 2000

    cases = hints().flatmap(lambda hint: st.tuples(st.just(hint), st.one_of(fitting(hint), JSON)))
    fuzz(check, examples, cases)
    assert min(outcomes.values()) > examples / 5


# Records.


class Made:
    """A source tree with one committed study of one finished run, whose files can be damaged.

    Attributes:
      root: of the tree.
      run: the run.
      files: path -> content of every file.
    """

    def __init__(self, root):
        self.root = root
        self.study = root / committed.RESULTS / "made"
        config = Config(width=2, blocks=(1, 1, 1, 1), epochs=2, dataset="made")
        self.run = runs.study_run("final", config, 0, five_classes(), self.study)
        self.run.directory.mkdir(parents=True)
        run_directory.write_predictions(self.run.directory, *([0] * 10, [0.5] * 10, [0] * 10))
        FakeFit()(
            self.run.config, self.run.dataset, self.run.directory, seed=0, experiment="final", keep=1, console=None
        )
        place = str(self.run.directory.relative_to(self.study))
        setting = {"label": "final", "runs": [place]}
        experiment = {"name": "final", "section": "4.3", "title": "Final model", "settings": [setting]}
        outcome = {"version": 1, "command": "x", "select": "test", "follow": False, "experiments": [experiment]}
        (self.study / "outcome.json").write_text(json.dumps(outcome))
        self.files = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def path(self, name):
        return next(path for path in self.files if path.name == name)

    def damage(self, name, content, summed):
        """Restore every file, then replace one; with `summed` the checksums are made for what is there."""
        for path, original in self.files.items():
            put(path, content if path.name == name else original)
        if summed and name != SUMS:
            directory = self.run.directory
            names = [n for n in (CONFIG, METRICS, PREDICTIONS, RESULT) if (directory / n).is_file()]
            sums = [f"{hashlib.sha256((directory / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
            put(directory / SUMS, "".join(sums).encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("tree"))


def holds(found, text):
    """Whether a record that was read holds what its text says, and for the rest only defaults."""
    given = json.loads(text)
    found = json.loads(json.dumps(found))
    defaults = json.loads(json.dumps(vars(Config())))

    def agree(found, given):
        if isinstance(given, dict):
            rest = {key: item for key, item in found.items() if key not in given and key != "version"}
            absent = object()
            return all(item == defaults.get(key, absent) for key, item in rest.items()) and all(
                agree(found.get(key), item) for key, item in given.items() if key != "version"
            )
        if isinstance(given, list):
            return len(found) == len(given) and all(map(agree, found, given))
        return isinstance(found, bool) == isinstance(given, bool) and (
            found == given or (isinstance(found, float) and found == float(given))
        )

    return agree(found, given)


@examples(100, 1200)
def test_a_damaged_run_is_refused_or_read_as_it_stands(made, examples, capsys):
    names = [CONFIG, RESULT, METRICS, SUMS, PREDICTIONS, "outcome.json"]

    def make(rng):
        path = made.path(rng.choice(names))
        return path.name, damaged(rng, path, made.files[path]), rng.random() < 0.5

    repeat(judge(made, capsys), examples, make)


@pytest.mark.parametrize(("name", "stride"), [(CONFIG, 4), (RESULT, 4), ("outcome.json", 1)])
@pytest.mark.parametrize("way", ["dropped", pytest.param("replaced", marks=pytest.mark.slow)])
def test_every_field_that_is_not_as_it_should_be_is_refused_or_read_as_it_stands(made, capsys, name, stride, way):
    dropped, replaced = every_edit(json.loads(made.files[made.path(name)]))
    texts = dropped if way == "dropped" else replaced[::stride]
    cases = iter(texts)
    repeat(judge(made, capsys), len(texts), lambda rng: (name, next(cases).encode(), True))


def judge(made, capsys):
    """A function that puts one damaged file into a study, reads it in every way, and judges what comes out."""
    directory, sha256 = made.run.directory, made.run.dataset.sha256

    def check(case):
        name, content, summed = case
        made.damage(name, content, summed)
        data = content or b""
        same_bytes = content == made.files[made.path(name)]

        run, _ = refused(lambda: run_directory.read_run(directory), directory / CONFIG)
        if name == CONFIG:
            assert run is None or holds(run.to_json(), data)
        else:
            assert run is not None
        history, _ = refused(lambda: read_metrics(directory / METRICS), directory / METRICS)
        if history is not None and name == METRICS:
            assert history == [json.loads(line) for line in data.split(b"\n")[:-1]]

        result, message = refused(lambda: run_directory.read_result(directory), directory)
        if result is not None:
            assert name in (SUMS, "outcome.json") or summed or same_bytes
            text = data if name == RESULT else made.files[made.path(RESULT)]
            assert holds(result.to_json(), text)

        config = made.run.config
        checked, _ = refused(lambda: run_directory.check(directory, config, 0, sha256, True), directory)
        if name != "outcome.json" and checked is None:
            assert _ is not None or (name == RESULT and content is None)
        assert (checked is None) == (result is None) or name == CONFIG

        study = made.study
        refused(lambda: runs.check([made.run], study), study)
        of_study, _ = refused(lambda: runs.result(made.run), directory)
        assert (of_study is None) == (checked is None)
        assert runs.seeds_directory(study, config, sha256) == directory.parent

        studies, _ = refused(lambda: committed.read_studies(made.root), study)
        if studies is not None:
            drifts, _ = refused(lambda: committed.study_drifts(studies[0], made.root), directory)
            intact = summed or name in (CONFIG, PREDICTIONS, SUMS) or result is not None
            assert (drifts == []) <= intact
            assert all("\n" not in line for line in drifts or ())
            if name == "outcome.json":
                assert studies[0].command == json.loads(data)["command"]

        _, damage = refused(lambda: verify.run(verify.Options(str(made.root))), directory)
        printed = capsys.readouterr()
        assert printed.err == "" and len(printed.out.splitlines()) == 1
        assert (damage is None) == (result is not None), (printed.out, message)

    return check


@examples(40, 300)
def test_a_log_begins_after_damage_with_the_checkpoints_history(made, tmp_path, examples, caplog):
    """Whatever the file holds, afterwards it holds the history; what else was there is set aside, which a line says."""
    path = tmp_path / METRICS
    original = made.files[made.path(METRICS)]
    history = [json.loads(line) for line in original.splitlines()]

    def check(case):
        content, epochs, recorded = case
        for old in tmp_path.iterdir():
            old.rmdir() if old.is_dir() else old.unlink()
        caplog.clear()
        put(path, content)
        log = RunLog(tmp_path, epochs=2, steps_per_epoch=1)
        _, message = refused(lambda: log.begin(epochs, 0, None if recorded else history[:epochs]), path)
        log.close()
        if message is not None:
            assert recorded and path.is_dir() == (content is None)
            return
        lines = path.read_bytes().splitlines()
        assert len(lines) == epochs
        if not recorded:
            assert [json.loads(line) for line in lines] == history[:epochs]
        else:
            assert [json.loads(line) for line in lines] == [
                json.loads(line) for line in (content or b"").split(b"\n")[:epochs] if line
            ]
        assert all("\n" not in line for line in caplog.messages)
        aside = [p for p in tmp_path.iterdir() if p != path]
        assert len(aside) == len(caplog.messages)
        for kept in aside:
            assert kept.is_dir() if content is None else kept.read_bytes() == content

    repeat(check, examples, lambda rng: (damaged(rng, path, original), rng.randrange(3), rng.random() < 0.5))


@examples(20, 100)
def test_what_a_lock_holds_is_only_shown(tmp_path, examples):
    original = json.dumps({"process": 17, "host": "node1"}).encode()

    def check(content):
        put(tmp_path / "lock", content)
        assert not is_held(tmp_path)
        if content is None:
            return
        with hold(tmp_path):
            (tmp_path / "lock").write_bytes(content)
            _, message = refused(lambda: check_free(tmp_path), tmp_path)
            assert message.startswith(f"--workdir {tmp_path}: ") and len(message) < 500

    repeat(check, examples, lambda rng: damaged(rng, pathlib.Path("lock.json"), original))


@examples(30, 200)
def test_a_damaged_throughput_record_is_refused_or_drifts(examples, tmp_path):
    whole = read_json(ROOT / costs.SPEED)
    case = whole["cases"][0]
    kept = {name: case[name] for name in ("width", "batch_size", "speed_of_jax_over")}
    kept["rivals"] = {name: case["rivals"][name] for name in ("jax", "torch eager")}
    environment = {"versions": {"torch": "2"}, "device": "cpu", "commit": "abc"}
    original = json.dumps({"environment": environment, "cases": [kept]}).encode()
    path = tmp_path / costs.SPEED

    def check(content):
        put(path, content)
        record, _ = refused(lambda: costs.read_speed(tmp_path), path)
        if record is not None:
            assert record == json.loads(content)
            assert all("\n" not in line for line in costs.speed_drifts(record))

    repeat(check, examples, lambda rng: damaged(rng, path, original))


@examples(20, 100)
def test_a_damaged_benchmark_record_is_refused_or_continued(examples, tmp_path):
    record = {"benchmark": "step", "environment": {"device": "cpu"}, "options": {"steps": 3}, "cases": []}
    path = tmp_path / "record.json"

    def check(content):
        put(path, content)
        opened, _ = refused(lambda: benchmark_records.open_record(path, record, True, ("cases",)), path)
        if opened is not None:
            assert opened == record | {"cases": json.loads(content).get("cases", [])}

    repeat(check, examples, lambda rng: damaged(rng, path, json.dumps(record).encode()))


@examples(20, 100)
def test_a_damaged_record_of_a_campaign_is_refused_or_continued(examples, tmp_path):
    rows = [{"step": "kernels", "seconds": 1.5, "exhausted": False, "status": "measured", "headline": "x"}]
    record = {"benchmark": "campaign", "tiny": True, "environment": {"device": "cpu"}, "steps": rows}
    path = tmp_path / campaign.RECORD

    def check(content):
        put(path, content)
        found, _ = refused(lambda: campaign.read_rows(path), path)
        if found is not None:
            assert list(found.values()) == json.loads(content)["steps"]
            refused(lambda: campaign.read_records(tmp_path, {"device": "cpu", "devices": "cpu"}), tmp_path)

    repeat(check, examples, lambda rng: damaged(rng, path, json.dumps(record).encode()))


def trained(folder):
    """Train a tiny run in a child process; returns its directory, and that of the same run without its last epoch."""
    tiny_npz(folder / "tiny.npz")
    assert child(folder, "-m", "experiments.final", *TINY, "--workdir", "whole").returncode == 0
    shutil.copytree(folder / "whole", folder / "half")
    for name in (RESULT, SUMS, PREDICTIONS):
        (folder / "half" / name).unlink()
    newest = max((folder / "half" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    return folder / "whole", folder / "half"


def child(folder, *words):
    """Run Python with these words, with 2 GiB for its data; a shell sets that, as JAX warns of code that forks."""
    command = ["sh", "-c", 'ulimit -d 2097152; exec "$@"', "sh", sys.executable, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JRESNET_COMMIT": "this"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_programs_go_on_after_damage_to_the_same_result_or_stop_with_one_line(tmp_path):
    """20 damaged directories of runs, finished and not, resumed or verified in child processes."""
    whole, half = trained(tmp_path)
    expected = read_json(whole / RESULT)
    statuses = []
    for number in range(20):
        rng = random.Random(number)
        directory = tmp_path / f"run-{number}"
        shutil.copytree(half if number % 2 else whole, directory)
        files = sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)
        records = [path for path in files if path.parent == directory]
        path = rng.choice(records if rng.random() < 0.7 else files)
        content = damaged(rng, path, path.read_bytes())
        about = number, path.relative_to(directory), (content or b"")[:300]
        put(path, content)
        if number % 4 < 2:
            done = child(tmp_path, "-m", "experiments.final", *TINY, "--workdir", directory.name, "--resume")
        else:
            done = child(tmp_path, "-m", "jresnet", "verify", directory.name)
        assert done.returncode in (0, 2), (about, done.stderr)
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1, (about, done.stderr)
        assert (done.returncode == 2) <= (done.stderr != ""), about
        if number % 4 < 2 and done.returncode == 0:
            record = read_json(directory / RESULT)
            assert {n: v for n, v in record.items() if n not in OF_SESSIONS} == {
                n: v for n, v in expected.items() if n not in OF_SESSIONS
            }, about
            run_directory.read_result(directory)
        statuses.append(done.returncode)
    assert set(statuses) == {0, 2}


@pytest.mark.slow
def test_a_classifier_is_of_the_record_as_it_stands_or_refused(tmp_path):
    config = Config(width=2, blocks=(1, 1), pool_size=4)
    images = np.zeros((1, 8, 8, 3), np.uint8)
    variables = models.from_config(config, 3).init(jax.random.key(0), images.astype(np.float32), train=False)
    directory = tmp_path / "run"
    store(directory, config, variables, ("a", "b", "c"), (8, 8), (0.5,) * 3, (0.25,) * 3)
    path = directory / CONFIG
    original = path.read_bytes()

    def check(content):
        put(path, content)
        classifier, _ = refused(lambda: Classifier.load(directory), directory)
        if classifier is not None:
            assert holds(run_directory.read_run(directory).to_json(), content)
            assert np.isclose(classifier.predict(images).sum(), 1)

    repeat(check, 60, lambda rng: damaged(rng, path, original))
