"""Upkeep: doubled ids found, fragments merged, clean-up that never takes what a reader or the pointer needs."""

import threading
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.gallery import commits, publish, upkeep
from cmir.gallery.compaction import COMPACT_ABOVE_FRAGMENTS
from cmir.gallery.filters import Filters
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.search import Searcher
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from tests.gallery_rows import DIM, SPACE, day, piece_name, piece_rows, rows, vector_of
from tests.gallery_writers import CompactedMeanwhile

AT_ONCE = timedelta(0)


def filled(uri: Path, num_pieces: int) -> SpaceTable:
    space = Gallery.create(str(uri)).space(SPACE, DIM, "bundle")
    for i in range(num_pieces):
        name = piece_name("a", i)
        space.commit([CommittedPiece(name, piece_rows(name, 3), num_quarantined=i)])
    return space


def publish_now(space: SpaceTable) -> publish.Pointer:
    version = space.dataset().version
    ways = {"index": IndexSettings(), "search": SearchSettings()}
    return publish.publish(space.gallery.uri, SPACE, table_version=version, recall_at_10=1.0, **ways)


def publish_and_open(space: SpaceTable) -> Searcher:
    publish_now(space)
    return Searcher.open(space.gallery.uri)


def test_doubled_ids_are_named_with_their_pieces(tmp_path: Path) -> None:
    space = filled(tmp_path, 2)
    assert upkeep.doubled_ids(space) == []
    other = piece_name("b", 0)
    space.commit([CommittedPiece(other, rows(other, [{"item_id": "a-1-0"}, {"item_id": "a-0-2"}, {"item_id": "b"}]))])
    found = upkeep.doubled_ids(space)
    assert [(double.item_id, double.num_rows) for double in found] == [("a-0-2", 2), ("a-1-0", 2)]
    assert found[0].piece_ids == (piece_name("a", 0), other)
    assert len(upkeep.doubled_ids(space, limit=1)) == 1


def test_compaction_keeps_rows_and_pieces(tmp_path: Path) -> None:
    space = filled(tmp_path, COMPACT_ABOVE_FRAGMENTS)
    assert upkeep.compact(space) == 0
    space = filled(tmp_path, 12)
    pieces, num_rows = space.committed_pieces(), space.count_rows()
    assert upkeep.compact(space) == 11
    assert (space.committed_pieces(), space.count_rows()) == (pieces, num_rows)


def test_columns_are_indexed_once_extended_later_and_answer_as_a_scan_does(tmp_path: Path) -> None:
    items: list[dict[str, object]] = [
        {
            "item_id": f"i{i:03}",
            "modality": "pan" if i % 3 else "ms",
            "sensor": None if i % 5 == 0 else f"s{i % 4}",
            "labels": [] if i % 7 == 0 else [f"l{i % 3}", f"m{i % 2}"],
            "acquired_at": None if i % 11 == 0 else day(i),
            "cloud_cover": None if i % 4 == 0 else float(i % 100),
            "gsd_m": 0.5 * (i % 20),
        }
        for i in range(300)
    ]
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    name = piece_name("a", 0)
    space.commit([CommittedPiece(name, rows(name, items[:200]))])
    columns = {**upkeep.ID_COLUMN, **upkeep.FILTER_COLUMNS}
    assert upkeep.index_columns(space.uri, columns, min_rows=201) == []
    assert upkeep.index_columns(str(tmp_path / "nothing.lance"), columns, min_rows=0) == []
    assert upkeep.index_columns(space.uri, columns, min_rows=200) == list(columns)
    assert upkeep.index_columns(space.uri, columns, min_rows=200) == []
    more = piece_name("a", 1)
    space.commit([CommittedPiece(more, rows(more, items[200:]))])
    asked = [
        Filters(sensor="s1"),
        Filters(labels=("l1", "m0")),
        Filters(datetime="2020-02-01/2020-08-01"),
        Filters(cloud_cover_max=30, gsd_min_m=1.5, gsd_max_m=4),
        Filters(labels=("l2",), sensor="s2", datetime="../2020-06-01"),
    ]

    def answers() -> list[list[str]]:
        searcher = publish_and_open(space)
        assert searcher.item("i250").item_id == "i250"
        query = vector_of("x")[None]
        return [
            [hit.item_id for hit in searcher.search(query, targets=targets, k=300, filters=filters)[0]]
            for filters in asked
            for targets in ((), ("ms",))
        ]

    partly_indexed = answers()
    covered = {index.name: int(index.num_rows_indexed) for index in space.dataset().describe_indices()}
    assert covered == {upkeep.index_name(column): 200 for column in columns}
    assert upkeep.index_columns(space.uri, columns, min_rows=200) == list(columns)
    indexed = answers()
    for column in columns:
        space.dataset().drop_index(upkeep.index_name(column))
    assert partly_indexed == indexed == answers()
    assert all(len(found) > 5 for found in indexed[::2])


