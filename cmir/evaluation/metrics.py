"""Scores and gains of queries against a gallery become rankings, and rankings become figures.

A ranking is kept as little as the figures need (about 600 bytes a query): how many of the first 100 are relevant, their
discounted gains at the cut-offs, the average precision over the whole gallery. Rankings are made for a few queries at a
time, so that memory does not grow with queries x gallery. Ties are broken by the sha256 of item_id: an arbitrary order
that no model can know, which is why a collapsed model scores chance and not what the order of the files gives it.

Shapes: Q queries, M gallery items, q queries of one chunk, F = NUM_FIRST first places, K cut-offs, V recall levels.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Number = TypeVar("Number", bound=np.number)
Bools = npt.NDArray[np.bool_]
Chunk = Callable[[slice], Floats]  # queries of a slice -> f32[q,M]
Mask = Callable[[slice], Bools]  # queries of a slice -> bool[q,M]

NUM_FIRST: Final = 100  # no cut-off lies further down
NUM_SHOWN: Final = 10  # hits remembered by name, for the panels of the report
CUTOFFS: Final = (1, 5, 10, 20, 50, 100)
RECALL_LEVELS: Final[Floats] = np.linspace(0.0, 1.0, 41)
CHUNK_BYTES: Final = 64 * 2**20
_BYTES_PER_CELL: Final = 64  # scores, gains, keys, sorted keys, order, sorted gains and their temporaries


@dataclass(frozen=True, slots=True)
class Rankings:
    """What is kept of Q rankings; every array has Q rows.

    `num_relevant` and `num_candidates` (gallery items without the query itself and what was taken out) i64[Q];
    `total_gain` f64[Q] of all candidates; `average_precision` and `reciprocal_rank` f64[Q], 0 where nothing is
    relevant; `hits` u8[Q,F], relevant ones among the first 1..F places; `dcg` and `ideal_dcg` f64[Q,K] at CUTOFFS;
    `curve` f32[Q,V], interpolated precision at RECALL_LEVELS;
    `shown` i64[Q,NUM_SHOWN], gallery index of the first places (-1: the gallery is shorter), with `shown_score`,
    `shown_gain` f32[Q,NUM_SHOWN]; `first_relevant` i64[Q], gallery index of the best placed relevant item (-1: none).
    """

    num_relevant: Ints
    num_candidates: Ints
    total_gain: Floats
    average_precision: Floats
    reciprocal_rank: Floats
    hits: Ints
    dcg: Floats
    ideal_dcg: Floats
    curve: Floats
    shown: Ints
    shown_score: Floats
    shown_gain: Floats
    first_relevant: Ints

    def precision_at(self, k: int) -> Floats:
        """f64[Q], relevant among the first k, divided by k (also where the gallery is shorter). k 1..NUM_FIRST."""
        return np.asarray(self.hits[:, k - 1] / k)

    def recall_at(self, k: int) -> Floats:
        """f64[Q], the share of the relevant that stand among the first k; 0 where nothing is relevant."""
        return np.asarray(self.hits[:, k - 1] / np.maximum(self.num_relevant, 1))

    def hit_at(self, k: int) -> Floats:
        """f64[Q], 1 where at least one relevant item stands among the first k."""
        return (self.hits[:, k - 1] > 0).astype(np.float64)

    def ndcg_at(self, k: int) -> Floats:
        """f64[Q], sum of gain/log2(rank+1) over that of the ideal order (Järvelin, Kekäläinen 2002). k of CUTOFFS."""
        place = CUTOFFS.index(k)
        ideal = self.ideal_dcg[:, place]
        return np.asarray(np.divide(self.dcg[:, place], ideal, out=np.zeros_like(ideal), where=ideal > 0))

    def average_precision_at(self, k: int) -> Floats:
        """f64[Q], precisions at the relevant places up to k, summed, over min(k, number of relevant)."""
        found = np.diff(self.hits[:, :k].astype(np.int64), axis=1, prepend=0)
        summed = (found * self.hits[:, :k] / np.arange(1, k + 1)).sum(axis=1)
        return np.asarray(summed / np.maximum(np.minimum(self.num_relevant, k), 1))

    def mean_precision(self, cutoffs: Sequence[int]) -> Floats:
        """f64[Q], mean of precision at the cut-offs: what the authors of CMIR-NET call mAP."""
        return np.asarray(np.mean([self.precision_at(k) for k in cutoffs], axis=0))


def tie_ranks(item_ids: Sequence[str]) -> Ints:
    """u64[M], each item's place in the order of the sha256 of the ids."""
    digests = [hashlib.sha256(item_id.encode()).digest() for item_id in item_ids]
    ranks = np.empty(len(digests), np.uint64)
    ranks[sorted(range(len(digests)), key=digests.__getitem__)] = np.arange(len(digests), dtype=np.uint64)
    return ranks


