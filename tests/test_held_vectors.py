"""Searching in memory gives what Lance's search of the table gives, or what naive arithmetic does."""

import numpy as np
import pytest

from cmir.archive.schema import MODALITIES
from cmir.gallery import held_vectors, publish, tuning
from cmir.gallery.filters import Filters
from cmir.gallery.held_vectors import HeldVectors, VectorsOnDemand
from cmir.gallery.publish import INDEX_NAME, IndexKind, IndexSettings, SearchSettings
from cmir.gallery.search import Searcher, nearest_rows
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from tests.gallery_rows import DIM, SPACE, piece_name, rows

NUM_ROWS = 3000


def unit(num: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(num, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def add(space: SpaceTable, first: int, last: int) -> None:
    """Items `i<number>` of four modalities by turns; every hundredth of the sensor "rare"."""
    piece_id = piece_name("a", first)
    items: list[dict[str, object]] = [
        {"item_id": f"i{i}", "modality": MODALITIES[i % 4], "sensor": "rare" if i % 100 == 0 else "usual"}
        for i in range(first, last)
    ]
    space.commit([CommittedPiece(piece_id, rows(piece_id, items))])


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> SpaceTable:
    """3,000 indexed rows in 24 partitions, deleted ones among them, and 100 that came later."""
    uri = str(tmp_path_factory.mktemp("held") / "gallery")
    space = Gallery.create(uri).space(SPACE, DIM, "bundle")
    add(space, 0, 100)
    add(space, 100, NUM_ROWS)
    tuning.build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 24}))
    add(space, NUM_ROWS, NUM_ROWS + 100)
    space.dataset().delete("item_id = 'i7'")
    return space


@pytest.mark.parametrize("nprobes", [1, 3, 24, None])
@pytest.mark.parametrize("targets", [(), ("rgb",), ("pan", "speech")])
def test_the_same_rows_as_naively_among_the_partitions_looked_at(nprobes: int | None, targets: tuple[str, ...]) -> None:
    vectors, centroids, queries = unit(2000, 0), 0.7 * unit(24, 1), unit(9, 2)
    modalities = [MODALITIES[i % 3 if i % 7 else 3] for i in range(2000)]
    row_ids = np.random.default_rng(3).permutation(10_000)[:2000].astype(np.uint64)
    held = HeldVectors(vectors, row_ids, modalities, centroids)
    partition = np.argmin(((vectors[:, None] - centroids) ** 2).sum(2), axis=1)
    for query, (found, distances) in zip(queries, held.nearest(queries, 12, targets, nprobes), strict=True):
        near = np.argsort(((query - centroids) ** 2).sum(1))[:nprobes]
        is_wanted = np.array([not targets or one in targets for one in modalities])
        if (is_wanted & np.isin(partition, near)).sum() >= 12:
            is_wanted &= np.isin(partition, near)
        places = np.flatnonzero(is_wanted)
        best = places[np.argsort(-(vectors[places] @ query))][:12]
        assert found.tolist() == row_ids[best].tolist()
        np.testing.assert_allclose(distances, 1 - vectors[best] @ query, atol=1e-6)


