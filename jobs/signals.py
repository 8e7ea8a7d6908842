"""How a job hears that it is to end: SIGTERM, which Kubernetes and `ray job stop` send, is taken as Ctrl-C is.

Only the main thread of a process may set handlers; elsewhere nothing here does anything.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in here."""
    with _handled((signal.SIGTERM,), _interrupt):
        yield


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Neither SIGINT nor SIGTERM does anything in here."""
    with _handled((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN):
        yield


def take_back() -> None:
    """Set the handler of SIGTERM again: that of `ray.init` ends the process before it can say what it had done."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


@contextlib.contextmanager
def _handled(
    numbers: tuple[signal.Signals, ...], handler: "Callable[[int, FrameType | None], object] | signal.Handlers"
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
