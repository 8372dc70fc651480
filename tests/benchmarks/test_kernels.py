"""The count of what a step launches on a GPU: every instruction of the longest loop, once, by its kind."""

import importlib.util
import json
import pathlib
import re

import jax
import pytest

from benchmarks import kernels
from benchmarks.kernels import Options, compiled_step, count_kernels, described_gpu
from jresnet.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
PLUGIN = any(importlib.util.find_spec(name) for name in ("jax_cuda13_plugin", "jax_cuda12_plugin"))

# As XLA prints a module: computations, then the entry. The longer loop is that over the steps.
HLO = """\
HloModule jit_program, entry_computation_layout={(f32[4]{0})->(f32[4]{0})}

%fused_add (param_0: f32[4], param_1: f32[4]) -> f32[4] {
  %param_0 = f32[4]{0} parameter(0)
  %param_1 = f32[4]{0} parameter(1)
  ROOT %add.1 = f32[4]{0} add(%param_0, %param_1)
}

%short_body (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg = (s32[], f32[4]{0}) parameter(0)
  %value.9 = f32[4]{0} get-tuple-element(%arg), index=1
  %copy.9 = f32[4]{0} copy(%value.9)
  ROOT %tuple.9 = (s32[], f32[4]{0}) tuple(%value.9, %copy.9)
}

%short_condition (arg.1: (s32[], f32[4])) -> pred[] {
  %arg.1 = (s32[], f32[4]{0}) parameter(0)
  ROOT %less.9 = pred[] compare(%arg.1, %arg.1), direction=LT
}

%step.body (arg.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.2 = (s32[], f32[4]{0}) parameter(0)
  %one = s32[] constant(1)
  %counter = s32[] get-tuple-element(%arg.2), index=0
  %value.1 = f32[4]{0} get-tuple-element(%arg.2), index=1, metadata={op_name="jit(f)/while/body/fusion(x)"}
  %cast.1 = f32[2,2]{1,0} bitcast(%value.1)
  %loop_add_fusion = f32[4]{0} fusion(%value.1, %value.1), kind=kLoop, calls=%fused_add
  %loop_add_fusion.1 = f32[4]{0} fusion(%value.1, %loop_add_fusion), kind=kLoop, calls=%fused_add
  %reduce_fusion = (f32[]{:T(256)}, f32[4]{0}) fusion(%value.1), kind=kInput, calls=%fused_add
  %gemm_fusion = f32[2,2]{1,0} fusion(%cast.1), kind=kCustom, calls=%fused_add
  %conv.7 = (f32[4]{0}, u8[0]{0}) custom-call(%value.1, %value.1), custom_call_target="__cudnn$convForward", x={}
  %product = (f32[4]{0}, s8[64]{0}) custom-call(%value.1, %value.1), custom_call_target="__cublas$gemm"
  %copy.1 = f32[4]{0} copy(%loop_add_fusion.1), metadata={op_name="a"}
  ROOT %tuple.1 = (s32[], f32[4]{0}) tuple(%counter, %copy.1)
}

%step.condition (arg.3: (s32[], f32[4])) -> pred[] {
  %arg.3 = (s32[], f32[4]{0}) parameter(0)
  ROOT %less.1 = pred[] compare(%arg.3, %arg.3), direction=LT
}

ENTRY %main.42 (Arg_0: f32[4]) -> f32[4] {
  %Arg_0 = f32[4]{0} parameter(0)
  %copy.3 = f32[4]{0} copy(%Arg_0)
  %copy.4 = f32[4]{0} copy(%Arg_0)
  %first = (s32[], f32[4]{0}) while(%copy.3), condition=%short_condition, body=%short_body
  %second = (s32[], f32[4]{0}) while(%first), condition=%step.condition, body=%step.body, backend_config={"a":"7"}
  ROOT %result = f32[4]{0} get-tuple-element(%second), index=1
}
"""
LAUNCHED = {
    "elementwise kernel": 2,
    "kernel that reduces": 1,
    "matrix product": 1,
    "__cudnn$convForward": 1,
    "__cublas$gemm": 1,
    "copy": 1,
}


