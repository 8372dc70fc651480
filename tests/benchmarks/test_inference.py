"""The benchmark of inference: its photographs, its table, and a tiny run."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import inference


def test_photographs_are_of_the_size_asked_for_and_compress_like_photographs(tmp_path):
    paths = inference.photographs(tmp_path, inference.Options(photo=(60, 80), photos=3))
    images = [np.asarray(Image.open(path)) for path in paths]
    assert [image.shape for image in images] == [(60, 80, 3)] * 3
    assert not np.array_equal(images[0], images[1])
    assert np.abs(np.diff(images[0].astype(int), axis=1)).mean() < 25  # of noise: 85


def test_the_table_pairs_each_rival_with_its_case():
    part = {"seconds_per_step": None, "images_per_second": 2.0}
    case = {"batch_size": 8, "rivals": {"jax": part, "torch eager": part}, "speed_of_jax_over": {"torch eager": 3}}
    table = inference.rows({"before": {"decode": part}, "cases": [case]})
    assert [(row["case"], row["rival"], row.get("speed")) for row in table] == [
        ("before the network", "decode", None), ("batch 8", "jax", None), ("batch 8", "torch eager", 3),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_tiny_run_is_recorded(tmp_path, capsys):
    pytest.importorskip("torch")
    output = tmp_path / "record.json"
    words = "--width 2 --batches 1 3 --rivals eager --photo 40 60 --photos 2 --rounds 2"
    assert inference.main([*words.split(), "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert [case["batch_size"] for case in record["cases"]] == [1, 3] and set(record["before"]) == {"decode", "resize"}
    for case in record["cases"]:
        assert all(rival["error"] is None and len(rival["seconds"]) == 2 for rival in case["rivals"].values())
        assert case["speed_of_jax_over"]["torch eager"]["n"] == 2
    assert str(tmp_path) not in json.dumps(record) and "batch 3" in capsys.readouterr().out
