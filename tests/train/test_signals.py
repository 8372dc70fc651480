"""Signals as a flag: the first is collected, the second acts at once, and nothing stays changed."""

import os
import signal
import threading

import pytest

from jresnet.train.signals import stop_flag


@pytest.fixture(autouse=True)
def python_handler():
    """Python's own handler of SIGINT, which a shell's background jobs start without: they ignore the signal."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_raises_the_flag_alone(number):
    with stop_flag() as flag:
        assert flag.signal is None
        os.kill(os.getpid(), number)
        assert flag.signal == number


def test_the_second_signal_acts_as_without_the_context():
    with pytest.raises(KeyboardInterrupt), stop_flag() as flag:
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.signal == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_restored():
    seen = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with stop_flag():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_other_threads_run_without_it():
    flags = []

    def work():
        with stop_flag() as flag:
            flags.append(flag.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert flags == [None]
