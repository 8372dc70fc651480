"""README and docs/: code blocks run, command lines parse, links resolve, no option or exit status is left out."""

import dataclasses
import functools
import importlib
import itertools
import pathlib
import re
import shlex
import signal
import tomllib

import chex
import jax
import jax.numpy as jnp
import pytest
import yaml

import jresnet
from experiments import ablation, cross_validation, final, published, reproduce, speedrun, tuned
from experiments.study import options as study_options
from experiments.study import plan, single
from jresnet import cli, models
from jresnet.cli import commands as own
from jresnet.config import Config
from jresnet.errors import CannotWrite, Diverged, Incomplete, InputError, Interrupted, Lost
from jresnet.models import diagram, summary
from jresnet.parallel import distributed

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SWEEPS = ("grayscale", "learning_rate", "batch_size", "width", "blocks", "kernel_size", "pool_size")


def parse(command):
    """Options that a program of the project reads from a command line.

    Raises:
      InputError: the program would refuse them.
    """
    words = shlex.split(command)
    name, arguments = words[0], words[1:]
    if name == "python":  # -m
        name, arguments = words[2], words[3:]
    if name == "jresnet":
        return cli.parse(own.module(arguments[0]).Options, arguments[1:], name)
    if name == "experiments.reproduce":
        return plan.parse(arguments, reproduce.PROGRAM)
    if name == "experiments.published":
        return cli.parse(published.Options, arguments, name)
    if name == "experiments.cross_validation":
        return cross_validation.parse_options(arguments)
    if name == "experiments.ablation":
        return ablation.parse(arguments)
    if name == "experiments.speedrun":
        return speedrun.parse(arguments)
    if name == "experiments.tuned":
        return study_options.parse(name, tuned.CONFIG, arguments, single.SingleOptions, tuned.QUICK)
    if name.startswith("experiments."):
        sweep = name.removeprefix("experiments.") in SWEEPS
        return single.parse(name, final.CONFIG, arguments, single.Options if sweep else single.SingleOptions)
    return cli.parse(importlib.import_module(name).Options, arguments, name)


def commands(text):
    """Command lines of the project's programs in a text, continued lines joined, comments and markup left out."""
    joined = text.replace("\\\n", " ")
    names = "|".join(own.COMMANDS)
    modules = rf"python -m (?:jresnet (?:{names})|experiments\.|benchmarks\.)"
    lines = re.findall(rf"({modules}[^\n`#)]*|(?<=^\$ )jresnet [^\n`#)]*|^jresnet [^\n`#)]*)", joined, re.MULTILINE)
    return [line for line in lines if not line.startswith("python -m experiments.readme")]


def code_block(path, mark=""):
    """The Python of a page's first code block that contains the mark."""
    return next(code for code in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL) if mark in code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_parse(page):
    for command in commands(page.read_text()):
        assert parse(re.sub(r"\s--shard \S+| &.*", "", command)), command


@pytest.mark.parametrize(
    "page", [pytest.param(ROOT / "README.md", marks=pytest.mark.slow), DOCS / "library.md"], ids=lambda page: page.name
)
def test_examples_run(page, tmp_path, monkeypatch):
    """On few images, for one epoch."""
    monkeypatch.chdir(tmp_path)
    load = jresnet.load_dataset
    monkeypatch.setattr(jresnet, "load_dataset", lambda name: load(name).subset(200, 100))
    names = {}
    exec(code_block(page).replace("epochs=5", "epochs=1"), names)
    assert names["probabilities"].shape == (100, 10)
    assert (tmp_path / "runs" / "mine" / "result.json").exists()


def test_a_step_with_options_is_made_and_taken():
    """Traced, not compiled."""
    network = jresnet.ResNet(stage_sizes=(1,), width=2, num_classes=10, pool_size=8)
    given = {"jax": jax, "jresnet": jresnet, "config": Config(), "model": network}

    def run():
        names = given | {"images": jnp.zeros((4, 32, 32, 3)), "labels": jnp.zeros(4, jnp.int32)}
        exec(code_block(DOCS / "library.md", "make_train_step"), names)
        return names["state"].average, names["state"].raw, names["metrics"]

    average, raw, metrics = jax.eval_shape(run)
    chex.assert_trees_all_equal_shapes_and_dtypes(average, raw)
    assert metrics.images.shape == ()


@pytest.mark.slow
def test_the_loop_of_ones_own_learns(capsys):
    names = {}
    exec(code_block(DOCS / "own-loop.md"), names)
    losses = names["losses"]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert names["accuracy"] > 0.3
    assert f"test accuracy {names['accuracy']:.1%}" in capsys.readouterr().out


