"""What notebooks show: representations, figures as values, a progress bar, and the quick start from top to bottom."""

import ast
import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest
import rich.console

import jresnet
from jresnet.records.log import can_redraw
from jresnet.records.run_directory import read_copy
from tests.support.runs import make_dataset

ROOT = pathlib.Path(__file__).parent.parent
QUICK_START = ROOT / "docs" / "quickstart.ipynb"
RUN = ROOT / "experiments" / "results" / "augmentation-width16-jpegq75" / "seed-0"


def test_a_result_plots_the_curves_of_its_run(tmp_path):
    history = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    result = read_copy(RUN)
    losses, accuracies = result.plot().axes
    for axes, name, scale in ((losses, "loss", 1), (accuracies, "accuracy", 100)):
        lines = {line.get_label().split()[0]: line.get_ydata() for line in axes.lines}
        for split in ("train", "test"):
            np.testing.assert_allclose(lines[split], [scale * epoch[f"{split}_{name}"] for epoch in history])
    elsewhere = jresnet.Result.from_json(json.loads((RUN / "result.json").read_text()), "result.json")
    assert elsewhere == result and elsewhere.plot(RUN)._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(jresnet.InputError, match="give workdir, the run's directory"):
        elsewhere.plot()
    with pytest.raises(jresnet.InputError, match=r"metrics\.jsonl: cannot be read"):
        result.plot(tmp_path)


def test_where_a_run_is_stays_out_of_its_record():
    result = read_copy(RUN)
    assert result.directory == RUN and result.to_json().keys() <= {
        "version", *(field.name for field in dataclasses.fields(result))
    }  # fmt: skip


def test_representations_are_short():
    result, dataset = read_copy(RUN), make_dataset(validation=9)
    assert repr(dataset) == (
        "Dataset(tiny: 72 train, 9 validation, 37 test images of 8 x 8, 3 classes (left, middle, right))"
    )
    assert repr(dataset.test) == "Split(37 images of 8 x 8)"
    record = json.loads((RUN / "result.json").read_text())
    network = f"width {record['config']['width']}, {record['parameters']:,} parameters"
    run = f"{record['experiment']}, seed {record['seed']}: {network}, {record['dataset']['name']}"
    reached = f"test accuracy {100 * record['test_accuracy']:.2f}% after {record['epochs']} epochs"
    assert repr(result) == f"Result({run}: {reached} in {record['seconds']:,.0f} s)"


def test_a_notebook_has_a_progress_bar_and_a_pipe_has_none():
    assert can_redraw(rich.console.Console(file=io.StringIO(), force_jupyter=True))
    assert not can_redraw(rich.console.Console(file=io.StringIO(), force_jupyter=False))
    assert not can_redraw(rich.console.Console(file=io.StringIO(), force_terminal=True, force_jupyter=False))


def cells():
    """The code of the quick start, cell by cell."""
    notebook = json.loads(QUICK_START.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def value(code, names):
    """Execute a cell as a notebook does: the value of its last line, if that is an expression, else None."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.slow
def test_the_quick_start_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """In plain Python: a notebook's machinery adds nothing, as no cell uses more of it than its last value."""
    monkeypatch.chdir(tmp_path)
    names = {}
    values = [value(code, names) for code in cells()]
    assert names["result"].test_accuracy > 0.8
    assert names["evaluation"].figures.accuracy == names["result"].test_accuracy
    assert sum(hasattr(shown, "_repr_png_") for shown in values) == 3
    assert values[-1][0] == len(names["dataset"].test)
