"""Batches form by themselves, keep everyone's own item, and isolate failures and leavers."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.batching import Batcher


def test_batches_grow_while_one_runs_and_answers_stay_with_their_items() -> None:
    sizes: list[int] = []
    go_on = threading.Event()

    def doubled(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        go_on.wait(5)
        return [2 * item for item in items]

    async def ask() -> list[int]:
        batcher = Batcher(doubled, executor=executor, max_items=4)
        calls = [asyncio.ensure_future(batcher.submit(item)) for item in range(10)]
        await asyncio.sleep(0)
        go_on.set()
        return [(await call).result for call in calls]

    with ThreadPoolExecutor(1) as executor:
        assert asyncio.run(ask()) == [2 * item for item in range(10)]
    assert sizes == [4, 4, 2]


def test_a_costly_item_runs_alone() -> None:
    batches: list[list[int]] = []

    def same(items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        return items

    async def ask() -> None:
        batcher = Batcher(same, executor=executor, max_items=10, max_cost=5, cost_of=float)
        await asyncio.gather(*[batcher.submit(cost) for cost in (2, 3, 9, 1, 1)])

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(ask())
    assert batches == [[2, 3], [9], [1, 1]]


def test_groups_share_no_batch_and_the_longest_waiting_comes_first() -> None:
    batches: list[list[str]] = []

    def same(items: Sequence[str]) -> Sequence[str]:
        batches.append(list(items))
        return items

    async def ask() -> None:
        batcher = Batcher(same, executor=executor, max_items=2, group_of=lambda item: item[0])
        await asyncio.gather(*[batcher.submit(item) for item in ("a1", "b1", "a2", "b2", "a3", "c1")])

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(ask())
    assert batches == [["a1", "a2"], ["b1", "b2"], ["a3"], ["c1"]]


def test_a_failing_batch_is_not_run_again_for_who_has_gone() -> None:
    seen: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def fail(items: Sequence[int]) -> Sequence[int]:
        seen.extend(items)
        begun.set()
        go_on.wait(5)
        raise ValueError(f"{len(items)} items")

    async def ask() -> None:
        batcher = Batcher(fail, executor=executor, max_items=2)
        gone, stays = (asyncio.ensure_future(batcher.submit(item)) for item in (1, 2))
        await asyncio.to_thread(begun.wait)
        gone.cancel()
        go_on.set()
        with pytest.raises(ValueError, match="1 items"):
            await stays

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(ask())
    assert seen == [1, 2, 2]


def test_one_that_fails_fails_alone() -> None:
    def inverse(items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    async def ask() -> list[object]:
        batcher = Batcher(inverse, executor=executor, max_items=8)
        answers = await asyncio.gather(*[batcher.submit(item) for item in (1, 0, 4)], return_exceptions=True)
        return [answer if isinstance(answer, BaseException) else answer.result for answer in answers]

    with ThreadPoolExecutor(1) as executor:
        first, second, third = asyncio.run(ask())
    assert (first, third) == (1.0, 0.25)
    assert isinstance(second, ZeroDivisionError)


def test_who_has_gone_is_left_out() -> None:
    seen: list[int] = []
    go_on = threading.Event()

    def note(items: Sequence[int]) -> Sequence[int]:
        go_on.wait(5)
        seen.extend(items)
        return items

    async def ask() -> None:
        batcher = Batcher(note, executor=executor, max_items=1)
        calls = [asyncio.ensure_future(batcher.submit(item)) for item in range(3)]
        await asyncio.sleep(0.01)
        calls[1].cancel()
        go_on.set()
        assert (await calls[0]).result == 0
        assert (await calls[2]).result == 2

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(ask())
    assert seen == [0, 2]


def test_waiting_and_running_are_timed() -> None:
    async def ask() -> tuple[float, float]:
        batcher = Batcher(lambda items: [threading.Event().wait(0.02) for _ in items], executor=executor, max_items=1)
        _, second = await asyncio.gather(batcher.submit(0), batcher.submit(1))
        return second.queue_s, second.run_s

    with ThreadPoolExecutor(1) as executor:
        queue_s, run_s = asyncio.run(ask())
    assert queue_s == pytest.approx(0.02, rel=2.0)
    assert queue_s >= 0.02
    assert run_s >= 0.02
