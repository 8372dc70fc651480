"""The generated tables: as committed they agree with the records, and every changed digit is detected."""

import dataclasses
import json
import math
import shutil
import statistics

import pytest

from experiments import costs, readme, report
from experiments.page import blocks
from experiments.records import ROOT, Records, read_records, record_drifts
from experiments.study import committed, speedruns
from jresnet.errors import InputError
from jresnet.records import run_directory, schema

STUDY = "augmentation-width16-jpegq75"
BLOCKS = {block.name: block for block in readme.BLOCKS}
HEADLINE, RESULTS, SPEEDS, FIELDS = (BLOCKS[name] for name in ("headline", "results", "speed", "fields"))


@pytest.fixture
def root(tmp_path):
    """A copy of the committed pages and records."""
    for directory in (committed.RESULTS, costs.SPEED.parent):
        shutil.copytree(ROOT / directory, tmp_path / directory)
    for block in readme.BLOCKS:
        (tmp_path / block.path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / block.path, tmp_path / block.path)
    for drawing in readme.DRAWINGS:
        shutil.copy(ROOT / drawing.path, tmp_path / drawing.path)
    return tmp_path


def generated(root, block):
    return block.split(root)[1]


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_pages_agree_with_the_committed_records():
    assert readme.check() == []


def test_the_results_are_those_of_the_records(root):
    text = generated(root, RESULTS)
    records = [
        json.loads((root / committed.RESULTS / STUDY / f"seed-{seed}" / "result.json").read_text()) for seed in range(2)
    ]
    a, b = (100 * record["test_accuracy"] for record in records)
    mean, std = (a + b) / 2, abs(a - b) / math.sqrt(2)
    half = 12.7062 * std / math.sqrt(2)  # Student's t with one degree of freedom
    assert f"| 2 | {mean:.2f} ± {std:.2f} | {mean - half:.2f} to {mean + half:.2f} |" in text
    assert "width 16, 6 epochs on CIFAR-10 (JPEG q75), 50,000 training and 10,000 test images" in text
    for part in (records[0]["device"], records[0]["commit"], "jax 0.10.2", "sha256 1abb6cef1d3d", "--seeds 2"):
        assert part in text


def test_the_headline_is_the_reports_model_and_the_speed_of_the_benchmark(root):
    text = generated(root, HEADLINE)
    assert "| report | n/a | CIFAR-10 | 1 | 90.95 | n/a | 4,815,940 |" in text
    rivals = json.loads((root / costs.SPEED).read_text())["cases"][0]["rivals"]
    ours = rivals["jax"]["seconds"]
    cells = ["42", "32", f"{32 / statistics.median(ours):.0f}"]
    for mode in ("eager", "compile"):
        # The second, third and fourth of five ratios.
        ratios = sorted(b / a for a, b in zip(ours, rivals[f"torch {mode}"]["seconds"], strict=True))
        cells.append(f"{ratios[2]:.2f} [{ratios[1]:.2f}, {ratios[3]:.2f}]")
    assert f"| {' | '.join(cells)} |" in text


def test_only_the_final_model_at_full_scale_enters_the_headline():
    study = next(study for study in committed.read_studies(ROOT) if study.name.startswith("reproduce"))
    setting = next(setting for setting in study.settings if setting.experiment == "final")
    (run, record), *_ = setting.runs.items()
    records = read_records(ROOT)

    def rows(**changes):
        config = record["config"] | {"width": 42, "epochs": 100} | changes.pop("config", {})
        full = record | {"config": config, "parameters": 4_815_940, "seconds": 5400.0, report.COMPARED: 0.91} | changes
        full["dataset"] = full["dataset"] | {"train": 45_000, "validation": 5_000, "test": 10_000}
        pages = [study._replace(settings=[setting._replace(runs={run: full, run.parent / "seed-1": full})])]
        return [line for line in blocks.headline(records._replace(studies=pages)) if line.startswith("| jresnet |")]

    row = "| jresnet | {} | CIFAR-10 (JPEG q75) | 2 | 91.00 ± 0.00 | 1.50 ± 0.00 | 4,815,940 |"
    assert rows(device="A GPU") == [row.format("A GPU")]
    assert rows(config={"width": 5}) == rows(config={"learning_rate": 0.01}) == rows(config={"epochs": 5}) == []
    assert [line for line in blocks.headline(records._replace(studies=[study])) if "jresnet" in line] == []


