"""What a figure is worth: the exact expectation of a random order, and how far a mean moves with the queries drawn.

Of N candidates R are relevant; places i = 1..N of a random order are exchangeable, which gives every expectation below
in closed form. H_n is the n-th harmonic number.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from cmir.evaluation.metrics import CUTOFFS, Floats, Ints, Rankings

NUM_RESAMPLES: Final = 1000
_DRAWN_AT_ONCE: Final = 2**20  # 8 MB of places, and as much for each kind of values


def chance_average_precision(num_relevant: Ints, num_candidates: Ints) -> Floats:
    """f64[Q], the expected average precision of a random order, exactly.

    Place i is relevant with probability R/N, and then each of the i-1 places above it with (R-1)/(N-1); summed over i
    this is (H_N + (R-1)/(N-1) (N - H_N)) / N.

    >>> float(chance_average_precision(np.array([1]), np.array([2]))[0])
    0.75
    """
    harmonic = _harmonic_numbers(num_candidates)[num_candidates]
    others = (num_relevant - 1) / np.maximum(num_candidates - 1, 1)
    value = (harmonic + others * (num_candidates - harmonic)) / np.maximum(num_candidates, 1)
    return np.where(num_relevant > 0, value, 0.0)


def chance_reciprocal_rank(num_relevant: Ints, num_candidates: Ints) -> Floats:
    """f64[Q], the expected reciprocal rank: R/(N-R+1) (H_N - H_{R-1}).

    The first relevant one stands at place i with probability C(N-i, R-1)/C(N, R), and the sum over i of C(N-i, R-1)/i
    is C(N, R-1) (H_N - H_{R-1}).

    >>> float(chance_reciprocal_rank(np.array([1]), np.array([2]))[0])
    0.75
    """
    harmonic = _harmonic_numbers(num_candidates)
    above = harmonic[num_candidates] - harmonic[np.maximum(num_relevant - 1, 0)]
    return np.where(num_relevant > 0, num_relevant / (num_candidates - num_relevant + 1) * above, 0.0)


def chance_precision_at(rankings: Rankings, k: int) -> Floats:
    """f64[Q]: each of the first min(k, N) places is relevant with probability R/N."""
    share = rankings.num_relevant / np.maximum(rankings.num_candidates, 1)
    return np.asarray(share * np.minimum(rankings.num_candidates, k) / k)


def chance_recall_at(rankings: Rankings, k: int) -> Floats:
    """f64[Q]: a relevant item stands among the first k with probability min(k, N)/N."""
    reached = np.minimum(rankings.num_candidates, k) / np.maximum(rankings.num_candidates, 1)
    return np.where(rankings.num_relevant > 0, reached, 0.0)


def chance_hit_at(rankings: Rankings, k: int) -> Floats:
    """f64[Q]: 1 - C(N-R, k)/C(N, k), by logarithms of factorials."""
    total = rankings.num_candidates.astype(np.float64)
    wrong = total - rankings.num_relevant
    can_miss = wrong >= k
    left, all_left = np.where(can_miss, wrong - k, 0.0), np.where(can_miss, total - k, 0.0)
    log_missed = gammaln(wrong + 1) - gammaln(left + 1) - gammaln(total + 1) + gammaln(all_left + 1)
    return np.where(rankings.num_relevant > 0, np.where(can_miss, -np.expm1(log_missed), 1.0), 0.0)


def chance_ndcg_at(rankings: Rankings, k: int) -> Floats:
    """f64[Q]: the mean gain of the candidates at each of the first min(k, N) places, over the ideal. k of CUTOFFS."""
    ideal = rankings.ideal_dcg[:, CUTOFFS.index(k)]
    discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    mean_gain = rankings.total_gain / np.maximum(rankings.num_candidates, 1)
    expected = mean_gain * discounts[np.minimum(rankings.num_candidates, k)]
    return np.asarray(np.divide(expected, ideal, out=np.zeros_like(ideal), where=ideal > 0))


def bootstrap_intervals(
    values: Floats, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> list[tuple[float, float] | None]:
    """For each row of f64[V,Q] the middle 95% of its means over resampled queries, the same queries for all rows.

    Percentile bootstrap (Efron 1979), the same for a seed; None where one query leaves nothing to resample.
    """
    num_kinds, num_queries = values.shape
    if num_queries < 2:
        return [None] * num_kinds
    rng = np.random.default_rng(seed)
    means = np.empty((num_kinds, num_resamples))
    step = max(1, _DRAWN_AT_ONCE // num_queries)
    for start in range(0, num_resamples, step):
        num = min(step, num_resamples - start)
        drawn: npt.NDArray[np.int64] = rng.integers(0, num_queries, (num, num_queries))
        for kind in range(num_kinds):
            means[kind, start : start + num] = values[kind][drawn].mean(axis=1)
    return [(float(low), float(high)) for low, high in np.percentile(means, [2.5, 97.5], axis=1).T]


def auroc_interval(
    known: Floats, unknown: Floats, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float] | None:
    """The middle 95% of the areas under the ROC curve of resampled scores, those of either side among themselves.

    Percentile bootstrap, the same for a seed; None where a side has fewer than two. The scores are sorted once: a
    resample is how often each was drawn.
    """
    if len(known) < 2 or len(unknown) < 2:
        return None
    values, places = np.unique(np.concatenate([known, unknown]), return_inverse=True)
    sides = places[: len(known)], places[len(known) :]
    rng = np.random.default_rng(seed)
    areas = np.empty(num_resamples)
    for i in range(num_resamples):
        above, below = (
            np.bincount(side[rng.integers(0, len(side), len(side))], minlength=len(values)) for side in sides
        )
        areas[i] = (above * (np.cumsum(below) - below / 2)).sum()
    low, high = np.percentile(areas / (len(known) * len(unknown)), [2.5, 97.5])
    return float(low), float(high)


def _harmonic_numbers(num_candidates: Ints) -> Floats:
    """H_0 .. H_N for the largest N."""
    largest = int(num_candidates.max(initial=1))
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, largest + 1))])
