"""Recall against exact search: goldens by hand, and that the query itself and ties are handled."""

from pathlib import Path

import pytest

from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.recall import RecallBench, _recall
from cmir.gallery.table import CommittedPiece, Gallery
from cmir.gallery.tuning import build
from tests.gallery_rows import DIM, SPACE, rows


def test_recall_by_hand() -> None:
    truth = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6]]
    assert _recall(truth, truth) == 1
    assert _recall(truth, [[0.1, 0.2, 0.7, 0.8], [0.5, 0.6]]) == pytest.approx((0.5 + 1) / 2)
    assert _recall(truth, [[], [0.6]]) == pytest.approx(0.25)
    assert _recall([[0.1, 0.2]], [[0.2, 0.2, 0.2]]) == 1  # a tie with the last counts as found, never above 1
    assert _recall([[], []], [[], []]) is None


def test_exact_search_has_recall_one_in_every_direction(tmp_path: Path) -> None:
    items = [{"item_id": f"i{i}", "modality": ("pan", "ms", "speech")[i % 3]} for i in range(60)]
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    space.commit([CommittedPiece("a.1.0", rows("a.1.0", items))])
    trial = RecallBench(space.dataset(), seed=0).trial(IndexSettings(), SearchSettings(), 0.0)
    names = ("pan", "ms", "speech")
    assert trial.recall_by_direction == {f"{a}_to_{b}": 1.0 for a in names for b in names}
    assert trial.recall_at_10 == 1


def test_recall_of_one_probe_is_what_counting_by_hand_gives(tmp_path: Path) -> None:
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    space.commit([CommittedPiece("a.1.0", rows("a.1.0", [{"item_id": f"i{i}"} for i in range(300)]))])
    index = IndexSettings(kind="IVF_FLAT", params={"num_partitions": 12})
    build(space, index)
    bench = RecallBench(space.dataset(), seed=0)
    trial = bench.trial(index, SearchSettings(nprobes=1), 0.0)
    dataset, shares = space.dataset(), []
    ids, vectors = bench._queries["ms"]
    for item_id, vector in zip(ids, vectors, strict=True):
        near = {"column": "vector", "q": vector, "k": 11, "metric": "cosine"}
        found = [
            set(dataset.to_table(columns=["item_id", "_distance"], nearest={**near, **way})["item_id"].to_pylist())
            for way in ({"use_index": False}, {"minimum_nprobes": 1, "search_effort": 0.0})
        ]
        exact, got = (answer - {item_id} for answer in found)
        shares.append(len(exact & got) / len(exact))
    assert trial.recall_at_10 == pytest.approx(sum(shares) / len(shares), abs=0.01)
    assert 0.1 < trial.recall_at_10 < 0.9
