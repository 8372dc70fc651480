"""Headless Chromium, spoken to by its DevTools protocol over two pipes."""

import base64
import contextlib
import json
import os
import pathlib
import subprocess
import time

# The browser reads commands from its file 3 and writes answers to its file 4, each ended by a zero byte.
START = 'exec "$@" 3<&"$IN" 4>&"$OUT"'
FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run", "--disable-gpu",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP rebound.example 127.0.0.1",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Tab:
    """A page in a browser."""

    def __init__(self, commands, answers):
        self._commands, self._answers, self._number, self._session = commands, answers, 0, {}
        self.messages = []  # errors and console output, as the browser reports them

    def call(self, method, **parameters):
        """The result of a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.messages.append(answer["params"])

    def _read(self):
        data = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser is gone"
            data += byte
        return data

    def open(self, url):
        """Show a page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression, seconds=120):
        """The value of a JavaScript expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, (expression, self.evaluate("document.body.innerText"), self.messages)
            time.sleep(0.1)
        return value

    def screenshot(self, path: pathlib.Path):
        """Save the whole page as a PNG file."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def chromium(program, profile):
    """A browser with its own empty profile, ended at the end."""
    (reads, commands), (answers, writes) = os.pipe(), os.pipe()
    environment = os.environ | {"IN": str(reads), "OUT": str(writes)}
    words = ["bash", "-c", START, "bash", program, *FLAGS, f"--user-data-dir={profile}"]
    with (
        os.fdopen(commands, "wb") as sending,
        os.fdopen(answers, "rb") as receiving,
        subprocess.Popen(words, env=environment, pass_fds=(reads, writes), stderr=subprocess.DEVNULL) as process,
    ):
        os.close(reads)
        os.close(writes)
        try:
            yield Tab(sending, receiving)
        finally:
            process.terminate()