def rank(scores: Floats, tie_rank: Ints, out: tuple[Ints, Ints]) -> Ints:
    """Gallery indices i64[q,M] by falling score; ties by rising tie rank; what is `out` (rows, columns) last.

    Score and tie rank are packed into one u64 key, score in the upper half as the order-preserving integer of its
    float32 bits, because numpy sorts integers several times faster than it argsorts.
    """
    bits = (np.ascontiguousarray(scores, np.float32) + np.float32(0)).view(np.uint32)  # + 0: -0.0 becomes 0.0
    positive = (bits >> np.uint32(31)) - np.uint32(1)  # all ones where the sign bit is 0
    keys = (bits ^ (positive & np.uint32(0x7FFFFFFF))).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= tie_rank.astype(np.uint64)
    keys[out] |= np.uint64(0xFFFFFFFF << 32)
    keys.sort(axis=1)
    gallery_index = np.empty(len(tie_rank), np.int64)
    gallery_index[tie_rank] = np.arange(len(tie_rank))
    keys &= np.uint64(0xFFFFFFFF)
    return gallery_index.take(keys.view(np.int64))


def rank_chunk(scores: Floats, gains: Floats, tie_rank: Ints, out: tuple[Ints, Ints]) -> Rankings:
    """Rank f32[q,M] scores and keep what the figures need; `gains` f32[q,M] is above 0 where an item is relevant.

    `out` are the (rows, columns) of cells that are no candidates, each once.
    """
    num_queries, num_gallery = scores.shape
    gains = gains.astype(np.float32, copy=True)
    gains[out] = 0.0
    order = rank(scores, tie_rank, out)
    num_candidates = num_gallery - np.bincount(out[0], minlength=num_queries)
    ranked_gains = np.take_along_axis(gains, order, axis=1)
    row_of, place = np.nonzero(ranked_gains)  # the relevant ones, query by query, from the first place down
    num_relevant = np.bincount(row_of, minlength=num_queries)
    start = np.cumsum(num_relevant) - num_relevant
    precision = (np.arange(len(row_of)) - start[row_of] + 1) / (place + 1)
    shown = _widen(order[:, :NUM_SHOWN], NUM_SHOWN, -1)
    shown[np.arange(NUM_SHOWN)[None] >= num_candidates[:, None]] = -1
    seen = np.maximum(shown, 0)
    some = num_relevant > 0
    first, first_relevant = np.zeros(num_queries), np.full(num_queries, -1)
    first[some] = 1.0 / (place[start[some]] + 1)
    first_relevant[some] = order[np.flatnonzero(some), place[start[some]]]
    return Rankings(
        num_relevant=num_relevant,
        num_candidates=num_candidates,
        total_gain=gains.sum(axis=1, dtype=np.float64),
        average_precision=np.bincount(row_of, precision, num_queries) / np.maximum(num_relevant, 1),
        reciprocal_rank=first,
        hits=_fill(np.cumsum(ranked_gains[:, :NUM_FIRST] > 0, axis=1, dtype=np.uint8), NUM_FIRST),
        dcg=_dcg(ranked_gains[:, :NUM_FIRST]),
        ideal_dcg=_dcg(_largest(gains, NUM_FIRST)),
        curve=_curve(precision, row_of, num_relevant, start),
        shown=shown,
        shown_score=np.take_along_axis(scores, seen, axis=1).astype(np.float32),
        shown_gain=np.take_along_axis(gains, seen, axis=1) * (shown >= 0),
        first_relevant=first_relevant,
    )


