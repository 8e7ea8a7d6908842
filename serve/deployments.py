"""The parts of the service as plain classes: decode, encode, search; engine.py leads a query through them.

    Query --Decoder--> Prepared --Encoder--> f32[D] --Finder--> hits        all from one Snapshot

The same parts make both compositions: `fused` has a LocalEncoder in the replica that also decodes and searches, `split`
a remote one. A Snapshot is what one publish means: one bundle and one version of one gallery table.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from pydantic import JsonValue
from torch import Tensor

from cmir.archive.imagery import Chip
from cmir.archive.schema import Media, Modality
from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.errors import QueryError, SpaceMismatchError
from cmir.gallery.filters import Filters
from cmir.gallery.publish import Pointer
from cmir.gallery.search import GalleryItem, Hit, Ranking
from cmir.network.embedder import Device, Embedder, Prepared
from cmir.network.hearing import Heard
from cmir.network.second_ear import Said, SecondEar
from serve.batching import Batcher, Timed
from serve.isolated import DecodingProcesses, raw_media_of
from serve.limits import DecodedBytes, Limits
from serve.media import ImageBytes, ImageHints, SpeechBytes, sized_media
from serve.metrics import Metrics
from serve.probe_items import probe_media
from serve.query import F32

_BUNDLES_KEPT: Final = 2
_ONE_PIXEL: Final = ImageBytes(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="),
    ImageHints(),
)


class Embeds(Protocol):
    """What the service needs of an embedder (cmir.network.embedder, or a deterministic double)."""

    @property
    def space_id(self) -> str: ...
    @property
    def modalities(self) -> Sequence[Modality]: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def prototypes(self) -> F32: ...
    @property
    def metrics(self) -> Mapping[str, JsonValue]: ...
    def hear(self, vector: F32) -> Heard | None: ...
    def pre(self, media: Media) -> Prepared: ...
    def core(self, prepared: Sequence[Prepared]) -> Tensor: ...
    def post(self, vectors: Tensor) -> F32: ...


class Searches(Protocol):
    """What the service needs of a searcher (cmir.gallery.search, or a double in memory)."""

    def rank(
        self,
        vectors: F32,
        *,
        targets: Sequence[str],
        k: int,
        filters: Filters | None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[Ranking]: ...
    def tell(self, rankings: Sequence[Ranking]) -> list[list[Hit]]: ...
    def item(self, item_id: str) -> GalleryItem: ...
    def vector(self, item_id: str) -> F32: ...
    def thumbnail(self, item_id: str) -> bytes | None: ...
    def sample(self, num_rows: int, seed: int) -> F32: ...
    def distances(self, vectors: F32, k: int, *, exact: bool = False) -> list[F32]: ...


class Encoder(Protocol):
    """Prepared media -> unit vector f32[D], here or in another process.

    One that `may_sleep` has no process while nobody asks; whatever asks it wakes one, so what only looks must not ask.
    """

    @property
    def may_sleep(self) -> bool: ...
    async def encode(self, prepared: Prepared) -> Timed[F32]: ...


class Decoder:
    """The bytes of a query -> what the embedder takes, in `processes`, else in threads: never in the event loop."""

    def __init__(self, *, limits: Limits, executor: Executor, processes: DecodingProcesses | None = None) -> None:
        self._limits, self._executor, self._processes = limits, executor, processes
        self._bytes = DecodedBytes(limits)

    async def start(self) -> None:
        """Have the processes up."""
        if self._processes is not None:
            await self._processes.start()

    async def check(self) -> None:
        """Raises what decoding a picture of one pixel raises."""
        if self._processes is not None:
            await self._processes.decode(_ONE_PIXEL)

    async def stop(self) -> None:
        """End the processes."""
        if self._processes is not None:
            await self._processes.stop()

    @asynccontextmanager
    async def decoded(self, source: ImageBytes | SpeechBytes, embedder: Embeds) -> AsyncIterator[Prepared]:
        """The query decoded; its bytes count as held until the block ends.

        Raises ProblemError 400, 413, 415, 429 where too much is decoded and not yet encoded; DataError for bytes that
        cannot be decoded; QueryError for a modality that the bundle has no tower for.
        """
        in_thread = asyncio.get_running_loop().run_in_executor
        with self._bytes.share() as share:
            if self._processes is None:
                sized = await in_thread(self._executor, sized_media, source, self._limits)
                share.take(sized.num_bytes)
                media = await in_thread(self._executor, raw_media_of, sized.media, self._limits)
            else:
                media = await self._processes.decode(source, share.take)
            yield await in_thread(self._executor, self._prepare, media, embedder)

    def _prepare(self, media: Media, embedder: Embeds) -> Prepared:
        if media.modality not in embedder.modalities:
            known = ", ".join(embedder.modalities)
            raise QueryError("the bundle has no tower for this modality", seen=media.modality, expected=known)
        return embedder.pre(media)


class LocalEncoder:
    """Encodes in batches in one thread of this process."""

    may_sleep: Final = False

    def __init__(self, embedder: Embeds, *, executor: Executor, limits: Limits, metrics: Metrics) -> None:
        self._batcher: Batcher[Prepared, F32] = Batcher(
            lambda prepared: list(embedder.post(embedder.core(prepared))),
            executor=executor,
            max_items=limits.max_encode_items,
            max_cost=1.0,
            cost_of=lambda prepared: _share_of_a_pass(prepared, limits),
            on_batch=metrics.batch_items.labels("encode").observe,
        )
        metrics.watch_queue("encode", self._batcher)

    async def encode(self, prepared: Prepared) -> Timed[F32]:
        """The unit vector f32[D] of one prepared item."""
        return await self._batcher.submit(prepared)


def _share_of_a_pass(prepared: Prepared, limits: Limits) -> float:
    """Of what one pass of the encoder may take."""
    if isinstance(prepared.content, Chip):
        return prepared.content.pixels.size / limits.max_encode_pixels
    return prepared.content.size / (limits.max_encode_audio_s * SAMPLE_RATE_HZ)


class Listener:
    """A second ear in a thread of its own: it takes longer than decoding, and hears one recording at a time."""

    def __init__(self, ear: SecondEar, *, executor: Executor) -> None:
        self.name = ear.name
        self._ear, self._executor = ear, executor

    async def listen(self, prepared: Prepared) -> Timed[Said]:
        """What a decoded recording says; waiting for the recordings before it counts as queue."""
        assert isinstance(prepared.content, np.ndarray)
        asked_at = time.perf_counter()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._listen, prepared.content, asked_at)

    def _listen(self, waveform: F32, asked_at: float) -> Timed[Said]:
        began_at = time.perf_counter()
        said = self._ear.listen(waveform)
        return Timed(said, queue_s=began_at - asked_at, run_s=time.perf_counter() - began_at)


class EncoderPool:
    """Encoders of the bundles in use: that of the newest publish, and the one before it until its requests drain.

    A bundle is asked for by URI and space_id: a training into the same folder makes another space at the same URI.
    """

    def __init__(self, *, device: Device, limits: Limits, metrics: Metrics) -> None:
        self._device, self._limits, self._metrics = device, limits, metrics
        self._executor = ThreadPoolExecutor(1, "encode")
        self._bytes = DecodedBytes(limits)
        # by bundle URI and space_id, the newest last; with each what asks it whether it works
        self._encoders: dict[tuple[str, str], tuple[LocalEncoder, Prepared]] = {}
        self._loading = asyncio.Lock()

    async def warm(self, bundle_uri: str, space_id: str) -> None:
        """Load a bundle and run every tower once, if it is not loaded.

        Raises what Embedder.open raises, and SpaceMismatchError where the bundle there is not of that space.
        """
        wanted = (bundle_uri, space_id)
        async with self._loading:
            if wanted not in self._encoders:
                embedder, probe = await asyncio.to_thread(self._load, bundle_uri, space_id)
                encoder = LocalEncoder(embedder, executor=self._executor, limits=self._limits, metrics=self._metrics)
                self._encoders[wanted] = encoder, probe
                while len(self._encoders) > _BUNDLES_KEPT:
                    del self._encoders[next(iter(self._encoders))]

    async def check(self) -> None:
        """Encode something with the newest bundle. Raises whatever that raises, RuntimeError for no unit vector."""
        if self._encoders:
            (bundle_uri, _), (encoder, probe) = list(self._encoders.items())[-1]
            vector = (await encoder.encode(probe)).result
            if not np.isfinite(vector).all():
                raise RuntimeError(f"the probe of {bundle_uri} has no embedding")

    async def encode(self, prepared: Prepared, bundle_uri: str, space_id: str) -> Timed[F32]:
        """The unit vector f32[D] of one prepared item; a bundle that is not loaded is loaded first, as by `warm`.

        Raises ProblemError 429 where items of too many bytes wait here.
        """
        content = prepared.content
        with self._bytes.share() as share:
            share.take(content.pixels.nbytes if isinstance(content, Chip) else content.nbytes)
            if (bundle_uri, space_id) not in self._encoders:
                await self.warm(bundle_uri, space_id)
            encoder, _ = self._encoders[bundle_uri, space_id]
            return await encoder.encode(prepared)

    def _load(self, bundle_uri: str, space_id: str) -> tuple[Embedder, Prepared]:
        embedder = Embedder.open(bundle_uri, device=self._device)
        if embedder.space_id != space_id:
            what, fix = "the bundle is of another space than the one asked for", "train into a folder of its own"
            raise SpaceMismatchError(what, seen=embedder.space_id, expected=space_id, where=bundle_uri, fix=fix)
        embedder.warm_up()
        probe, *_ = probe_media(embedder.bundle.preprocessing, embedder.modalities)
        return embedder, embedder.pre(probe)


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """One search of a batch: a unit vector f32[D] and everything that is its own."""

    vector: F32
    targets: tuple[Modality, ...]
    k: int
    filters: Filters | None


@dataclass(slots=True, eq=False)
class _Search:
    """A search, and whether its asker has its answer or has gone."""

    wanted: Wanted
    is_over: bool = False

    @property
    def group(self) -> tuple[tuple[Modality, ...], int, Filters | None]:
        """What searches must have in common to share a call."""
        return self.wanted.targets, self.wanted.k, self.wanted.filters


class Finder:
    """Searches in batches: those that share targets, k and filters go into one call of the searcher.

    Those with filters, which may take long, have a thread of their own: nobody without one waits for them.
    """

    def __init__(
        self, searcher: Searches, *, executor: Executor, filtering: Executor, limits: Limits, metrics: Metrics
    ) -> None:
        self._searcher, self._fetch_s = searcher, metrics.stage_s.labels("fetch")
        self._plain, self._filtered = (
            Batcher[_Search, list[Hit]](
                self._find,
                executor=threads,
                max_items=limits.max_search_items,
                group_of=lambda search: search.group,
                on_batch=metrics.batch_items.labels("search").observe,
            )
            for threads in (executor, filtering)
        )
        metrics.watch_queue("search", self._plain)
        metrics.watch_queue("search", self._filtered)

    async def find(self, wanted: Wanted) -> Timed[list[Hit]]:
        """Its hits, best first. Raises QueryError for filters that cannot be applied."""
        search = _Search(wanted)
        try:
            return await (self._filtered if wanted.filters else self._plain).submit(search)
        finally:
            search.is_over = True

    def _find(self, batch: Sequence[_Search]) -> list[list[Hit]]:
        first = batch[0].wanted
        ranked = self._searcher.rank(
            np.stack([search.wanted.vector for search in batch]),
            targets=first.targets,
            k=first.k,
            filters=first.filters,
            is_wanted=lambda: not all(search.is_over for search in batch),
        )
        began_at = time.perf_counter()
        found = self._searcher.tell(ranked)
        fetch_s = time.perf_counter() - began_at
        for _ in batch:
            self._fetch_s.observe(fetch_s)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One publish, open: everything a request needs, so that it never sees two."""

    pointer: Pointer
    embedder: Embeds
    encoder: Encoder
    searcher: Searches
    finder: Finder
    num_items: Mapping[str, int]  # by modality
    probes: tuple[Media, ...]  # one small query per modality, to warm up and to tell readiness
    listener: Listener | None = None  # the second ear, where the service has one

    async def prepare(self, media: Media) -> Prepared:
        """`media` as the embedder takes it; in a thread."""
        return await asyncio.to_thread(self.embedder.pre, media)
