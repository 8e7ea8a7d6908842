"""Queries over a published gallery: right hits, scores, ties, targets, filters, refresh, refusals."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shapely

from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.errors import GalleryError, QueryError, SpaceMismatchError
from cmir.gallery import publish
from cmir.gallery.filters import Filters
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.search import Searcher, nearest_rows
from cmir.gallery.table import CommittedPiece, Gallery
from tests.gallery_rows import DIM, SPACE, day, piece_name, rows, square, vector_of

MODALITY_OF = ("pan", "ms", "rgb", "speech")


def commit(uri: Path, row_group: int, items: list[dict[str, object]]) -> None:
    piece_id = piece_name("a", row_group)
    Gallery.create(str(uri)).space(SPACE, DIM, "bundle").commit([CommittedPiece(piece_id, rows(piece_id, items))])


def publish_all(uri: Path) -> Searcher:
    version = Gallery.open(str(uri)).space(SPACE).dataset().version
    exact = {"index": IndexSettings(), "search": SearchSettings(), "recall_at_10": 1.0}
    publish.publish(str(uri), SPACE, table_version=version, **exact)
    return Searcher.open(str(uri))


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published gallery of 200 items, 50 of each modality; item i carries label l<i % 3>, and "even" where i is."""
    place = tmp_path_factory.mktemp("gallery")
    items: list[dict[str, object]] = [
        {
            "item_id": f"i{i:03}",
            "modality": MODALITY_OF[i % 4],
            "labels": [f"l{i % 3}"] + (["even"] if i % 2 == 0 else []),
            "scene_class": "river" if i < 10 else None,
            "bands": ["red", "nir"] if i % 4 == 1 else None,
            "wavelength_nm": [665.0, None] if i % 4 == 1 else None,
            "acquired_at": day(i),
            **(square(i / 2, 10.0, 0.4) if i % 5 else {}),
        }
        for i in range(200)
    ]
    commit(place, 0, items[:120])
    commit(place, 1, items[120:])
    webp = pa.table({"item_id": ["i001", "i002"], "webp": [b"one", b"two"]}, schema=THUMBNAIL_SCHEMA)
    Gallery.open(str(place)).add_thumbnails({piece_name("a", 0): webp})
    publish_all(place)
    return place


@pytest.fixture(scope="module")
def searcher(uri: Path) -> Searcher:
    return Searcher.open(str(uri))


def expected(query: np.ndarray, ids: list[str], k: int) -> list[tuple[str, float]]:
    """Ids and cosines of the k best, by numpy in double precision."""
    scores = {item_id: float(vector_of(item_id).astype(np.float64) @ query / np.linalg.norm(query)) for item_id in ids}
    return sorted(scores.items(), key=lambda pair: -pair[1])[:k]


ALL = [f"i{i:03}" for i in range(200)]


def test_hits_are_the_nearest_by_cosine_whatever_the_length_of_the_query(searcher: Searcher) -> None:
    queries = np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32) * np.array([[1, 7, 0.01, 1, 1]]).T
    for query, hits in zip(queries, searcher.search(queries.astype(np.float32), k=12), strict=True):
        wanted = expected(query, ALL, 12)
        assert [hit.item_id for hit in hits] == [item_id for item_id, _ in wanted]
        np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in wanted], atol=1e-6)
        assert [hit.rank for hit in hits] == list(range(1, 13))


def test_answer_does_not_depend_on_the_batch(searcher: Searcher) -> None:
    queries = np.random.default_rng(1).normal(size=(9, DIM)).astype(np.float32)
    together = searcher.search(queries, targets=["ms", "rgb"], k=7)
    assert together == [searcher.search(query[None], targets=["ms", "rgb"], k=7)[0] for query in queries]
    assert searcher.search(queries[:0], k=3) == []


def test_targets_limit_the_modalities(searcher: Searcher) -> None:
    query = vector_of("i003")
    hits = searcher.search(query[None], targets=["ms"], k=100)[0]
    assert {hit.modality for hit in hits} == {"ms"}
    assert [hit.item_id for hit in hits] == [item_id for item_id, _ in expected(query, ALL[1::4], 50)]


