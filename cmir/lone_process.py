"""One spawned process that does one call after the other and may be ended by any of them.

It is the standard library's pool of one process, which says of every call whether the process died. A pool of several
would share locks, and a process that is killed while it holds one leaves the others waiting.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from typing import Any


class LoneProcess(ProcessPoolExecutor):
    """A process in which `initializer(*args)` runs first; it begins with the first call and ends with its parent.

    A call raises BrokenProcessPool where the process died, before or during it; the pool is of no use afterwards.
    """

    def __init__(self, initializer: Callable[..., None], *args: Any) -> None:
        spawning = multiprocessing.get_context("spawn")
        super().__init__(1, spawning, initializer=_begin, initargs=(initializer, args))


def end_with_parent() -> None:
    """In a process begun by multiprocessing: have it end when its parent has ended, whatever it does then."""
    threading.Thread(target=_end_with_parent, name="cmir-parent", daemon=True).start()


def _begin(initializer: Callable[..., None], args: tuple[Any, ...]) -> None:
    end_with_parent()
    initializer(*args)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "it was spawned"
    parent.join()
    os._exit(1)  # whatever the main thread does
