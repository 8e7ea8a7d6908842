"""Milliseconds per query and recall@10 of every way the gallery can search, beside faiss where it is installed.

Each index is built and tuned to the target as jobs/index.py does, published in a gallery of the benchmark's own, and
asked through `Searcher`, the code that serves. Recall is counted here against exact cosines computed with numpy, the
same for all. All ways stand side by side and are asked by turns. On synthetic vectors filters are timed as well,
without and with scalar indexes.
"""

import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
from pydantic import Field

from cmir.archive import storage
from cmir.gallery import publish, tuning
from cmir.gallery.held_vectors import Vectors
from cmir.gallery.publish import IndexKind, IndexSettings, SearchSettings
from cmir.gallery.search import Searcher
from jobs import entrypoint
from jobs.benchmarks.filters import measure_filters
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run
from jobs.benchmarks.vectors import Collection, copied_collection, draw_queries, synthetic_collection
from jobs.entrypoint import JobResult

_K: Final = 10
_BATCH: Final = 32
_TIE: Final = 1e-6  # a hit whose cosine is within this of the tenth exact one counts as found


class SearchBenchmark(BenchmarkConfig):
    """Measure search: milliseconds per query alone and in batches of 32, and recall@10, for every kind of index."""

    gallery: str | None = Field(None, description="Published gallery to copy; synthetic vectors otherwise.")
    num_rows: int = Field(100_000, ge=100, description="Rows of synthetic vectors.")
    dim: int = Field(128, ge=2, description="Components of synthetic vectors.")
    clusters: int = Field(1000, ge=0, description="Centres synthetic vectors lie around; 0 for random directions.")
    queries: int = Field(64, ge=1, description="Queries, near random rows.")
    target_recall: float = Field(0.99, gt=0, le=1, description="Recall@10 that indexes are tuned to.")
    rounds: int = Field(3, gt=0, description="How often each way is timed; the median counts.")
    seed: int = Field(0, ge=0, description="Seed of vectors and queries.")


class DataFigures(Findings):
    """What was searched."""

    source: str
    num_rows: int
    dim: int
    num_queries: int
    target_recall: float


class WayFigures(Findings):
    """One way of searching: milliseconds per query, median of one at a time, mean of batches.

    `ms_targeted` asks for one modality, `ms_batch_ranked` finds rows and distances and, as faiss, nothing of what a hit
    tells; `ranked_of_faiss` is its time over that of a batch of faiss IVF, `batch_of_faiss` that of whole hits.
    """

    way: str
    settings: str
    build_s: float
    recall_at_10: float
    ms_single: float
    ms_targeted: float | None
    ms_batch_of_32: float
    ms_batch_ranked: float | None
    ranked_of_faiss: float | None = None
    batch_of_faiss: float | None = None


Ask = Callable[[Vectors], list[list[str]]]  # vectors f32[N,D] -> item_ids of the ten best of each


@dataclass(frozen=True)
class Way:
    """A way of searching, ready to be asked."""

    name: str
    settings: str
    build_s: float
    ask: Ask
    ask_targeted: Ask | None = None
    rank: Callable[[Vectors], object] | None = None


def run(config: SearchBenchmark) -> JobResult:
    """Fill a gallery, build and tune every index, ask them by turns, write."""
    with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
        with entrypoint.before_work():
            running = Run("search", config)
            searched = _collection(config, storage.join(folder, "gallery"))
        queries = draw_queries(searched.vectors, config.queries, config.seed)
        ways = [_published(searched, kind, config) for kind in get_args(IndexKind)]
        if importlib.util.find_spec("faiss") is not None:
            ways += [_faiss_flat(searched), _faiss_ivf(searched, queries, config.target_recall)]
        found = measure(ways, searched, queries, rounds=config.rounds)
        figures: dict[str, Findings | Sequence[Findings]] = {"ways": found}
        if config.gallery is None:
            figures["filters"] = measure_filters(searched.space, queries, rounds=config.rounds)
    told = DataFigures(
        source=searched.source,
        num_rows=len(searched.item_ids),
        dim=searched.vectors.shape[1],
        num_queries=len(queries),
        target_recall=config.target_recall,
    )
    headline = {f"{one.way}_ms": one.ms_single for one in found}
    return running.finish({"data": told, **figures}, headline)


def measure(ways: Sequence[Way], searched: Collection, queries: Vectors, *, rounds: int) -> list[WayFigures]:
    """Recall of every way, and its time, asked by turns."""
    recalls = [_recall(way.ask, searched, queries) for way in ways]  # also warms them up
    single: list[list[float]] = [[] for _ in ways]
    targeted: list[list[float]] = [[] for _ in ways]
    batch: list[list[float]] = [[] for _ in ways]
    ranked: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for number, way in enumerate(ways):
            single[number] += [_ms(way.ask, query[None]) for query in queries]
            if way.ask_targeted is not None:
                targeted[number] += [_ms(way.ask_targeted, query[None]) for query in queries]
            batch[number] += _batched_ms(way.ask, queries)
            if way.rank is not None:
                ranked[number] += _batched_ms(way.rank, queries)
    yardstick = next((float(np.mean(batch[i])) for i, way in enumerate(ways) if way.name == "faiss IVF"), None)
    return [
        WayFigures(
            way=way.name,
            settings=way.settings,
            build_s=way.build_s,
            recall_at_10=recalls[number],
            ms_single=float(np.median(single[number])),
            ms_targeted=float(np.median(targeted[number])) if targeted[number] else None,
            ms_batch_of_32=float(np.mean(batch[number])),
            ms_batch_ranked=float(np.mean(ranked[number])) if ranked[number] else None,
            ranked_of_faiss=float(np.mean(ranked[number])) / yardstick if yardstick and ranked[number] else None,
            batch_of_faiss=float(np.mean(batch[number])) / yardstick if yardstick else None,
        )
        for number, way in enumerate(ways)
    ]


