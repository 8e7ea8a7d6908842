"""One spawned process that does one call after the other and may be ended by any of them.

It is the standard library's pool of one process, which says of every call whether the process died. A pool of several
would share locks, and a process that is killed while it holds one leaves the others waiting.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any


class LoneProcess(ProcessPoolExecutor):
    """A process in which `initializer(*args)` runs first; it begins with the first call and ends with its parent.

    A call raises BrokenProcessPool where the process died, before or during it; the pool is of no use afterwards.
    """

    def __init__(self, initializer: Callable[..., None], *args: Any) -> None:
        self._spawning = _Spawning()
        super().__init__(1, self._spawning, initializer=_begin, initargs=(initializer, args))

    def kill(self) -> None:
        """End it, whatever it does, and wait for nothing."""
        if self._spawning.process is not None:
            self._spawning.process.kill()
        self.shutdown(wait=False, cancel_futures=True)


class _Spawning(SpawnContext):
    """Keeps the process that a pool begins, which the pool itself keeps private."""

    process: SpawnProcess | None = None

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]
        self.process = SpawnProcess(*args, **kwargs)
        return self.process


def _begin(initializer: Callable[..., None], args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, name="cmir-parent", daemon=True).start()
    initializer(*args)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "it was spawned"
    parent.join()
    os._exit(1)  # whatever the main thread does