@pytest.mark.parametrize(
    ("block", "old", "new"),
    [
        (RESULTS, "75.14", "75.24"),
        (RESULTS, "| 2 |", "| 3 |"),
        (RESULTS, "width 16, 6", "width 64, 6"),
        (HEADLINE, "90.95", "91.95"),
        (HEADLINE, "1.42 [", "1.43 ["),
        (HEADLINE, "1.57]", "1.67]"),
        (SPEEDS, "| 64 | 128 |", "| 64 | 129 |"),
        (FIELDS, "counted from 0", "counted from 1"),
        (BLOCKS["networks"], "2,243,546", "2,243,547"),
        (BLOCKS["accuracy"], "347.5", "347.6"),
    ],
)
def test_a_changed_page_is_detected_and_repaired(root, block, old, new):
    page = root / block.path
    original = page.read_text()
    head, begin, rest = original.partition(block.begin)
    assert old in rest
    page.write_text(head + begin + rest.replace(old, new, 1))
    (drift,) = readme.check(root)
    assert drift.startswith(f"{block.path}: ") and new in drift and old in drift and "\n" not in drift
    readme.update(root)
    assert page.read_text() == original and readme.check(root) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("test_accuracy", "0.7576", "0.7577"),
        ("test_accuracy_batch_mean", "0.7581608280254777", "0.7581608280254776"),
        ("train_loss", "0.719122890625", "0.719122890626"),
        ("seconds", "1134.190520395994", "1134.190520396994"),
    ],
)
def test_a_changed_digit_in_a_record_is_detected(root, name, old, new):
    path = root / committed.RESULTS / STUDY / "seed-0" / "result.json"
    change(path, f'"{name}": {old}', f'"{name}": {new}')
    where = f"experiments/results/{STUDY}/seed-0/result.json: {name} is {new}"
    assert any(line.startswith(where) for line in readme.check(root))
    with pytest.raises(InputError, match=rf"seed-0/result\.json: {name} is "):
        readme.update(root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.39973854350319016", "0.39973854350319116"),  # seconds of a round, which are also the median
        ('"median": 1.424438910772547', '"median": 1.424438910772548'),
        ('"images_per_second": 80.0', '"images_per_second": 80.1'),
    ],
)
def test_a_changed_digit_in_the_speed_is_detected(root, old, new):
    change(root / costs.SPEED, old, new)
    assert any(line.startswith(f"{costs.SPEED}: ") for line in readme.check(root))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("result.json", '"seed": 0', '"seed": 2'),
        ("result.json", '"parameters": 701466', '"parameters": 701467'),
        ("metrics.jsonl", '"epoch": 2, "train_loss": 0.9', '"epoch": 2, "train_loss": 0.8'),
    ],
)
def test_checksums_detect_what_contradicts_no_other_value(root, name, old, new):
    change(root / committed.RESULTS / STUDY / "seed-0" / name, old, new)
    lines = readme.check(root)
    assert f"experiments/results/{STUDY}/seed-0/{name}: not as the run wrote it (truncated or edited)" in lines[0]


def test_a_record_without_checksums_is_refused(root):
    (root / committed.RESULTS / STUDY / "seed-0" / "sha256sums.txt").unlink()
    with pytest.raises(InputError, match=r"sha256sums\.txt: missing or unreadable"):
        readme.check(root)


def test_a_missing_epoch_is_detected(root):
    path = root / committed.RESULTS / STUDY / "seed-1" / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    (line,) = readme.check(root)
    assert line.startswith(f"experiments/results/{STUDY}/seed-1/result.json: epochs is 6 of 6, metrics.jsonl has 5")