def measure(
    score: Chunk, gain: Chunk, *, item_ids: Sequence[str], own: Ints, taken_out: Mask | None = None
) -> Rankings:
    """Rank a gallery of `item_ids` for len(own) queries, a chunk of them at a time.

    `own` i64[Q] is the gallery index of the query itself, -1 where it is not in the gallery; `taken_out` says which
    other items are no candidates of a query, neither right nor wrong. Memory stays near CHUNK_BYTES (or one query's
    share, where that is more) besides what `Rankings` keeps.
    """
    tie_rank = tie_ranks(item_ids)
    num_rows = max(1, CHUNK_BYTES // (_BYTES_PER_CELL * max(1, len(item_ids))))
    parts = []
    for rows in _slices(len(own), num_rows):
        out = _no_candidates(own[rows], None if taken_out is None else taken_out(rows))
        parts.append(rank_chunk(score(rows), gain(rows), tie_rank, out))
    return joined(parts)


def joined(parts: Sequence[Rankings]) -> Rankings:
    """Rankings of several groups of queries as one, in their order."""
    return Rankings(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rankings)))


def replaced(rankings: Rankings, queries: Ints, part: Rankings) -> Rankings:
    """The rankings with those of some queries exchanged; the others are shared memory no more."""
    columns = []
    for field in fields(Rankings):
        column = getattr(rankings, field.name).copy()
        column[queries] = getattr(part, field.name)
        columns.append(column)
    return Rankings(*columns)


def perfect(rankings: Rankings) -> Rankings:
    """The same queries, answered by a perfect order: what no model can pass."""
    num_relevant = rankings.num_relevant
    answerable = (num_relevant > 0).astype(np.float64)
    return Rankings(
        num_relevant=num_relevant,
        num_candidates=rankings.num_candidates,
        total_gain=rankings.total_gain,
        average_precision=answerable,
        reciprocal_rank=answerable,
        hits=np.minimum(np.arange(1, NUM_FIRST + 1)[None], num_relevant[:, None]).astype(np.uint8),
        dcg=rankings.ideal_dcg,
        ideal_dcg=rankings.ideal_dcg,
        curve=np.repeat(answerable[:, None], len(RECALL_LEVELS), axis=1).astype(np.float32),
        shown=np.full_like(rankings.shown, -1),
        shown_score=np.zeros_like(rankings.shown_score),
        shown_gain=np.zeros_like(rankings.shown_gain),
        first_relevant=np.full_like(num_relevant, -1),
    )


def _slices(num: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, num)) for start in range(0, max(num, 1), size))  # one empty slice of none


def _no_candidates(own: Ints, taken_out: Bools | None) -> tuple[Ints, Ints]:
    """(rows, columns) of the queries themselves and of what is taken out."""
    rows = np.flatnonzero(own >= 0)
    if taken_out is None:
        return rows, own[rows]
    taken_out[rows, own[rows]] = True
    row_of, column_of = np.nonzero(taken_out)
    return row_of, column_of


def _widen(values: Ints, width: int, filler: int) -> Ints:
    return np.pad(values, [(0, 0), (0, max(0, width - values.shape[1]))], constant_values=filler)


def _fill(sums: npt.NDArray[Number], width: int) -> npt.NDArray[Number]:
    """Running sums of a short gallery go on unchanged to `width` places."""
    return np.pad(sums, [(0, 0), (0, max(0, width - sums.shape[1]))], mode="edge")


def _dcg(ranked_gains: Floats) -> Floats:
    discount = 1.0 / np.log2(np.arange(2, ranked_gains.shape[1] + 2))
    return np.asarray(_fill(np.cumsum(ranked_gains * discount, axis=1), NUM_FIRST)[:, np.array(CUTOFFS) - 1])


def _largest(gains: Floats, num: int) -> Floats:
    if gains.shape[1] > num:
        gains = -np.partition(-gains, num, axis=1)[:, :num]
    return -np.sort(-gains, axis=1)


def _curve(precision: Floats, row_of: Ints, num_relevant: Ints, start: Ints) -> Floats:
    """f32[q,V]: at each recall level the highest precision at that recall or a higher one (Manning et al., 8.4)."""
    curve = np.zeros((len(num_relevant), len(RECALL_LEVELS)), np.float32)
    some = num_relevant > 0
    if not some.any():
        return curve
    # A running maximum from the back; the offset, rising from the last query to the first, restarts it at each query.
    offset = 2.0 * (len(num_relevant) - row_of)
    best = np.maximum.accumulate((precision + offset)[::-1])[::-1] - offset
    nth = np.ceil(RECALL_LEVELS[None] * num_relevant[some][:, None] - 1e-9).astype(np.int64)
    curve[some] = best[start[some][:, None] + np.maximum(nth, 1) - 1]
    return curve
