"""Figures of rankings: goldens by hand, the naive computation, scikit-learn, and what must hold whatever the scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from cmir.evaluation import metrics
from cmir.evaluation.metrics import Floats, Ints, Rankings

SCORES = np.array([[0.9, 0.8, 0.1, 0.0], [0.2, 0.7, 0.6, 0.1], [0.3, 0.2, 0.4, 0.9]], np.float32)
RELEVANT = np.array([[1, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0]], np.float32)


def measure(scores: Floats, gains: Floats, own: Ints | None = None, ids: list[str] | None = None) -> Rankings:
    item_ids = ids or [f"item-{i}" for i in range(scores.shape[1])]
    nobody = np.full(len(scores), -1)
    return metrics.measure(scores.__getitem__, gains.__getitem__, item_ids=item_ids, own=nobody if own is None else own)


def test_golden_by_hand() -> None:
    ranked = measure(SCORES, RELEVANT)
    assert ranked.hit_at(1).mean() == pytest.approx(0.3333, abs=5e-5)
    assert ranked.hit_at(2).mean() == pytest.approx(0.6667, abs=5e-5)
    assert ranked.recall_at(1).mean() == pytest.approx(0.1667, abs=5e-5)
    assert ranked.recall_at(2).mean() == pytest.approx(0.5)
    assert ranked.average_precision_at(2).mean() == pytest.approx(0.3333, abs=5e-5)
    assert ranked.average_precision_at(4).mean() == pytest.approx(0.5833, abs=5e-5)
    assert ranked.average_precision.mean() == pytest.approx(0.5833, abs=5e-5)
    assert ranked.reciprocal_rank == pytest.approx([1, 1 / 2, 1 / 3])
    assert ranked.shown[0, :4].tolist() == [0, 1, 2, 3]
    assert ranked.shown[0, 4:].tolist() == [-1] * 6


def test_curve_is_the_interpolated_precision() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0]], np.float32)
    curve = measure(scores, np.array([[0, 1, 0, 1]], np.float32)).curve[0]  # precision 1/2 at recall 1/2, then 2/4
    assert curve == pytest.approx(np.full(len(metrics.RECALL_LEVELS), 0.5))
    rising = measure(scores, np.array([[1, 0, 0, 1]], np.float32)).curve[0]
    assert rising[metrics.RECALL_LEVELS <= 0.5] == pytest.approx(1.0)
    assert rising[metrics.RECALL_LEVELS > 0.5] == pytest.approx(0.5)


def naive(scores: Floats, gains: Floats, ids: list[str], own: Ints) -> list[dict[str, float]]:
    """One query at a time, by the definitions, with Python's own sort."""
    ties = metrics.tie_ranks(ids).tolist()
    found = []
    for query in range(len(scores)):
        rivals = [j for j in range(len(ids)) if j != own[query]]
        order = sorted(rivals, key=lambda j: (-scores[query, j], ties[j]))
        ranked = [float(gains[query, j]) for j in order]
        places = [place for place, gain in enumerate(ranked, 1) if gain > 0]
        dcg = sum(gain / np.log2(place + 1) for place, gain in enumerate(ranked[:5], 1))
        ideal = sum(gain / np.log2(place + 1) for place, gain in enumerate(sorted(ranked, reverse=True)[:5], 1))
        precisions = [nth / place for nth, place in enumerate(places, 1)]
        found.append(
            {
                "first": order[0] if order else -1,
                "ap": sum(precisions) / len(places) if places else 0.0,
                "rr": 1 / places[0] if places else 0.0,
                "p5": sum(place <= 5 for place in places) / 5,
                "r5": sum(place <= 5 for place in places) / len(places) if places else 0.0,
                "ndcg5": dcg / ideal if ideal else 0.0,
            }
        )
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[Floats, Floats, Ints]:
    num_queries, num_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 130))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 5, 1000]))
    scores = (rng.integers(0, levels, (num_queries, num_gallery)) / levels * 2 - 1).astype(np.float32)
    gains = rng.choice([0.0, 0.25, 0.5, 1.0], (num_queries, num_gallery), p=[0.6, 0.1, 0.1, 0.2]).astype(np.float32)
    own = np.where(rng.random(num_queries) < 0.5, rng.integers(0, num_gallery, num_queries), -1)
    return scores, gains, own


