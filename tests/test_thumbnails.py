"""Thumbnails: added once per item, small, and found by readers."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.errors import GalleryError
from cmir.gallery import commits, compaction
from cmir.gallery.file_records import FileRecords
from cmir.gallery.table import Gallery
from cmir.gallery.thumbnails import ThumbnailReader, ThumbnailWriter, tag_thumbnails
from tests.gallery_rows import VERSION_2, piece_name

ONE, TWO = piece_name("a", 0), piece_name("a", 1)


def pictures(**webps: bytes) -> pa.Table:
    return pa.table({"item_id": list(webps), "webp": list(webps.values())}, schema=THUMBNAIL_SCHEMA)


def standing(folder: Path) -> list[tuple[str, bytes]]:
    rows = commits.open_table(str(folder / "thumbnails.lance")).to_table().sort_by("item_id").to_pylist()
    return [(row["item_id"], row["webp"]) for row in rows]


def test_thumbnails_are_added_once(tmp_path: Path) -> None:
    gallery = Gallery.create(str(tmp_path))
    twice = pa.table({"item_id": ["a", "b", "a"], "webp": [b"1", b"2", b"3"]}, schema=THUMBNAIL_SCHEMA)
    assert gallery.add_thumbnails({ONE: twice}) == 2
    assert gallery.add_thumbnails({ONE: twice, TWO: THUMBNAIL_SCHEMA.empty_table()}) == 0
    assert gallery.add_thumbnails({ONE: twice, TWO: pictures(c=b"4")}) == 1
    assert standing(tmp_path) == [("a", b"1"), ("b", b"2"), ("c", b"4")]
    assert commits.open_table(str(tmp_path / "thumbnails.lance")).version == 3, "an addition is one commit"


def test_another_process_knows_what_was_added(tmp_path: Path) -> None:
    writers = [ThumbnailWriter(str(tmp_path)) for _ in range(2)]
    assert writers[0].add({ONE: pictures(a=b"1")}) == 1
    assert writers[1].add({ONE: pictures(a=b"1"), TWO: pictures(b=b"2")}) == 1
    assert writers[0].add({TWO: pictures(b=b"2")}) == 0
    assert ThumbnailWriter(str(tmp_path)).add({ONE: pictures(a=b"1"), TWO: pictures(b=b"2")}) == 0
    assert standing(tmp_path) == [("a", b"1"), ("b", b"2")]


def test_items_that_another_network_could_not_read_are_added_later(tmp_path: Path) -> None:
    assert ThumbnailWriter(str(tmp_path)).add({ONE: pictures(a=b"1")}) == 1
    writer = ThumbnailWriter(str(tmp_path))
    assert writer.add({ONE: pictures(a=b"1", b=b"2")}) == 1
    assert writer.add({ONE: pictures(a=b"1", b=b"2")}) == 0
    assert standing(tmp_path) == [("a", b"1"), ("b", b"2")]


def test_items_of_a_changed_shard_keep_one_thumbnail(tmp_path: Path) -> None:
    writer = ThumbnailWriter(str(tmp_path))
    writer.add({ONE: pictures(a=b"1", b=b"2")})
    assert writer.add({piece_name("a", 0, VERSION_2): pictures(b=b"2", c=b"3")}) == 1
    assert [item_id for item_id, _ in standing(tmp_path)] == ["a", "b", "c"]


def test_a_changed_item_gets_its_new_thumbnail_and_is_shown_the_old_one_where_that_was_published(
    tmp_path: Path,
) -> None:
    writer = ThumbnailWriter(str(tmp_path))
    writer.add({ONE: pictures(a=b"1", b=b"2"), TWO: pictures(c=b"3"), piece_name("b", 0): pictures(x=b"9")})
    tag_thumbnails(str(tmp_path), "published-1")
    changed = {piece_name("a", 0, VERSION_2): pictures(a=b"1", b=b"new", d=b"4")}
    assert writer.add(changed) == 2
    after = [("a", b"1"), ("b", b"new"), ("c", b"3"), ("d", b"4"), ("x", b"9")]
    assert standing(tmp_path) == after
    for again in (writer, ThumbnailWriter(str(tmp_path))):
        assert again.add(changed) == 0
    assert standing(tmp_path) == after
    assert ThumbnailReader(str(tmp_path), "published-1").read("b") == b"2"
    assert ThumbnailReader(str(tmp_path), "none").read("b") == b"new"


def test_all_of_several_files_may_be_replaced(tmp_path: Path) -> None:
    """Files of which nothing is left go with their rows."""
    writer, other = ThumbnailWriter(str(tmp_path)), ThumbnailWriter(str(tmp_path))
    for i in range(3):
        writer.add({piece_name("a", i): pictures(**{f"a{i}": b"old", f"b{i}": b"old"})})
    new = {f"{letter}{i}": b"new" for letter in "ab" for i in range(3)}
    for version, webps in ((VERSION_2, new), ("3333cccc", dict.fromkeys(new, b"newer"))):
        assert other.add({piece_name("a", 0, version): pictures(**webps)}) == 6
        assert standing(tmp_path) == sorted(webps.items())
    assert len(commits.open_table(str(tmp_path / "thumbnails.lance")).get_fragments()) == 1
    assert writer.add({piece_name("a", 0): pictures(a0=b"old", b0=b"newer")}) == 1, "the shard is what it was before"
    assert dict(standing(tmp_path)) == {**dict.fromkeys(new, b"newer"), "a0": b"old"}


def test_two_writers_that_replace_the_same_leave_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (ThumbnailWriter(str(tmp_path)) for _ in range(2))
    first.add({ONE: pictures(a=b"1", b=b"2", c=b"3")})
    changed = {piece_name("a", 0, VERSION_2): pictures(a=b"new", b=b"2", d=b"4")}
    remove = commits.remove

    def remove_late(*given: Any) -> bool:
        monkeypatch.setattr(commits, "remove", remove)
        assert second.add(changed) == 2
        return remove(*given)

    monkeypatch.setattr(commits, "remove", remove_late)
    assert first.add(changed) == 0
    assert standing(tmp_path) == [("a", b"new"), ("b", b"2"), ("c", b"3"), ("d", b"4")]


def test_a_writer_that_died_between_removing_and_adding_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ThumbnailWriter(str(tmp_path)).add({ONE: pictures(a=b"1", b=b"2")})
    changed = {piece_name("a", 0, VERSION_2): pictures(a=b"new", b=b"2")}
    remove = commits.remove

    def remove_and_die(*given: Any) -> bool:
        remove(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commits, "remove", remove_and_die)
        with pytest.raises(KeyboardInterrupt):
            ThumbnailWriter(str(tmp_path)).add(changed)
    assert standing(tmp_path) == [("b", b"2")]
    assert ThumbnailWriter(str(tmp_path)).add(changed) == 1
    assert standing(tmp_path) == [("a", b"new"), ("b", b"2")]


@pytest.mark.parametrize("compacted", [False, True])
def test_what_was_removed_is_added_when_it_is_offered_again(tmp_path: Path, compacted: bool) -> None:
    """The notes of a file tell how many rows it had; its other pieces are looked up, and found."""
    gallery, offered = Gallery.create(str(tmp_path)), {ONE: pictures(a=b"1", b=b"2"), TWO: pictures(c=b"3")}
    gallery.add_thumbnails(offered)
    for i in range(compaction.COMPACT_ABOVE_FRAGMENTS):
        gallery.add_thumbnails({piece_name("b", i): pictures(**{f"x{i}": b"9"})})
    assert gallery.drop_thumbnails(pa.array(["b", "no such"])) == 1
    if compacted:
        assert gallery.compact_thumbnails() == compaction.COMPACT_ABOVE_FRAGMENTS
    other = Gallery.create(str(tmp_path))
    for writer in (gallery, other):
        assert writer.add_thumbnails({TWO: pictures(c=b"3")}) == 0
        assert writer._thumbnails._known.unnoted == set()
    assert other.add_thumbnails(offered) == 1
    assert gallery.add_thumbnails(offered) == 0
    assert [row for row in standing(tmp_path) if row[1] != b"9"] == [("a", b"1"), ("b", b"2"), ("c", b"3")]


@pytest.mark.parametrize("change", ["compacted", "without notes"])
def test_files_of_which_no_pieces_are_noted_are_looked_into(tmp_path: Path, change: str) -> None:
    writer = ThumbnailWriter(str(tmp_path))
    writer.add({ONE: pictures(a=b"1")})
    writer.add({TWO: pictures(b=b"2")})
    if change == "compacted":
        commits.open_table(str(tmp_path / "thumbnails.lance")).optimize.compact_files()
    else:
        shutil.rmtree(tmp_path / "_files-thumbnails.lance")
        writer = ThumbnailWriter(str(tmp_path))
    assert writer.add({ONE: pictures(a=b"1"), TWO: pictures(b=b"2"), piece_name("b", 0): pictures(c=b"3")}) == 1
    assert [item_id for item_id, _ in standing(tmp_path)] == ["a", "b", "c"]


def test_a_writer_that_loses_a_race_adds_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (ThumbnailWriter(str(tmp_path)) for _ in range(2))
    first.add({piece_name("b", 0): pictures(x=b"0")})
    note = FileRecords.note

    def note_and_lose(records: FileRecords, files: list[str], num_rows: dict[str, int]) -> None:
        note(records, files, num_rows)
        monkeypatch.setattr(FileRecords, "note", note)
        second.add({ONE: pictures(a=b"1")})

    monkeypatch.setattr(FileRecords, "note", note_and_lose)
    assert first.add({ONE: pictures(a=b"1"), TWO: pictures(b=b"2")}) == 1
    assert [item_id for item_id, _ in standing(tmp_path)] == ["a", "b", "x"]


def test_thumbnail_over_four_kilobytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="4097 bytes"):
        Gallery.create(str(tmp_path)).add_thumbnails({ONE: pictures(a=b"x" * 4097)})


def test_reader_knows_what_stood_when_it_was_opened(tmp_path: Path) -> None:
    empty = ThumbnailReader(str(tmp_path), "none")
    assert (empty.among({"a"}), empty.read("a")) == (set(), None)
    writer = ThumbnailWriter(str(tmp_path))
    writer.add({ONE: pictures(**{"a": b"1", "it's": b"2"})})
    tag_thumbnails(str(tmp_path), "published-1")
    writer.add({TWO: pictures(b=b"3")})
    assert ThumbnailReader(str(tmp_path), "published before tags").among({"a", "b"}) == {"a", "b"}
    reader = ThumbnailReader(str(tmp_path), "published-1")
    assert reader.among({"a", "b"}) == {"a"}
    assert reader.among({"a", "b", "it's"}) == {"a", "it's"}
    assert reader.among(set()) == set()
    assert (reader.read("it's"), reader.read("b")) == (b"2", None)


def test_thumbnails_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="another shape"):
        ThumbnailWriter(str(tmp_path)).add({ONE: pa.table({"item_id": ["a"], "png": [b"1"]})})
    assert not any(tmp_path.iterdir())
