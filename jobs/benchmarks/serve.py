"""What the service adds to the work itself: the same queries over HTTP and in this process (decode, encode, search).

One client asks service and process by turns, so both see the same machine; then many clients ask the service at once,
beside the process doing the same queries in batches. Load generator, service and yardstick share the machine's cores.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Literal

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field

from cmir.archive import shards, storage
from cmir.archive.imagery import decode_chip
from cmir.archive.schema import MODALITIES, Media, Modality
from cmir.client import Client
from cmir.demo import wait_ready
from cmir.errors import DataError
from cmir.gallery.search import Searcher
from cmir.live_queries import image_file, wav_file
from cmir.loopback import HOST, free_port
from cmir.network.embedder import Embedder, Prepared
from cmir.network.training_settings import TrainSettings
from jobs import entrypoint
from jobs.benchmarks.galleries import published_gallery
from jobs.benchmarks.load import Answers, Question, ask_at_once, timed_ms
from jobs.benchmarks.material import pieces_of, untrained_bundle, world_rows, write_archive
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run
from jobs.entrypoint import JobResult

_NUM_SCENES: Final = 32
_NUM_UTTERANCES: Final = 32
_QUESTIONS_OF_A_KIND: Final = 16
_NUM_WARM: Final = 3  # questions of a kind before anything is measured


class ServeBenchmark(BenchmarkConfig):
    """Measure the service: p50 and p99 at one client, requests per second at many, against the work itself."""

    gallery: str | None = Field(None, description="Published gallery to serve; one of a rendered world otherwise.")
    shards: tuple[str, ...] = Field((), description="Archive the queries are taken from; a rendered world otherwise.")
    composition: Literal["fused", "split"] = Field("fused", description="One process for all, or encoders apart.")
    proxy: Literal["haproxy", "python"] = Field("haproxy", description="What takes the requests on the service's port.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network runs.")
    requests: int = Field(100, gt=0, description="Queries of each kind at one client.")
    clients: int = Field(32, gt=0, description="Clients that ask at once.")
    load_seconds: float = Field(20.0, gt=0, description="How long they ask.")


class QueryFigures(Findings):
    """Queries of one kind at one client; times are medians but for p99. `added_ms`: what the service adds."""

    query: str
    service_p50_ms: float
    service_p99_ms: float
    process_ms: float
    decode_ms: float
    encode_ms: float
    search_ms: float
    added_ms: float


class LoadFigures(Findings):
    """Many clients, all kinds of queries, against this process alone with batches as large as there are clients.

    `memory_mb`: resident, 10^6 bytes of the replica, before and after.
    """

    clients: int
    num_requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    process_batched_per_s: float
    service_of_process: float
    memory_mb: float
    memory_at_end_mb: float


class GalleryFigures(Findings):
    """What was served."""

    source: str
    num_rows: int
    index: str
    composition: str
    proxy: str


def run(config: ServeBenchmark) -> JobResult:
    """Prepare, start the service, ask, write."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request would be timed with it
    with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
        with entrypoint.before_work():
            running = Run("serve", config)
            gallery_uri, questions = _prepare(config, folder)
            searcher = Searcher.open(gallery_uri)
            process = InProcess(Embedder.open(searcher.pointer.bundle_uri, device=config.device), searcher)
            kinds = by_kind([question for question in questions if question.modality in process.embedder.modalities])
        with _service(gallery_uri, config) as url:
            alone = [one_client(url, process, asked, config.requests) for asked in kinds]
            load = many_clients(url, process, mixed(kinds), config)
    told = GalleryFigures(
        source=config.gallery or "a rendered world, an untrained network",
        num_rows=searcher.num_rows,
        index=searcher.pointer.index.kind,
        composition=config.composition,
        proxy=config.proxy,
    )
    headline: dict[str, float | None] = {f"{kind.query}_added_ms": kind.added_ms for kind in alone}
    headline["service_of_process"] = load.service_of_process
    return running.finish({"gallery": told, "one_client": alone, "many_clients": load}, headline)


class InProcess:
    """The same work without a service."""

    def __init__(self, embedder: Embedder, searcher: Searcher) -> None:
        self.embedder, self._searcher = embedder, searcher

    def answer(self, questions: Sequence[Question]) -> tuple[float, float, float]:
        """Answer together; milliseconds of decoding, encoding, searching."""
        embedder = self.embedder
        prepared: list[Prepared] = []
        vectors = np.zeros((0, embedder.dim), np.float32)

        def decode() -> None:
            prepared.extend(embedder.pre(question.media) for question in questions)

        def encode() -> None:
            nonlocal vectors
            vectors = embedder.post(embedder.core(prepared))

        return timed_ms(decode), timed_ms(encode), timed_ms(lambda: self._searcher.search(vectors, k=10))


