"""All vectors of a published version in memory, in the order of the index's partitions, where they fit there.

Lance's own search of a small table takes milliseconds, nearly all of them around the arithmetic (planning, scheduling,
Arrow tables in and out). Here a query is multiplied with the few contiguous blocks of its nearest partitions. They are
the index's partitions and as many as it was tuned to, so that recall is at least the index's: nothing is coded, and
what is short of rows looks at all of them. Blocks of one modality lie together, so a target costs nothing. Other
filters stay with the table, which tells the rows that pass; these are then compared exactly.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cmir.archive.schema import MODALITIES
from cmir.gallery.hit_rows import RowIds

HELD_BYTES: Final = 512 * 2**20  # at most, of one searcher: a million vectors of 128 components
_HOLD_FROM: Final = 2  # so many searches
_NUMBERS_AT_ONCE: Final = 8 * 2**20  # scores, or components of hits: 32 and 64 MB
_ROWS_AT_ONCE: Final = 16_384  # for which the nearest centroid is looked up

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Nearest = tuple[RowIds, Vectors]  # row ids and cosine distances of one query's nearest rows, ascending


class HeldVectors:
    """Vectors f32[N,D] with their row ids, by partition and modality. Never changes; safe to use from several threads.

    `centroids`, f32[P,D], are the index's; without an index there is one partition.
    """

    def __init__(self, vectors: Vectors, row_ids: RowIds, modalities: Sequence[str], centroids: Vectors | None) -> None:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        self._centroids = centroids
        self._squares = np.zeros(1) if centroids is None else np.square(centroids).sum(axis=1)
        partitions = np.zeros(len(unit), np.int64) if centroids is None else _nearest_centroid(unit, centroids)
        code_of: dict[str, int] = {name: code for code, name in enumerate(MODALITIES)}
        codes = np.fromiter((code_of[name] for name in modalities), np.int64, len(unit))
        blocks = partitions * len(MODALITIES) + codes
        order = np.argsort(blocks, kind="stable")
        self._vectors, self._row_ids = unit[order], row_ids[order]
        num_blocks = (1 if centroids is None else len(centroids)) * len(MODALITIES)
        self._starts = np.searchsorted(blocks[order], np.arange(num_blocks + 1))
        self._by_row_id = np.argsort(self._row_ids)

    @classmethod
    def read(cls, dataset: lance.LanceDataset, index_name: str | None) -> "HeldVectors":
        """All of a version's; with the partitions of its index where one is named."""
        table = dataset.to_table(columns=["vector", "modality"], with_row_id=True)
        flat = np.asarray(table["vector"].combine_chunks().flatten(), dtype=np.float32)
        centroids = None if index_name is None else dataset.get_ivf_model(index_name).centroids
        return cls(
            flat.reshape(len(table), dataset.schema.field("vector").type.list_size),
            np.asarray(table["_rowid"].combine_chunks()),
            table["modality"].to_pylist(),
            None if centroids is None else _matrix(centroids),
        )

    def nearest(
        self, queries: Vectors, num_hits: int, targets: Sequence[str], nprobes: int | None = None
    ) -> list[Nearest]:
        """The nearest rows of the targets' modalities (all where none is named) of every query, unit vectors f32[Q,D].

        Of `nprobes` partitions, of all where it is None or where they hold fewer than `num_hits` rows.
        """
        codes = [code for code, name in enumerate(MODALITIES) if not targets or name in targets]
        if self._centroids is None or nprobes is None or nprobes >= len(self._centroids):
            return self._exact(queries, num_hits, codes)
        to_centroids = self._squares - 2 * (queries @ self._centroids.T)
        probed = np.sort(np.argpartition(to_centroids, nprobes - 1, axis=1)[:, :nprobes], axis=1)
        firsts, lasts = _spans(probed, codes)
        starts, lengths = self._starts[firsts], self._starts[lasts] - self._starts[firsts]
        ends = np.cumsum(lengths, axis=1)
        is_short = ends[:, -1] < num_hits
        found: list[Nearest | None] = [None] * len(queries)
        for part in self._parts(np.flatnonzero(~is_short), int(ends.max(initial=0)), num_hits):
            near = self._in_spans(queries[part], num_hits, starts[part], lengths[part], ends[part])
            for i, one in zip(part.tolist(), near, strict=True):
                found[i] = one
        short = np.flatnonzero(is_short)
        for i, one in zip(short.tolist(), self._exact(queries[short], num_hits, codes), strict=True):
            found[i] = one
        return [one for one in found if one is not None]

    def _in_spans(
        self, queries: Vectors, num_hits: int, starts: Places, lengths: Places, ends: Places
    ) -> list[Nearest]:
        """Of every query's own spans of rows, each i64[Q,S], at least `num_hits` rows; `ends` sum the lengths up."""
        scores = np.full((len(queries), int(ends[:, -1].max())), -np.inf, np.float32)
        of_span, row_of = starts.ravel(), np.repeat(np.arange(len(queries)), starts.shape[1])
        filled = np.flatnonzero(lengths)
        by_span = filled[np.argsort(of_span[filled], kind="stable")]
        breaks = np.flatnonzero(np.diff(of_span[by_span])) + 1
        for same in np.split(by_span, breaks):  # a span is read once for all queries that look there
            start, length, rows = of_span[same[0]], lengths.flat[same[0]], row_of[same]
            products = queries[rows] @ self._vectors[start : start + length].T
            for row, end, product in zip(rows.tolist(), ends.flat[same].tolist(), products, strict=True):
                scores[row, end - length : end] = product
        best = np.argpartition(scores, -num_hits, axis=1)[:, -num_hits:]
        span_of = (best[:, :, None] >= ends[:, None, :]).sum(axis=2)
        in_span = best - np.take_along_axis(ends - lengths, span_of, axis=1)
        return self._told(queries, np.take_along_axis(starts, span_of, axis=1) + in_span)

    def nearest_among(self, queries: Vectors, num_hits: int, row_ids: RowIds) -> list[Nearest]:
        """The nearest of these rows, none twice, of every query; all of them are compared."""
        places = self._by_row_id[np.searchsorted(self._row_ids, row_ids, sorter=self._by_row_id)]
        chosen = self._vectors[places]
        return self._in_parts(queries, len(chosen), lambda part: part @ chosen.T, num_hits, lambda best: places[best])

    def _exact(self, queries: Vectors, num_hits: int, codes: Sequence[int]) -> list[Nearest]:
        """All rows of these modalities are compared."""
        if len(codes) == len(MODALITIES):
            every = self._vectors
            return self._in_parts(queries, len(every), lambda part: part @ every.T, num_hits, lambda best: best)
        firsts, lasts = _spans(np.arange(len(self._starts) // len(MODALITIES))[None], codes)
        spans = list(zip(self._starts[firsts[0]].tolist(), self._starts[lasts[0]].tolist(), strict=True))
        places = np.concatenate([np.arange(start, end) for start, end in spans])

        def scores(part: Vectors) -> Vectors:
            return np.concatenate([part @ self._vectors[start:end].T for start, end in spans], axis=1)

        return self._in_parts(queries, len(places), scores, num_hits, lambda best: places[best])

    def _in_parts(
        self,
        queries: Vectors,
        num_rows: int,
        scores: Callable[[Vectors], Any],
        num_hits: int,
        place: Callable[[Places], Places],
    ) -> list[Nearest]:
        found: list[Nearest] = []
        for places in self._parts(np.arange(len(queries)), num_rows, min(num_hits, num_rows)):
            part = queries[places]
            rows = scores(part)
            if num_hits < num_rows:
                best = np.argpartition(rows, -num_hits, axis=1)[:, -num_hits:]
            else:
                best = np.broadcast_to(np.arange(num_rows), rows.shape)
            found += self._told(part, place(best))
        return found

    def _parts(self, queries: Places, num_scores: int, num_hits: int) -> Iterator[Places]:
        """So many queries at a time that their scores, and the vectors of their hits, take a bounded memory."""
        step = max(1, _NUMBERS_AT_ONCE // max(1, num_scores, num_hits * self._vectors.shape[1]))
        yield from (queries[start : start + step] for start in range(0, len(queries), step))

    def _told(self, queries: Vectors, places: Places) -> list[Nearest]:
        """Row ids and distances of places i64[Q,N], ascending; computed anew, so that no batch changes them."""
        near = self._vectors[places].astype(np.float64)
        distances = (1.0 - np.einsum("qnd,qd->qn", near, queries.astype(np.float64))).astype(np.float32)
        order = np.argsort(distances, axis=1, kind="stable")
        row_ids = self._row_ids[np.take_along_axis(places, order, axis=1)]
        return list(zip(row_ids, np.take_along_axis(distances, order, axis=1), strict=True))


class VectorsOnDemand:
    """The vectors of a version, read when they are asked for often enough; safe to use from several threads."""

    def __init__(self, dataset: lance.LanceDataset, index_name: str | None) -> None:
        self._dataset, self._index_name = dataset, index_name
        self._lock, self._num_asked, self._held = threading.Lock(), 0, cast(HeldVectors | None, None)
        num_bytes = dataset.count_rows() * dataset.schema.field("vector").type.list_size * 4
        self._is_small = num_bytes <= HELD_BYTES

    def get(self, *, at_once: bool = False) -> HeldVectors | None:
        """In memory from the second time on, or `at_once`; None before, and where they take more than HELD_BYTES.

        Without an index from the first time on: a search then reads all vectors in any case.
        """
        if not self._is_small:
            return None
        with self._lock:
            self._num_asked += 1
            if self._held is None and (at_once or self._index_name is None or self._num_asked >= _HOLD_FROM):
                self._held = HeldVectors.read(self._dataset, self._index_name)
            return self._held


def _matrix(centroids: Any) -> Vectors:
    if isinstance(centroids, pa.Array):
        return np.asarray(centroids.flatten(), dtype=np.float32).reshape(len(centroids), -1)
    return np.asarray(centroids, dtype=np.float32)


def _nearest_centroid(vectors: Vectors, centroids: Vectors) -> Places:
    squares = np.square(centroids).sum(axis=1) / 2
    parts = [
        np.argmax(vectors[start : start + _ROWS_AT_ONCE] @ centroids.T - squares, axis=1)
        for start in range(0, len(vectors), _ROWS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _spans(partitions: Places, codes: Sequence[int]) -> tuple[Places, Places]:
    """First block, and the one after the last, of every run of neighbouring codes in partitions i64[Q,P].

    >>> _spans(np.array([[0, 7]]), [0, 1, 3])
    (array([[ 0,  3, 28, 31]]), array([[ 2,  4, 30, 32]]))
    """
    wanted = np.asarray(codes)
    breaks = np.flatnonzero(np.diff(wanted) > 1)
    firsts, lasts = wanted[np.r_[0, breaks + 1]], wanted[np.r_[breaks, len(wanted) - 1]] + 1
    blocks = partitions[:, :, None] * len(MODALITIES)
    return (blocks + firsts).reshape(len(partitions), -1), (blocks + lasts).reshape(len(partitions), -1)
