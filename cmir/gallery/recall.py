"""How well and how fast a version of a table is searched: recall@10 against exact search, per direction and filter.

Queries are rows of the table itself, the same number of every modality, each left out of its own answers. They ask for
every modality, and again under filters that keep about a tenth, a hundredth and a thousandth of its rows: an index that
finds the nearest of all rows need not find the nearest of few. A row at the same distance as the tenth exact one counts
as found: which of equals comes first says nothing about an index.
"""

import copy
import time
from dataclasses import dataclass, field
from typing import Final

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmir.archive.schema import MODALITIES
from cmir.gallery import commits
from cmir.gallery.held_vectors import Vectors
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.search import nearest_rows
from cmir.gallery.selective import SAMPLED_COLUMNS, SHARES, selective_condition

NUM_QUERIES: Final = 128  # of all modalities together
_TIMED_QUERIES: Final = 24  # of all cases without a filter, and of all with one; at least one of each case
_K: Final = 10
_POOL_ROWS: Final = 20_000  # random rows among which the queries are
_TIE: Final = 1e-6  # cosine distance within which a row is as good as the tenth


@dataclass(frozen=True, slots=True)
class Trial:
    """One way of searching and what it gave: recall per direction, also under filters, and the time of one query."""

    index: IndexSettings
    search: SearchSettings
    recall_by_direction: dict[str, float]
    latency_ms: float
    build_s: float
    recall_filtered: dict[str, float] = field(default_factory=dict)
    latency_filtered_ms: float | None = None

    @property
    def recall_by_case(self) -> dict[str, float]:
        """Recall of every direction, and of every direction under every filter."""
        return {**self.recall_by_direction, **self.recall_filtered}

    @property
    def recall_at_10(self) -> float:
        """The worst case's; 1 where there is none to measure."""
        return min(self.recall_by_case.values(), default=1.0)

    @property
    def worst_case(self) -> str:
        """The case of the worst recall, a dash where there is none."""
        cases = self.recall_by_case
        return min(cases, key=lambda name: cases[name], default="-")

    @property
    def cost_ms(self) -> float:
        """What trials are compared by: a query without a filter and one with a filter."""
        return self.latency_ms + (self.latency_filtered_ms or 0.0)


@dataclass(frozen=True, slots=True)
class _Case:
    """Queries of one modality that ask for another, under a filter that keeps about `share` of it, or under none."""

    source: str
    target: str
    share: float | None
    condition: str

    @property
    def name(self) -> str:
        direction = f"{self.source}_to_{self.target}"
        return direction if self.share is None else f"{direction}, {percent(self.share)} of rows"