def test_k_larger_than_the_gallery_gives_all(searcher: Searcher) -> None:
    assert {hit.item_id for hit in searcher.search(vector_of("x")[None], k=1000)[0]} == set(ALL)


def test_hit_carries_what_the_row_says(searcher: Searcher) -> None:
    hit = searcher.search(vector_of("i001")[None], k=1)[0][0]
    assert (hit.item_id, hit.rank, hit.modality, hit.scene_class) == ("i001", 1, "ms", "river")
    assert hit.score == pytest.approx(1, abs=1e-6)
    assert hit.score <= 1
    assert hit.labels == ("l1",)
    assert hit.bbox == (0.5, 10.0, 0.9, 10.4)
    assert hit.acquired_at == datetime(2020, 1, 2, 12, tzinfo=UTC)
    assert hit.source_uri == "i001.tif"
    assert searcher.search(vector_of("i005")[None], k=1)[0][0].bbox is None


def test_thumbnails_are_told_and_read(searcher: Searcher) -> None:
    hits = searcher.search(vector_of("x")[None], k=200)[0]
    assert {hit.item_id for hit in hits if hit.has_thumbnail} == {"i001", "i002"}
    assert searcher.thumbnail("i002") == b"two"
    assert searcher.thumbnail("i003") is None


def test_item_and_vector_come_back_as_they_went_in(searcher: Searcher) -> None:
    item = searcher.item("i001")
    assert (item.bands, item.wavelength_nm, item.labels) == (("red", "nir"), (665.0, None), ("l1",))
    assert item.acquired_at == day(1)
    assert searcher.item("i000").bands == ()
    np.testing.assert_allclose(searcher.vector("i001"), vector_of("i001"), atol=1e-7)
    for read in (searcher.item, searcher.vector, searcher.thumbnail):
        with pytest.raises(QueryError, match="no such item"):
            read("i1' OR '1'='1")


@pytest.mark.parametrize("indexed", [False, True])
def test_equal_scores_are_ordered_by_the_hash_of_the_id(tmp_path: Path, indexed: bool) -> None:
    vector = vector_of("all the same")
    items: list[dict[str, object]] = [{"item_id": f"t{i:03}", "vector": vector} for i in range(400)]
    for group in range(4):
        commit(tmp_path, group, items[group::4])
    dataset = Gallery.open(str(tmp_path)).space(SPACE).dataset()
    index, search = IndexSettings(), SearchSettings()
    if indexed:
        dataset.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=2)
        index, search = IndexSettings(kind="IVF_FLAT", params={"num_partitions": 2}), SearchSettings(nprobes=2)
    version = Gallery.open(str(tmp_path)).space(SPACE).dataset().version
    publish.publish(str(tmp_path), SPACE, table_version=version, index=index, search=search, recall_at_10=1.0)
    hits = Searcher.open(str(tmp_path)).search(vector[None], k=5)[0]
    # golden: sorted((hashlib.sha256(f"t{i:03}".encode()).hexdigest(), f"t{i:03}") for i in range(400))[:5]
    assert [hit.item_id for hit in hits] == ["t239", "t006", "t277", "t142", "t166"]


def test_filters_leave_k_hits_where_there_are_as_many(searcher: Searcher) -> None:
    filters = Filters(labels=("even", "l0"), datetime="2020-01-01/2020-03-31")
    wanted = [f"i{i:03}" for i in range(0, 91, 6)]
    query = vector_of("x")
    hits = searcher.search(query[None], k=10, filters=filters)[0]
    assert [hit.item_id for hit in hits] == [item_id for item_id, _ in expected(query, wanted, 10)]


