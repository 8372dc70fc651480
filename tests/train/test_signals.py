"""Stop signals: the first is recorded, the second acts at once, and the handlers are restored."""

import os
import signal
import threading

import pytest

from jresnet.train.signals import catch_stop_signals


@pytest.fixture(autouse=True)
def python_handler():
    """Python's own SIGINT handler: a process started in a shell's background ignores the signal."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_only_recorded(number):
    with catch_stop_signals() as received:
        assert received.number is None
        os.kill(os.getpid(), number)
        assert received.number == number


def test_the_second_signal_has_its_usual_effect():
    with pytest.raises(KeyboardInterrupt), catch_stop_signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_restored():
    seen = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with catch_stop_signals():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_other_threads_record_nothing():
    numbers = []

    def work():
        with catch_stop_signals() as received:
            numbers.append(received.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers == [None]
