"""How well and how fast a version of a table is searched: recall@10 against exact search, per direction.

Queries are rows of the table itself, the same number of every modality, each left out of its own answers. A row at the
same distance as the tenth exact one counts as found: which of equals comes first says nothing about an index.
"""

import time
from dataclasses import dataclass
from typing import Final

import lance
import numpy as np
import pyarrow as pa

from cmir.archive.schema import MODALITIES
from cmir.gallery import commits
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.search import Vectors, nearest_rows

QUERIES_PER_MODALITY: Final = 32
_TIMED_QUERIES: Final = 5  # per direction
_K: Final = 10
_POOL_ROWS: Final = 20_000  # random rows among which the queries are
_TIE: Final = 1e-6  # cosine distance within which a row is as good as the tenth


@dataclass(frozen=True, slots=True)
class Trial:
    """One way of searching and what it gave: recall per direction, and the time of one query."""

    index: IndexSettings
    search: SearchSettings
    recall_by_direction: dict[str, float]
    latency_ms: float
    build_s: float

    @property
    def recall_at_10(self) -> float:
        """The worst direction's; 1 where there is no direction to measure."""
        return min(self.recall_by_direction.values(), default=1.0)


class RecallBench:
    """Queries and their exact answers on one version of a table."""

    def __init__(self, dataset: lance.LanceDataset, seed: int) -> None:
        self._dataset = dataset
        self._queries = _sample_queries(dataset, seed)
        exact = (IndexSettings(), SearchSettings())
        self._truth = {
            (source, target): self._distances(source, target, exact)
            for source in self._queries
            for target in self._queries
        }

    def trial(self, index: IndexSettings, search: SearchSettings, build_s: float) -> Trial:
        """Search all directions this way; recall of each, and the median time of one query."""
        recalls, seconds = {}, []
        for (source, target), truth in self._truth.items():
            found = self._distances(source, target, (index, search))
            if (recall := _recall(truth, found)) is not None:
                recalls[f"{source}_to_{target}"] = recall
            for query in self._queries[source][1][:_TIMED_QUERIES]:
                started = time.perf_counter()
                condition = commits.is_one_of("modality", [target])
                nearest_rows(self._dataset, query[None], _K + 1, condition, (index, search))
                seconds.append(time.perf_counter() - started)
        latency_ms = 1000 * float(np.median(seconds)) if seconds else 0.0
        return Trial(index, search, recalls, latency_ms, build_s)

    def _distances(self, source: str, target: str, way: tuple[IndexSettings, SearchSettings]) -> list[list[float]]:
        """Ascending distances of the ten nearest of every query, the query itself left out."""
        ids, vectors = self._queries[source]
        rows = nearest_rows(self._dataset, vectors, _K + 1, commits.is_one_of("modality", [target]), way)
        answers: list[list[float]] = [[] for _ in ids]
        columns = (rows[name].to_pylist() for name in ("query_index", "item_id", "_distance"))
        for query, item_id, distance in zip(*columns, strict=True):
            if item_id != ids[query]:
                answers[query].append(distance)
        return [sorted(answer)[:_K] for answer in answers]


def _recall(truth: list[list[float]], found: list[list[float]]) -> float | None:
    """Share of the exact answers that were found, ties counting as found; None where there is nothing to find."""
    shares = [
        sum(distance <= exact[-1] + _TIE for distance in answer) / len(exact)
        for exact, answer in zip(truth, found, strict=True)
        if exact
    ]
    return float(np.mean(np.minimum(shares, 1.0))) if shares else None


def _sample_queries(dataset: lance.LanceDataset, seed: int) -> dict[str, tuple[list[str], Vectors]]:
    """Random rows of every modality of the table: ids and vectors f32[n,D]."""
    draw = np.random.default_rng(seed)
    num_rows = dataset.count_rows()
    pool = np.sort(draw.choice(num_rows, size=min(num_rows, _POOL_ROWS), replace=False))
    modality_of = np.array(dataset.take(pool.tolist(), columns=["modality"])["modality"].to_pylist())
    queries: dict[str, tuple[list[str], Vectors]] = {}
    for modality in MODALITIES:
        rows = pool[modality_of == modality]
        columns = ["item_id", "vector"]
        if len(rows):
            chosen = draw.choice(rows, size=min(len(rows), QUERIES_PER_MODALITY), replace=False)
            table = dataset.take(np.sort(chosen).tolist(), columns=columns)
        else:  # a rare modality: the first of it
            wanted = commits.is_one_of("modality", [modality])
            table = dataset.to_table(columns=columns, filter=wanted, limit=QUERIES_PER_MODALITY)
        if len(table):
            queries[modality] = (table["item_id"].to_pylist(), _matrix(table))
    return queries


def _matrix(table: pa.Table) -> Vectors:
    vectors = table["vector"].combine_chunks()
    return np.asarray(vectors.flatten(), dtype=np.float32).reshape(len(table), -1)
