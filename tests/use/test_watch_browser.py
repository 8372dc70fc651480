"""The page of `watch` in headless Chromium, while a real run is trained, killed and resumed."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.chromium import chromium
from tests.support.watch_server import serving

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys, jresnet
workdir, epochs, rate = sys.argv[1:]
config = jresnet.Config(
    dataset="synthetic", width=2, blocks=(1,), pool_size=8, epochs=int(epochs), batch_size=32, validation=20,
    learning_rate=float(rate),
)
jresnet.fit(config, jresnet.load_dataset("synthetic").subset(train=640, test=32), workdir, checkpoint_seconds=0.5)
"""


def train(directory, epochs, rate=0.01):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory), str(epochs), str(rate)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def tab(tmp_path):
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Debian's chromium is not installed")
    with chromium(program, tmp_path / "profile") as tab:
        yield tab


def points(tab, split="test", panel="loss"):
    """The points of a curve as it is drawn."""
    path = tab.evaluate(f"document.querySelector('article .{panel} path.{split}')?.getAttribute('d') ?? ''")
    return [tuple(map(float, point)) for point in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def state(name):
    return f"document.querySelector('article')?.dataset.state === '{name}'"


def test_a_name_that_leads_here_is_refused(tab, tmp_path):
    with serving(tmp_path) as server:
        tab.open(f"http://rebound.example:{server.port}/")
        assert tab.evaluate("document.body.innerText").startswith("403 this server is 127.0.0.1 and localhost")


def test_curves_grow_while_a_run_trains_dies_and_goes_on(tab, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    with serving(runs) as server:
        port = server.port
        tab.open(f"http://localhost:{port}/")
        tab.wait("document.getElementById('status').textContent === 'Waiting for runs.'")
        tab.evaluate("window.unreloaded = true")
        process = train(runs / "a", epochs=100_000)
        try:
            tab.wait(state("running"))
            counts = []
            for least in (3, 6, 9):
                tab.wait(f"document.querySelector('article').dataset.epochs >= {least} + {counts[-1] if counts else 0}")
                counts.append(len(points(tab)))
            assert 3 <= counts[0] < counts[1] < counts[2]
            assert len(points(tab, "train")) == len(points(tab, "validation", "accuracy")) == len(points(tab))
            text = tab.evaluate("document.querySelector('article').innerText")
            assert re.search(r"running, [\d,]+ of 100000 epochs, [\d,]+ images/s, about .* left", text)
            assert re.search(r"accuracy, epoch \d+ \(best on validation\)", text)
            assert re.search(r"validation\s+[\d.]+\s+[\d.]+ %\s+[\d.]+ %", text)
        finally:
            process.kill()
            process.wait()
        tab.wait(state("stopped"))
    tab.wait("document.getElementById('status').textContent.startsWith('Connection lost')")
    with serving(runs, port):
        tab.wait("document.getElementById('status').textContent === '1 run'")
        process = train(runs / "a", epochs=100_000)
        try:
            tab.wait(state("running"))
            before = len(points(tab))
            tab.wait(f"document.querySelector('article').dataset.epochs > {before}")
        finally:
            process.kill()
            process.wait()
        process = train(runs / "<img src=x>", epochs=3, rate=0.005)
        assert process.wait() == 0
        tab.wait("document.querySelectorAll('article').length === 2")
        tab.wait("document.querySelector('article').dataset.state === 'finished'")
        assert tab.evaluate("document.querySelector('h2').textContent") == "<img src=x>"
        assert tab.evaluate("document.images.length") == 0
        table = tab.evaluate("document.querySelector('section').innerText").split()
        assert {"learning_rate", "0.01", "0.005", "epochs", "3", "100000"} <= set(table) and "momentum" not in table
        (runs / "a" / "metrics.jsonl").write_text("{}\n")
        tab.wait("document.querySelectorAll('article')[1].dataset.state === 'damaged'")
        alarm = tab.evaluate("document.querySelectorAll('.alarm:not([hidden])')[0].textContent")
        assert alarm.startswith("metrics.jsonl, line 1: not a record of this version")
        shutil.rmtree(runs / "a")
        tab.wait("document.querySelectorAll('article').length === 1")
        assert tab.evaluate("window.unreloaded") is True
        tab.screenshot(tmp_path / "page.png")
        loaded = tab.evaluate("performance.getEntriesByType('resource').map(entry => new URL(entry.name).pathname)")
        assert set(loaded) == {"/runs.json"}
    # The favicon that browsers ask for is refused, and the server was away for a while; nothing else may be amiss.
    texts = [str(message.get("entry", message).get("text", message)) for message in tab.messages]
    assert [text for text in texts if not text.startswith("Failed to load resource")] == []
    markup = "try { document.body.innerHTML = '<p>'; false } catch (error) { error.name }"
    assert tab.evaluate(markup) == "TypeError", "the policy forbids markup from text"
