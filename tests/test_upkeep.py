"""Upkeep: doubled ids found, fragments merged, clean-up that never takes what a reader or the pointer needs."""

from datetime import timedelta
from pathlib import Path

from cmir.gallery import commits, publish, upkeep
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.search import Searcher
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from tests.gallery_rows import DIM, SPACE, piece_name, piece_rows, rows, vector_of

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
    space = filled(tmp_path, upkeep.COMPACT_ABOVE_FRAGMENTS)
    assert upkeep.compact(space) == 0
    space = filled(tmp_path, 12)
    pieces, num_rows = space.committed_pieces(), space.count_rows()
    assert upkeep.compact(space) == 11
    assert (space.committed_pieces(), space.count_rows()) == (pieces, num_rows)


def test_ids_are_indexed_once_and_still_found(tmp_path: Path) -> None:
    space = filled(tmp_path, 3)
    assert not upkeep.index_ids(space.uri, min_rows=10)
    assert upkeep.index_ids(space.uri, min_rows=9)
    assert not upkeep.index_ids(space.uri, min_rows=9)
    assert not upkeep.index_ids(str(tmp_path / "nothing.lance"), min_rows=0)
    name = piece_name("a", 3)
    space.commit([CommittedPiece(name, piece_rows(name, 3))])
    publish_now(space)
    searcher = Searcher.open(str(tmp_path))
    assert [searcher.item(item_id).item_id for item_id in ("a-0-1", "a-3-1")] == ["a-0-1", "a-3-1"]


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
