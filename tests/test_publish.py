"""Publish, roll back, and readers in between: always whole answers of one version."""

import json
import threading
from pathlib import Path

import pytest

from cmir.archive import storage
from cmir.errors import GalleryError
from cmir.gallery import commits, publish
from cmir.gallery.publish import IndexSettings, Pointer, SearchSettings
from cmir.gallery.search import Searcher
from cmir.gallery.table import CommittedPiece, Gallery
from tests.gallery_rows import DIM, SPACE, VERSION_2, piece_name, piece_rows, vector_of


def commit(uri: Path, space_id: str, *pieces: str) -> int:
    """Commit pieces of three rows each; returns the table's version."""
    space = Gallery.create(str(uri)).space(space_id, DIM, f"bundle-{space_id}")
    return space.commit([CommittedPiece(name, piece_rows(name, 3)) for name in pieces]).table_version


def publish_version(uri: Path, version: int, space_id: str = SPACE) -> Pointer:
    index, search = IndexSettings(), SearchSettings()
    return publish.publish(str(uri), space_id, table_version=version, index=index, search=search, recall_at_10=1.0)


def test_pointer_has_the_fields_of_the_contract(tmp_path: Path) -> None:
    version = commit(tmp_path, SPACE, piece_name("a", 0))
    publish.publish(
        str(tmp_path),
        SPACE,
        table_version=version,
        index=IndexSettings(kind="IVF_FLAT", params={"num_partitions": 4}),
        search=SearchSettings(nprobes=2),
        recall_at_10=0.995,
    )
    content = json.loads((tmp_path / "published.json").read_bytes())
    assert list(content) == [
        *("sequence", "space_id", "table", "table_version", "tag", "index", "search", "recall_at_10"),
        *("bundle_uri", "published_at", "previous"),
    ]
    assert (content["sequence"], content["space_id"], content["table"]) == (1, SPACE, SPACE)
    assert content["index"] == {"kind": "IVF_FLAT", "params": {"num_partitions": 4}}
    assert content["search"] == {"nprobes": 2, "refine_factor": None}
    assert content["bundle_uri"] == storage.absolute(f"bundle-{SPACE}")
    assert content["previous"] == []
    tagged = commits.open_table(str(tmp_path / f"{SPACE}.lance"), content["tag"])
    assert tagged.version == content["table_version"] == version


def test_rollback_serves_the_predecessor_under_a_new_sequence(tmp_path: Path) -> None:
    versions = [commit(tmp_path, SPACE, piece_name("a", i)) for i in range(3)]
    pointers = [publish_version(tmp_path, version) for version in versions]
    assert [entry.sequence for entry in pointers[2].previous] == [2, 1]
    back = publish.rollback(str(tmp_path))
    assert (back.sequence, back.table_version, back.tag) == (4, versions[1], pointers[1].tag)
    assert [entry.sequence for entry in back.previous] == [1]
    assert publish.read_pointer(str(tmp_path)) == back
    assert Searcher.open(str(tmp_path)).num_rows == 6
    assert publish.rollback(str(tmp_path)).table_version == versions[0]
    with pytest.raises(GalleryError, match="nothing to roll back to"):
        publish.rollback(str(tmp_path))


def test_only_so_many_predecessors_are_kept(tmp_path: Path) -> None:
    version = commit(tmp_path, SPACE, piece_name("a", 0))
    for _ in range(publish.MAX_PREVIOUS + 3):
        pointer = publish_version(tmp_path, version)
    assert [entry.sequence for entry in pointer.previous] == list(range(10, 2, -1))


def test_refused_publish_leaves_the_old_pointer(tmp_path: Path) -> None:
    old = publish_version(tmp_path, commit(tmp_path, SPACE, piece_name("a", 0)))
    half = commit(tmp_path, SPACE, piece_name("a", 0, VERSION_2))
    with pytest.raises(GalleryError, match="half replaced: seen a "):
        publish_version(tmp_path, half)
    Gallery.create(str(tmp_path)).space("s2", DIM, "b")
    with pytest.raises(GalleryError, match="nothing to publish"):
        publish_version(tmp_path, 1, "s2")
    assert publish.read_pointer(str(tmp_path)) == old
    Gallery.open(str(tmp_path)).space(SPACE).drop_stale({"a": VERSION_2})
    newest = Gallery.open(str(tmp_path)).space(SPACE).dataset().version
    assert publish_version(tmp_path, newest).sequence == 2


def test_unpublished_and_damaged_pointers_are_told_apart(tmp_path: Path) -> None:
    assert publish.find_pointer(str(tmp_path)) is None
    with pytest.raises(GalleryError, match=r"not published.*--publish"):
        publish.read_pointer(str(tmp_path))
    (tmp_path / "published.json").write_text('{"sequence": 1')
    for read in (publish.read_pointer, publish.find_pointer):
        with pytest.raises(GalleryError, match="pointer not readable"):
            read(str(tmp_path))


def test_readers_see_only_whole_answers_of_one_space(tmp_path: Path) -> None:
    """Fifty publishes and rollbacks between two spaces while two threads search."""
    versions = {name: commit(tmp_path, name, *(piece_name(name, i) for i in range(2))) for name in ("s1", "s2")}
    publish_version(tmp_path, versions["s1"], "s1")
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        searcher = Searcher.open(str(tmp_path))
        while not stop.is_set():
            searcher = searcher.refresh()
            hits = searcher.search(vector_of("x")[None], k=10)[0]
            seen.add(searcher.space_id)
            if len(hits) != 6 or not all(hit.item_id.startswith(searcher.space_id + "-") for hit in hits):
                wrong.append(hits)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(25):
        publish_version(tmp_path, versions["s2"], "s2")
        if turn % 2:
            publish.rollback(str(tmp_path))
        else:
            publish_version(tmp_path, versions["s1"], "s1")
    stop.set()
    for reader in readers:
        reader.join(30)
    assert wrong == []
    assert seen == {"s1", "s2"}
    assert publish.read_pointer(str(tmp_path)).sequence == 51


def test_a_damaged_pointer_is_kept_aside_by_the_next_publish(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    version = commit(tmp_path, SPACE, piece_name("a", 0))
    publish_version(tmp_path, version)
    assert publish_version(tmp_path, version).sequence == 2
    (tmp_path / "published.json").write_text("rubbish")
    pointer = publish_version(tmp_path, version)
    assert (pointer.sequence, pointer.previous) == (3, ())
    assert publish.read_pointer(str(tmp_path)) == pointer
    assert [path.read_text() for path in tmp_path.glob("published.json.unreadable-*")] == ["rubbish"]
    assert "the pointer cannot be read" in caplog.text
    (tmp_path / "published.json").write_text('{"sequence": 9, "space_id"')
    assert publish_version(tmp_path, version).sequence == 10, "a rollback has no tag of its own"


def test_a_pointer_of_another_cmir_is_not_replaced(tmp_path: Path) -> None:
    version = commit(tmp_path, SPACE, piece_name("a", 0))
    publish_version(tmp_path, version)
    newer = json.dumps({"sequence": 1, "of_tomorrow": True})
    (tmp_path / "published.json").write_text(newer)
    with pytest.raises(GalleryError, match=r"pointer of another cmir.*move the file away"):
        publish_version(tmp_path, version)
    assert (tmp_path / "published.json").read_text() == newer
