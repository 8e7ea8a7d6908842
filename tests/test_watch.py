"""A new pointer is opened beside the old one and put in its place whole; one that fails changes nothing."""

import asyncio
from dataclasses import dataclass

import pytest

from cmir.errors import GalleryError
from cmir.gallery.publish import Pointer
from serve.problems import ProblemError
from serve.watch import PointerWatch
from tests.serve_doubles import pointer


@dataclass(frozen=True)
class Opened:
    pointer: Pointer


class World:
    """What is published, and what opening it does."""

    def __init__(self) -> None:
        self.published = pointer(1)
        self.opened: list[tuple[int, int | None]] = []
        self.num_failures = 0
        self.breaks_at: int | None = None

    async def open(self, seen: Pointer, previous: Opened | None) -> Opened:
        self.opened.append((seen.sequence, previous.pointer.sequence if previous else None))
        if seen.sequence == self.breaks_at:
            raise GalleryError("cannot be opened", seen=seen.sequence)
        return Opened(seen)

    def failed(self) -> None:
        self.num_failures += 1

    def watch(self) -> PointerWatch[Opened]:
        return PointerWatch(lambda: self.published, self.open, poll_s=0.01, on_failure=self.failed)


async def until(watch: PointerWatch[Opened], sequence: int) -> None:
    async with asyncio.timeout(5):
        while watch.current.pointer.sequence != sequence:
            await asyncio.sleep(0.005)


def test_news_are_taken_up_once_and_rollbacks_too() -> None:
    world = World()

    async def talk() -> None:
        watch = world.watch()
        await watch.start()
        await asyncio.sleep(0.05)
        world.published = pointer(2)
        await until(watch, 2)
        await asyncio.sleep(0.05)
        world.published = pointer(3)
        await until(watch, 3)
        await watch.stop()

    asyncio.run(talk())
    assert world.opened == [(1, None), (2, 1), (3, 2)]


def test_a_publish_that_cannot_be_opened_leaves_the_old_one_and_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()

    async def talk() -> None:
        watch = world.watch()
        await watch.start()
        world.breaks_at, world.published = 2, pointer(2)
        async with asyncio.timeout(5):
            while world.num_failures < 2:
                await asyncio.sleep(0.005)
        assert watch.current.pointer.sequence == 1
        world.breaks_at = None
        await until(watch, 2)
        await watch.stop()

    asyncio.run(talk())
    assert "cannot be opened: seen 2" in caplog.text


def test_nothing_is_served_before_the_start_and_a_broken_start_is_raised() -> None:
    world = World()
    with pytest.raises(ProblemError, match="nothing is open") as caught:
        _ = world.watch().current
    assert caught.value.status_code == 503
    world.breaks_at = 1
    with pytest.raises(GalleryError, match="cannot be opened"):
        asyncio.run(world.watch().start())