def one_client(url: str, process: InProcess, questions: Sequence[Question], num_requests: int) -> QueryFigures:
    """Ask the service and this process by turns."""
    service, here = Answers(), []
    with Client(url, timeout_s=60) as client:
        for number in range(-_NUM_WARM, num_requests):
            question = questions[number % len(questions)]
            ms, parts = timed_ms(partial(question.ask, client)), process.answer([question])
            if number >= 0:
                service.ms.append(ms)
                here.append(parts)
    decode_ms, encode_ms, search_ms = np.median(np.array(here), axis=0).tolist()
    process_ms = float(np.median(np.array(here).sum(axis=1)))
    return QueryFigures(
        query=questions[0].modality,
        service_p50_ms=service.percentile(0.5),
        service_p99_ms=service.percentile(0.99),
        process_ms=process_ms,
        decode_ms=decode_ms,
        encode_ms=encode_ms,
        search_ms=search_ms,
        added_ms=service.percentile(0.5) - process_ms,
    )


def many_clients(url: str, process: InProcess, questions: Sequence[Question], config: ServeBenchmark) -> LoadFigures:
    """Ask the service at once, then this process for the same batches while the service rests."""
    warm_s = max(min(2.0, config.load_seconds), config.load_seconds / 10)
    ask_at_once(questions, url, num_clients=config.clients, seconds=warm_s)
    memory_mb = _memory_mb(url)
    answers = ask_at_once(questions, url, num_clients=config.clients, seconds=config.load_seconds)
    memory_at_end_mb = _memory_mb(url)
    batch = [questions[number % len(questions)] for number in range(config.clients)]
    process.answer(batch)
    spent_ms: list[float] = []
    while sum(spent_ms) < 500 * config.load_seconds and len(spent_ms) < 1000:
        spent_ms.append(sum(process.answer(batch)))
    batched_per_s = 1000 * len(batch) * len(spent_ms) / sum(spent_ms)
    return LoadFigures(
        clients=config.clients,
        num_requests=len(answers.ms),
        requests_per_s=answers.per_s,
        p50_ms=answers.percentile(0.5),
        p99_ms=answers.percentile(0.99),
        errors=len(answers.errors),
        process_batched_per_s=batched_per_s,
        service_of_process=answers.per_s / batched_per_s,
        memory_mb=memory_mb,
        memory_at_end_mb=memory_at_end_mb,
    )


def _memory_mb(url: str) -> float:
    """Resident memory of the one replica, 10^6 bytes."""
    page = httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    return float(families["process_resident_memory_bytes"].samples[0].value) / 1e6


def _prepare(config: ServeBenchmark, folder: str) -> tuple[str, list[Question]]:
    """The gallery to serve and questions of every kind."""
    uris = [storage.absolute(uri) for uri in config.shards]
    if not uris:
        uris = [write_archive(world_rows(_NUM_SCENES, _NUM_UTTERANCES), storage.join(folder, "archive"))]
    gallery_uri = storage.absolute(config.gallery) if config.gallery else storage.join(folder, "gallery")
    if config.gallery is None:
        bundle_uri = untrained_bundle(storage.join(folder, "bundle"), uris, TrainSettings())
        published_gallery(gallery_uri, bundle_uri, uris)
    return gallery_uri, _questions(uris)


def _questions(uris: Sequence[str]) -> list[Question]:
    """The first items of every modality as files: PNG or GeoTIFF, and WAV. Raises DataError where there is none."""
    questions = []
    for modality in MODALITIES:
        files = [file for file in shards.list_shards(uris) if file.modality == modality and file.num_rows]
        for piece in pieces_of(files)[:1]:
            table = shards.read_piece(piece).slice(0, _QUESTIONS_OF_A_KIND)
            questions += [Question(_as_file(media)) for media in shards.medias(table)]
    if not questions:
        raise DataError("nothing to ask by", seen="no rows", where=", ".join(uris))
    return questions


def _as_file(media: Media) -> Media:
    """The item as a user sends it."""
    if media.modality == "speech":
        return Media("speech", wav_file(media), "wav")
    chip = decode_chip(media)
    data = image_file(chip)
    encoding = "png" if data[:4] == b"\x89PNG" else "tiff"
    return replace(media, data=data, encoding=encoding, dtype=None, shape=None, bands=(), wavelength_nm=())


def by_kind(questions: Sequence[Question]) -> list[list[Question]]:
    """The questions of each modality."""
    kinds: dict[Modality, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.modality, []).append(question)
    return list(kinds.values())


def mixed(kinds: Sequence[Sequence[Question]]) -> list[Question]:
    """One of each kind after the other, so that any run of them holds all kinds alike."""
    longest = max(len(asked) for asked in kinds)
    return [asked[number % len(asked)] for number in range(longest) for asked in kinds]


@contextmanager
def _service(gallery_uri: str, config: ServeBenchmark) -> Iterator[str]:
    """The service as a process of its own, ready, at the yielded address; it is ended by its process id."""
    port = free_port()
    command = [sys.executable, "-m", "serve", "--gallery", gallery_uri, "--port", str(port)]
    command += ["--composition", config.composition, "--device", config.device]
    environment = {**os.environ, "RAY_SERVE_ENABLE_HA_PROXY": "1" if config.proxy == "haproxy" else "0"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        wait_ready(f"http://{HOST}:{port}", process)
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
