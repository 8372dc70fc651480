"""The job files under docs/: what they tell the programs is something that the programs understand."""

import pathlib
import re
import shlex

import pytest
import yaml

from experiments import final, reproduce
from experiments.study import plan, single
from jresnet import models
from jresnet.parallel import distributed

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def parsed(command):
    """Options of the program that a command line runs."""
    words = shlex.split(command)
    module = words.index("-m")
    name, arguments = words[module + 1], words[module + 2 :]
    if name == "experiments.final":
        return single.parse(name, final.CONFIG, arguments, single.SingleOptions)
    assert name == "experiments.reproduce"
    return plan.parse(arguments, reproduce.PROGRAM)


def commands(text):
    """Command lines of the programs in a shell script, continued lines joined."""
    return re.findall(r"python -m experiments\.[^\n]*", text.replace("\\\n", " "))


def settings(name):
    """`#SBATCH --name=value` of a SLURM script."""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", (DOCS / "slurm" / name).read_text(), re.MULTILINE))


def test_slurm_runs_one_process_per_gpu_of_one_run():
    (command,) = commands((DOCS / "slurm" / "run.sbatch").read_text())
    options, given = parsed(command), settings("run.sbatch")
    assert options.resume and options.workdir and given["gres"] == f"gpu:{given['ntasks-per-node']}"
    count = int(given["nodes"]) * int(given["ntasks-per-node"])
    assert options.batch_size % count == 0
    environment = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "n[1-2]"}
    assert distributed.num_processes_and_id(options, environment) == (8, 3)


def test_slurm_shares_a_study_out_over_an_array():
    (command,) = commands((DOCS / "slurm" / "study.sbatch").read_text())
    assert parsed(command.replace("$SLURM_ARRAY_TASK_ID", "5")).shard_of == (5, 16)
    assert settings("study.sbatch")["array"] == "1-16"


def test_kubernetes_runs_an_indexed_job_that_finds_its_first_pod():
    service, job = yaml.safe_load_all((DOCS / "kubernetes" / "run.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = parsed(shlex.join(container["command"] + container["args"]))
    assert options.coordinator.startswith(f"{job['metadata']['name']}-0.{service['metadata']['name']}:")
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == options.num_processes
    assert distributed.num_processes_and_id(options, {"JOB_COMPLETION_INDEX": "1"}) == (2, 1)
    assert options.batch_size % (options.num_processes * container["resources"]["limits"]["nvidia.com/gpu"]) == 0


def test_kubernetes_shares_a_study_out_over_an_indexed_job():
    job = yaml.safe_load((DOCS / "kubernetes" / "study.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (command,) = commands(container["args"][0])
    options = parsed(command.replace("$((JOB_COMPLETION_INDEX + 1))", "16"))
    assert options.shard_of == (16, job["spec"]["completions"]) and job["spec"]["completionMode"] == "Indexed"


@pytest.mark.parametrize("width", [42, 64])
def test_the_traffic_is_that_of_the_networks(width):
    size = models.parameter_count(models.resnet18(width=width), (32, 32))
    text = (DOCS / "scaling.md").read_text()
    assert f"{size:,}" in text and f"{4 * size / 1e6:.1f} MB" in text
    if width == 42:
        for count in (8, 64, 1024):
            assert f"{2 * (count - 1) / count * 4 * size / 1e6:.1f} MB" in text
