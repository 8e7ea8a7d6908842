"""A changed pointer -> a new snapshot, opened and warmed beside the old one, then put in its place whole.

A request takes `current` once and keeps it, so an answer never mixes two spaces; the old snapshot lives until the last
request that holds it has ended. A publish that cannot be opened is logged and tried again while the old one is served.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from cmir.errors import CmirError
from cmir.gallery.publish import Pointer
from serve.background import Background
from serve.problems import ProblemError

_log = logging.getLogger(__name__)


class Published(Protocol):
    """What is opened for a pointer."""

    @property
    def pointer(self) -> Pointer: ...


S = TypeVar("S", bound=Published)


class PointerWatch(Generic[S]):
    """Holds the snapshot of what is published, looking for news every `poll_s` seconds."""

    def __init__(
        self,
        read: Callable[[], Pointer],
        open_snapshot: Callable[[Pointer, S | None], Awaitable[S]],
        *,
        poll_s: float = 2.0,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._read, self._open_snapshot, self._poll_s, self._on_failure = read, open_snapshot, poll_s, on_failure
        self._current: S | None = None
        self._watching = Background()

    @property
    def current(self) -> S:
        """The snapshot served now. Raises ProblemError 503 before the first is open."""
        if self._current is None:
            raise ProblemError(503, "nothing is open yet")
        return self._current

    async def start(self) -> None:
        """Open what is published and begin to watch. Raises CmirError where it cannot be opened."""
        self._current = await self._open_snapshot(await asyncio.to_thread(self._read), None)
        self._watching.start(self._watch())

    async def stop(self) -> None:
        """End watching."""
        await self._watching.stop()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.refresh()
            except (CmirError, ProblemError) as error:
                self._failed(error)
            except Exception as error:  # the loop must outlive whatever a broken publish raises
                self._failed(error)

    async def refresh(self) -> None:
        """Take up what is published if it is news; raises what opening it raises, and keeps the old one then."""
        pointer = await asyncio.to_thread(self._read)
        if self._current is not None and pointer == self._current.pointer:
            return
        fresh = await self._open_snapshot(pointer, self._current)
        self._current = fresh
        _log.info("serving publish %d of space %s", pointer.sequence, pointer.space_id)

    def _failed(self, error: Exception) -> None:
        self._on_failure()
        _log.error("cannot take up what is published, serving the one before: %s", error, exc_info=error)