@pytest.mark.parametrize("way", ["memory", "named", "picked"])
def test_a_polygon_is_compared_exactly_however_it_is_searched(
    uri: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "memory":
        monkeypatch.setattr("cmir.gallery.held_vectors.HELD_BYTES", 0)
        monkeypatch.setattr("cmir.gallery.search._ROWS_NAMED", {"named": 200, "picked": 0}[way])
        monkeypatch.setattr("cmir.gallery.search._SPARE_HITS", 1)
    triangle = "POLYGON ((9.45 9, 60.5 10.1, 9.45 10.2, 9.45 9))"  # most boxes within its own are beside it
    wanted = [
        f"i{i:03}"
        for i in range(200)
        if i % 5 and shapely.box(i / 2, 10, i / 2 + 0.4, 10.4).intersects(shapely.from_wkt(triangle))
    ]
    searcher, query = Searcher.open(str(uri)), vector_of("x")
    hits = searcher.search(query[None], k=7, filters=Filters(polygon=triangle))[0]
    assert [hit.item_id for hit in hits] == [item_id for item_id, _ in expected(query, wanted, 7)]
    ms = searcher.search(query[None], targets=["ms"], k=200, filters=Filters(polygon=triangle))[0]
    assert {hit.item_id for hit in ms} == {item_id for item_id in wanted if int(item_id[1:]) % 4 == 1}
    nowhere = Filters(polygon="POLYGON ((-9 -9, -8 -9, -8 -8, -9 -9))")
    assert searcher.search(query[None], k=7, filters=nowhere) == [[]]


def test_index_with_a_selective_filter_still_finds_all(tmp_path: Path) -> None:
    items: list[dict[str, object]] = [
        {"item_id": f"i{i}", "sensor": "rare" if i % 100 == 0 else "often"} for i in range(1000)
    ]
    commit(tmp_path, 0, items[:900])
    space = Gallery.open(str(tmp_path)).space(SPACE)
    space.dataset().create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=30)
    commit(tmp_path, 1, items[900:])  # these rows are not indexed
    index, search = IndexSettings(kind="IVF_FLAT", params={"num_partitions": 30}), SearchSettings(nprobes=1)
    publish.publish(
        str(tmp_path), SPACE, table_version=space.dataset().version, index=index, search=search, recall_at_10=0.5
    )
    hits = Searcher.open(str(tmp_path)).search(vector_of("x")[None], k=10, filters=Filters(sensor="rare"))[0]
    assert {hit.item_id for hit in hits} == {f"i{i}" for i in range(0, 1000, 100)}


def test_a_filter_is_searched_with_its_own_number_of_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(tmp_path, 0, [{"item_id": f"i{i}", "sensor": "rare" if i % 10 == 0 else "often"} for i in range(600)])
    space = Gallery.open(str(tmp_path)).space(SPACE)
    space.dataset().create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=20)
    index = IndexSettings(kind="IVF_FLAT", params={"num_partitions": 20})
    search = SearchSettings(nprobes=1, filtered_nprobes=20)
    publish.publish(
        str(tmp_path), SPACE, table_version=space.dataset().version, index=index, search=search, recall_at_10=0.5
    )
    searcher, query = Searcher.open(str(tmp_path)), vector_of("x")
    monkeypatch.setattr("cmir.gallery.search._SPARE_HITS", 1)
    found = searcher.search(query[None], k=10, filters=Filters(sensor="rare"))[0]
    wanted = expected(query, [f"i{i}" for i in range(0, 600, 10)], 10)
    assert [hit.item_id for hit in found] == [item_id for item_id, _ in wanted]
    plain = searcher.search(query[None], targets=["ms"], k=10)[0]
    nearest = expected(query, [f"i{i}" for i in range(600)], 10)
    assert [hit.item_id for hit in plain] != [item_id for item_id, _ in nearest], "a target alone is no filter"


def test_queries_short_of_hits_are_searched_again_and_keep_their_places(tmp_path: Path) -> None:
    axes = np.eye(DIM, dtype=np.float32)
    draw = np.random.default_rng(0)
    items: list[dict[str, object]] = []
    for axis, count in enumerate((60, 60, 4, 60)):  # the third group is smaller than what is asked for
        noise = 0.1 * draw.normal(size=(count, DIM))
        vectors = axes[axis] + noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        items += [{"item_id": f"g{axis}-{i}", "vector": v.astype(np.float32)} for i, v in enumerate(vectors)]
    commit(tmp_path, 0, items)
    space = Gallery.open(str(tmp_path)).space(SPACE)
    space.dataset().create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=4, ivf_centroids=axes[:4])
    way = (IndexSettings(kind="IVF_FLAT", params={"num_partitions": 4}), SearchSettings(nprobes=1))
    queries = axes[[0, 2, 1, 2, 3]]
    found = nearest_rows(space.dataset(), queries, 8, "", way)
    assert np.bincount(found["query_index"].to_numpy()).tolist() == [8] * 5
    for place, group in enumerate((0, 2, 1, 2, 3)):
        mine = found.filter(pa.array(found["query_index"].to_numpy() == place))["item_id"].to_pylist()
        near = [item_id for item_id in mine if item_id.startswith(f"g{group}-")]
        assert len(near) == (4 if group == 2 else 8)
        assert mine[: len(near)] == near, "the nearest come first"
    alone = [nearest_rows(space.dataset(), query[None], 8, "", way)["item_id"].to_pylist() for query in queries]
    grouped = found.group_by("query_index").aggregate([("item_id", "list")]).sort_by("query_index")
    assert grouped["item_id_list"].to_pylist() == alone


