"""The page that shows runs while they train, and its server: on this machine, for reading only."""

import base64
import hashlib
import http.server
import json
import pathlib
import re
import socketserver
import sys
from typing import Any

from jresnet.records.live import Watcher

HOST = "127.0.0.1"
_PAGE = pathlib.Path(__file__).with_name("watch.html").read_bytes()


def _hash(tag: bytes) -> str:
    """The source in a content security policy that allows the page's own element of this tag, and no other."""
    content = _PAGE.partition(b"<%s>" % tag)[2].partition(b"</%s>" % tag)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src {_hash(b'script')}; style-src {_hash(b'style')}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Allow": "GET, HEAD",
}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: "Server"
    timeout = 10  # seconds without a byte
    server_version, sys_version = "jresnet", ""
    error_content_type, error_message_format = "text/plain", "%(code)d %(message)s\n"

    def parse_request(self) -> bool:
        """Read the request's head; refuse all but reading, and what a page of another site could have sent."""
        if not super().parse_request():
            return False
        if self.headers.get_all("Host") not in self.server.hosts:  # a name of another site may lead here: DNS rebinding
            self.send_error(403, "this server is 127.0.0.1 and localhost")
        elif self.command not in ("GET", "HEAD"):
            self.send_error(405, "this server only reads")
        else:
            return True
        return False

    def do_GET(self) -> None:
        """Send the page, or the runs as JSON."""
        query = re.fullmatch(r"/runs\.json(?:\?since=([0-9a-f]{8}-[0-9]{1,15}))?", self.path)
        if query:
            self._send("application/json", json.dumps(self.server.watcher.view(query[1] or "")).encode())
        elif self.path == "/":
            self._send("text/html; charset=utf-8", _PAGE)
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def end_headers(self) -> None:
        """Add the headers of every answer."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Print nothing: a page asks every two seconds."""


class Server(socketserver.ThreadingTCPServer):
    """Serves the page of a directory on 127.0.0.1; OSError if the port, 0 for any, is taken or not allowed."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, directory: pathlib.Path, port: int):
        self.watcher = Watcher(directory)
        super().__init__((HOST, port), _Handler)
        self.port: int = self.server_address[1]
        ports = (f":{self.port}", "") if self.port == 80 else (f":{self.port}",)  # browsers leave out the default
        self.hosts = [[name + port] for name in (HOST, "localhost") for port in ports]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, but not that a reader is gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
