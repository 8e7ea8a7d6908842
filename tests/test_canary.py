"""The recall of what is served, measured beside requests: right, told with its time, a failure counted and outlived."""

import asyncio
import time

import pytest

from serve.canary import Canary
from tests.serve_doubles import FakeGallery, pointer


def _value(gallery: FakeGallery, name: str) -> float:
    value = gallery.metrics.registry.get_sample_value(name)
    assert value is not None
    return value


async def _wait_for(gallery: FakeGallery, name: str, at_least: float) -> None:
    async with asyncio.timeout(10):
        while _value(gallery, name) < at_least:
            await asyncio.sleep(0.01)


def test_it_tells_the_recall_and_when() -> None:
    gallery, before = FakeGallery(), time.time()

    async def talk() -> None:
        engine = gallery.engine(canary_s=0.02)
        await engine.start()
        await _wait_for(gallery, "cmir_canary_timestamp_seconds", before)
        assert _value(gallery, "cmir_canary_recall") == 1.0
        gallery.searcher.num_lost = 12  # half of the rows are no longer found
        seen = _value(gallery, "cmir_canary_timestamp_seconds")
        await _wait_for(gallery, "cmir_canary_timestamp_seconds", seen + 0.05)
        await engine.stop()
        assert 0.2 < _value(gallery, "cmir_canary_recall") < 0.8

    asyncio.run(talk())


def test_a_failure_is_counted_and_outlived(caplog: pytest.LogCaptureFixture) -> None:
    gallery = FakeGallery()

    async def talk() -> None:
        engine = gallery.engine(canary_s=0.02)
        await engine.start()
        gallery.searcher.distances_fail_with = OSError("index file is gone")
        await _wait_for(gallery, "cmir_canary_failures_total", 2)
        gallery.searcher.distances_fail_with, now = None, time.time()
        await _wait_for(gallery, "cmir_canary_timestamp_seconds", now)
        await engine.stop()

    asyncio.run(talk())
    assert "cannot be measured: index file is gone" in caplog.text


def test_a_new_publish_is_checked_with_queries_of_its_own() -> None:
    gallery = FakeGallery()

    async def talk() -> list[int]:
        engine = gallery.engine()
        await engine.start()
        canary = Canary(lambda: engine.snapshot, every_s=60, metrics=gallery.metrics)
        sampled: list[int] = []
        sample = gallery.searcher.sample
        gallery.searcher.sample = lambda *given: (sampled.append(1), sample(*given))[1]  # type: ignore[method-assign]
        await canary.check()
        await canary.check()
        gallery.published = pointer(2)
        async with asyncio.timeout(10):
            while engine.snapshot.pointer.sequence != 2:
                await asyncio.sleep(0.01)
        await canary.check()
        await canary.stop()
        await engine.stop()
        return sampled

    assert len(asyncio.run(talk())) == 2
