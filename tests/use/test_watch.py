"""`watch`: what its server says of runs that are trained, cut, damaged or removed meanwhile, and what it refuses."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from jresnet.cli import commands
from jresnet.cli import watch as command
from jresnet.config import Config
from jresnet.records import live, schema
from jresnet.records.epoch import Epoch
from jresnet.records.files import write_json
from jresnet.records.lock import hold
from jresnet.records.result import Result
from jresnet.records.run import Run
from jresnet.use import watch
from tests.support.watch_server import serving

CONFIG = Config(dataset="made-up", epochs=9)
DATA = {"name": "made-up", "train": 60, "validation": 0, "test": 30, "classes": 2, "sha256": "0" * 64}


def write_run(directory, seed=0, **options):
    """A run's `config.json`, as training writes it before the first epoch."""
    directory.mkdir(parents=True, exist_ok=True)
    config = Config(**{"dataset": "made-up", "epochs": 9} | options)
    run = Run("made-up", seed, config, DATA, ("a", "b"), (8, 8), (0.5,) * 3, (0.2,) * 3)
    write_json(directory / "config.json", run.to_json())
    return directory


def line(epoch, loss=1.0):
    """An epoch's line in `metrics.jsonl`."""
    figures = {"train_loss": loss, "train_accuracy": 0.5, "test_loss": loss + 1, "test_accuracy": 0.25}
    done = Epoch(epoch=epoch, **figures, learning_rate=0.1, images_per_second=30.0, seconds=2.0)
    return json.dumps(schema.to_json(done)).encode() + b"\n"


def append(directory, *lines):
    with (directory / "metrics.jsonl").open("ab") as file:
        file.write(b"".join(lines))


def write_result(directory, epochs):
    figures = {"train_loss": 1.0, "train_accuracy": 0.5, "test_loss": 2.0, "test_accuracy": 0.25}
    result = Result(
        experiment="made-up", config=vars(CONFIG), seed=0, parameters=1, epochs=epochs, **figures, dataset=DATA,
        device="cpu", versions={}, commit=None, seconds=1.0, compile_seconds=0.0, images_per_second=30.0,
    )  # fmt: skip
    write_json(directory / "result.json", result.to_json())


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(live, "PAUSE", 0)


def ask(server, path="/runs.json", method="GET", headers=None):
    """The status, headers and body of an answer; `headers` replaces the one that names the host."""
    connection = http.client.HTTPConnection(watch.HOST, server.port, timeout=5)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers or [("Host", f"127.0.0.1:{server.port}")]:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    with contextlib.closing(connection):
        return answer.status, answer.headers, answer.read()


class Page:
    """What a page has of the runs: it asks for what is new, and keeps the rest, as watch.html does."""

    def __init__(self, server):
        self.server, self.token, self.losses, self.received = server, "", {}, 0

    def ask(self):
        """The runs by their paths, each with the training losses so far as `losses`."""
        status, _, body = ask(self.server, f"/runs.json?since={self.token}" if self.token else "/runs.json")
        assert status == 200
        view = json.loads(body)
        self.token, runs = view["token"], {run["id"]: run for run in view["runs"]}
        kept = self.losses
        self.losses = {path: kept.get(path, [])[: run["first"]] for path, run in runs.items()}
        for path, run in runs.items():
            assert len(self.losses[path]) == run["first"]
            self.losses[path] += [epoch[view["columns"].index("train_loss")] for epoch in run["epochs"]]
            self.received += len(run["epochs"])
        return {path: run | {"losses": self.losses[path]} for path, run in runs.items()} | {"": view}


@pytest.fixture
def page(tmp_path):
    with serving(tmp_path / "runs") as server:
        (tmp_path / "runs").mkdir()
        yield Page(server)


