"""Merging small fragments between commits: few remain, large ones are left alone, other writers win."""

from pathlib import Path

import pyarrow as pa
import pytest

from cmir.gallery import commits, compaction
from cmir.gallery.commits import Addition
from cmir.gallery.compaction import Merger
from cmir.gallery.table import CommittedPiece, Gallery
from tests.gallery_rows import DIM, SPACE, piece_name, piece_rows
from tests.test_thumbnails import pictures

MANY = 4


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MANY_SMALL", MANY)
    monkeypatch.setattr(compaction, "SMALL_ROWS", 10)


def added(uri: str, *sizes: int) -> list[int]:
    """Rows of the fragments after fragments of these sizes were added."""
    for size in sizes:
        rows = pa.table({"x": list(range(size))})
        commits.ensure_table(uri, rows.schema)
        commits.add_absent(uri, lambda dataset, rows=rows: Addition(("x",), rows))
    return sorted(fragment.count_rows() for fragment in commits.open_table(uri).get_fragments())


def test_small_fragments_are_merged_where_there_are_many(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.lance")
    assert Merger(uri).merge() == 0
    assert added(uri, 3, 3, 50, 60) == [3, 3, 50, 60]
    merger = Merger(uri)
    assert merger.merge() == 0
    added(uri, 4)
    assert merger.merge() == 0
    added(uri, 5)
    assert merger.merge() == 2
    assert added(uri) == [6, 9, 50, 60]
    assert merger.merge() == 0


def test_a_table_is_looked_at_when_its_fragments_may_have_become_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, looks = str(tmp_path / "t.lance"), []
    find_table = commits.find_table
    merger = Merger(uri)
    for number in range(1, 4 * MANY):
        added(uri, 1)
        monkeypatch.setattr(commits, "find_table", lambda uri, number=number: looks.append(number) or find_table(uri))
        merger.merge()
        monkeypatch.setattr(commits, "find_table", find_table)
    assert looks == [1, 4, 5, 7, 8, 10, 11, 14, 15]
    assert len(commits.open_table(uri).get_fragments()) < MANY


def test_a_commit_meanwhile_wins_and_merging_waits_for_as_many_more(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.lance")
    added(uri, 1, 1, 1, 1)
    meanwhile = [2]

    def commit_meanwhile(old: object, new: object) -> None:
        added(uri, *meanwhile)

    merger = Merger(uri, commit_meanwhile)
    assert merger.merge() == 0
    assert added(uri) == [1, 1, 1, 1, 2]
    meanwhile.clear()
    for size in (1, 1):
        assert merger.merge() == 0, "not many more than four"
        added(uri, size)
    assert merger.merge() == 0
    added(uri, 1)
    assert merger.merge() == 7
    assert added(uri) == [9]


def test_a_gallery_keeps_few_fragments_and_knows_its_pieces(tmp_path: Path) -> None:
    gallery = Gallery.create(str(tmp_path))
    space = gallery.space(SPACE, DIM, "bundle")
    names = [piece_name("a", i) for i in range(3 * MANY)]
    for i, name in enumerate(names):
        assert gallery.add_thumbnails({name: pictures(**{f"t{i}": b"1"})}) == 1
        space.commit([CommittedPiece(name, piece_rows(name, i % 3), num_quarantined=1)])
        gallery.merge_thumbnails()
        space.merge()
    for table in (SPACE, "thumbnails", "_files-thumbnails", "_ledger"):
        assert len(commits.open_table(gallery.table_uri(table)).get_fragments()) < 2 * MANY
    for known in (space, Gallery.open(str(tmp_path)).space(SPACE)):
        assert known.committed_pieces() == set(names)
        assert known.count_rows() == 3 * MANY
        assert known.commit([CommittedPiece(names[1], piece_rows(names[1], 1))]).num_pieces_skipped == 1
    again = Gallery.open(str(tmp_path))
    assert again.add_thumbnails({name: pictures(**{f"t{i}": b"1"}) for i, name in enumerate(names)}) == 0
    assert again._thumbnails._known.unnoted == set(), "what is noted is carried to merged files"


def test_compaction_between_jobs_merges_all_but_full_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FULL_ROWS", 40)
    uri = str(tmp_path / "t.lance")
    added(uri, 50, *[15] * compaction.COMPACT_ABOVE_FRAGMENTS)
    assert Merger(uri).compact() == 0
    added(uri, 15)
    assert Merger(uri).compact() > 4
    assert added(uri)[-1] == 50
    assert sum(added(uri)) == 50 + 15 * 9


def test_compacted_thumbnails_are_still_known_by_their_pieces(tmp_path: Path) -> None:
    gallery = Gallery.create(str(tmp_path))
    names = [piece_name("a", i) for i in range(compaction.COMPACT_ABOVE_FRAGMENTS + 1)]
    for i, name in enumerate(names):
        gallery.add_thumbnails({name: pictures(**{f"t{i}": b"1"})})
    assert gallery.compact_thumbnails() == len(names) - 1
    for one in (gallery, Gallery.create(str(tmp_path))):
        assert one.add_thumbnails({name: pictures(**{f"t{i}": b"1"}) for i, name in enumerate(names)}) == 0
        assert one._thumbnails._known.unnoted == set()