@settings(max_examples=60, deadline=None)
@given(cases())
def test_fast_is_naive(case: tuple[Floats, Floats, Ints]) -> None:
    scores, gains, own = case
    ids = [f"{i:x}" for i in range(scores.shape[1])]
    ranked = measure(scores, gains, own, ids)
    for query, expected in enumerate(naive(scores, gains, ids, own)):
        assert ranked.shown[query, 0] == expected["first"]
        assert ranked.average_precision[query] == pytest.approx(expected["ap"])
        assert ranked.reciprocal_rank[query] == pytest.approx(expected["rr"])
        assert ranked.precision_at(5)[query] == pytest.approx(expected["p5"])
        assert ranked.recall_at(5)[query] == pytest.approx(expected["r5"])
        assert ranked.ndcg_at(5)[query] == pytest.approx(expected["ndcg5"], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_gallery_order_is_irrelevant(case: tuple[Floats, Floats, Ints], random: st.random_module) -> None:
    scores, gains, own = case
    num_gallery = scores.shape[1]
    ids = [f"{i:x}" for i in range(num_gallery)]
    shuffled = np.array(random.sample(range(num_gallery), num_gallery))  # type: ignore[attr-defined]
    place = np.argsort(shuffled)
    moved = measure(
        scores[:, shuffled], gains[:, shuffled], np.where(own >= 0, place[own], -1), [ids[i] for i in shuffled]
    )
    ranked = measure(scores, gains, own, ids)
    assert moved.average_precision == pytest.approx(ranked.average_precision)
    assert np.array_equal(moved.hits, ranked.hits)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_recall_never_falls_and_ends_at_one(case: tuple[Floats, Floats, Ints]) -> None:
    scores, gains, own = case
    scores, gains = scores[:, :90], gains[:, :90]
    own = np.where(own < scores.shape[1], own, -1)
    ranked = measure(scores, gains, own)
    recalls = np.array([ranked.recall_at(k) for k in range(1, metrics.NUM_FIRST + 1)])
    assert (np.diff(recalls, axis=0) >= 0).all()
    assert (recalls[-1] == (ranked.num_relevant > 0)).all()


def test_equals_scikit_learn_without_ties() -> None:
    rng = np.random.default_rng(3)
    scores = rng.permuted(np.tile(np.arange(400, dtype=np.float32), (20, 1)), axis=1) / 400
    gains = np.where(rng.random((20, 400)) < 0.1, rng.choice([0.25, 0.5, 1.0], (20, 400)), 0).astype(np.float32)
    ranked = measure(scores, gains)
    expected = [average_precision_score(gains[i] > 0, scores[i]) for i in range(20)]
    assert ranked.average_precision == pytest.approx(expected)
    assert ranked.ndcg_at(20).mean() == pytest.approx(ndcg_score(gains, scores, k=20, ignore_ties=True), abs=1e-6)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    scores, gains = rng.random((17, 50), np.float32), (rng.random((17, 50)) < 0.2).astype(np.float32)
    whole = measure(scores, gains)
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 50 * 64 * 3)
    parts = measure(scores, gains)
    assert np.array_equal(parts.average_precision, whole.average_precision)
    assert np.array_equal(parts.curve, whole.curve)


def test_equal_scores_keep_the_order_of_the_hashes() -> None:
    ids = ["a", "b", "c", "d"]  # sha256: ca97..., 3e23..., 2e7d..., 18ac...
    ranked = measure(np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32), ids=ids)
    assert ranked.shown[0, :4].tolist() == [3, 2, 1, 0]


def test_minus_zero_is_zero() -> None:
    ids = ["a", "b"]
    ranked = measure(np.array([[0.0, -0.0]], np.float32), np.ones((1, 2), np.float32), ids=ids)
    assert ranked.shown[0, :2].tolist() == [1, 0]


def test_chance_is_the_mean_of_random_orders() -> None:
    rng = np.random.default_rng(5)
    gains = np.zeros((1, 30), np.float32)
    gains[0, :7] = 1
    repeated = np.repeat(gains, 4000, axis=0)
    ranked = measure(rng.random((4000, 30)).astype(np.float32), repeated)
    expected = metrics.chance_average_precision(np.array([7]), np.array([30]))[0]
    assert ranked.average_precision.mean() == pytest.approx(expected, abs=0.01)
    assert metrics.chance_average_precision(np.array([0, 1, 4]), np.array([9, 1, 4])) == pytest.approx([0, 1, 1])


def test_no_order_passes_the_perfect_one() -> None:
    rng = np.random.default_rng(6)
    gains = np.where(rng.random((9, 60)) < 0.1, 1.0, 0.0).astype(np.float32)
    gains[0] = 0
    best = metrics.perfect(measure(rng.random((9, 60)).astype(np.float32), gains))
    oracle = measure(gains, gains)
    assert best.average_precision == pytest.approx(oracle.average_precision)
    assert np.array_equal(best.hits, oracle.hits)
    assert best.ndcg_at(10) == pytest.approx(oracle.ndcg_at(10))
    assert best.average_precision[0] == 0.0


def test_bootstrap_is_seeded_and_encloses_the_mean() -> None:
    values = np.random.default_rng(7).random(200)
    low, high = metrics.bootstrap_interval(values, seed=1)
    assert (low, high) == metrics.bootstrap_interval(values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.15)