@pytest.mark.parametrize("nth", [1, 2])  # before the first index is begun, and while it is built or extended
def test_columns_are_indexed_beside_compactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    space = filled(tmp_path, 4)
    for i in range(2):
        meanwhile = CompactedMeanwhile(space.uri, nth)
        with monkeypatch.context() as patch:
            patch.setattr(commits, "open_table", meanwhile)
            assert upkeep.index_columns(space.uri, upkeep.ID_COLUMN, min_rows=0) == ["item_id"]
        assert meanwhile.num_opened == 1 + nth
        (index,) = space.dataset().describe_indices()
        assert index.num_rows_indexed == space.count_rows()
        for name in (piece_name("b", i), piece_name("c", i)):
            space.commit([CommittedPiece(name, piece_rows(name, 3))])


def test_clean_up_never_breaks_a_reader_that_searches(tmp_path: Path) -> None:
    space = filled(tmp_path, 1)
    publish_now(space)
    stop, errors, num_answers = threading.Event(), list[Exception](), 0

    def read() -> None:
        nonlocal num_answers
        searcher = Searcher.open(str(tmp_path))
        while not stop.is_set():
            try:
                searcher = searcher.refresh()
                hits = searcher.search(vector_of("a-0-1")[None], k=3)[0]
                assert hits[0].item_id == "a-0-1"
                assert searcher.item("a-0-2").item_id == "a-0-2"
                num_answers += 1
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    removed = 0
    for i in range(1, 16):
        name = piece_name("a", i)
        space.commit([CommittedPiece(name, piece_rows(name, 3))])
        picture = pa.table({"item_id": [f"a-{i}-0"], "webp": [b"x"]}, schema=THUMBNAIL_SCHEMA)
        space.gallery.add_thumbnails({name: picture})
        upkeep.compact(space)
        upkeep.index_columns(space.uri, upkeep.ID_COLUMN, min_rows=0)
        upkeep.index_columns(space.gallery.table_uri("thumbnails"), upkeep.ID_COLUMN, min_rows=0)
        if i % 3 == 0:
            publish_now(space)
        removed += upkeep.clean(space.gallery, grace=AT_ONCE).num_versions
    stop.set()
    reader.join(30)
    assert errors == []
    assert num_answers > 5
    assert removed > 20


def test_clean_keeps_what_the_pointer_names_and_removes_the_rest(tmp_path: Path) -> None:
    space = filled(tmp_path, 2)
    tags = [publish_now(space).tag for _ in range(publish.MAX_PREVIOUS + 2)]
    first = commits.open_table(space.uri, tags[1]).version
    space.prune(["a"])
    name = piece_name("b", 0)
    space.commit([CommittedPiece(name, piece_rows(name, 4))])
    pointer = publish_now(space)
    reader = Searcher.open(str(tmp_path))
    report = upkeep.clean(space.gallery, grace=AT_ONCE)
    assert report.num_tags == 2
    assert report.num_versions > 0
    standing = set(commits.open_table(space.uri).tags.list())
    assert standing == {entry.tag for entry in (pointer, *pointer.previous)}
    assert [hit.item_id for hit in reader.search(vector_of("b-0-1")[None], k=1)[0]] == ["b-0-1"]
    publish.rollback(str(tmp_path))
    back = Searcher.open(str(tmp_path))
    assert back.pointer.table_version == first
    assert [hit.item_id for hit in back.search(vector_of("a-0-1")[None], k=1)[0]] == ["a-0-1"]
    assert space.committed_pieces() == {name}


def test_clean_leaves_young_versions_and_tags_alone(tmp_path: Path) -> None:
    space = filled(tmp_path, 2)
    for _ in range(publish.MAX_PREVIOUS + 2):
        publish_now(space)
    num_versions, num_tags = len(space.dataset().versions()), len(space.dataset().tags.list())
    report = upkeep.clean(space.gallery)
    assert (report.num_tags, report.num_versions) == (0, 0)
    assert (len(space.dataset().versions()), len(space.dataset().tags.list())) == (num_versions, num_tags)


def test_clean_leaves_the_tag_of_a_publication_that_is_under_way(tmp_path: Path) -> None:
    space = filled(tmp_path, 2)
    pointer = publish_now(space)
    coming = f"published-{pointer.sequence + 1:06d}-{SPACE}"
    space.dataset().tags.create(coming, space.dataset().version)
    assert upkeep.clean(space.gallery, grace=AT_ONCE).num_tags == 0
    assert set(space.dataset().tags.list()) == {pointer.tag, coming}


def test_status_tells_rows_versions_and_what_is_served(tmp_path: Path) -> None:
    space = filled(tmp_path, 2)
    Gallery.open(str(tmp_path)).space("s9", 4, "other")
    publish_now(space)
    name = piece_name("b", 0)
    space.commit([CommittedPiece(name, piece_rows(name, 4))])
    served, other = upkeep.status(str(tmp_path))
    assert (served.space_id, served.num_rows, served.published_rows, served.num_rows_unindexed) == (SPACE, 10, 6, 10)
    assert (served.is_published, served.index_kind, served.recall_at_10) == (True, "exact", 1.0)
    assert served.num_quarantined == 1
    assert served.num_bytes > 0
    assert served.age_s is not None
    assert 0 <= served.age_s < 60
    assert (other.space_id, other.num_rows, other.is_published, other.recall_at_10) == ("s9", 0, False, None)
