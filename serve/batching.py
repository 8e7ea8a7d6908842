"""Single calls from many requests -> batches for a thread, each caller gets the answer to its own item.

A batch is whatever has come in while the one before it ran: a lone request never waits for company, and under load
batches grow by themselves. A failing batch is run again item by item, so that nobody fails for a batch-mate; a caller
that has gone away is left out. Items of different groups never share a batch, so one group's pace is no other's.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timed(Generic[Result]):
    """A result, how long its item waited for its batch to begin, and how long that batch ran; seconds."""

    result: Result
    queue_s: float
    run_s: float


@dataclass(slots=True)
class _Ticket(Generic[Item, Result]):
    item: Item
    group: Hashable
    future: "asyncio.Future[Timed[Result]]"
    submitted_at: float


class Batcher(Generic[Item, Result]):
    """Feeds `run` in `executor` with at most `max_items` items of one group, whose costs sum to at most `max_cost`.

    The group of the item that waits longest comes first. An item costlier than `max_cost` runs alone. Use from one
    event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        executor: Executor,
        max_items: int,
        max_cost: float = float("inf"),
        cost_of: Callable[[Item], float] = lambda _: 0.0,
        group_of: Callable[[Item], Hashable] = lambda _: None,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._run, self._executor, self._max_items = run, executor, max_items
        self._max_cost, self._cost_of, self._group_of, self._on_batch = max_cost, cost_of, group_of, on_batch
        self._waiting: list[_Ticket[Item, Result]] = []
        self._drainer: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._waiting)

    async def submit(self, item: Item) -> Timed[Result]:
        """The result for `item`; raises whatever `run` raises for it alone."""
        loop = asyncio.get_running_loop()
        ticket: _Ticket[Item, Result] = _Ticket(item, self._group_of(item), loop.create_future(), time.perf_counter())
        self._waiting.append(ticket)
        if self._drainer is None:
            self._drainer = loop.create_task(self._drain())
        return await ticket.future

    async def _drain(self) -> None:
        try:
            while batch := self._take():
                self._on_batch(len(batch))
                await self._answer(batch)
        finally:
            self._drainer = None

    def _take(self) -> list[_Ticket[Item, Result]]:
        waiting = [ticket for ticket in self._waiting if not ticket.future.done()]  # else its caller has gone
        batch: list[_Ticket[Item, Result]] = []
        cost = 0.0
        for ticket in waiting:
            if ticket.group != waiting[0].group:
                continue
            cost += self._cost_of(ticket.item)
            if batch and (cost > self._max_cost or len(batch) == self._max_items):
                break
            batch.append(ticket)
        taken = set(map(id, batch))
        self._waiting = [ticket for ticket in waiting if id(ticket) not in taken]
        return batch

    async def _answer(self, batch: list[_Ticket[Item, Result]]) -> None:
        started_at = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, self._run, [ticket.item for ticket in batch])
            assert len(results) == len(batch), "a batch function answers every item"
        except Exception as error:  # the border to the callers: each of them gets it raised
            if len(batch) > 1:
                for ticket in batch:
                    if not ticket.future.done():
                        await self._answer([ticket])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        run_s = time.perf_counter() - started_at
        for ticket, result in zip(batch, results, strict=True):
            if not ticket.future.done():
                ticket.future.set_result(Timed(result, started_at - ticket.submitted_at, run_s))
