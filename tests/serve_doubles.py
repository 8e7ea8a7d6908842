"""A deterministic embedder and a searcher in memory behind the real HTTP app: what the tests of the service ask.

The embedder reads media with the real decoders; its vector depends on nothing but the pixels or samples, so that the
answer to every query can be computed by hand from `vector_of`.
"""

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import httpx
import numpy as np
import shapely
import soundfile
import torch
import uvicorn
from PIL import Image
from pydantic import JsonValue
from starlette.types import ASGIApp

from cmir.archive.imagery import decode_chip, raw_media
from cmir.archive.schema import MODALITIES, Media, Modality
from cmir.archive.speech import decode_speech
from cmir.errors import QueryError
from cmir.gallery.filters import Filters
from cmir.gallery.publish import IndexSettings, Pointer, SearchSettings
from cmir.gallery.search import GalleryItem, Hit, Ranking
from cmir.network.embedder import Prepared
from cmir.network.hearing import Heard, hear
from cmir.network.second_ear import SecondEar
from serve.deployments import Decoder, Finder, Listener, LocalEncoder, Snapshot
from serve.engine import Engine
from serve.isolated import DecodingProcesses
from serve.limits import Limits
from serve.metrics import Metrics
from serve.watch import PointerWatch

SPACE = "s0011223344556677"
DIM = 8
LABELS = ("airplane", "pavement", "water")
WEBP = b"RIFF\x04\0\0\0WEBP"


