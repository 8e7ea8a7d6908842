"""Shards -> training batches, in an order that depends only on (seed, epoch): the same after a resume or a resize.

A rank owns a part of the grounds and of the utterances (see order). Its items are read window by window: row groups are
decoded, shrunk to a little above the tower's working size and kept in a bounded 8-bit cache. Where all of it fits, as
a set like UC Merced does, nothing is read twice; where not, the next windows are decoded by threads while some are
used. Another thread collates and varies batches ahead, so that the step finds them ready.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch

from cmir.errors import DataError
from cmir.network.batches import Batch, CachedItem, collate
from cmir.network.catalogue import Array, Catalogue
from cmir.network.item_loader import ItemLoader
from cmir.network.order import GroupOrder
from cmir.network.preprocessing import Preprocessing

log = logging.getLogger("cmir")
Prepared = TypeVar("Prepared")

_QUEUED_BATCHES: Final = 4


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """Grounds and utterances of a whole batch (all ranks together), the seed of the order, the cache of one rank."""

    grounds_per_batch: int
    utterances_per_batch: int
    seed: int
    cache_bytes: int = 2 * 2**30


class GroupStream:
    """One rank's share of the groups, step by step; windows of them are decoded ahead and kept while they fit."""

    def __init__(
        self,
        groups: Sequence[Array],
        order: GroupOrder,
        loader: ItemLoader,
        *,
        lanes: range,
        cache_bytes: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.groups, self.order, self.lanes = groups, order, lanes
        self._loader, self._cache_bytes, self._pool = loader, cache_bytes, pool
        self._windows: dict[int, _Window] = {}  # least recently used first
        self._in_use: dict[int, tuple[int, int]] = {}  # of every lane: the window it is at, and the next

    def take(self, step: int) -> list[CachedItem]:
        """The items of a step, maybe none; broken ones are left out."""
        due: list[tuple[int, int]] = []
        for lane in self.lanes:
            epoch, positions = self.order.positions(step, lane)
            for position in positions:
                place = self.order.place(epoch, lane, position)
                due.append((int(self.order.groups[place]), int(self.order.window[place])))
                if self._in_use.get(lane, (-1, -1))[0] != due[-1][1]:
                    self._in_use[lane] = due[-1][1], self.order.following_window(epoch, lane, position)
        for window in (*(window for _, window in due), *(following for _, following in self._in_use.values())):
            self._want(window)
        self._evict()
        taken: list[CachedItem] = []
        for group, window in due:
            items = self._windows[window].items()
            taken += [items[item] for item in self.groups[group].tolist() if item in items]
        return taken

    def _want(self, window: int) -> None:
        """Have a window decoded, row group by row group, and remember that it was used."""
        wanted = self._windows.pop(window, None)
        if wanted is None:
            groups = self.order.members(window, self.lanes).tolist()
            items = np.concatenate([self.groups[group] for group in groups])
            futures = [self._pool.submit(self._loader.load, part) for part in self._loader.by_piece(items)]
            wanted = _Window(futures, self._loader.estimated_bytes(items))
        self._windows[window] = wanted

    def _evict(self) -> None:
        in_use = {window for pair in self._in_use.values() for window in pair}
        total = sum(window.num_bytes for window in self._windows.values())
        for number in [number for number in self._windows if number not in in_use]:
            if total <= self._cache_bytes:
                return
            total -= self._windows.pop(number).num_bytes


class _Window:
    """Items being decoded or decoded, and the bytes that they take."""

    def __init__(self, futures: "list[Future[dict[int, CachedItem]]]", num_bytes: int) -> None:
        self._futures, self.num_bytes = futures, num_bytes
        self._items: dict[int, CachedItem] = {}

    def items(self) -> dict[int, CachedItem]:
        """Item number -> item; waits for those that are being decoded."""
        while self._futures:
            self._items |= self._futures[-1].result()
            self._futures.pop()
        return self._items


class TrainingFeed:
    """Batches of one rank. `batches(start_step, prepare)` makes them in a thread; leaving its loop stops the thread."""

    def __init__(
        self,
        catalogue: Catalogue,
        preprocessing: Preprocessing,
        settings: FeedSettings,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.catalogue, self.preprocessing = catalogue, preprocessing
        self.loader = ItemLoader(catalogue, preprocessing)
        # OpenMP counts threads by the thread that calls it: n decoders, each dividing small operations among n cores,
        # would be n * n threads
        self._pool = ThreadPoolExecutor(
            torch.get_num_threads(), "cmir-decode", initializer=torch.set_num_threads, initargs=(1,)
        )
        grounds, utterances = catalogue.grounds(), catalogue.utterances()
        quarter = settings.cache_bytes // 4 if utterances else 0
        self._streams: list[GroupStream] = []
        for groups, per_step, seed, cache_bytes in (
            (grounds, settings.grounds_per_batch, settings.seed, settings.cache_bytes - quarter),
            (utterances, settings.utterances_per_batch, settings.seed + 1, quarter),
        ):
            if groups and per_step:
                sizes = np.array([self.loader.estimated_bytes(items) for items in groups], np.int64)
                pieces = catalogue.piece[[items[0] for items in groups]]
                order = GroupOrder(sizes, pieces, per_step=per_step, seed=seed, cache_bytes=cache_bytes)
                lanes = order.lanes(rank, world_size)
                stream = GroupStream(groups, order, self.loader, lanes=lanes, cache_bytes=cache_bytes, pool=self._pool)
                self._streams.append(stream)
        if not self._streams:
            raise DataError("no rows to train on", seen="0 rows", expected="chips or utterances")
        if not any(stream.lanes for stream in self._streams):
            log.warning("worker %d of %d has no share of so small steps: raise --grounds-per-batch", rank, world_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which all ranks together see every ground (without grounds, every utterance) once."""
        return self._streams[0].order.steps_per_epoch

    def batch(self, step: int) -> Batch:
        """This rank's part of a step's batch, empty where the step has too few items for all ranks.

        Raises DataError where no item could be read so far.
        """
        items = [item for stream in self._streams for item in stream.take(step)]
        if not items and self.loader.num_rejected and not self.loader.num_loaded:
            raise DataError("no item of a batch could be read", where=f"step {step}", fix="see the log for the reasons")
        return collate(items, self.catalogue, self.preprocessing)

    def batches(self, start_step: int, prepare: Callable[[Batch, int], Prepared]) -> Generator[Prepared, None, None]:
        """What `prepare` makes of the batches from a step on, without end; `prepare` runs in a thread, steps ahead."""
        ready: queue.Queue[Prepared | Exception] = queue.Queue(_QUEUED_BATCHES)
        stopped = threading.Event()

        def produce() -> None:
            torch.set_num_threads(1)  # of this thread, as above
            step = start_step
            while not stopped.is_set():
                result: Prepared | Exception
                try:
                    result = prepare(self.batch(step), step)
                except Exception as error:  # the border of a thread: it is raised again where the batches are used
                    result = error
                while not stopped.is_set():
                    with contextlib.suppress(queue.Full):
                        ready.put(result, timeout=0.1)
                        break
                if isinstance(result, Exception):
                    return
                step += 1

        thread = threading.Thread(target=produce, name="cmir-feed", daemon=True)
        thread.start()
        try:
            while True:
                result = ready.get()
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            stopped.set()
            thread.join()

    def close(self) -> None:
        """Stop decoding ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)