def test_a_run_is_shown_from_its_first_moment_to_its_end(page, tmp_path):
    assert page.ask()[""]["runs"] == []
    directory = tmp_path / "runs" / "study" / "a"
    with hold(directory):
        assert len(page.ask()) == 1, "a lock alone is no run"
        write_run(directory)
        run = page.ask()["study/a"]
        assert (run["state"], run["planned"], run["losses"]) == ("running", 9, [])
        for epoch in range(9):
            append(directory, line(epoch, loss=9 - epoch))
            assert page.ask()["study/a"]["losses"] == [float(9 - past) for past in range(epoch + 1)]
        write_result(directory, 9)
        assert page.ask()["study/a"]["state"] == "running"
    assert page.ask()["study/a"]["state"] == "finished"
    assert page.received == 9, "every epoch is sent once"


def test_an_epoch_is_what_its_record_says(page, tmp_path):
    append(write_run(tmp_path / "runs"), line(0, loss=3.5))
    view = page.ask()
    (epoch,) = view["."]["epochs"]
    assert dict(zip(view[""]["columns"], epoch, strict=True)) == {
        "train_loss": 3.5, "validation_loss": None, "test_loss": 4.5, "train_accuracy": 0.5,
        "validation_accuracy": None, "test_accuracy": 0.25, "seconds": 2.0, "images_per_second": 30.0,
    }  # fmt: skip


def test_a_killed_run_is_stopped_and_goes_on_where_it_was_cut(page, tmp_path):
    directory = write_run(tmp_path / "runs" / "a")
    append(directory, line(0, 5), line(1, 4), line(2, 3), b'{"epoch": 3, "train_lo')
    run = page.ask()["a"]
    assert (run["state"], run["losses"], run["problem"]) == ("stopped", [5, 4, 3], "")
    # As a resumed run does: the file is replaced by the epochs before the checkpoint, and then appended to.
    (directory / "new").write_bytes(line(0, 5) + line(1, 4))
    (directory / "new").rename(directory / "metrics.jsonl")
    assert page.ask()["a"]["losses"] == [5, 4]
    append(directory, line(2, 2.5), line(3, 2))
    assert page.ask()["a"]["losses"] == [5, 4, 2.5, 2]


@pytest.mark.parametrize("same_file", [True, False])
def test_a_file_that_was_rewritten_longer_between_two_questions_is_read_again(page, tmp_path, same_file):
    directory = write_run(tmp_path / "runs" / "a")
    append(directory, line(0, 5), line(1, 4))
    page.ask()
    if not same_file:
        (directory / "metrics.jsonl").unlink()
    (directory / "metrics.jsonl").write_bytes(line(0, 8) + line(1, 7) + line(2, 6))
    assert page.ask()["a"]["losses"] == [8, 7, 6]


def test_a_line_that_is_being_written_is_read_when_it_is_whole(page, tmp_path):
    directory = write_run(tmp_path / "runs" / "a")
    whole = line(0, 5) + line(1, 4)
    for end in range(0, len(whole) + 1, 17):
        (directory / "metrics.jsonl").open("ab").close()
        done = (directory / "metrics.jsonl").stat().st_size
        append(directory, whole[done:end])
        run = page.ask()["a"]
        assert (run["losses"], run["problem"]) == ([5, 4][: whole[:end].count(b"\n")], "")


def test_a_long_record_is_read_in_parts(page, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "_CHUNK", 1000)
    append(write_run(tmp_path / "runs" / "a"), *(line(epoch, epoch) for epoch in range(30)))
    counts = [len(page.ask()["a"]["losses"]) for _ in range(20)]
    assert 0 < counts[0] < 9 and counts == sorted(counts) and counts[-1] == 30
    assert page.losses["a"] == list(range(30)) and page.received == 30


def test_a_directory_that_is_removed_and_made_again_is_another_run(page, tmp_path):
    append(write_run(tmp_path / "runs" / "a"), line(0, 5), line(1, 4))
    page.ask()
    shutil.rmtree(tmp_path / "runs")
    assert page.ask()[""]["runs"] == []
    append(write_run(tmp_path / "runs" / "a", epochs=3), line(0, 2), line(1, 1))
    run = page.ask()["a"]
    assert (run["losses"], run["planned"]) == ([2, 1], 3)