def cost_record(seconds, reference, changed=None):
    """A record of `benchmarks.ingredients`: a step with cutout beside the default's."""

    def rival(values):
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        spread = {"median": median, "low": low, "high": high, "min": min(values), "n": len(values)}
        return {"seconds": values, "error": None, "seconds_per_step": spread}

    ratios = [a / b for a, b in zip(seconds, reference, strict=True)]
    cutout = rival(seconds) | {"cost": rival(ratios)["seconds_per_step"]} | (changed or {})
    environment = {"device": "A CPU", "cores": 2, "cpu_instructions": ["avx2"], "commit": "c" * 40}
    case = {"width": 42, "batch_size": 128, "precision": "float32", "device": "cpu"}
    rivals = {"default": rival(reference), "cutout": cutout}
    return {"environment": environment, "options": {"rounds": 3}, "cases": [case | {"rivals": rivals}]}


def test_costs_are_those_of_their_rounds_and_a_changed_one_is_detected(root):
    path = root / costs.INGREDIENT_COSTS
    path.write_text(json.dumps(cost_record([1.1, 2.4, 3.3], [1.0, 2.0, 3.0])))
    assert any("docs/performance.md" in line for line in readme.check(root))
    readme.update(root)
    assert readme.check(root) == []
    text = generated(root, BLOCKS["ingredients"])
    assert "| 128 | default | 2000 [1500, 2500] |" in text
    assert "| 128 | cutout 8 | 2400 [1750, 2850] | 1.100 [1.100, 1.150] |" in text
    assert "Width 42, batch 128, float32, on 2 cores (A CPU, avx2)" in text and "3 rounds" in text
    path.write_text(json.dumps(cost_record([1.1, 2.4, 3.3], [1.0, 2.0, 3.0], {"cost": None})))
    assert any(
        f"{costs.INGREDIENT_COSTS}: cost of cutout at width 42, batch 128 is None" in line
        for line in readme.check(root)
    )
    path.write_text(json.dumps({"cases": []}))
    with pytest.raises(InputError, match="not a record of ingredients"):
        readme.check(root)


@pytest.mark.parametrize("drawing", readme.DRAWINGS, ids=lambda drawing: drawing.path.stem)
def test_a_figure_of_other_records_is_detected_and_drawn_again(root, drawing):
    path = root / drawing.path
    drawn = path.read_bytes()
    path.write_bytes(drawn.replace(b"records-", b"others-"))
    assert [line for line in readme.check(root) if line.startswith(f"{drawing.path}: was not drawn")]
    path.unlink()
    assert len(readme.check(root)) == 1
    readme.update(root)
    assert readme.check(root) == []


def test_the_svg_says_which_results_it_shows():
    records, drawing = read_records(ROOT), readme.DRAWINGS[0]
    marked = drawing.content(records)
    word = readme.digest(marked)
    assert word.encode() in drawing.svg(records)
    changed = marked | {"A": dataclasses.replace(marked["A"], seconds=math.nextafter(marked["A"].seconds, 0))}
    fewer = {mark: anchor for mark, anchor in marked.items() if mark != "A"}
    assert readme.digest(changed) != word != readme.digest(fewer)


def test_the_accuracies_beside_published_ones_are_those_of_cifar10(root):
    text = generated(root, BLOCKS["accuracy"])
    for name in ("airbench95", "final model, stopped after 98 of 100 epochs", "NVIDIA H200 x1"):
        assert name in text
    # Neither the width of 16 channels nor JPEG's copy of the images has its place there.
    assert STUDY not in text


def test_channels_of_a_reduced_study_stand_beside_the_reports(root):
    lines = generated(root, RESULTS).splitlines()
    labels = [line.split("|")[2].strip() for line in lines if line.startswith("| 4.2.3 Channels |")]
    assert labels == ["42 (here 5)", "64 (here 8)", "80 (here 10)"]


def test_another_study_is_another_table(root):
    old, new = (root / committed.RESULTS / name for name in (STUDY, "z-again"))
    shutil.copytree(old, new)
    assert readme.check(root)
    before = generated(root, RESULTS).count("| 4.1 Data augmentation |")
    readme.update(root)
    text = generated(root, RESULTS)
    assert text.count("| 4.1 Data augmentation |") == before + 1 and "**z-again**" in text
    shutil.rmtree(new)
    assert readme.check(root)