def anchors(text):
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_the_citation_and_the_changes_name_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(rf"\b{version}\b", (ROOT / "CHANGELOG.md").read_text())


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_readme_maps_every_package():
    text = (ROOT / "README.md").read_text()
    packages = [path.parent.name for path in (ROOT / "jresnet").glob("*/__init__.py")]
    assert packages
    for name in (*(f"jresnet/{package}" for package in packages), "experiments", "benchmarks", "docs", "tests"):
        assert f"]({name})" in text, name


COMMANDS = [own.module(name).Options for name in own.COMMANDS]


PROGRAMS = [single.SingleOptions, plan.StudyOptions, cross_validation.Options, ablation.Options, speedrun.Options]


@pytest.mark.parametrize("options", [*PROGRAMS, *COMMANDS])
def test_every_option_is_documented(options):
    documented = set(re.findall(r"--[a-z][a-z-]*", (DOCS / "cli.md").read_text()))
    for field in dataclasses.fields(options):
        if field.default is not dataclasses.MISSING:
            assert f"--{field.name.replace('_', '-')}" in documented


def test_every_configuration_is_an_option():
    assert {field.name for field in dataclasses.fields(Config)} <= {
        field.name for field in dataclasses.fields(single.SingleOptions)
    }


def test_one_table_has_every_exit_status():
    def fail(error):
        raise error

    errors = [
        Diverged(""),
        InputError(""),
        Lost(""),
        CannotWrite(""),
        Incomplete(""),
        Interrupted("", signal.SIGINT),
        Interrupted("", signal.SIGTERM),
    ]
    # A program that succeeds, and one whose output nobody reads, which tests/cli/test_options.py runs.
    statuses = {0, 141} | {cli.exit_status(functools.partial(fail, error)) for error in errors}
    (table,) = re.findall(r"^\| status \|.*?\n\n|^\| status \|.*\Z", (DOCS / "cli.md").read_text(), re.M | re.S)
    assert {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == statuses
    others = [page for page in PAGES if page.name != "cli.md"]
    assert not any(re.search(r"^\| (130|143|141) \|", page.read_text(), re.MULTILINE) for page in others)


def test_the_figure_is_the_reports_network(tmp_path):
    path = tmp_path / "resnet18.svg"
    title = "resnet18, width 42, 10 classes, images of 32 x 32"
    diagram.draw(summary.layers(models.resnet18(width=42), (32, 32)), path, title)
    committed, drawn = (re.findall(r">([^<>]+)</text>", p.read_text()) for p in (DOCS / path.name, path))
    assert title in drawn and committed == drawn


def settings(name):
    """`#SBATCH --name=value` of a SLURM script."""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", (DOCS / "slurm" / name).read_text(), re.MULTILINE))


def test_slurm_runs_one_process_per_gpu_of_one_run():
    (command,) = commands((DOCS / "slurm" / "run.sbatch").read_text())
    options, given = parse(command), settings("run.sbatch")
    assert options.resume and options.workdir and given["gres"] == f"gpu:{given['ntasks-per-node']}"
    count = int(given["nodes"]) * int(given["ntasks-per-node"])
    assert options.batch_size % count == 0
    environment = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "n[1-2]"}
    assert distributed.num_processes_and_id(options, environment) == (8, 3)


def test_slurm_divides_a_study_over_an_array():
    (command,) = commands((DOCS / "slurm" / "study.sbatch").read_text())
    assert parse(command.replace("$SLURM_ARRAY_TASK_ID", "5")).shard_of == (5, 16)
    assert settings("study.sbatch")["array"] == "1-16"


def test_kubernetes_runs_an_indexed_job_that_finds_its_first_pod():
    service, job = yaml.safe_load_all((DOCS / "kubernetes" / "run.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = parse(shlex.join(container["command"] + container["args"]))
    assert options.coordinator.startswith(f"{job['metadata']['name']}-0.{service['metadata']['name']}:")
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == options.num_processes
    assert distributed.num_processes_and_id(options, {"JOB_COMPLETION_INDEX": "1"}) == (2, 1)
    assert options.batch_size % (options.num_processes * container["resources"]["limits"]["nvidia.com/gpu"]) == 0


def test_kubernetes_divides_a_study_over_an_indexed_job():
    job = yaml.safe_load((DOCS / "kubernetes" / "study.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    command = " ".join(itertools.dropwhile(lambda word: word != "python", script.split(" ")))
    options = parse(command.replace("$((JOB_COMPLETION_INDEX + 1))", "16"))
    assert options.shard_of == (16, job["spec"]["completions"]) and job["spec"]["completionMode"] == "Indexed"


@pytest.mark.parametrize("width", [42, 64])
def test_the_traffic_follows_from_the_parameters(width):
    size = models.parameter_count(models.resnet18(width=width), (32, 32))
    text = (DOCS / "scaling.md").read_text()
    assert f"{size:,}" in text and f"{4 * size / 1e6:.1f} MB" in text
    if width == 42:
        for count in (8, 64, 1024):
            assert f"{2 * (count - 1) / count * 4 * size / 1e6:.1f} MB" in text
