"""`jresnet watch`: a page on this machine that shows runs while they train."""

import dataclasses
import os
import pathlib

import tyro.conf

from jresnet.errors import InputError, visible
from jresnet.records.files import local_path
from jresnet.rules import require
from jresnet.use.watch import HOST, Server

PORT = 8642
"""Of the page, if it is free and no other is asked for."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Show runs while they train, on a page that only this machine can open; Ctrl-C ends it."""

    directory: tyro.conf.Positional[str]
    """A run's directory, or one with runs below it, as a study's; they may appear later."""
    port: int | None = None
    """Port of the page; 0: any free one (default: 8642, or any free one if that is taken)."""


def run(options: Options) -> None:
    """Serve the page until Ctrl-C; InputError if the directory cannot be read, or the port not be used."""
    require(options, "port", options.port is None or 0 <= options.port < 2**16, "must be from 0 to 65535")
    directory = _directory(options.directory)
    with _server(directory, options) as server:
        taken = f" (port {PORT} is taken)" if options.port is None and server.port != PORT else ""
        line = f"http://{HOST}:{server.port}/ shows the runs in {directory}{taken}; Ctrl-C ends it"
        try:
            print(visible(line), flush=True)
            server.serve_forever()
        except KeyboardInterrupt:  # how it is meant to end
            print("no longer served; the runs go on")


def _directory(given: str) -> pathlib.Path:
    directory = local_path(given)
    try:
        os.scandir(given and directory).close()
    except OSError as error:
        shown = given or "''"
        raise InputError(f"{shown}: {error.strerror}: choose a run's directory, or one with runs below it") from None
    return directory


def _server(directory: pathlib.Path, options: Options) -> Server:
    try:
        return Server(directory, PORT if options.port is None else options.port)
    except OSError as error:
        if options.port is None:
            return Server(directory, 0)
        raise InputError(f"--port {options.port}: {error.strerror}: choose another, or 0 for any free one") from None
