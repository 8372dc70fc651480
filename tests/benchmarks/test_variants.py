"""Variants of the training step: what each changes, and its gain over the default."""

import json

import jax
import pytest

from benchmarks import variants
from benchmarks.timing import Case, Rival
from benchmarks.variants import VARIANTS, Variant
from jresnet.parallel import compiler


@pytest.fixture
def built(monkeypatch):
    """Rivals that cost nothing; what each was built with, and the steps of its calls."""
    seen = []

    def fake(case, changes=None, options=None):
        entry = {"case": case, "changes": dict(changes or {}), "options": options, "calls": []}
        seen.append(entry)
        return Rival(entry["calls"].append)

    monkeypatch.setattr(
        variants, "jax_rival", lambda case, changes=None, options=None: fake(case, changes or {}, options)
    )
    return seen


def run(tmp_path, *options):
    path = tmp_path / "record.json"
    status = variants.main(["--device", "cpu", *options, "--output", str(path)])
    return status, json.loads(path.read_text())


def test_each_variant_is_alternated_with_the_default_and_recorded_with_its_gain(built, tmp_path, capsys):
    names = ["concurrent", "padded"]
    status, record = run(tmp_path, "--width", "8", "--batches", "4", "6", "--variants", *names, "--rounds", "3")
    assert status == 0
    assert [(entry["changes"], entry["options"]) for entry in built[:3]] == [
        ({}, None),
        ({}, dict(VARIANTS["concurrent"].options)),
        ({"channel_multiple": 8}, None),
    ]
    assert [entry["case"].batch_size for entry in built] == [4] * 3 + [6] * 3
    assert all(entry["calls"] == [3] * 4 for entry in built)
    first = record["cases"][0]
    assert list(first["rivals"]) == ["default", *names]
    default, concurrent = first["rivals"]["default"]["seconds"], first["rivals"]["concurrent"]
    ratios = sorted(a / b for a, b in zip(default, concurrent["seconds"], strict=True))
    assert concurrent["gain"]["median"] == pytest.approx(ratios[1])
    assert concurrent["variant"]["options"]["xla_gpu_command_buffer_scheduling_mode"] == "CONCURRENT"
    assert VARIANTS["concurrent"].predicted in capsys.readouterr().out


OPTIONS = {name: dict(variant.options) for name, variant in VARIANTS.items() if variant.options}


@pytest.mark.parametrize("options", [*OPTIONS.values(), compiler._PROMISES], ids=[*OPTIONS, "deterministic"])
def test_xla_knows_every_option_and_its_value(options):
    """Any backend's compiler reads them, those of GPUs too, and refuses what it cannot parse."""
    jax.jit(lambda x: x + 1, compiler_options=options).lower(0).compile()
    for option in options:
        with pytest.raises(jax.errors.JaxRuntimeError, match=option):
            jax.jit(lambda x: x + 1, compiler_options={option: "nonsense"}).lower(0).compile()


def test_fewer_steps_per_call_make_up_all_steps(built):
    Variant("", steps=4).rival(Case(8, 4, "float32", "cpu")).run(10)
    VARIANTS["single-steps"].rival(Case(8, 4, "float32", "cpu")).run(3)
    assert [entry["calls"] for entry in built] == [[4, 4, 2], [1, 1, 1]]


def test_an_unknown_variant_is_refused_in_one_line(built, capsys):
    assert variants.main(["--variants", "captured"]) == 2
    assert "--variants captured: choose from capture, concurrent" in capsys.readouterr().err
    assert built == []


@pytest.mark.slow
def test_a_variant_that_fails_leaves_the_others(monkeypatch, tmp_path, capsys):
    """The library's own step, of one block: XLA refuses an option that it does not know."""
    real = variants.jax_rival

    def small(case, changes=None, options=None):
        return real(case, images=8, changes={"blocks": (1,), **(changes or {})}, options=options)

    monkeypatch.setattr(variants, "jax_rival", small)
    unknown = Variant("", options={"xla_no_such_option": "true"})
    monkeypatch.setattr(variants, "VARIANTS", {"unknown": unknown, "same": Variant("1.0", changes={"momentum": 0.5})})
    options = ("--width", "2", "--batches", "4", "--precision", "float32", "--rounds", "1", "--steps", "1")
    status, record = run(tmp_path, *options, "--variants", "unknown", "same")
    assert status == 0
    rivals = record["cases"][0]["rivals"]
    assert "xla_no_such_option" in rivals["unknown"]["error"]
    assert rivals["unknown"]["gain"] is None
    assert rivals["same"]["error"] is rivals["default"]["error"] is None
    assert rivals["same"]["gain"]["n"] == 1
    assert "unknown failed" in capsys.readouterr().out