def ablation(root, gains):
    """A committed ablation: runs without test figures, whose validation accuracy is that of the base and its gain."""
    study, experiment = root / committed.RESULTS / "z-ablation", root / committed.RESULTS / STUDY
    settings = []
    for label, by_seed in gains.items():
        for seed, gain in enumerate(by_seed):
            run = study / label.replace(" ", "-") / f"seed-{seed}"
            run.mkdir(parents=True)
            result = json.loads((experiment / f"seed-{seed}" / "result.json").read_text())
            lines = [
                json.loads(line) for line in (experiment / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
            ]
            for record in (result, *lines):
                for name in [name for name in record if name.startswith("test_")]:
                    del record[name]
                record |= {"validation_accuracy": 0.75 + gain, "validation_loss": 1.0 - gain}
            result["dataset"] |= {"train": 45000, "validation": 5000, "test": 0}
            result["experiment"] = "ablation"
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            run_directory.finish(run, result, lines)
        runs = [f"{label.replace(' ', '-')}/seed-{seed}" for seed in range(len(by_seed))]
        settings.append({"label": label, "runs": runs})
    outcome = {"command": "python -m experiments.ablation", "select": "validation", "follow": False}
    outcome["experiments"] = [{"name": "ablation", "section": "", "title": "Ingredients", "settings": settings}]
    (study / "outcome.json").write_text(json.dumps(outcome))
    return study


def test_a_study_without_test_figures_is_compared_on_validation_images(root):
    study = ablation(root, {"base": [0.0, 0.01], "cutout 8": [0.02, 0.05], "EMA 0.99": [0.0]})
    assert readme.check(root) and not record_drifts(read_records(root), root)
    readme.update(root)
    assert readme.check(root) == []
    text = generated(root, RESULTS).split("**z-ablation**: ")[1]
    assert "45,000 training and 5,000 validation images" in text.splitlines()[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| Ingr" in line]
    # Quantile 0.975 of Student's t with one degree of freedom is 12.7062, and half the range of two values their
    # standard error.
    t = 12.7062
    assert rows[0][:4] == ["Ingredients", "base", "2", f"75.50 [{75.5 - t / 2:.2f}, {75.5 + t / 2:.2f}]"]
    assert rows[1][1:3] == ["cutout 8", "2"] and rows[1][4] == f"+3.00 [{3 - t:+.2f}, {3 + t:+.2f}]"
    assert rows[1][7] == f"-0.0300 [{-0.03 - t / 100:+.4f}, {-0.03 + t / 100:+.4f}]"
    # Of one run there is a value, but neither interval nor p.
    assert rows[2][1:6] == ["EMA 0.99", "1", "75.00", "+0.00", ""]
    change(study / "base" / "seed-0" / "result.json", '"validation_accuracy": 0.75', '"validation_accuracy": 0.76')
    assert "validation_accuracy is 0.76, its epochs give 0.75" in readme.check(root)[0]


@pytest.fixture
def study(tmp_path):
    """A committed study of two runs, in a source tree of its own."""
    directory = tmp_path / committed.RESULTS / STUDY
    shutil.copytree(ROOT / committed.RESULTS / STUDY, directory)
    return directory


def drifts(root):
    (found,) = committed.read_studies(root)
    return committed.study_drifts(found, root)


def shown(root):
    records = Records(committed.read_studies(root), {}, None, None, None, None)
    return "\n".join(blocks.results(records))


def results_of(study):
    return [json.loads((study / f"seed-{seed}" / "result.json").read_text()) for seed in range(2)]


def test_a_speedruns_record_is_shown_and_computed_again_from_its_runs(tmp_path, study):
    results = results_of(study)
    record = schema.to_json(speedruns.summarise(0.75, results, "made by hand", (32, 32), diverged=2, cache="warm"))
    (study / "speedrun.json").write_text(json.dumps(record))
    assert drifts(tmp_path) == []
    text = shown(tmp_path)
    a, b = (result["test_accuracy"] for result in results)
    seconds = statistics.quantiles([result["seconds"] for result in results], n=4, method="inclusive")
    spread = f"{seconds[1]:,.1f} [{seconds[0]:,.1f}, {seconds[2]:,.1f}]"
    reaching = 25 * sum(accuracy >= 0.75 for accuracy in (a, b))
    assert (
        f"| 75.00 | 2 | 2 | not known | test | {50 * (a + b):.2f} |" in text
        and f"| no | {reaching} | {spread} |" in text
    )
    assert f"| {results[0]['compile_seconds']:,.1f} | warm |" in text
    for name, value in {"share": 0.75, "reached": True, "compile_seconds": 1.0, "training_flops": 1.0}.items():
        (study / "speedrun.json").write_text(json.dumps(record | {name: value}))
        (line,) = drifts(tmp_path)
        assert line.startswith(f"experiments/results/{STUDY}/speedrun.json: {name} is {value}, its runs give ")


def test_accuracies_with_flip_are_shown_apart_and_checked_against_matrix_and_result(tmp_path, study):
    first = results_of(study)[0]
    plain, right = first["test_accuracy"], 7700
    flip = {
        "name": "model, with flip",
        "models": [{"name": "model"}],
        "dataset": {"sha256": first["dataset"]["sha256"]},
    }
    flip |= {"systems": {"model": {"accuracy": plain}, "model, with flip": {"accuracy": right / 10_000}}}
    flip |= {"confusion": [[right - 100, 2000], [300, 100]]}
    path = study / "seed-0" / "evaluation-flip.json"
    path.write_text(json.dumps(flip))
    assert drifts(tmp_path) == []
    text = shown(tmp_path)
    assert "| crop + flip + grayscale | 1 | 77.00 |" in text and "apart from the accuracies to quote" in text
    systems = {name: flip["systems"] | {name: {"accuracy": 0.5}} for name in flip["systems"]}
    for changes, complaint in (
        ({"systems": systems["model, with flip"]}, "accuracy is 0.5, its matrix gives 0.77"),
        ({"systems": systems["model"]}, f"accuracy without flip is 0.5, the run's result has {plain}"),
        ({"dataset": {"sha256": "other"}}, "is of other data than the run"),
    ):
        path.write_text(json.dumps(flip | changes))
        (line,) = drifts(tmp_path)
        assert line.startswith(f"experiments/results/{STUDY}/seed-0/evaluation-flip.json: {complaint}")
    path.write_text(json.dumps({"name": "model"}))
    with pytest.raises(InputError, match="not an evaluation with test-time flip"):
        committed.read_studies(tmp_path)


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        ("README.md", "<!-- headline: end -->", "", "lacks its markers"),
        ("docs/results.md", "<!-- results: end -->", "", "lacks its markers"),
        (f"experiments/results/{STUDY}/outcome.json", '"settings"', '"setting"', "unknown field 'setting'"),
        (f"experiments/results/{STUDY}/outcome.json", '"seed-1"', '"seed-7"', "seed-7/result.json: cannot be read"),
        (f"experiments/results/{STUDY}/seed-0/result.json", '"test_loss"', '"tests_loss"', "field 'tests_loss'"),
        (f"experiments/results/{STUDY}/seed-0/result.json", '"width"', '"breadth"', "unknown field 'breadth'"),
        ("benchmarks/results/throughput-cpu.json", '"seconds": [', '"minutes": [', "not a throughput record"),
        ("benchmarks/results/throughput-cpu.json", '"cases"', '"case', "throughput-cpu.json: not a readable"),
    ],
)
def test_damaged_files_are_refused_in_one_line(root, path, old, new, complaint):
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new))
    before = [(root / block.path).read_text() for block in readme.BLOCKS]
    for action in (readme.check, readme.update):
        with pytest.raises(InputError, match=complaint) as caught:
            action(root)
        assert "\n" not in str(caught.value)
    assert [(root / block.path).read_text() for block in readme.BLOCKS] == before


def test_a_directory_without_an_outcome_is_refused(root):
    (root / committed.RESULTS / "loose").mkdir()
    with pytest.raises(InputError, match=r"loose/outcome\.json"):
        readme.check(root)
