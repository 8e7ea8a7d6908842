"""Recall of what is served, measured now and then beside the requests, so that a damaged index does not go unseen."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cmir.gallery.spot_check import SpotCheck
from serve.background import Background
from serve.deployments import Snapshot
from serve.metrics import Metrics

_log = logging.getLogger(__name__)


class Canary:
    """Checks the snapshot that is served every `every_s` seconds, in one thread of its own."""

    def __init__(self, current: Callable[[], Snapshot], *, every_s: float, metrics: Metrics) -> None:
        self._current, self._every_s, self._metrics = current, every_s, metrics
        self._executor = ThreadPoolExecutor(1, "canary")
        self._seen: tuple[Snapshot, SpotCheck] | None = None
        self._checking = Background()

    def start(self) -> None:
        """Begin to check."""
        self._checking.start(self._run())

    async def stop(self) -> None:
        """End checking; one that is under way is waited for."""
        await self._checking.stop()
        await asyncio.to_thread(self._executor.shutdown)

    async def check(self) -> float:
        """Recall@10 of what is served now; it goes into the metrics. Raises what the searcher raises."""
        snapshot = self._current()
        recall = await asyncio.get_running_loop().run_in_executor(self._executor, self._recall, snapshot)
        self._metrics.canary_recall.set(recall)
        self._metrics.canary_at.set_to_current_time()
        return recall

    def _recall(self, snapshot: Snapshot) -> float:
        if self._seen is None or self._seen[0] is not snapshot:
            self._seen = snapshot, SpotCheck(snapshot.searcher)
        return self._seen[1].recall()

    async def _run(self) -> None:
        while True:
            try:
                await self.check()
            except Exception as error:  # it must outlive whatever a broken table raises, and say so
                self._metrics.canary_failures.inc()
                _log.error("the recall of what is served cannot be measured: %s", error, exc_info=error)
            await asyncio.sleep(self._every_s)