def test_queries_short_of_rows_stand_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One partition of three holds four rows; a query there is answered from all, and parts change nothing."""
    centres = np.eye(DIM, dtype=np.float32)[:3]
    vectors = np.repeat(centres, (4, 50, 50), axis=0) + 0.01 * unit(104, 0)
    held = HeldVectors(vectors, np.arange(104, dtype=np.uint64), ["rgb"] * 104, centres)
    queries = centres[[1, 0, 2, 0, 1]]
    found = [row_ids.tolist() for row_ids, _ in held.nearest(queries, 6, (), 1)]
    exact = [row_ids.tolist() for row_ids, _ in held.nearest(queries, 6, ())]
    assert found == exact
    assert set(found[1][:4]) == {0, 1, 2, 3}
    monkeypatch.setattr(held_vectors, "_NUMBERS_AT_ONCE", 1)
    assert [row_ids.tolist() for row_ids, _ in held.nearest(queries, 6, (), 1)] == exact
    assert [row_ids.tolist() for row_ids, _ in held.nearest(queries, 6, ())] == exact


def test_answers_depend_on_neither_batch_nor_place() -> None:
    vectors, queries = np.repeat(unit(50, 0), 40, axis=0), unit(33, 1)  # each vector forty times
    held = HeldVectors(vectors, np.arange(2000, dtype=np.uint64), ["ms"] * 2000, unit(5, 2))
    together = held.nearest(queries, 60, (), 2)
    for query, (row_ids, distances) in zip(queries, together, strict=True):
        alone = held.nearest(query[None], 60, (), 2)[0]
        assert distances.tolist() == alone[1].tolist()
        assert len(set(distances[:40].tolist())) == 1, "equal vectors are equally far"
        assert len(set(row_ids.tolist())) == 60


@pytest.mark.parametrize("nprobes", [2, 24])
def test_partitions_are_those_of_the_index(space: SpaceTable, nprobes: int) -> None:
    dataset, queries = space.dataset(), unit(20, 5)
    held = HeldVectors.read(dataset, INDEX_NAME)
    way = (IndexSettings(kind="IVF_FLAT", params={"num_partitions": 24}), SearchSettings(nprobes=nprobes))
    by_lance = nearest_rows(dataset, queries, 10, "", way, ("_rowid", "_distance"))
    exact = held.nearest(queries, 10, ())
    shares = np.zeros(2)
    for i, (in_memory, truth) in enumerate(zip(held.nearest(queries, 10, (), nprobes), exact, strict=True)):
        told = by_lance.filter(np.asarray(by_lance["query_index"]) == i)
        for way_number, row_ids in enumerate((told["_rowid"].to_pylist(), in_memory[0].tolist())):
            shares[way_number] += len(set(truth[0].tolist()) & set(row_ids)) / 10 / len(queries)
    assert shares[1] == pytest.approx(shares[0], abs=0.05), "Lance and memory find as much"
    assert round(shares[1], 6) == 1.0 or nprobes < 24


def searcher(space: SpaceTable, kind: IndexKind = "IVF_FLAT", nprobes: int | None = 24) -> Searcher:
    index = IndexSettings(kind=kind, params={} if kind == "exact" else {"num_partitions": 24})
    search = SearchSettings() if kind == "exact" else SearchSettings(nprobes=nprobes)
    version = int(space.dataset().version)
    uri = space.gallery.uri
    publish.publish(uri, SPACE, table_version=version, index=index, search=search, recall_at_10=1.0)
    return Searcher.open(uri)


@pytest.mark.parametrize(
    ("targets", "filters"),
    [
        ((), None),
        (("ms",), None),
        ((), Filters(sensor="rare")),
        (("rgb", "pan"), Filters(sensor="rare")),
        (("speech",), Filters(sensor="absent")),
    ],
)
def test_the_first_search_and_the_later_ones_answer_the_same(
    space: SpaceTable, targets: tuple[str, ...], filters: Filters | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is Lance's, the later ones are made in memory; a version too large for it stays with Lance."""
    answers = []
    for most in (held_vectors.HELD_BYTES, 0):
        monkeypatch.setattr(held_vectors, "HELD_BYTES", most)
        asked = searcher(space)
        answers += [asked.search(unit(7, 9), targets=targets, k=20, filters=filters) for _ in range(3)]
    ids = [[[hit.item_id for hit in hits] for hits in answer] for answer in answers]
    assert all(one == ids[0] for one in ids)
    assert "i7" not in {item for hits in ids[0] for item in hits}
    assert len(ids[0][0]) == (0 if filters and filters.sensor == "absent" else 20)
    for one in answers[1:]:
        scores = [[[hit.score for hit in hits] for hits in answer] for answer in (one, answers[0])]
        np.testing.assert_allclose(*scores, atol=1e-6)


def test_rows_that_are_not_indexed_are_found(space: SpaceTable) -> None:
    asked = searcher(space)
    asked.warm()
    vector = asked.vector(f"i{NUM_ROWS + 50}")
    assert asked.search(vector[None], k=1)[0][0].item_id == f"i{NUM_ROWS + 50}"


def test_vectors_are_read_when_it_pays(space: SpaceTable) -> None:
    indexed = VectorsOnDemand(space.dataset(), INDEX_NAME)
    assert indexed.get() is None
    assert (held := indexed.get()) is not None
    assert indexed.get() is held
    assert VectorsOnDemand(space.dataset(), INDEX_NAME).get(at_once=True) is not None
    assert VectorsOnDemand(space.dataset(), None).get() is not None


def test_an_empty_version_has_no_hits() -> None:
    held = HeldVectors(np.zeros((0, DIM), np.float32), np.zeros(0, np.uint64), [], unit(3, 0))
    for found in (held.nearest(unit(2, 1), 5, ("ms",), 1), held.nearest_among(unit(2, 1), 5, np.zeros(0, np.uint64))):
        assert [len(row_ids) for row_ids, _ in found] == [0, 0]
