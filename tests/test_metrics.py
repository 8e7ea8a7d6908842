"""Figures of rankings: goldens by hand, the naive computation, scikit-learn, and what must hold whatever the scores."""

import tracemalloc
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, precision_recall_curve, top_k_accuracy_score
from torchmetrics import Metric, retrieval

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


def without_ties(num_queries: int, num_gallery: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(num_gallery, dtype=np.float32), (num_queries, 1)), axis=1) / num_gallery
    grades = rng.choice([0.25, 0.5, 1.0], scores.shape)
    return scores, np.where(rng.random(scores.shape) < 0.1, grades, 0).astype(np.float32)


def test_equals_scikit_learn_without_ties() -> None:
    scores, gains = without_ties(20, 400, seed=3)
    ranked = measure(scores, gains)
    expected = [average_precision_score(gains[i] > 0, scores[i]) for i in range(20)]
    assert ranked.average_precision == pytest.approx(expected)
    for k in metrics.CUTOFFS:
        assert ranked.ndcg_at(k).mean() == pytest.approx(ndcg_score(gains, scores, k=k, ignore_ties=True), abs=1e-6)
    precision, recall, _ = precision_recall_curve(gains[0] > 0, scores[0])
    precision, recall = precision[:-1], recall[:-1]  # without the point (0, 1) that scikit-learn adds
    interpolated = [precision[recall >= level - 1e-9].max() for level in metrics.RECALL_LEVELS]
    assert ranked.curve[0] == pytest.approx(interpolated)


def test_equals_scikit_learns_top_k_accuracy_where_one_item_is_right() -> None:
    scores, _ = without_ties(60, 40, seed=8)
    right = np.random.default_rng(8).integers(0, 40, 60)
    ranked = measure(scores, np.eye(40, dtype=np.float32)[right])
    for k in (1, 5, 10):
        expected = top_k_accuracy_score(right, scores, k=k, labels=np.arange(40))
        assert ranked.hit_at(k).mean() == ranked.recall_at(k).mean() == pytest.approx(expected)


@pytest.mark.parametrize("k", metrics.CUTOFFS)
def test_equals_torchmetrics(k: int) -> None:
    """Queries without a right answer count as 0 there too; what scores 0 or less counts there as not found at all."""
    scores, gains = without_ties(20, 110, seed=9)
    scores = scores + np.float32(0.5)
    gains[4] = 0
    ranked = measure(scores, gains)
    flat, graded = torch.from_numpy(scores).flatten(), torch.from_numpy(gains).flatten()
    query = torch.arange(20).repeat_interleave(110)
    compared: list[tuple[Metric, torch.Tensor, Floats]] = [
        (retrieval.RetrievalMAP(), graded > 0, ranked.average_precision),
        (retrieval.RetrievalMRR(), graded > 0, ranked.reciprocal_rank),
        (retrieval.RetrievalPrecision(top_k=k), graded > 0, ranked.precision_at(k)),
        (retrieval.RetrievalRecall(top_k=k), graded > 0, ranked.recall_at(k)),
        (retrieval.RetrievalHitRate(top_k=k), graded > 0, ranked.hit_at(k)),
        (retrieval.RetrievalNormalizedDCG(top_k=k), graded, ranked.ndcg_at(k)),
    ]
    for metric, target, values in compared:
        assert float(metric(flat, target, indexes=query)) == pytest.approx(values.mean(), abs=1e-6), metric


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    scores, gains = rng.random((17, 50), np.float32), (rng.random((17, 50)) < 0.2).astype(np.float32)
    whole = measure(scores, gains)
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 50 * 64 * 3)
    parts = measure(scores, gains)
    assert np.array_equal(parts.average_precision, whole.average_precision)
    assert np.array_equal(parts.curve, whole.curve)


def test_memory_does_not_grow_with_queries_times_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 queries in 2,000 items: all scores at once are 16 MB, their sort keys and places 32 MB each."""
    vectors = np.random.default_rng(10).normal(size=(2000, 8)).astype(np.float32)
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 4 * 2**20)
    tracemalloc.start()
    ranked = metrics.measure(
        lambda rows: vectors[rows] @ vectors.T,
        lambda rows: (vectors[rows] @ vectors.T > 9).astype(np.float32),
        item_ids=[str(i) for i in range(2000)],
        own=np.arange(2000),
    )
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(getattr(ranked, field.name).nbytes for field in fields(ranked)) < 700 * 2000
    assert peak_bytes < 12 * 2**20


def test_what_is_taken_out_is_neither_right_nor_wrong() -> None:
    scores, gains = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32), np.array([[1, 0, 0, 1]], np.float32)
    ranked = metrics.measure(
        scores.__getitem__,
        gains.__getitem__,
        item_ids=["a", "b", "c", "d"],
        own=np.array([1]),
        taken_out=lambda rows: np.array([[True, False, False, False]]),
    )
    assert (ranked.num_candidates[0], ranked.num_relevant[0], ranked.total_gain[0]) == (2, 1, 1)
    assert ranked.shown[0, :3].tolist() == [2, 3, -1]
    assert ranked.reciprocal_rank[0] == 0.5
    whole = measure(scores, gains)
    assert metrics.replaced(whole, np.array([0]), ranked).reciprocal_rank[0] == 0.5
    assert whole.reciprocal_rank[0] == 1.0


def test_equal_scores_keep_the_order_of_the_hashes() -> None:
    ids = ["a", "b", "c", "d"]  # sha256: ca97..., 3e23..., 2e7d..., 18ac...
    ranked = measure(np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32), ids=ids)
    assert ranked.shown[0, :4].tolist() == [3, 2, 1, 0]


def test_minus_zero_is_zero() -> None:
    ids = ["a", "b"]
    ranked = measure(np.array([[0.0, -0.0]], np.float32), np.ones((1, 2), np.float32), ids=ids)
    assert ranked.shown[0, :2].tolist() == [1, 0]


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
