"""A table becomes a table with the fastest index that meets a target recall, measured on it and not assumed.

The worst direction (query modality to target modality) counts: a mean would hide the one that fails. Small tables stay
exact: below EXACT_BELOW_ROWS one exact query takes under 15 ms on one core (20,000 x 128: 13 ms; an IVF index there
saves 10 ms and costs recall, a build and its upkeep). Trials search just as `Searcher` does.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, get_args

import lance

from cmir.errors import GalleryError
from cmir.gallery.publish import IndexKind, IndexSettings, SearchSettings
from cmir.gallery.recall import RecallBench, Trial
from cmir.gallery.table import SpaceTable

EXACT_BELOW_ROWS: Final = 20_000
EXACT_TRIED_BELOW_ROWS: Final = 200_000  # up to here exact search is a candidate too: a quarter of a second a query
INDEX_NAME: Final = "vector_idx"
_EXTEND_WHEN_INDEXED: Final = 0.5  # with at least this share indexed, an index is extended and not built anew
_REFINE_FACTORS: Final[dict[IndexKind, tuple[int | None, ...]]] = {
    "IVF_FLAT": (None,),  # keeps the vectors as they are
    "IVF_SQ": (2, 8),
    "IVF_RQ": (4, 16),
}


@dataclass(frozen=True, slots=True)
class TuningResult:
    """The chosen trial, the table version that holds its index, and everything that was tried."""

    table_version: int
    chosen: Trial
    trials: tuple[Trial, ...]
    target_recall: float

    @property
    def is_met(self) -> bool:
        return self.chosen.recall_at_10 >= self.target_recall


def tune(space: SpaceTable, target_recall: float, *, seed: int = 0) -> TuningResult:
    """Build what the table needs and choose the fastest way of searching it that meets the target.

    An index that covers most rows is extended by the new ones; only if it then misses the target, candidates are built
    anew. Where none meets the target, the best is returned and `is_met` is false.
    """
    dataset = space.dataset()
    if dataset.count_rows() < EXACT_BELOW_ROWS:
        trial = RecallBench(dataset, seed).trial(IndexSettings(), SearchSettings(), 0.0)
        return TuningResult(int(dataset.version), trial, (trial,), target_recall)
    standing = standing_index(dataset)
    if standing and indexed_rows(dataset) >= _EXTEND_WHEN_INDEXED * dataset.count_rows():
        started = time.monotonic()
        dataset.optimize.optimize_indices()
        result = _measure(space.dataset(), standing, target_recall, time.monotonic() - started, seed)
        if result.is_met:
            return result
    return _build_candidates(space, target_recall, seed)


def measure(space: SpaceTable, target_recall: float, *, seed: int = 0) -> TuningResult:
    """Tune only how the standing index is searched, and exact search where there is none; builds nothing."""
    dataset = space.dataset()
    standing = standing_index(dataset)
    return _measure(dataset, standing or IndexSettings(), target_recall, 0.0, seed)


def standing_index(dataset: lance.LanceDataset) -> IndexSettings | None:
    """The vector index of a version of a table, None where it has none of our kinds."""
    for index in dataset.describe_indices():
        kind = index.index_type
        if index.name == INDEX_NAME and kind in get_args(IndexKind):
            num_partitions = len(dataset.get_ivf_model(INDEX_NAME).centroids)
            return IndexSettings(kind=kind, params={"num_partitions": num_partitions})
    return None


def indexed_rows(dataset: lance.LanceDataset) -> int:
    """How many rows the vector index covers."""
    return sum(int(index.num_rows_indexed) for index in dataset.describe_indices() if index.name == INDEX_NAME)


def build(space: SpaceTable, index: IndexSettings) -> float:
    """Build the vector index, replacing a standing one; returns seconds. Commits may go on meanwhile."""
    started = time.monotonic()
    partitions = index.params["num_partitions"]
    space.dataset().create_index(
        "vector", index.kind, name=INDEX_NAME, metric="cosine", num_partitions=partitions, replace=True
    )
    return time.monotonic() - started


def candidates(num_rows: int) -> list[IndexSettings]:
    """Indexes worth building for a table of that size: about sqrt(rows) partitions, smaller codes as it grows.

    The likely winner comes last: what was built last stands, and need not be built again.
    """
    params = {"num_partitions": max(2, round(math.sqrt(num_rows)))}
    kinds: list[IndexKind] = ["IVF_SQ", "IVF_FLAT"] if num_rows < 1_000_000 else ["IVF_FLAT", "IVF_SQ", "IVF_RQ"]
    return [IndexSettings(kind=kind, params=params) for kind in kinds]


def _build_candidates(space: SpaceTable, target_recall: float, seed: int) -> TuningResult:
    """Try every candidate, build the winner again unless it still stands, and choose among what the table can do."""
    num_rows, trials = space.count_rows(), list[Trial]()
    if num_rows < EXACT_TRIED_BELOW_ROWS:
        trials.append(RecallBench(space.dataset(), seed).trial(IndexSettings(), SearchSettings(), 0.0))
    for index in candidates(num_rows):
        build_s = build(space, index)
        trials += _ladder(RecallBench(space.dataset(), seed), index, target_recall, build_s)
    for _ in candidates(num_rows):
        winner = _fastest(trials, target_recall).index
        if winner.kind == "exact" or winner == standing_index(space.dataset()):
            break
        build_s = build(space, winner)  # it trains anew, so what is published is measured again
        again = list(_ladder(RecallBench(space.dataset(), seed), winner, target_recall, build_s))
        trials = [*(trial for trial in trials if trial.index != winner), *again]
        if again[-1].recall_at_10 >= target_recall:
            break
    dataset = space.dataset()
    standing = standing_index(dataset)
    available = [trial for trial in trials if trial.index.kind == "exact" or trial.index == standing]
    if not available:
        seen = standing.kind if standing else "none"
        raise GalleryError("the index was replaced while it was tuned", seen=seen, where=space.uri, fix="run it again")
    return TuningResult(int(dataset.version), _fastest(available, target_recall), tuple(trials), target_recall)


def _measure(
    dataset: lance.LanceDataset, index: IndexSettings, target_recall: float, build_s: float, seed: int
) -> TuningResult:
    trials = tuple(_ladder(RecallBench(dataset, seed), index, target_recall, build_s))
    return TuningResult(int(dataset.version), _fastest(trials, target_recall), trials, target_recall)


def _fastest(trials: Sequence[Trial], target_recall: float) -> Trial:
    """The fastest that meets the target, else the one with the best recall."""
    meeting = [trial for trial in trials if trial.recall_at_10 >= target_recall]
    if meeting:
        return min(meeting, key=lambda trial: trial.latency_ms)
    return max(trials, key=lambda trial: trial.recall_at_10)


def _ladder(bench: RecallBench, index: IndexSettings, target_recall: float, build_s: float) -> Iterator[Trial]:
    """Trials of an index with ever more partitions looked at, up to the first that meets the target."""
    if index.kind == "exact":
        yield bench.trial(index, SearchSettings(), build_s)
        return
    num_partitions = index.params["num_partitions"]
    for refine_factor in _REFINE_FACTORS[index.kind]:
        for power in range(math.ceil(math.log2(num_partitions)) + 1):
            nprobes = min(2**power, num_partitions)
            trial = bench.trial(index, SearchSettings(nprobes=nprobes, refine_factor=refine_factor), build_s)
            yield trial
            if trial.recall_at_10 >= target_recall:
                return