def test_searcher_sees_only_the_published_rows_until_it_is_refreshed(tmp_path: Path) -> None:
    commit(tmp_path, 0, [{"item_id": "old"}])
    searcher = publish_all(tmp_path)
    commit(tmp_path, 1, [{"item_id": "new"}])
    assert [hit.item_id for hit in Searcher.open(str(tmp_path)).search(vector_of("new")[None], k=5)[0]] == ["old"]
    assert searcher.refresh() is searcher
    publish_all(tmp_path)
    fresh = searcher.refresh()
    assert [hit.item_id for hit in searcher.search(vector_of("new")[None], k=5)[0]] == ["old"]
    assert [hit.item_id for hit in fresh.search(vector_of("new")[None], k=5)[0]] == ["new", "old"]
    assert (searcher.pointer.sequence, fresh.pointer.sequence) == (1, 2)


def test_published_version_outlives_deletion_and_clean_up(tmp_path: Path) -> None:
    commit(tmp_path, 0, [{"item_id": "a"}, {"item_id": "b"}])
    searcher = publish_all(tmp_path)
    space = Gallery.open(str(tmp_path)).space(SPACE)
    space.prune(["a"])
    commit(tmp_path, 1, [{"item_id": "c"}])
    space.dataset().cleanup_old_versions(retain_versions=1, error_if_tagged_old_versions=False)
    for reader in (searcher, Searcher.open(str(tmp_path))):
        assert {hit.item_id for hit in reader.search(vector_of("a")[None], k=5)[0]} == {"a", "b"}


def test_what_cannot_be_searched_is_refused(searcher: Searcher, tmp_path: Path) -> None:
    query = vector_of("x")[None]
    for k in (0, 1001):
        with pytest.raises(QueryError, match="k out of range"):
            searcher.search(query, k=k)
    with pytest.raises(QueryError, match="unknown target: seen sar"):
        searcher.search(query, targets=["sar"])
    for bad in (np.nan, np.inf, 0):
        with pytest.raises(QueryError, match="no direction"):
            searcher.search(query * np.float32(bad))
    with pytest.raises(SpaceMismatchError, match="another space"):
        searcher.search(vector_of("x", 8)[None])
    with pytest.raises(GalleryError, match=r"not published.*index\.py .*--publish"):
        Searcher.open(str(tmp_path))


def test_another_space_than_the_published_is_refused(uri: Path) -> None:
    assert Searcher.open(str(uri), space_id=SPACE).space_id == SPACE
    with pytest.raises(SpaceMismatchError, match="seen s9, expected " + SPACE):
        Searcher.open(str(uri), space_id="s9")


def test_a_sample_and_its_distances_are_those_of_the_rows(searcher: Searcher) -> None:
    sample = searcher.sample(16, seed=1)
    vectors = np.stack([vector_of(f"i{i:03}") for i in range(200)])
    near = 1 - sample @ vectors.T
    assert np.all(near.min(axis=1) < 1e-6), "each is a row of the gallery"
    assert len(np.unique(sample, axis=0)) == 16
    for found in (searcher.distances(sample, 10), searcher.distances(sample, 10, exact=True)):
        np.testing.assert_allclose(np.stack(found), np.sort(near, axis=1)[:, :10], atol=1e-5)
    assert searcher.sample(1000, seed=0).shape == (200, DIM)
