"""Signals of a job: SIGTERM interrupts it, nothing disturbs its last line, and earlier handlers come back."""

import os
import signal
import threading
from typing import Any

import pytest

from jobs import signals


def test_sigterm_interrupts_and_the_earlier_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), signals.interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_that_was_set_meanwhile_is_taken_back() -> None:
    with signals.interrupted_by_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.take_back()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_nothing_disturbs_what_ignores_signals() -> None:
    reached = False
    with signals.ignored():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
    assert reached


def test_other_threads_set_no_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def run() -> None:
        with signals.interrupted_by_sigterm(), signals.ignored():
            signals.take_back()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
