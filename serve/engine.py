"""A `Query` -> hits and times, led through the parts of one snapshot; what the HTTP app knows of the rest.

A query vector is the normalised weighted sum of the unit vectors of its sources (as in word arithmetic: this chip,
plus "water", minus "ships"), so one source of positive weight is searched by its own vector.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from cmir.errors import DataError, QueryError, SpaceMismatchError
from cmir.gallery.filters import Filters
from cmir.gallery.publish import Pointer
from cmir.gallery.search import GalleryItem, Hit
from cmir.network.embedder import Prepared
from cmir.network.hearing import Heard
from cmir.network.second_ear import heard_by_ear
from serve.canary import Canary
from serve.deployments import Decoder, LocalEncoder, Snapshot, Wanted
from serve.limits import MIN_POLYGON_POINTS, Limits
from serve.media import ImageBytes, SpeechBytes
from serve.metrics import Metrics
from serve.probing import embedded, probe
from serve.problems import ProblemError
from serve.query import F32, GivenVector, ItemRef, LabelRef, Query, Source
from serve.tracing import note_queue, stage_span
from serve.watch import PointerWatch

T = TypeVar("T")
_MIN_NORM = 1e-6  # of a sum of unit vectors: below, rounding would choose its direction
_READY_FOR_S = 2.0
_PROBE_TIMEOUT_S = 5.0


@dataclass(slots=True)
class StageTimes:
    """Seconds of one query; of several sources the longest counts, since they go through a stage together, as a
    recording goes through the encoder and the second ear."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    encode_s: float = 0.0
    search_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of one query; `heard`, what its recordings were taken to name, in their order."""

    hits: list[Hit]
    pointer: Pointer
    times: StageTimes
    heard: tuple[Heard, ...] = ()


class Engine:
    """Answers queries from what is published now."""

    def __init__(
        self,
        watch: PointerWatch[Snapshot],
        *,
        decoder: Decoder,
        executor: Executor,
        metrics: Metrics,
        limits: Limits,
        canary_s: float = 0,
    ) -> None:
        """`canary_s`: seconds between two measurements of the recall of what is served, 0 for none."""
        self.metrics, self.limits = metrics, limits
        self._canary = Canary(lambda: watch.current, every_s=canary_s, metrics=metrics) if canary_s else None
        self._watch, self._decoder, self._executor = watch, decoder, executor
        self._ready_until = 0.0
        self._has_started = False
        self._probing = asyncio.Lock()

    async def start(self) -> None:
        """Open and warm what is published. Raises CmirError where it cannot be opened."""
        await self._decoder.start()
        await self._watch.start()
        if self._canary is not None:
            self._canary.start()
        self._has_started = True

    async def stop(self) -> None:
        """End watching."""
        if self._canary is not None:
            await self._canary.stop()
        await self._watch.stop()
        await self._decoder.stop()

    @property
    def snapshot(self) -> Snapshot:
        """What is served now. Raises ProblemError 503 before anything is."""
        return self._watch.current

    async def search(self, queries: Sequence[Query]) -> list[Found]:
        """The answers in the order of the queries, all from one snapshot.

        Raises ProblemError, QueryError, DataError or SpaceMismatchError for a query that cannot be answered; one that
        fails ends all.
        """
        check_polygons([query.filters for query in queries if query.filters], self.limits)
        snapshot = self.snapshot
        return await _together([self._search(query, snapshot) for query in queries])

    async def embed(self, source: ImageBytes | SpeechBytes) -> tuple[F32, str]:
        """The unit vector f32[D] of an image or a recording, and the space_id it belongs to."""
        snapshot = self.snapshot
        vector = await self._vector(source, snapshot, StageTimes())
        return vector, snapshot.embedder.space_id

    async def item(self, item_id: str) -> tuple[GalleryItem, bool, str]:
        """What the gallery knows of an item, whether it has a thumbnail, and the space it was looked up in.

        Raises QueryError where there is no such item.
        """
        snapshot = self.snapshot
        found = await self._in_thread(partial(snapshot.searcher.item, item_id))
        webp = await self._in_thread(partial(snapshot.searcher.thumbnail, item_id))
        return found, webp is not None, snapshot.embedder.space_id

    async def thumbnail(self, item_id: str) -> bytes | None:
        """WebP bytes, None where the item has none. Raises QueryError for no such item."""
        return await self._in_thread(partial(self.snapshot.searcher.thumbnail, item_id))

    async def check_ready(self) -> Snapshot:
        """The snapshot, after a probe query has gone through decode, encode and search (at most 2 s ago).

        Raises ProblemError 503 where it did not work.
        """
        async with self._probing:
            snapshot = self.snapshot
            if time.monotonic() < self._ready_until:
                return snapshot
            try:
                await self._probed(snapshot)
            except ProblemError:
                self.metrics.ready.set(0)
                raise
            self.metrics.ready.set(1)
            self._ready_until = time.monotonic() + _READY_FOR_S
            return snapshot

    async def check_health(self) -> None:
        """Decode, and encode where this process does it: what another replica in the place of this one would mend.

        Whatever lies elsewhere, the gallery and encoders of their own, is for readiness to tell. Raises whatever a part
        raises, ProblemError where it gives no unit vector.
        """
        if not self._has_started:
            return
        await self._decoder.check()
        snapshot = self.snapshot
        if isinstance(snapshot.encoder, LocalEncoder):
            await embedded(snapshot, snapshot.probes[0])

    async def _probed(self, snapshot: Snapshot) -> None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await asyncio.gather(self._decoder.check(), probe(snapshot, snapshot.probes[0]))
        except Exception as error:  # readiness asks whether it worked, whatever broke
            if isinstance(error, ProblemError) and error.status_code == 503:
                raise
            raise ProblemError(503, "the end-to-end probe failed") from error

    async def _search(self, query: Query, snapshot: Snapshot) -> Found:
        times = StageTimes()
        asked = await _together([self._asked(source, snapshot, times) for source in query.sources])
        vectors = [vector for vector, _ in asked]
        heard = tuple(said for _, said in asked if said is not None)
        if not all(said.is_known for said in heard):  # what nobody named is nowhere to be found
            return Found([], snapshot.pointer, times, heard)
        vector = combined(vectors, query.weights)
        with stage_span("search") as span:
            timed = await snapshot.finder.find(Wanted(vector, query.targets, query.k, query.filters))
            note_queue(span, timed.queue_s)
        times.queue_s += timed.queue_s
        times.search_s = timed.run_s
        for stage in ("decode", "queue", "encode", "search"):
            self.metrics.stage_s.labels(stage).observe(getattr(times, f"{stage}_s"))
        return Found(timed.result, snapshot.pointer, times, heard)

    async def _asked(self, source: Source, snapshot: Snapshot, times: StageTimes) -> tuple[F32, Heard | None]:
        """The unit vector of one source and, of a recording, what was heard."""
        if not isinstance(source, SpeechBytes):
            return await self._vector(source, snapshot, times), None
        async with self._decoded(source, snapshot, times) as prepared:
            if snapshot.listener is None:
                vector = await self._encoded(prepared, snapshot, times)
                return vector, snapshot.embedder.hear(vector)
            listening = asyncio.ensure_future(snapshot.listener.listen(prepared))
            try:
                vector = await self._encoded(prepared, snapshot, times)
                timed = await listening
            finally:
                listening.cancel()
        times.queue_s = max(times.queue_s, timed.queue_s)
        times.encode_s = max(times.encode_s, timed.run_s)
        if timed.result.is_sure:
            return heard_by_ear(timed.result, vector, snapshot.embedder.labels, snapshot.embedder.prototypes)
        return vector, snapshot.embedder.hear(vector)

    async def _vector(self, source: Source, snapshot: Snapshot, times: StageTimes) -> F32:
        match source:
            case ImageBytes() | SpeechBytes():
                async with self._decoded(source, snapshot, times) as prepared:
                    return await self._encoded(prepared, snapshot, times)
            case ItemRef(item_id):
                return await self._in_thread(partial(snapshot.searcher.vector, item_id))
            case LabelRef(label):
                labels = list(snapshot.embedder.labels)
                if label not in labels:
                    raise QueryError("no such label", seen=repr(label), expected=f"one of {', '.join(labels)}")
                prototype: F32 = snapshot.embedder.prototypes[labels.index(label)]
                return prototype
            case GivenVector(vector, space_id):
                return _checked(vector, space_id, snapshot)

    @asynccontextmanager
    async def _decoded(
        self, source: ImageBytes | SpeechBytes, snapshot: Snapshot, times: StageTimes
    ) -> AsyncIterator[Prepared]:
        started_at = time.perf_counter()
        async with AsyncExitStack() as stack:
            with stage_span("decode"):
                prepared = await stack.enter_async_context(self._decoder.decoded(source, snapshot.embedder))
            times.decode_s = max(times.decode_s, time.perf_counter() - started_at)
            yield prepared

    async def _encoded(self, prepared: Prepared, snapshot: Snapshot, times: StageTimes) -> F32:
        with stage_span("encode") as span:
            timed = await snapshot.encoder.encode(prepared)
            note_queue(span, timed.queue_s)
        times.queue_s = max(times.queue_s, timed.queue_s)
        times.encode_s = max(times.encode_s, timed.run_s)
        if not np.isfinite(timed.result).all():
            raise DataError(
                "the query has no embedding",
                seen="values the network cannot compute with",
                expected="pixels or samples without extreme values",
            )
        return timed.result

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def combined(vectors: Sequence[F32], weights: Sequence[float]) -> F32:
    """The unit vector f32[D] along the weighted sum of unit vectors f32[D]. Raises QueryError where they cancel out.

    >>> combined([np.array([1, 0], np.float32), np.array([0, 1], np.float32)], [3.0, -4.0]).round(2).tolist()
    [0.6000000238418579, -0.800000011920929]
    """
    total = np.einsum("nd,n->d", np.stack(vectors).astype(np.float64), np.asarray(weights, np.float64))
    norm = float(np.linalg.norm(total))
    if norm < _MIN_NORM:
        raise QueryError("the parts of the query cancel each other out", seen=f"length {norm:.1e}", expected="above 0")
    unit: F32 = (total / norm).astype(np.float32)
    return unit


def check_polygons(filters: Sequence[Filters], limits: Limits) -> None:
    """Raises QueryError where the different polygons of a request take longer to compare than one may."""
    points = {one.polygon: max(MIN_POLYGON_POINTS, one.num_polygon_points) for one in filters if one.polygon}
    if sum(points.values()) > limits.max_polygon_points:
        counted = f"each counted as {MIN_POLYGON_POINTS} or more"
        raise QueryError(
            "the polygons of the request have too many points",
            seen=f"{sum(points.values())} of {len(points)} different polygons, {counted}",
            expected=f"at most {limits.max_polygon_points} together",
            fix="ask in several requests, by polygons of fewer points, or by bbox",
        )


def _checked(vector: F32, space_id: str, snapshot: Snapshot) -> F32:
    published = snapshot.embedder.space_id
    if space_id != published:
        raise SpaceMismatchError(
            "the vector is of another space than the gallery",
            seen=space_id,
            expected=published,
            fix="embed the query with the bundle that is published (POST /v1/embed)",
        )
    dim = snapshot.embedder.prototypes.shape[1]
    if vector.shape != (dim,):
        raise QueryError("the vector has the wrong length", seen=vector.shape[0], expected=dim)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not norm > 0 or not np.isfinite(norm):
        raise QueryError("the vector has no direction", seen=f"length {norm}", expected="finite and above 0")
    return (vector / np.float32(norm)).astype(np.float32)


async def _together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the others and is raised as it is."""
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
