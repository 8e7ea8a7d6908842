"""Commits of pieces: exactly once for one writer, for many, and for one that is killed."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from cmir.archive.schema import THUMBNAIL_SCHEMA, gallery_schema
from cmir.errors import GalleryError, SpaceMismatchError
from cmir.gallery import commits
from cmir.gallery.ledger import shard_of
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from tests.gallery_rows import DIM, SPACE, VERSION_1, VERSION_2, piece_name, piece_rows, rows, vector_of
from tests.gallery_writers import ROWS_PER_PIECE, committed, space_at, write_in_order, write_overlapping


def ids_of(space: SpaceTable) -> list[str]:
    return sorted(space.dataset().to_table(columns=["item_id"])["item_id"].to_pylist())


def ids_of_pieces(names: list[str], num_rows: int = ROWS_PER_PIECE) -> list[str]:
    return sorted(item for name in names for item in piece_rows(name, num_rows)["item_id"].to_pylist())


def test_lancedb_reads_the_table_as_the_gallery_schema(tmp_path: Path) -> None:
    space_at(tmp_path).commit([committed(piece_name("a", 0))])
    database = lancedb.connect(str(tmp_path))
    assert database.list_tables().tables == [SPACE]
    table = database.open_table(SPACE)
    assert table.schema.equals(gallery_schema(DIM))
    assert table.to_arrow().sort_by("item_id").equals(piece_rows(piece_name("a", 0), ROWS_PER_PIECE).sort_by("item_id"))


def test_many_pieces_become_visible_in_one_version(tmp_path: Path) -> None:
    space = space_at(tmp_path)
    before = space.dataset().version
    report = space.commit([committed(piece_name("a", i)) for i in range(5)])
    assert (report.num_rows, report.num_pieces, report.num_pieces_skipped) == (100, 5, 0)
    assert report.table_version == space.dataset().version == before + 1
    assert space.committed_pieces() == {piece_name("a", i) for i in range(5)}


def test_committing_twice_is_committing_once(tmp_path: Path) -> None:
    space, again = space_at(tmp_path), space_at(tmp_path)
    names = [piece_name("a", i) for i in range(3)]
    space.commit([committed(name) for name in names[:2]])
    report = again.commit([committed(name) for name in names])
    assert (report.num_pieces, report.num_pieces_skipped) == (1, 2)
    assert space.commit([committed(name) for name in names]).num_rows == 0
    assert ids_of(space) == ids_of_pieces(names)


def test_three_processes_that_begin_at_once_double_nothing(tmp_path: Path) -> None:
    check_three_processes_that_begin_at_once_double_nothing(str(tmp_path / "gallery"), num_pieces=15)


def test_three_processes_that_begin_at_once_on_an_object_store_double_nothing(s3_bucket: str) -> None:
    check_three_processes_that_begin_at_once_double_nothing(f"{s3_bucket}/begun-at-once", num_pieces=8)


def check_three_processes_that_begin_at_once_double_nothing(uri: str, num_pieces: int) -> None:
    """Each commits all of the pieces, in another order and in commits of another size."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_overlapping, args=(uri, seed, num_pieces)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(240)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    names = [piece_name("a", i) for i in range(num_pieces)]
    space = space_at(uri)
    assert ids_of(space) == ids_of_pieces(names)
    assert space.committed_pieces() == set(names)
    thumbnails = commits.open_table(space.gallery.table_uri("thumbnails")).to_table()
    assert sorted(thumbnails["item_id"].to_pylist()) == ids_of(space)
    table = space.dataset().to_table(columns=["item_id", "vector"])
    for item_id, vector in zip(table["item_id"].to_pylist(), table["vector"].to_pylist(), strict=True):
        np.testing.assert_allclose(vector, vector_of(item_id), atol=1e-7)


def test_killed_writer_loses_and_doubles_nothing(tmp_path: Path) -> None:
    context, draw = multiprocessing.get_context("spawn"), random.Random(7)
    uri, num_pieces = str(tmp_path), 40
    for _ in range(2):
        writer = context.Process(target=write_in_order, args=(uri, num_pieces))
        writer.start()
        num_before, started = _count(uri), time.monotonic()
        while _count(uri) == num_before and writer.is_alive() and time.monotonic() - started < 60:
            time.sleep(0.005)  # kills land in the work, not in start-up
        time.sleep(draw.uniform(0, 0.05))
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join(30)
        assert writer.exitcode == -signal.SIGKILL
    write_in_order(uri, num_pieces)
    names = [piece_name("a", i) for i in range(num_pieces)]
    assert ids_of(space_at(uri)) == ids_of_pieces([name for i, name in enumerate(names) if i % 5 != 4])
    assert space_at(uri).committed_pieces() == set(names)


def _count(uri: str) -> int:
    table = Gallery.create(uri).table_uri(SPACE)
    return commits.open_table(table).count_rows() if commits.exists_table(table) else 0


def test_changed_shard_replaces_its_rows(tmp_path: Path) -> None:
    space = space_at(tmp_path)
    old = [piece_name("a", i) for i in range(3)]
    space.commit(
        [committed(name) for name in old] + [committed(piece_name("b", 0)), committed(piece_name("a", 3), 0, 1)]
    )
    new = [piece_name("a", i, VERSION_2) for i in range(2)]
    space.commit([committed(name) for name in new])
    assert space.mixed_shards() == ["a"]
    assert space.drop(space.stale_pieces({"a": VERSION_2})) == 60
    assert space.mixed_shards() == []
    assert ids_of(space) == ids_of_pieces([*new, piece_name("b", 0)])
    assert space.committed_pieces() == {*new, piece_name("b", 0)}
    assert space.drop(space.stale_pieces({"a": VERSION_2})) == 0