class RecallBench:
    """Queries and their exact answers on one version of a table."""

    def __init__(self, dataset: lance.LanceDataset, seed: int) -> None:
        self._dataset = dataset
        pool, places = _sample(dataset, seed)
        self._queries = _sample_queries(dataset, pool, places, seed)
        filters = _filters(dataset, pool, list(self._queries))
        self._cases = [
            _Case(source, target, share, condition)
            for (target, share), condition in filters.items()
            for source in self._queries
        ]
        exact = (IndexSettings(), SearchSettings())
        self._truth = {case: self._distances(case, exact) for case in self._cases}
        self._measured: dict[tuple[str, SearchSettings, bool], tuple[dict[str, float], float | None]] = {}

    @property
    def filters_by_name(self) -> dict[str, str]:
        """The condition of every target and share: `ms, 1% of rows`."""
        return {
            f"{case.target}, {percent(case.share)} of rows": case.condition
            for case in self._cases
            if case.share is not None
        }

    @property
    def num_queries(self) -> int:
        """Queries of all modalities together."""
        return sum(len(ids) for ids, _ in self._queries.values())

    def on(self, dataset: lance.LanceDataset, seed: int) -> "RecallBench":
        """The bench of another version: with the same queries and answers where its rows are the same."""
        if _rows_of(dataset) != _rows_of(self._dataset):
            return type(self)(dataset, seed)
        other = copy.copy(self)
        other._dataset, other._measured = dataset, {}
        return other

    def trial(self, index: IndexSettings, search: SearchSettings, build_s: float) -> Trial:
        """Search all cases this way; recall of each, and the median time of one query. What is known is not redone."""
        recalls, latency_ms = self._part(index, search, is_filtered=False)
        filtered, latency_filtered_ms = self._part(index, search, is_filtered=True)
        return Trial(index, search, recalls, latency_ms or 0.0, build_s, filtered, latency_filtered_ms)

    def _part(
        self, index: IndexSettings, search: SearchSettings, *, is_filtered: bool
    ) -> tuple[dict[str, float], float | None]:
        """Recalls and the median milliseconds of the cases with a filter, or of those without; None for no case."""
        settings = search.under(is_filtered=is_filtered)
        key = (index.kind, settings, is_filtered)
        if key not in self._measured:
            recalls, seconds, way = dict[str, float](), list[float](), (index, settings)
            cases = [case for case in self._cases if (case.share is not None) == is_filtered]
            for case in cases:
                if (recall := _recall(self._truth[case], self._distances(case, way))) is not None:
                    recalls[case.name] = recall
                seconds += self._seconds(case, way, max(1, _TIMED_QUERIES // len(cases)))
            self._measured[key] = (recalls, 1000 * float(np.median(seconds)) if seconds else None)
        return self._measured[key]

    def _seconds(self, case: _Case, way: tuple[IndexSettings, SearchSettings], num_timed: int) -> list[float]:
        seconds = []
        for query in self._queries[case.source][1][:num_timed]:
            started = time.perf_counter()
            nearest_rows(self._dataset, query[None], _K + 1, case.condition, way)
            seconds.append(time.perf_counter() - started)
        return seconds

    def _distances(self, case: _Case, way: tuple[IndexSettings, SearchSettings]) -> list[list[float]]:
        """Ascending distances of the ten nearest of every query, the query itself left out."""
        ids, vectors = self._queries[case.source]
        rows = nearest_rows(self._dataset, vectors, _K + 1, case.condition, way)
        answers: list[list[float]] = [[] for _ in ids]
        columns = (rows[name].to_pylist() for name in ("query_index", "item_id", "_distance"))
        for query, item_id, distance in zip(*columns, strict=True):
            if item_id != ids[query]:
                answers[query].append(distance)
        return [sorted(answer)[:_K] for answer in answers]


def percent(share: float) -> str:
    """A share as people read it.

    >>> percent(0.1), percent(0.001)
    ('10%', '0.1%')
    """
    return f"{100 * share:.3g}%"


def _recall(truth: list[list[float]], found: list[list[float]]) -> float | None:
    """Share of the exact answers that were found, ties counting as found; None where there is nothing to find."""
    shares = [
        sum(distance <= exact[-1] + _TIE for distance in answer) / len(exact)
        for exact, answer in zip(truth, found, strict=True)
        if exact
    ]
    return float(np.mean(np.minimum(shares, 1.0))) if shares else None


def _rows_of(dataset: lance.LanceDataset) -> list[tuple[int, str]]:
    """What decides which rows a version holds: its fragments and what is deleted of them."""
    fragments = dataset.get_fragments()
    return [(fragment.fragment_id, str(fragment.metadata.deletion_file)) for fragment in fragments]


def _sample(dataset: lance.LanceDataset, seed: int) -> tuple[pa.Table, list[int]]:
    """Random rows of the table, without their vectors, and their places in it, ascending."""
    num_rows = dataset.count_rows()
    draw = np.random.default_rng(seed)
    places = np.sort(draw.choice(num_rows, size=min(num_rows, _POOL_ROWS), replace=False)).tolist()
    return dataset.take(places, columns=list(SAMPLED_COLUMNS)), places


def _sample_queries(
    dataset: lance.LanceDataset, pool: pa.Table, places: list[int], seed: int
) -> dict[str, tuple[list[str], Vectors]]:
    """Random rows of every modality of the table: ids and vectors f32[n,D]."""
    draw = np.random.default_rng((seed, 1))
    modality_of = np.array(pool["modality"].to_pylist())
    num_each = NUM_QUERIES // max(1, len(set(modality_of)))
    queries: dict[str, tuple[list[str], Vectors]] = {}
    for modality in MODALITIES:
        rows = np.array(places)[modality_of == modality]
        columns = ["item_id", "vector"]
        if len(rows):
            chosen = draw.choice(rows, size=min(len(rows), num_each), replace=False)
            table = dataset.take(np.sort(chosen).tolist(), columns=columns)
        else:  # a rare modality: the first of it
            wanted = commits.is_one_of("modality", [modality])
            table = dataset.to_table(columns=columns, filter=wanted, limit=num_each)
        if len(table):
            queries[modality] = (table["item_id"].to_pylist(), _matrix(table))
    return queries


def _filters(dataset: lance.LanceDataset, pool: pa.Table, modalities: list[str]) -> dict[tuple[str, float | None], str]:
    """The condition of every target and share; a share that leaves fewer than ten rows of a target is left out."""
    found: dict[tuple[str, float | None], str] = {}
    for target in modalities:
        is_target = commits.is_one_of("modality", [target])
        found[target, None] = is_target
        rows = pool.filter(pc.equal(pool["modality"], target))
        num_rows = len(rows) / len(pool) * dataset.count_rows()
        for share in SHARES:
            if num_rows * share >= _K:
                found[target, share] = f"{is_target} AND {selective_condition(rows, share)}"
    return found


def _matrix(table: pa.Table) -> Vectors:
    vectors = table["vector"].combine_chunks()
    return np.asarray(vectors.flatten(), dtype=np.float32).reshape(len(table), -1)