def vector_of(content: bytes, dim: int = DIM) -> np.ndarray:
    """The unit vector f32[dim] of a chip's pixels or a recording's samples, drawn from their digest."""
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@dataclass
class FakeEmbedder:
    """`sign` -1 makes another space of it: every vector turned round."""

    space_id: str = SPACE
    modalities: tuple[Modality, ...] = MODALITIES
    labels: tuple[str, ...] = LABELS
    sign: float = 1.0
    batch_sizes: list[int] = field(default_factory=list)
    fails: bool = False
    heard_threshold: float | None = None
    metrics: dict[str, JsonValue] = field(default_factory=dict)

    def hear(self, vector: np.ndarray) -> Heard | None:
        return hear(vector, self.labels, self.prototypes, self.heard_threshold)

    @property
    def prototypes(self) -> np.ndarray:
        return self.sign * np.eye(len(self.labels), DIM, dtype=np.float32)

    def pre(self, media: Media) -> Prepared:
        content = decode_speech(media) if media.modality == "speech" else decode_chip(media)
        return Prepared(media.modality, content, None)

    def core(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("secret: the encoder's own words")
        self.batch_sizes.append(len(prepared))
        contents = [item.content if isinstance(item.content, np.ndarray) else item.content.pixels for item in prepared]
        return torch.from_numpy(self.sign * np.stack([vector_of(content.tobytes()) for content in contents]))

    def post(self, vectors: torch.Tensor) -> np.ndarray:
        return vectors.numpy()


@dataclass
class FakeSearcher:
    """Exact search over `rows`; of the filters it knows `labels`."""

    rows: dict[str, tuple[Hit, np.ndarray]]
    calls: list[tuple[int, tuple[str, ...], int, Filters | None]] = field(default_factory=list)
    num_lost: int = 0  # rows that its index does not find
    distances_fail_with: Exception | None = None
    on_filters: Callable[[Filters, Callable[[], bool]], None] = lambda filters, is_wanted: None

    def rank(
        self,
        vectors: np.ndarray,
        *,
        targets: Sequence[str],
        k: int,
        filters: Filters | None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[Ranking]:
        if filters is not None:
            self.on_filters(filters, is_wanted)
        self.calls.append((len(vectors), tuple(targets), k, filters))
        wanted = set(filters.labels or ()) if filters else set()
        kept = [
            place
            for place, (hit, _) in enumerate(self.rows.values())
            if (not targets or hit.modality in targets) and wanted <= set(hit.labels)
        ]
        all_vectors = [vector for _, vector in self.rows.values()]
        return [_ranking(kept, [float(all_vectors[place] @ query) for place in kept], k) for query in vectors]

    def tell(self, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        hits = [hit for hit, _ in self.rows.values()]
        return [
            [
                replace(hits[place], rank=rank, score=1 - distance)
                for rank, (place, distance) in enumerate(zip(ranking.row_ids, ranking.distances, strict=True), start=1)
            ]
            for ranking in rankings
        ]

    def item(self, item_id: str) -> GalleryItem:
        hit, _ = self._row(item_id)
        return GalleryItem(
            item_id=item_id,
            modality=hit.modality,
            split="test",
            bands=("red", "green", "blue"),
            wavelength_nm=(665.0, 560.0, None),
            sensor=hit.sensor,
            gsd_m=0.5,
            sample_rate_hz=None,
            labels=hit.labels,
            scene_class=None,
            pair_id="pair",
            scene_id="scene",
            acquired_at=hit.acquired_at,
            cloud_cover=None,
            crs="EPSG:4326",
            bbox=hit.bbox,
            geometry=shapely.to_wkb(shapely.box(*hit.bbox)) if hit.bbox else None,
            source_uri=hit.source_uri,
            window=None,
            content_hash="0",
            attributes='{"speaker": 3}',
        )

    def vector(self, item_id: str) -> np.ndarray:
        return self._row(item_id)[1]

    def thumbnail(self, item_id: str) -> bytes | None:
        return WEBP if self._row(item_id)[0].has_thumbnail else None

    def sample(self, num_rows: int, seed: int) -> np.ndarray:
        return np.stack([vector for _, vector in self.rows.values()][:num_rows])

    def distances(self, vectors: np.ndarray, k: int, *, exact: bool = False) -> list[np.ndarray]:
        if self.distances_fail_with is not None:
            raise self.distances_fail_with
        rows = list(self.rows.values()) if exact else list(self.rows.values())[self.num_lost :]
        return [np.sort(1 - np.stack([vector for _, vector in rows]) @ query)[:k] for query in vectors]

    def num_items(self) -> dict[str, int]:
        modalities = [hit.modality for hit, _ in self.rows.values()]
        return {modality: modalities.count(modality) for modality in dict.fromkeys(modalities)}

    def _row(self, item_id: str) -> tuple[Hit, np.ndarray]:
        if item_id not in self.rows:
            raise QueryError("no such item", seen=item_id)
        return self.rows[item_id]


def _ranking(places: list[int], scores: list[float], k: int) -> Ranking:
    best = np.argsort(-np.array(scores), kind="stable")[:k]
    return Ranking(np.array(places, np.uint64)[best], 1 - np.array(scores)[best], k)


def gallery_rows(sign: float = 1.0) -> dict[str, tuple[Hit, np.ndarray]]:
    """24 items, 6 of each modality; item "rgb-0" carries the vector of `rgb_pixels(0)`, and so on."""
    rows = {}
    for modality in MODALITIES:
        for i in range(6):
            item_id = f"{modality}-{i}"
            content = tone(i).tobytes() if modality == "speech" else pixels(modality, i).tobytes()
            place = None if modality == "speech" else (10.0 + i, 50.0, 10.5 + i, 50.5)
            hit = Hit(
                item_id=item_id,
                rank=0,
                score=0.0,
                modality=modality,
                labels=(LABELS[i % 3],),
                scene_class=None,
                sensor="NAIP" if modality == "rgb" else None,
                acquired_at=datetime(2020, 1, 1 + i, tzinfo=UTC),
                bbox=place,
                source_uri=f"s3://archive/{item_id}.tif",
                has_thumbnail=modality != "speech",
            )
            rows[item_id] = (hit, sign * vector_of(content))
    return rows


def pixels(modality: str, seed: int, size_px: int = 12) -> np.ndarray:
    """uint8[C,H,W], the same for the same seed."""
    num_bands = {"pan": 1, "rgb": 3, "ms": 4}[modality]
    return np.random.default_rng(seed + 100 * num_bands).integers(0, 256, (num_bands, size_px, size_px), np.uint8)


def png(image: np.ndarray) -> bytes:
    """PNG of uint8 or uint16 [C,H,W], one or three bands."""
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tone(seed: int, seconds: float = 0.25) -> np.ndarray:
    """f32[T] at 16 kHz, values that 16-bit PCM holds exactly."""
    times = np.arange(int(16_000 * seconds)) / 16_000
    levels = np.round(8192 * np.sin(2 * np.pi * (200 + 50 * seed) * times)).astype(np.int16)  # no negative zeros
    return levels.astype(np.float32) / np.float32(32768)


def wav(samples: np.ndarray, kind: str = "WAV", rate_hz: int = 16_000) -> bytes:
    """A mono file of libsndfile's kind."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.round(samples * 32768).astype(np.int16), rate_hz, format=kind)
    return buffer.getvalue()


def pointer(sequence: int = 1, space_id: str = SPACE) -> Pointer:
    """What published.json would say."""
    return Pointer(
        sequence=sequence,
        space_id=space_id,
        table=space_id,
        table_version=10 + sequence,
        tag=f"published-{sequence}",
        index=IndexSettings(),
        search=SearchSettings(),
        recall_at_10=0.995,
        bundle_uri="s3://bundles/fake",
        published_at=datetime(2024, 5, 1, tzinfo=UTC),
    )


@contextmanager
def running(app: ASGIApp) -> Iterator[httpx.Client]:
    """The app behind a real socket on loopback, and a client of it; the server ends with the block."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the app did not start"
            assert time.monotonic() < deadline, "the app did not start in time"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


class SleepyEncoder(LocalEncoder):
    """One that nobody should ask who only looks."""

    may_sleep = True  # type: ignore[misc,assignment]


class FakeGallery:
    """What is published, and how it is opened: publish() is seen by the next look at the pointer."""

    def __init__(self, *, limits: Limits | None = None, poll_s: float = 0.05) -> None:
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.published = pointer()
        self.embedders: dict[str, FakeEmbedder] = {SPACE: FakeEmbedder()}
        self.searcher = FakeSearcher(gallery_rows())
        self.opening_fails_with: Exception | None = None
        self.ear: SecondEar | None = None
        self.encoder_may_sleep = False
        self._poll_s = poll_s
        names = ("decode", "run", "find", "filter", "listen")
        self._threads = {name: ThreadPoolExecutor(2 if name == "decode" else 1) for name in names}

    def engine(self, *, canary_s: float = 0, processes: DecodingProcesses | None = None) -> Engine:
        """An engine that serves it."""
        watch = PointerWatch(lambda: self.published, self._open, poll_s=self._poll_s)
        decoder = Decoder(limits=self.limits, executor=self._threads["decode"], processes=processes)
        executor = self._threads["decode"]
        return Engine(
            watch, decoder=decoder, executor=executor, metrics=self.metrics, limits=self.limits, canary_s=canary_s
        )

    async def _open(self, seen: Pointer, previous: Snapshot | None) -> Snapshot:
        if self.opening_fails_with is not None and previous is not None:
            raise self.opening_fails_with
        embedder = self.embedders[seen.space_id]
        searcher = self.searcher if embedder.sign > 0 else FakeSearcher(gallery_rows(embedder.sign))
        make_encoder = SleepyEncoder if self.encoder_may_sleep else LocalEncoder
        encoder = make_encoder(embedder, executor=self._threads["run"], limits=self.limits, metrics=self.metrics)
        finder = Finder(
            searcher,
            executor=self._threads["find"],
            filtering=self._threads["filter"],
            limits=self.limits,
            metrics=self.metrics,
        )
        probe = raw_media("rgb", pixels("rgb", 0), bands=("red", "green", "blue"))
        listener = Listener(self.ear, executor=self._threads["listen"]) if self.ear else None
        return Snapshot(seen, embedder, encoder, searcher, finder, searcher.num_items(), (probe,), listener)
