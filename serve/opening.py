"""A pointer -> a warm Snapshot: the bundle on its device, the gallery at the published version, every probe run once.

When only the gallery moved on and the space stayed, the embedder that is loaded is kept.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from cmir.archive import storage
from cmir.archive.schema import MODALITIES
from cmir.errors import SpaceMismatchError
from cmir.gallery import commits
from cmir.gallery.publish import Pointer, read_pointer
from cmir.gallery.search import Searcher
from cmir.network import ear_opening
from cmir.network.bundle import verify_bundle
from cmir.network.embedder import Device, Embedder
from serve.deployments import Decoder, Encoder, Finder, Listener, LocalEncoder, Snapshot
from serve.engine import Engine
from serve.isolated import DecodingProcesses
from serve.limits import Limits
from serve.metrics import Metrics
from serve.probe_items import probe_media
from serve.probing import probe
from serve.watch import PointerWatch

MakeEncoder: TypeAlias = Callable[[Embedder], Awaitable[Encoder]]


@dataclass(frozen=True, slots=True)
class Threads:
    """Where the parts run: several decode, one encodes (torch has its own), one searches (so that batches form), one
    searches with filters, one listens."""

    decode: Executor
    encode: Executor
    search: Executor
    filter: Executor
    listen: Executor

    @classmethod
    def start(cls) -> "Threads":
        """As many decoders as there are cores."""
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(
            decode=ThreadPoolExecutor(max(2, num_cores), "decode"),
            encode=ThreadPoolExecutor(1, "encode"),
            search=ThreadPoolExecutor(1, "search"),
            filter=ThreadPoolExecutor(1, "filter"),
            listen=ThreadPoolExecutor(1, "listen"),
        )


def check_bundle(gallery_uri: str, bundle_uri: str | None) -> Pointer:
    """What is published in the gallery, after a look at whether the bundle, `bundle_uri` or the published one, fits it.

    Raises GalleryError where nothing is published, DataError where the bundle cannot be read, SpaceMismatchError where
    its space is not the published one.
    """
    pointer = read_pointer(gallery_uri)
    wanted = bundle_uri or pointer.bundle_uri
    _check_space(verify_bundle(wanted).space_id, wanted, pointer, gallery_uri)
    Searcher(gallery_uri, pointer)  # the table it names is there
    return pointer


def build_engine(
    gallery_uri: str,
    *,
    bundle_uri: str | None = None,
    device: Device = "auto",
    limits: Limits,
    poll_s: float = 2.0,
    make_encoder: MakeEncoder | None = None,
    second_ear: str | None = None,
    canary_s: float = 0,
    decode_processes: int = 0,
) -> Engine:
    """An engine over a gallery; nothing is opened before it starts.

    `second_ear` names a recogniser to ask beside the speech tower (cmir.network.ear_opening). `make_encoder` gives the
    encoder of a newly loaded bundle; without it, it is encoded here (`fused`). `canary_s`: see `Engine`. With no
    `decode_processes` queries are decoded in threads of this process.
    """
    threads, metrics = Threads.start(), Metrics()

    async def here(embedder: Embedder) -> Encoder:
        return LocalEncoder(embedder, executor=threads.encode, limits=limits, metrics=metrics)

    opener = SnapshotOpener(
        gallery_uri,
        bundle_uri=bundle_uri,
        device=device,
        make_encoder=make_encoder or here,
        second_ear=second_ear,
        threads=threads,
        limits=limits,
        metrics=metrics,
    )
    watch = PointerWatch(
        partial(read_pointer, gallery_uri), opener.open, poll_s=poll_s, on_failure=metrics.refresh_failures.inc
    )
    processes = DecodingProcesses(decode_processes, limits) if decode_processes else None
    decoder = Decoder(limits=limits, executor=threads.decode, processes=processes)
    return Engine(watch, decoder=decoder, executor=threads.decode, metrics=metrics, limits=limits, canary_s=canary_s)


class SnapshotOpener:
    """Opens what is published in one gallery."""

    def __init__(
        self,
        gallery_uri: str,
        *,
        bundle_uri: str | None,
        device: Device,
        make_encoder: MakeEncoder,
        second_ear: str | None,
        threads: Threads,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._gallery_uri, self._bundle_uri, self._device = gallery_uri, bundle_uri, device
        self._make_encoder, self._second_ear, self._threads = make_encoder, second_ear, threads
        self._limits, self._metrics = limits, metrics

    async def open(self, pointer: Pointer, previous: Snapshot | None) -> Snapshot:
        """A warm snapshot of `pointer`.

        Raises SpaceMismatchError where the bundle is of another space, GalleryError or DataError where a part cannot
        be opened, ConfigError where the second ear cannot, ProblemError where a probe does not come through.
        """
        searcher = await asyncio.to_thread(Searcher, self._gallery_uri, pointer)
        if previous is not None and previous.pointer.space_id == pointer.space_id:
            embedder, encoder, probes = previous.embedder, previous.encoder, previous.probes
            listener = previous.listener
        else:
            loaded = await asyncio.to_thread(self._load, pointer)
            encoder = await self._make_encoder(loaded)
            probes = probe_media(loaded.bundle.preprocessing, loaded.modalities)
            listener = await asyncio.to_thread(self._listener, loaded)
            embedder = loaded
        finder = Finder(
            searcher,
            executor=self._threads.search,
            filtering=self._threads.filter,
            limits=self._limits,
            metrics=self._metrics,
        )
        await asyncio.to_thread(searcher.warm)
        num_items = await asyncio.to_thread(count_items, self._gallery_uri, pointer)
        snapshot = Snapshot(pointer, embedder, encoder, searcher, finder, num_items, probes, listener)
        for media in probes:
            await probe(snapshot, media)
        self._metrics.sequence.set(pointer.sequence)
        self._metrics.published_at.set(pointer.published_at.timestamp())
        return snapshot

    def _load(self, pointer: Pointer) -> Embedder:
        bundle_uri = self._bundle_uri or pointer.bundle_uri
        embedder = Embedder.open(bundle_uri, device=self._device)
        _check_space(embedder.space_id, bundle_uri, pointer, self._gallery_uri)
        return embedder

    def _listener(self, embedder: Embedder) -> Listener | None:
        if self._second_ear is None:
            return None
        ear = ear_opening.open_ear_of(self._second_ear, embedder.bundle.config, device=embedder.device)
        return Listener(ear, executor=self._threads.listen)


def count_items(gallery_uri: str, pointer: Pointer) -> dict[str, int]:
    """Items of the published version by modality, those of which there is none left out."""
    dataset = commits.open_table(storage.join(gallery_uri, f"{pointer.table}.lance"), pointer.tag)
    counts = {modality: int(dataset.count_rows(f"modality = '{modality}'")) for modality in MODALITIES}
    return {modality: count for modality, count in counts.items() if count}


def _check_space(seen: str, bundle_uri: str, pointer: Pointer, gallery_uri: str) -> None:
    if seen != pointer.space_id:
        fix = f"leave the bundle out, or give the one that was published: {pointer.bundle_uri}"
        if bundle_uri == pointer.bundle_uri:
            fix = "the bundle was trained anew in its place: embed, index and publish with it, or put the old one back"
        raise SpaceMismatchError(
            "the bundle is of another space than the published gallery",
            seen=f"{seen} ({bundle_uri})",
            expected=pointer.space_id,
            where=gallery_uri,
            fix=fix,
        )
