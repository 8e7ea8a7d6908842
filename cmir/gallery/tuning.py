"""A table becomes a table with the fastest index that meets a target recall, measured on it and not assumed.

The worst case counts, of all directions (query modality to target modality) and of all filters: a mean would hide the
one that fails. How many partitions are looked at is tuned twice, for searches without a filter and for those with one:
at the number that found 0.99 of the nearest of 100,000 rows, a filter that keeps 1% of them left 0.2. Small tables stay
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
from cmir.gallery import commits
from cmir.gallery.publish import INDEX_NAME, IndexKind, IndexSettings, SearchSettings, TriedWay, Tuning
from cmir.gallery.recall import RecallBench, Trial
from cmir.gallery.table import SpaceTable

EXACT_BELOW_ROWS: Final = 20_000
EXACT_TRIED_BELOW_ROWS: Final = 200_000  # up to here exact search is a candidate too: a quarter of a second a query
MAX_SEGMENTS: Final = 4
_EXTEND_WHEN_INDEXED: Final = 0.5  # with at least this share indexed, an index is extended and not built anew
_EXTEND_WHEN_DIVIDED: Final = 0.5  # and with at least this share of the partitions that the table would get now
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
    bench: RecallBench

    @property
    def is_met(self) -> bool:
        return self.chosen.recall_at_10 >= self.target_recall

    def record(self) -> Tuning:
        """What of this a publication keeps."""
        return Tuning(
            target_recall=self.target_recall,
            num_queries=self.bench.num_queries,
            latency_ms=round(self.chosen.latency_ms, 2),
            latency_filtered_ms=_rounded(self.chosen.latency_filtered_ms),
            recall_by_case={name: round(recall, 4) for name, recall in self.chosen.recall_by_case.items()},
            filters=self.bench.filters_by_name,
            tried=tuple(_tried(trial) for trial in self.trials),
        )


def tune(space: SpaceTable, target_recall: float, *, seed: int = 0) -> TuningResult:
    """Build what the table needs and choose the fastest way of searching it that meets the target.

    An index that covers most rows is extended by the new ones; only if it then misses the target, or the table has
    outgrown its partitions, candidates are built anew. Where none meets the target, the best is returned and `is_met`
    is false.
    """
    dataset = space.dataset()
    if dataset.count_rows() < EXACT_BELOW_ROWS:
        return _measure(RecallBench(dataset, seed), dataset, IndexSettings(), target_recall, 0.0)
    standing = standing_index(dataset)
    if standing and _is_worth_extending(dataset, standing):
        started = time.monotonic()
        extend(space)
        build_s, dataset = time.monotonic() - started, space.dataset()
        result = _measure(RecallBench(dataset, seed), dataset, standing, target_recall, build_s)
        if result.is_met:
            return result
    return _build_candidates(space, target_recall, seed)


def measure(space: SpaceTable, target_recall: float, *, seed: int = 0) -> TuningResult:
    """Tune only how the standing index is searched, and exact search where there is none; builds nothing."""
    dataset = space.dataset()
    index = standing_index(dataset) or IndexSettings()
    return _measure(RecallBench(dataset, seed), dataset, index, target_recall, 0.0)


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


def extend(space: SpaceTable) -> None:
    """Add the rows that came since to the index, into the partitions that it has. Commits may go on meanwhile.

    Each time adds a segment, which every search looks into; from MAX_SEGMENTS on they are merged into one.
    """

    def extended(dataset: lance.LanceDataset) -> None:
        num_segments = int(dataset.stats.index_stats(INDEX_NAME)["num_indices"])
        num_merged = num_segments if num_segments >= MAX_SEGMENTS else 0
        dataset.optimize.optimize_indices(index_names=[INDEX_NAME], num_indices_to_merge=num_merged)

    commits.on_newest(space.uri, extended)


def build(space: SpaceTable, index: IndexSettings) -> float:
    """Build the vector index, replacing a standing one; returns seconds. Commits may go on meanwhile."""
    started = time.monotonic()
    given = {"name": INDEX_NAME, "metric": "cosine", "num_partitions": index.params["num_partitions"], "replace": True}
    commits.on_newest(space.uri, lambda dataset: dataset.create_index("vector", index.kind, **given))
    return time.monotonic() - started


def num_partitions_for(num_rows: int) -> int:
    """About sqrt(rows)."""
    return max(2, round(math.sqrt(num_rows)))


def candidates(num_rows: int) -> list[IndexSettings]:
    """Indexes worth building for a table of that size: about sqrt(rows) partitions, smaller codes as it grows.

    The likely winner comes last: what was built last stands, and need not be built again.
    """
    params = {"num_partitions": num_partitions_for(num_rows)}
    kinds: list[IndexKind] = ["IVF_SQ", "IVF_FLAT"] if num_rows < 1_000_000 else ["IVF_FLAT", "IVF_SQ", "IVF_RQ"]
    return [IndexSettings(kind=kind, params=params) for kind in kinds]


def _is_worth_extending(dataset: lance.LanceDataset, standing: IndexSettings) -> bool:
    """True where the index covers most rows, and has at least half the partitions that so many rows would get now."""
    num_rows = dataset.count_rows()
    is_covering = indexed_rows(dataset) >= _EXTEND_WHEN_INDEXED * num_rows
    return is_covering and standing.params["num_partitions"] >= _EXTEND_WHEN_DIVIDED * num_partitions_for(num_rows)


def _build_candidates(space: SpaceTable, target_recall: float, seed: int) -> TuningResult:
    """Try every candidate, build the winner again unless it still stands, and choose among what the table can do."""
    bench, trials = RecallBench(space.dataset(), seed), list[Trial]()
    num_rows = space.count_rows()
    if num_rows < EXACT_TRIED_BELOW_ROWS:
        trials.append(bench.trial(IndexSettings(), SearchSettings(), 0.0))
    for index in candidates(num_rows):
        build_s = build(space, index)
        bench = bench.on(space.dataset(), seed)
        trials += _ladder(bench, index, target_recall, build_s)
    for _ in candidates(num_rows):
        winner = _fastest(trials, target_recall).index
        if winner.kind == "exact" or winner == standing_index(space.dataset()):
            break
        build_s = build(space, winner)  # it trains anew, so what is published is measured again
        bench = bench.on(space.dataset(), seed)
        again = list(_ladder(bench, winner, target_recall, build_s))
        trials = [*(trial for trial in trials if trial.index != winner), *again]
        if again[-1].recall_at_10 >= target_recall:
            break
    dataset = space.dataset()
    standing = standing_index(dataset)
    available = [trial for trial in trials if trial.index.kind == "exact" or trial.index == standing]
    if not available:
        seen = standing.kind if standing else "none"
        raise GalleryError("the index was replaced while it was tuned", seen=seen, where=space.uri, fix="run it again")
    chosen = _fastest(available, target_recall)
    return TuningResult(int(dataset.version), chosen, tuple(trials), target_recall, bench)


def _measure(
    bench: RecallBench, dataset: lance.LanceDataset, index: IndexSettings, target_recall: float, build_s: float
) -> TuningResult:
    trials = tuple(_ladder(bench, index, target_recall, build_s))
    return TuningResult(int(dataset.version), _fastest(trials, target_recall), trials, target_recall, bench)


def _fastest(trials: Sequence[Trial], target_recall: float) -> Trial:
    """The fastest that meets the target, else the one with the best recall."""
    meeting = [trial for trial in trials if trial.recall_at_10 >= target_recall]
    if meeting:
        return min(meeting, key=lambda trial: trial.cost_ms)
    return max(trials, key=lambda trial: trial.recall_at_10)


def _ladder(bench: RecallBench, index: IndexSettings, target_recall: float, build_s: float) -> Iterator[Trial]:
    """Trials of an index with ever more partitions looked at, up to the first that meets the target.

    Of searches without a filter and those with one, only those that still miss it look at more in the next trial.
    """
    if index.kind == "exact":
        yield bench.trial(index, SearchSettings(), build_s)
        return
    most = index.params["num_partitions"]
    for refine_factor in _REFINE_FACTORS[index.kind]:
        plain, filtered = 1, max(1, most // 8)
        while True:
            search = SearchSettings(nprobes=plain, refine_factor=refine_factor, filtered_nprobes=filtered)
            trial = bench.trial(index, search, build_s)
            yield trial
            if trial.recall_at_10 >= target_recall:
                return
            following = [
                nprobes if min(recalls.values(), default=1.0) >= target_recall else min(growth * nprobes, most)
                for nprobes, recalls, growth in (
                    (plain, trial.recall_by_direction, 2),
                    (filtered, trial.recall_filtered, 4),  # mostly ends near all of them, which cost little
                )
            ]
            if following == [plain, filtered]:
                break
            plain, filtered = following


def _tried(trial: Trial) -> TriedWay:
    return TriedWay(
        index=trial.index,
        search=trial.search,
        recall_at_10=round(trial.recall_at_10, 4),
        worst_case=trial.worst_case,
        latency_ms=round(trial.latency_ms, 2),
        latency_filtered_ms=_rounded(trial.latency_filtered_ms),
        build_s=round(trial.build_s, 2),
    )


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 2)
