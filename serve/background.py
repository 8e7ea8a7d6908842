"""A loop that runs beside the requests, begun with the service and ended with it."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


class Background:
    """At most one task; use from one event loop."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: Coroutine[Any, Any, None]) -> None:
        """Run it until `stop`."""
        self._task = asyncio.get_running_loop().create_task(loop)

    async def stop(self) -> None:
        """Cancel it and see it gone; nothing where nothing runs."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