def _collection(config: SearchBenchmark, uri: str) -> Collection:
    if config.gallery is not None:
        return copied_collection(uri, storage.absolute(config.gallery))
    return synthetic_collection(uri, config.num_rows, config.dim, config.clusters, config.seed)


def _published(searched: Collection, kind: IndexKind, config: SearchBenchmark) -> Way:
    """Build an index of a kind, tune its search to the target, publish that version; `exact` builds nothing."""
    space, uri = searched.space, searched.space.gallery.uri
    build_s, index, search = 0.0, IndexSettings(), SearchSettings()
    if kind != "exact":
        num_partitions = max(2, round(math.sqrt(space.count_rows())))
        index = IndexSettings(kind=kind, params={"num_partitions": num_partitions})
        build_s = tuning.build(space, index)
        search = tuning.measure(space, config.target_recall, seed=config.seed).chosen.search
    publish.publish(
        uri,
        space.space_id,
        table_version=int(space.dataset().version),
        index=index,
        search=search,
        recall_at_10=1.0,
    )
    searcher = Searcher.open(uri)
    searcher.warm()
    partitions = index.params.get("num_partitions")
    refine = f", refine {search.refine_factor}" if search.refine_factor else ""
    return Way(
        kind,
        f"{search.nprobes} of {partitions} partitions{refine}" if partitions else "all vectors",
        build_s,
        lambda vectors: _ids(searcher, vectors, ()),
        lambda vectors: _ids(searcher, vectors, (searched.modality,)),
        lambda vectors: searcher.rank(vectors, k=_K),
    )


def _ids(searcher: Searcher, vectors: Vectors, targets: Sequence[str]) -> list[list[str]]:
    return [[hit.item_id for hit in hits] for hits in searcher.search(vectors, targets=targets, k=_K)]


def _faiss_flat(searched: Collection) -> Way:
    import faiss

    index = faiss.IndexFlatIP(searched.vectors.shape[1])
    index.add(searched.vectors)
    return Way("faiss flat", "all vectors", 0.0, lambda vectors: _faiss_ids(index, searched, vectors))


def _faiss_ivf(searched: Collection, queries: Vectors, target_recall: float) -> Way:
    """IVF of as many partitions as ours, its nprobe doubled until the queries themselves reach the target."""
    import faiss

    num_rows, dim = searched.vectors.shape
    num_partitions = max(2, round(math.sqrt(num_rows)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_partitions, faiss.METRIC_INNER_PRODUCT)
    began = time.perf_counter()
    index.train(searched.vectors)
    index.add(searched.vectors)
    build_s = time.perf_counter() - began
    index.nprobe = 1

    def ask(vectors: Vectors) -> list[list[str]]:
        return _faiss_ids(index, searched, vectors)

    while _recall(ask, searched, queries) < target_recall and index.nprobe < num_partitions:
        index.nprobe = min(2 * index.nprobe, num_partitions)
    return Way("faiss IVF", f"{index.nprobe} of {num_partitions} partitions", build_s, ask)


def _faiss_ids(index: Any, searched: Collection, vectors: Vectors) -> list[list[str]]:
    _, rows = index.search(np.ascontiguousarray(vectors), _K)
    return [[searched.item_ids[row] for row in found if row >= 0] for found in rows.tolist()]


def _recall(ask: Ask, searched: Collection, queries: Vectors) -> float:
    """Mean share of ten hits whose cosine is at least the tenth best of all."""
    place = {item_id: row for row, item_id in enumerate(searched.item_ids)}
    shares = []
    for query, found in zip(queries, ask(queries), strict=True):
        cosines = searched.vectors @ query
        count = min(_K, len(cosines))
        tenth = np.partition(cosines, -count)[-count]
        shares.append(sum(cosines[place[item_id]] >= tenth - _TIE for item_id in found) / count)
    return float(np.mean(shares))


def _batched_ms(ask: Callable[[Vectors], object], queries: Vectors) -> list[float]:
    """Milliseconds per query of every batch of 32; the last is filled up with queries from its beginning."""
    shape = (_BATCH, queries.shape[1])
    starts = range(0, len(queries), _BATCH)
    return [_ms(ask, np.resize(queries[start:], shape)) / _BATCH for start in starts]


def _ms(ask: Callable[[Vectors], object], vectors: Vectors) -> float:
    began = time.perf_counter()
    ask(vectors)
    return 1000 * (time.perf_counter() - began)
