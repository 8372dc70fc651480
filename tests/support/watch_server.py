"""The server of `jresnet watch`, in a thread of this process."""

import contextlib
import threading

from jresnet.use import watch


@contextlib.contextmanager
def serving(directory, port=0):
    """The server of a directory's page, for the block."""
    with watch.Server(directory, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