def test_thumbnails_of_items_that_no_space_holds_go_with_their_rows(tmp_path: Path) -> None:
    space = space_at(tmp_path)
    gallery = space.gallery
    other = gallery.space("s9", DIM, "other")
    names = [piece_name("a", 0), piece_name("b", 0), piece_name("c", 0)]
    for name in names:
        ids = piece_rows(name, 3)["item_id"]
        gallery.add_thumbnails({name: pa.table({"item_id": ids, "webp": [b"x"] * 3}, schema=THUMBNAIL_SCHEMA)})
        space.commit([committed(name, 3)])
    other.commit([committed(names[1], 2)])

    def pictured() -> list[str]:
        return sorted(commits.open_table(gallery.table_uri("thumbnails")).to_table()["item_id"].to_pylist())

    assert space.prune(["b"]) == 3
    assert pictured() == ["a-0-0", "a-0-1", "a-0-2", "b-0-0", "b-0-1", "c-0-0", "c-0-1", "c-0-2"]
    space.commit([committed(piece_name("a", 0, VERSION_2), 2)])
    assert space.drop(space.stale_pieces({"a": VERSION_2})) == 3
    assert pictured() == ["a-0-0", "a-0-1", "b-0-0", "b-0-1", "c-0-0", "c-0-1", "c-0-2"]
    assert other.prune(["b"]) == 2
    assert pictured() == ["a-0-0", "a-0-1", "c-0-0", "c-0-1", "c-0-2"]


def test_prune_counts_before_it_drops(tmp_path: Path) -> None:
    space = space_at(tmp_path)
    shards = {"a": "/in/one/a.parquet", "b": "/in/one/b.parquet", "c": "/in/onetwo/c.parquet"}
    space.gallery.ledger.record_shards(shards)
    space.gallery.ledger.record_shards(shards)
    assert space.gallery.ledger.shards() == shards
    space.commit([committed(piece_name(name, 0)) for name in "abc"])
    gone = space.gone_shards(["/in/one"], present={"a"})
    assert (gone.shard_ids, gone.num_rows, gone.num_rows_total) == (("b",), 20, 60)
    assert gone.ratio == pytest.approx(1 / 3)
    assert space.count_rows() == 60
    assert space.prune(gone.shard_ids) == 20
    assert ids_of(space) == ids_of_pieces([piece_name("a", 0), piece_name("c", 0)])
    assert space.gone_shards(["/in/one"], present={"a"}).num_rows == 0


def test_prune_spares_a_shard_that_has_come_back(tmp_path: Path) -> None:
    space, place = space_at(tmp_path / "gallery"), tmp_path / "b.parquet"
    space.gallery.ledger.record_shards({"a": str(tmp_path / "a.parquet"), "b": str(place)})
    space.commit([committed(piece_name(name, 0)) for name in "ab"])
    gone = space.gone_shards([str(tmp_path)], present=set())
    place.write_bytes(b"again")
    assert space.prune(gone.shard_ids) == 20
    assert space.committed_pieces() == {piece_name("b", 0)}


def test_what_was_bad_is_on_record_before_the_rows_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_at(tmp_path)

    def crash(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commits, "add_absent", crash)
    with pytest.raises(KeyboardInterrupt):
        space.commit([committed(piece_name("a", 0), num_quarantined=2), committed(piece_name("a", 1))])
    assert [entry.num_quarantined for entry in space.gallery.ledger.entries(SPACE)] == [2]
    assert space.committed_pieces() == set(), "a record alone is no commit"
    assert space.stale_pieces({"a": VERSION_2}) == [piece_name("a", 0)]
    space.drop(space.stale_pieces({"a": VERSION_2}))
    assert space.gallery.ledger.entries(SPACE) == []


def test_one_gallery_holds_several_spaces(tmp_path: Path) -> None:
    gallery = Gallery.create(str(tmp_path))
    gallery.space("s1", 4, "one").commit([CommittedPiece("a.1.0", piece_rows("a.1.0", 2, 4))])
    gallery.space("s2", 8, "two").commit([CommittedPiece("a.1.0", piece_rows("a.1.0", 3, 8))])
    assert Gallery.open(str(tmp_path)).space_ids() == ["s1", "s2"]
    assert [gallery.space(name).count_rows() for name in ("s1", "s2")] == [2, 3]
    assert gallery.ledger.space("s2").bundle_uri.endswith("/two")


def test_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="no gallery here"):
        Gallery.open(str(tmp_path / "nothing"))
    space = space_at(tmp_path)
    with pytest.raises(SpaceMismatchError, match="8 components"):
        space_at(tmp_path, 8)
    with pytest.raises(GalleryError, match="space not in gallery"):
        space.gallery.space("s9")
    with pytest.raises(GalleryError, match="another shape"):
        space.commit([CommittedPiece("a.1.0", piece_rows("a.1.0", 2, 8))])
    with pytest.raises(GalleryError, match="another piece"):
        space.commit([CommittedPiece("a.1.0", piece_rows("a.1.1", 2))])
    with pytest.raises(GalleryError, match="not unit vectors: seen length nan"):
        space.commit([CommittedPiece("a.1.0", rows("a.1.0", [{"item_id": "x", "vector": [float("nan")] * DIM}]))])
    with pytest.raises(GalleryError, match="not a piece_id"):
        shard_of("a.1")
    assert space.count_rows() == 0
    assert shard_of(piece_name("a", 3)) == ("a", VERSION_1)
