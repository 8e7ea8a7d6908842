"""The record of committed work: what the rows tell, what is kept beside them, and that nothing of it is lost."""

from pathlib import Path

import pytest

from cmir.errors import GalleryError
from cmir.gallery import commits
from cmir.gallery.ledger import Ledger, LedgerEntry, PieceIndex, shard_of
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from tests.gallery_rows import DIM, SPACE, VERSION_1, piece_name, piece_rows


def space_at(uri: str | Path, dim: int = DIM) -> SpaceTable:
    return Gallery.create(str(uri)).space(SPACE, dim, "bundle")


def committed(piece_id: str, num_rows: int, num_quarantined: int = 0) -> CommittedPiece:
    return CommittedPiece(piece_id, piece_rows(piece_id, num_rows), num_quarantined)


def test_piece_of_which_no_row_survived_is_committed(tmp_path: Path) -> None:
    space = space_at(tmp_path)
    space.commit([committed(piece_name("a", 0), 0, 7), committed(piece_name("a", 1), 5, 2)])
    space.commit([committed(piece_name("a", 0), 0, 7)])
    assert space.committed_pieces() == {piece_name("a", 0), piece_name("a", 1)}
    entries = {entry.piece_id: entry for entry in space.gallery.ledger.entries(SPACE)}
    assert [entries[piece_name("a", i)].num_quarantined for i in range(2)] == [7, 2]
    assert space.count_rows() == 5


def test_ledger_survives_compaction_and_clean_up(tmp_path: Path) -> None:
    space = space_at(tmp_path)
    for i in range(5):
        space.commit([committed(piece_name("a", i), i)])
    dataset = space.dataset()
    dataset.optimize.compact_files()
    dataset.cleanup_old_versions(retain_versions=1, delete_unverified=True)
    assert space.committed_pieces() == {piece_name("a", i) for i in range(5)}
    assert space_at(tmp_path).committed_pieces() == {piece_name("a", i) for i in range(5)}


def test_index_of_pieces_follows_additions_deletions_and_compaction(tmp_path: Path) -> None:
    space, index = space_at(tmp_path), PieceIndex()
    names = [piece_name("a", i) for i in range(4)]
    assert index.at(space.dataset()) == set()
    for i, name in enumerate(names):
        space.commit([committed(name, 3)])
        assert index.at(space.dataset()) == set(names[: i + 1])
    space.dataset().optimize.compact_files()
    assert index.at(space.dataset()) == set(names)
    space.dataset().delete(f"piece_id = '{names[1]}'")
    assert index.at(space.dataset()) == {names[0], names[2], names[3]}
    assert index.at(commits.open_table(space.uri, 2)) == {names[0]}


def test_index_of_pieces_reads_only_what_is_new_or_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, index, read = space_at(tmp_path), PieceIndex(), list[int]()
    hold = PieceIndex._hold
    monkeypatch.setattr(PieceIndex, "_hold", lambda self, batch: (read.append(len(batch)), hold(self, batch))[1])
    names = [piece_name("a", i) for i in range(4)]
    space.commit([committed(name, 3) for name in names[:2]])
    space.commit([committed(name, 5) for name in names[2:]])
    assert index.at(space.dataset()) == set(names)
    space.dataset().delete(f"piece_id = '{names[3]}'")
    space.commit([committed(piece_name("b", 0), 7)])
    read.clear()
    assert index.at(space.dataset()) == {*names[:3], piece_name("b", 0)}
    assert sorted(read) == [5, 7]
    assert index.at(space.dataset()) == {*names[:3], piece_name("b", 0)}
    assert sorted(read) == [5, 7]


def test_entry_written_twice_counts_once_and_the_newest_holds(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert ledger.entries(SPACE) == []
    ledger.add(SPACE, [LedgerEntry("a.1.0", 5, 2), LedgerEntry("a.1.1", 0, 3)])
    ledger.add(SPACE, [LedgerEntry("a.1.0", 6, 1)])
    ledger.add("other", [LedgerEntry("a.1.2", 1, 1)])
    assert sorted(ledger.entries(SPACE), key=lambda entry: entry.piece_id) == [
        LedgerEntry("a.1.0", 6, 1),
        LedgerEntry("a.1.1", 0, 3),
    ]
    ledger.forget(SPACE, ["a.1.0", "a.1.2"])
    assert [entry.piece_id for entry in ledger.entries(SPACE)] == ["a.1.1"]
    assert [entry.piece_id for entry in ledger.entries("other")] == ["a.1.2"]


def test_spaces_and_shards_are_remembered(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert (ledger.space_ids(), ledger.shards()) == ([], {})
    ledger.record_space("s2", 8, "s3://b/two")
    ledger.record_space("s1", 4, "old")
    ledger.record_space("s1", 4, "new")
    assert ledger.space_ids() == ["s1", "s2"]
    assert (ledger.space("s1").dim, ledger.space("s1").bundle_uri) == (4, "new")
    ledger.record_shards({"a": "/in/a.parquet"})
    ledger.record_shards({"a": "/in/a.parquet", "b": "/in/b.parquet"})
    assert ledger.shards() == {"a": "/in/a.parquet", "b": "/in/b.parquet"}
    assert commits.open_table(str(tmp_path / "_shards.lance")).count_rows() == 2


def test_what_is_not_known_or_not_readable_is_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.record_space("s1", 4, "b")
    with pytest.raises(GalleryError, match="seen s9, expected s1"):
        ledger.space("s9")
    (tmp_path / "_spaces" / "s1.json").write_text("{}")
    with pytest.raises(GalleryError, match="space record not readable"):
        ledger.space("s1")
    assert shard_of(piece_name("a", 3)) == ("a", VERSION_1)
    with pytest.raises(GalleryError, match="not a piece_id"):
        shard_of("a.1")
