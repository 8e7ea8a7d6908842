"""One spawned process that does one call after the other and may be ended by any of them.

It is the standard library's pool of one process, which says of every call whether the process died. A pool of several
would share locks, and a process that is killed while it holds one leaves the others waiting.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def lone_process(initializer: Callable[..., None], *args: Any) -> ProcessPoolExecutor:
    """A new process in which `initializer(*args)` runs first; it ends with its parent, however that ends.

    A call raises BrokenProcessPool where the process died, before or during it; the pool is of no use afterwards.
    """
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(initializer, args)
    )


def _begin(initializer: Callable[..., None], args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, name="cmir-parent", daemon=True).start()
    initializer(*args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "it was spawned"
    parent.join()
    os._exit(1)  # whatever the main thread does
