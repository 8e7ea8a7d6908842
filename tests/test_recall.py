"""Recall against exact search: goldens by hand, and that the query itself and ties are handled."""

from pathlib import Path

import pytest

from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.recall import NUM_QUERIES, RecallBench, _recall
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


def test_filters_keep_about_the_share_of_each_target(tmp_path: Path) -> None:
    items = [
        {"item_id": f"i{i:05}", "modality": ("pan", "ms")[i % 2], "labels": ["rare"] if i % 200 < 2 else ["often"]}
        for i in range(4000)
    ]
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    space.commit([CommittedPiece("a.1.0", rows("a.1.0", items))])
    bench = RecallBench(space.dataset(), seed=0)
    assert bench.num_queries == NUM_QUERIES
    names = [f"{name}, {share} of rows" for name in ("pan", "ms") for share in ("10%", "1%")]
    assert list(bench.filters_by_name) == names
    kept = {name: space.dataset().count_rows(sql) / 2000 for name, sql in bench.filters_by_name.items()}
    assert bench.filters_by_name["ms, 1% of rows"] == "modality IN ('ms') AND array_has_all(labels, ['rare'])"
    assert kept["ms, 1% of rows"] == 0.01
    assert 0.05 <= kept["pan, 10% of rows"] <= 0.2
    trial = bench.trial(IndexSettings(), SearchSettings(), 0.0)
    assert set(trial.recall_filtered.values()) == {1.0}
    assert len(trial.recall_filtered) == 8
    assert trial.recall_by_case == {**trial.recall_by_direction, **trial.recall_filtered}


def test_queries_and_answers_are_kept_where_the_rows_are_the_same(tmp_path: Path) -> None:
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    space.commit([CommittedPiece("a.1.0", rows("a.1.0", [{"item_id": f"i{i}"} for i in range(300)]))])
    bench = RecallBench(space.dataset(), seed=0)
    build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 2}))
    same = bench.on(space.dataset(), seed=0)
    assert same is not bench
    assert same._truth is bench._truth
    assert same._measured is not bench._measured, "another index is measured again"
    space.commit([CommittedPiece("a.1.1", rows("a.1.1", [{"item_id": "new"}]))])
    assert bench.on(space.dataset(), seed=0)._truth is not bench._truth


def test_recall_of_one_probe_is_what_counting_by_hand_gives(tmp_path: Path) -> None:
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    space.commit([CommittedPiece("a.1.0", rows("a.1.0", [{"item_id": f"i{i}"} for i in range(300)]))])
    index = IndexSettings(kind="IVF_FLAT", params={"num_partitions": 12})
    build(space, index)
    bench = RecallBench(space.dataset(), seed=0)
    trial = bench.trial(index, SearchSettings(nprobes=1), 0.0)
    recall = trial.recall_by_direction["ms_to_ms"]
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
    assert recall == pytest.approx(sum(shares) / len(shares), abs=0.01)
    assert 0.1 < recall < 0.9