def test_what_the_longest_loop_launches_is_counted_by_kind():
    counts = count_kernels(HLO)
    assert counts == LAUNCHED
    assert next(iter(counts)) == "elementwise kernel"


def test_one_more_instruction_is_one_more_kernel():
    line = "  %copy.1 = f32[4]{0} copy("
    more = HLO.replace(line, line.replace("copy.1", "copy.2") + "%value.1)\n" + line)
    assert count_kernels(more) == LAUNCHED | {"copy": 2}


def test_a_program_without_a_loop_is_no_training_program():
    straight = "\n".join(line for line in HLO.splitlines() if "while(" not in line)
    with pytest.raises(ValueError, match="no loop over steps"):
        count_kernels(straight)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--width 0", "--width 0: must be at least 1"),
        ("--batch 0", "--batch 0: must be at least 1"),
        ("--channel-multiple 0", "--channel-multiple 0: must be at least 1"),
        ("--steps 1", "--steps 1: must be at least 2"),
        ("--options xla_gpu_autotune_level", "--options xla_gpu_autotune_level: must be NAME=VALUE"),
        ("--target absent.txtpb", "--target absent.txtpb: cannot be read (No such file or directory): choose another"),
    ],
)
def test_bad_values_are_refused_in_one_line(words, message, capsys):
    assert kernels.main(words.split()) == 2
    output = capsys.readouterr()
    assert message in " ".join(output.err.split()) and output.out == ""


def refusal(target):
    with pytest.raises(InputError) as refused:
        described_gpu(target)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.skipif(PLUGIN, reason="XLA's CUDA plugin is installed")
def test_without_the_plugin_its_package_is_named():
    message = refusal(kernels.H100)
    assert re.match(r"XLA's CUDA plugin cannot compile for h100.txtpb \(\w+\): install jax\[cuda13\]", message)


def test_a_description_that_is_none_is_refused(tmp_path):
    (tmp_path / "gpu.txtpb").write_text("no GPU")
    assert "cannot compile for gpu.txtpb" in refusal(tmp_path / "gpu.txtpb")


def test_table_and_record_say_the_same(tmp_path, monkeypatch, capsys):
    """The compiler replaced by its output."""
    monkeypatch.setattr(kernels, "compiled_step", lambda options: HLO)
    path, text = tmp_path / "record.json", tmp_path / "program.txt"
    assert kernels.main(["--width", "4", "--output", str(path), "--hlo", str(text)]) == 0
    record = json.loads(path.read_text())
    assert (record["total"], record["kernels"], record["options"]["width"]) == (7, LAUNCHED, 4)
    assert str(tmp_path) not in path.read_text()
    assert text.read_text() == HLO
    assert "7 kernels and calls a step" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not PLUGIN, reason="needs XLA's CUDA plugin")
@pytest.mark.parametrize("pmap", [False, True])
def test_a_step_of_the_final_model_launches_at_most_200_kernels(pmap):
    counts = count_kernels(compiled_step(Options(width=42, batch=32, precision="bfloat16", pmap=pmap)))
    print(jax.__version__, pmap, sum(counts.values()), counts)
    assert sum(counts.values()) <= 200
    convolutions = sum(number for kind, number in counts.items() if kind.startswith("__cudnn"))
    # 20 of the network's, forward and by kernels, and all but the stem's by images; 1x1 ones may be products.
    assert 17 * 3 - 1 <= convolutions <= 20 * 3 - 1


def test_the_documented_count_is_the_records():
    record = json.loads((ROOT / "benchmarks" / "results" / "kernels-h100.json").read_text())
    assert (record["options"]["width"], record["options"]["batch"]) == (42, 32)
    assert sum(record["kernels"].values()) == record["total"] <= 200
    row = f"| bfloat16, batch 32 | {record['total']} |"
    assert row in (ROOT / "docs" / "performance.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not PLUGIN, reason="XLA's CUDA plugin is not installed")
def test_loops_of_any_fixed_length_launch_the_same():
    counts = [count_kernels(compiled_step(Options(width=8, steps=steps))) for steps in (2, 7, 100)]
    assert counts[0] == counts[1] == counts[2]