def test_a_page_gets_everything_again_from_another_server(tmp_path):
    append(write_run(tmp_path / "a"), line(0, 5), line(1, 4))
    with serving(tmp_path) as server:
        page = Page(server)
        page.ask()
    append(tmp_path / "a", line(2, 3))
    with serving(tmp_path) as page.server:
        assert page.ask()["a"]["losses"] == [5, 4, 3]
        assert page.received == 2 + 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", b"{", "config.json: not a readable record of a run"),
        ("config.json", b"[" * 10**5, "config.json: not a readable record of a run"),
        ("config.json", b"\xff\xfe", "config.json: not a readable record of a run"),
        ("config.json", b"{}", "config.json: not a record of this version (lacks experiment"),
        ("config.json", b'{"version": 99}', "config.json: not a record of this version (its version is 99"),
        ("result.json", b"", "result.json: not a readable record of a run"),
        ("metrics.jsonl", b"{}\n", "metrics.jsonl, line 1: not a record of this version (lacks epoch"),
        ("metrics.jsonl", line(0) + b"NaN\n" + line(2), "metrics.jsonl, line 2: not one epoch's JSON object"),
        ("metrics.jsonl", line(0) + line(2), "metrics.jsonl, line 2: is of epoch 2, not 1"),
        ("metrics.jsonl", b" " * 2**20, "metrics.jsonl, line 1: is too long"),
    ],
)
def test_damage_is_shown_and_harms_no_other_run(page, tmp_path, name, content, reason):
    for run in ("a", "b"):
        append(write_run(tmp_path / "runs" / run), line(0))
    sound = (tmp_path / "runs" / "a" / name).read_bytes() if name != "result.json" else None
    (tmp_path / "runs" / "a" / name).write_bytes(content)
    for _ in range(2):
        runs = page.ask()
        assert (runs["a"]["state"], runs["b"]["state"]) == ("damaged", "stopped")
        assert runs["a"]["problem"].startswith(reason)
    if sound:  # restored
        (tmp_path / "runs" / "a" / name).write_bytes(sound)
        assert page.ask()["a"]["state"] == "stopped" and page.losses["a"] == [1]


def test_a_result_of_other_epochs_is_damage(page, tmp_path):
    directory = write_run(tmp_path / "runs" / "a")
    append(directory, line(0))
    write_result(directory, 9)
    run = page.ask()["a"]
    assert run["problem"] == "result.json: is of 9 epochs, and metrics.jsonl has 1: restore it"


def test_settings_are_compared_where_they_differ(page, tmp_path):
    write_run(tmp_path / "runs" / "a", learning_rate=0.1, blocks=(1, 2))
    assert page.ask()[""]["settings"] == {}
    write_run(tmp_path / "runs" / "b", learning_rate=0.01, seed=3)
    (write_run(tmp_path / "runs" / "c") / "config.json").write_text("{")
    assert page.ask()[""]["settings"] == {
        "seed": ["0", "3", ""], "learning_rate": ["0.1", "0.01", ""], "blocks": ["1 2", "None", ""],
    }  # fmt: skip


def test_a_run_alone_and_converted_weights(page, tmp_path):
    write_run(tmp_path / "runs")
    record = json.loads((tmp_path / "runs" / "config.json").read_text())
    assert [page.ask()["."][name] for name in ("name", "state")] == ["runs", "stopped"]
    (tmp_path / "runs" / "config.json").write_text(json.dumps(record | {"dataset": {"name": "elsewhere"}}))
    assert page.ask()["."]["state"] == "converted"


def test_hostile_names_stay_text(page, tmp_path):
    names = ["<script>alert(1)</script>", "\x1b[31m\u202egpj", os.fsdecode(b"\xff")]
    for name in names:
        write_run(tmp_path / "runs" / name)
    runs = page.ask()
    assert [run["name"] for run in runs[""]["runs"]] == [
        "\\x1b[31m\\u202egpj", "<script>alert(1)</script>", "\\udcff",
    ]  # fmt: skip
    assert set(runs) == {"", *names}
    text = watch._PAGE.decode()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|https?://(?!www.w3.org/2000/svg)", text
    )


