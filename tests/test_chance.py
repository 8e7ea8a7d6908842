"""Expectations of a random order against many random orders, and the intervals of means."""

import numpy as np
import pytest

from cmir.evaluation import chance, metrics
from cmir.evaluation.figures import chance_figures, mean_figures
from cmir.evaluation.metrics import Floats, Rankings
from cmir.network.hearing import auroc


def random_orders(gains: Floats, num: int) -> Rankings:
    scores = np.random.default_rng(5).random((num, gains.shape[1])).astype(np.float32)
    repeated = np.repeat(gains, num, axis=0)
    ids = [str(i) for i in range(gains.shape[1])]
    return metrics.measure(scores.__getitem__, repeated.__getitem__, item_ids=ids, own=np.full(num, -1))


@pytest.mark.parametrize("gains", [[1.0] * 3 + [0.25] * 4 + [0.0] * 23, [1.0] + [0.0] * 11, [0.0] * 5, [0.5] * 6])
def test_chance_is_the_mean_of_random_orders(gains: list[float]) -> None:
    ranked = random_orders(np.array([gains], np.float32), 6000)
    found, expected = mean_figures(ranked, (10, 20)), chance_figures(ranked, (10, 20))
    assert expected.map == pytest.approx(found.map, abs=0.01)
    assert expected.mrr == pytest.approx(found.mrr, abs=0.015)
    assert expected.mean_precision_at_k == pytest.approx(found.mean_precision_at_k, abs=0.01)
    for kind in ("precision_at", "recall_at", "hit_at", "ndcg_at"):
        assert getattr(expected, kind) == pytest.approx(getattr(found, kind), abs=0.02), kind


def test_nothing_relevant_or_nothing_else() -> None:
    assert chance.chance_average_precision(np.array([0, 1, 4]), np.array([9, 1, 4])) == pytest.approx([0, 1, 1])
    assert chance.chance_reciprocal_rank(np.array([0, 1, 4]), np.array([9, 1, 4])) == pytest.approx([0, 1, 1])


def test_bootstrap_is_seeded_and_encloses_the_mean() -> None:
    values = np.random.default_rng(7).random((2, 200))
    first, second = chance.bootstrap_intervals(values, seed=1)
    assert [first, second] == chance.bootstrap_intervals(values, seed=1)
    assert first is not None
    low, high = first
    assert low < values[0].mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values[0].std() / np.sqrt(200), rel=0.15)
    assert chance.bootstrap_intervals(values[:1], seed=1) == [first]


def test_bootstrap_of_one_query_says_nothing() -> None:
    assert chance.bootstrap_intervals(np.ones((3, 1)), seed=0) == [None, None, None]


def test_bootstrap_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(8).random((1, 50))
    whole = chance.bootstrap_intervals(values, seed=2)
    monkeypatch.setattr(chance, "_DRAWN_AT_ONCE", 50 * 7)
    parts = chance.bootstrap_intervals(values, seed=2)
    assert parts[0] == pytest.approx(whole[0], abs=0.01)


def test_the_interval_of_an_auroc_is_that_of_resampled_sides() -> None:
    rng = np.random.default_rng(9)
    known, unknown = np.round(rng.normal(1.0, 1.0, 60), 1), np.round(rng.normal(0.0, 1.0, 40), 1)
    found = chance.auroc_interval(known, unknown, seed=3)
    assert found == chance.auroc_interval(known, unknown, seed=3)
    naive = [auroc(rng.choice(known, 60), rng.choice(unknown, 40)) for _ in range(4000)]
    assert found == pytest.approx(tuple(np.percentile(naive, [2.5, 97.5])), abs=0.015)
    assert chance.auroc_interval(known[:1], unknown, seed=3) is None
    assert chance.auroc_interval(np.array([2.0, 3.0]), np.array([0.0, 1.0]), seed=3) == (1.0, 1.0)
