"""Tables of results are checked cell by cell against values computed here."""

import io

import rich.console

from experiments.study.results import data_name, results_table


def result(seed=0, test_accuracy=0.909545, experiment="final", config=None, **changes):
    figures = {
        "experiment": experiment,
        "config": {"width": 42, **(config or {})},
        "parameters": 4815940,
        "seed": seed,
        "epochs": 100,
        "train_loss": 0.0123,
        "train_accuracy": 0.99671,
        "test_loss": 0.3812,
        "test_accuracy": test_accuracy,
        "test_accuracy_batch_mean": 0.9091,
        "dataset": {
            "name": "cifar10", "train": 50000, "validation": 0, "test": 10000, "classes": 10,
            "sha256": "0123456789abcdef" * 4,
        },
        "device": "NVIDIA H200 x1",
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "commit": "f" * 40,
        "seconds": 1234.56,
        "images_per_second": 40000.0,
    }  # fmt: skip
    return figures | changes


def cells(text):
    """The rows of a Markdown table as lists of cells, without the rule below the header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def printed(table, width):
    screen = io.StringIO()
    rich.console.Console(file=screen, width=width).print(table)
    return screen.getvalue()


def test_one_run_is_one_row():
    header, row = cells(results_table([result()]).markdown())
    assert header == [
        "seed", "parameters", "epochs", "train loss", "train acc (%)", "test loss", "test acc (%)",
        "mean of test batches (%)", "seconds",
    ]  # fmt: skip
    assert row == ["0", "4,815,940", "100", "0.0123", "99.67", "0.3812", "90.95", "90.91", "1,234.6"]


def test_several_seeds_end_in_mean_and_sample_deviation():
    _, *rows = cells(results_table([result(0, 0.90), result(1, 0.91), result(2, 0.95)]).markdown())
    # Mean 92 %; deviations -2, -1, 3: sample variance 14 / 2, deviation 2.6458 (population: 2.1602).
    assert [row[6] for row in rows] == ["90.00", "91.00", "95.00", "92.00 ± 2.65"]
    assert rows[-1][:4] == ["mean ± std, n = 3", "4,815,940", "100", "0.0123 ± 0.0000"]


def test_runs_are_averaged_only_within_their_configuration():
    results = [
        result(seed, accuracy, experiment, {"width": width})
        for experiment, width, accuracies in (("narrow", 32, (0.80, 0.82)), ("wide|er", 64, (0.90, 0.94)))
        for seed, accuracy in enumerate(accuracies)
    ]
    text = results_table(results).markdown()
    assert r"wide\|er" in text
    header, *rows = cells(text)
    assert header[:3] == ["experiment", "width", "seed"]
    summaries = [(row[1], row[8]) for row in rows if row[2].startswith("mean")]
    assert summaries == [("32", "81.00 ± 1.41"), ("64", "92.00 ± 2.83")]
    assert [row[2] for row in rows] == ["0", "1", "mean ± std, n = 2"] * 2


def test_without_one_value_there_is_no_mean():
    first = result(0, validation_loss=0.5, validation_accuracy=0.875, train_loss=None)
    header, one, two, mean = cells(results_table([first, result(1)]).markdown())
    column = header.index("validation acc (%)")
    assert [row[column] for row in (one, two, mean)] == ["87.50", "n/a", "n/a"]
    assert [row[header.index("train loss")] for row in (one, two, mean)] == ["n/a", "0.0123", "n/a"]
    assert "validation" not in " ".join(cells(results_table([result()]).markdown())[0])


def test_provenance_has_every_distinct_value_once():
    text = results_table([result(0), result(1), result(2, device="cpu: Z x2 cores", commit=None)]).markdown()
    assert "Device: NVIDIA H200 x1; cpu: Z x2 cores" in text
    assert f"Commit: {'f' * 40}; unknown" in text
    assert "Versions: python 3.11.7, jax 0.10.2" in text
    assert "cifar10 (50,000 train, 0 validation, 10,000 test images; sha256 0123456789ab)" in text


def test_the_table_fits_eighty_columns_without_losing_a_digit():
    results = [result(seed, 0.90 + seed / 100) for seed in range(10)]
    text = printed(results_table(results), 80)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for part in ("4,815,940", "90.00", "99.00", "94.50", "±3.03", "1,234.6", "n = 10", "NVIDIA H200 x1"):
        assert part in text
    squeezed = printed(results_table([result(0, 0.912345), result(1, config={"width": 64})]), 40)
    assert "…" not in squeezed


def test_a_copy_of_the_data_has_its_own_name_also_in_part():
    copy = "1abb6cef1d3dfc07289d52cf1a9b2029c13dce3d311ac5d3861e9ce6a9500ea3"
    assert data_name({"name": "cifar10", "sha256": copy}) == "CIFAR-10 (JPEG q75)"
    assert data_name({"name": "cifar10", "sha256": "0" * 64, "cut_from": copy}) == "CIFAR-10 (JPEG q75)"
    assert data_name({"name": "cifar10", "sha256": "0" * 64}) == "cifar10"