def test_links_do_not_lead_out_of_the_directory(page, tmp_path):
    """Nor does what would keep a reader waiting."""
    runs, secret = tmp_path / "runs", write_run(tmp_path / "elsewhere")
    append(secret, line(0))
    (runs / "linked").symlink_to(secret)
    (runs / "config").mkdir()
    (runs / "config" / "config.json").symlink_to(secret / "config.json")
    (write_run(runs / "metrics") / "metrics.jsonl").symlink_to(secret / "metrics.jsonl")
    os.mkfifo(write_run(runs / "pipe") / "metrics.jsonl")
    os.mkfifo(runs / "pipe" / "lock")
    os.mkfifo(runs / "pipe" / "result.json")
    found = page.ask()
    assert {path: run["losses"] for path, run in found.items() if path} == {"metrics": [], "pipe": []}
    # A file that has become a link after it was looked at.
    with pytest.raises(live.InputError, match=r"metrics.jsonl: cannot be read \(Too many levels"):
        live._read(runs / "metrics" / "metrics.jsonl", 1)


def test_what_is_searched_and_shown_is_limited(page, tmp_path, monkeypatch):
    for number in range(6):
        append(write_run(tmp_path / "runs" / f"{number}"), *map(line, range(4)))
        os.utime(tmp_path / "runs" / f"{number}" / "config.json", (0, 0))
        os.utime(tmp_path / "runs" / f"{number}" / "metrics.jsonl", (number % 4, number % 4))
    for copied in ("checkpoints", "earlier"):
        write_run(tmp_path / "runs" / "0" / copied)
    monkeypatch.setattr(live, "MOST_RUNS", 3)
    monkeypatch.setattr(live, "MOST_EPOCHS", 2)
    runs = page.ask()
    assert runs[""]["note"] == "of 6 runs only the 3 that changed last are shown"
    assert {"2", "3"} < {*runs} and all(len(losses) == 2 for losses in page.losses.values())
    monkeypatch.setattr(live, "MOST_FOLDERS", 3)
    assert "only 3 folders were searched" in page.ask()[""]["note"]


def test_searches_are_not_made_for_every_question(page, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "PAUSE", 60)
    page.ask()
    write_run(tmp_path / "runs" / "a")
    assert page.ask()[""]["runs"] == []


@pytest.fixture
def server(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "secret").write_text("secret")
    write_run(tmp_path / "runs" / "a")
    with serving(tmp_path / "runs") as server:
        yield server


@pytest.mark.parametrize(
    "path",
    [
        "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/a/config.json", "/runs.json/../../secret", "/etc/passwd",
        "//etc/passwd", "/runs.json?since=../secret", "/runs.json?since=", "/runs.json?path=/etc/passwd", "/?x", "x",
        "/watch.html", "/favicon.ico", "http://127.0.0.1/secret", "file:///etc/passwd", "/%00", "/" + "a" * 60000,
    ],
)  # fmt: skip
def test_nothing_but_its_two_addresses_is_served(server, path):
    status, _, body = ask(server, path)
    assert (status, body) == (404, b"404 Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "BREW"])
@pytest.mark.parametrize("path", ["/", "/runs.json", "/a/config.json"])
def test_everything_but_reading_is_refused(server, method, path):
    status, headers, body = ask(server, path, method)
    assert (status, body, headers["Allow"]) == (405, b"405 this server only reads\n", "GET, HEAD")


def test_only_this_machines_names_are_answered(server):
    for host in ("127.0.0.1", "localhost"):
        assert ask(server, headers=[("Host", f"{host}:{server.port}")])[0] == 200
    refused = [
        "evil.example", f"evil.example:{server.port}", "127.0.0.1", "localhost", f"127.0.0.1:{server.port + 1}", "",
        f"127.0.0.1.evil.example:{server.port}", f"localhost:{server.port}@evil.example", f"0.0.0.0:{server.port}",
    ]  # fmt: skip
    for headers in [[("Host", host)] for host in refused] + [
        [("Accept", "*/*")],
        [("Host", f"127.0.0.1:{server.port}"), ("Host", "evil.example")],
    ]:
        for path in ("/", "/runs.json"):
            status, _, body = ask(server, path, headers=headers)
            assert (status, body) == (403, b"403 this server is 127.0.0.1 and localhost\n"), headers


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.getsockname() == ("127.0.0.1", server.port)


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/runs.json", 200), ("/x", 404)])
def test_every_answer_is_for_this_page_alone(server, path, status):
    answered, headers, body = ask(server, path)
    assert answered == status
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not [name for name in headers if name.lower().startswith("access-control-")]
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'" and policy["connect-src"] == "'self'"
    if path == "/":
        for tag, source in (("script", policy["script-src"]), ("style", policy["style-src"])):
            (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), body, re.DOTALL)
            assert source == f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
    head = ask(server, path, "HEAD")
    assert (head[0], head[2]) == (status, b"")


def test_broken_requests_and_readers_that_go_away_leave_no_trace(server, capfd):
    for request in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n", b""):
        with socket.create_connection((watch.HOST, server.port)) as connection:
            connection.sendall(request)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # reset, not closed
    for _ in range(3):
        assert ask(server)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_nothing_is_written(server, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    ask(server), ask(server, "/")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{tmp}/none", "{tmp}/none: No such file or directory: choose a run's directory, or one with runs below it"),
        ("{tmp}/file", "{tmp}/file: Not a directory: choose a run's directory, or one with runs below it"),
        ("''", "'': No such file or directory: choose a run's directory, or one with runs below it"),
        ("gs://bucket/runs", "gs://bucket/runs: is a URL, and jresnet reads and writes local files: mount it"),
        ("{tmp} --port 65536", "--port 65536: must be from 0 to 65535"),
        ("{tmp} --port -1", "--port -1: must be from 0 to 65535"),
        ("{tmp} --port x", "--port x: must be a whole number"),
        ("{tmp} --port {taken}", "--port {taken}: Address already in use: choose another, or 0 for any free one"),
        ("", "DIRECTORY: must be given"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, capsys, words, message):
    (tmp_path / "file").touch()
    with socket.create_server((watch.HOST, 0)) as other:
        values = {"tmp": tmp_path, "taken": other.getsockname()[1]}
        arguments = [word.replace("''", "") for word in words.format(**values).split()]
        assert commands.main(["watch", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(message.format(**values)) and err.count("\n") == 1


def started(monkeypatch, capsys, *words):
    """The lines that the command prints until it is interrupted, as by Ctrl-C, and its status."""

    def interrupt(server):
        assert socket.create_connection((watch.HOST, server.port)).close() is None
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.Server, "serve_forever", interrupt)
    status = commands.main(["watch", *map(str, words)])
    out, err = capsys.readouterr()
    assert err == ""
    return status, out.splitlines()


def test_the_address_is_printed_and_ctrl_c_ends_it(tmp_path, monkeypatch, capsys):
    with socket.create_server((watch.HOST, 0)) as other:
        free = other.getsockname()[1]
    monkeypatch.setattr(command, "PORT", free)
    ended = "no longer served; the runs go on"
    page = f"http://127.0.0.1:{free}/ shows the runs in {tmp_path}; Ctrl-C ends it"
    assert started(monkeypatch, capsys, tmp_path) == (0, [page, ended])
    assert started(monkeypatch, capsys, tmp_path, "--port", free) == (0, [page, ended])
    status, (first, _) = started(monkeypatch, capsys, tmp_path, "--port", 0)
    assert status == 0 and re.match(r"http://127\.0\.0\.1:[1-9]\d*/ shows", first)
    with socket.create_server((watch.HOST, free)):
        status, (first, _) = started(monkeypatch, capsys, tmp_path)
    taken = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ shows .*; Ctrl-C ends it", first)
    assert status == 0 and f"(port {free} is taken)" in first and int(taken[1]) != free


def test_the_documented_port_is_the_default():
    assert f"(default: {command.PORT}," in pathlib.Path(command.__file__).read_text()


@pytest.mark.slow
def test_a_signal_ends_the_program(tmp_path):
    # A shell starts what runs in its background with SIGINT ignored, which a child of the tests would inherit.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeding}; from jresnet.__main__ import main; raise SystemExit(main())"
    program = [sys.executable, "-c", code, "watch", str(tmp_path), "--port", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "no longer served; the runs go on\n"
    assert process.returncode == 0
