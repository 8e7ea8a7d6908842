"""Publish, roll back, and readers in between: always whole answers of one version."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from cmir.archive import storage
from cmir.errors import GalleryError
from cmir.gallery import commits, publish
from cmir.gallery.publish import IndexSettings, Pointer, SearchSettings, TriedWay, Tuning
from cmir.gallery.search import Searcher
from cmir.gallery.table import CommittedPiece, Gallery
from tests import gallery_readers
from tests.gallery_rows import DIM, SPACE, VERSION_2, piece_name, piece_rows, vector_of
from tests.gallery_writers import publish_many


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
        *("bundle_uri", "published_at", "tuning", "previous"),
    ]
    assert (content["sequence"], content["space_id"], content["table"]) == (1, SPACE, SPACE)
    assert content["index"] == {"kind": "IVF_FLAT", "params": {"num_partitions": 4}}
    assert content["search"] == {"nprobes": 2, "refine_factor": None, "filtered_nprobes": None}
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


def test_what_tuning_saw_is_kept_and_its_trials_only_of_what_is_served(tmp_path: Path) -> None:
    version = commit(tmp_path, SPACE, piece_name("a", 0))
    ways = {"index": IndexSettings(), "search": SearchSettings()}
    times = {"latency_ms": 1.5, "latency_filtered_ms": None}
    tried = (TriedWay(**ways, **times, recall_at_10=1.0, worst_case="ms_to_ms", build_s=0.0),)
    recalls, filters = {"ms_to_ms": 1.0}, {"ms, 1% of rows": "sensor = 'x'"}
    tuned = Tuning(target_recall=0.99, num_queries=3, **times, recall_by_case=recalls, filters=filters, tried=tried)
    publish.publish(str(tmp_path), SPACE, table_version=version, recall_at_10=1.0, tuning=tuned, **ways)
    assert publish.read_pointer(str(tmp_path)).tuning == tuned
    publish_version(tmp_path, version)
    pointer = publish.read_pointer(str(tmp_path))
    assert pointer.tuning is None
    assert pointer.previous[0].tuning == tuned.model_copy(update={"tried": ()})
    assert publish.rollback(str(tmp_path)).tuning == pointer.previous[0].tuning


def test_a_pointer_written_before_tuning_was_kept_is_read(tmp_path: Path) -> None:
    publish_version(tmp_path, commit(tmp_path, SPACE, piece_name("a", 0)))
    content = json.loads((tmp_path / "published.json").read_bytes())
    del content["tuning"], content["search"]["filtered_nprobes"]
    (tmp_path / "published.json").write_text(json.dumps(content))
    assert Searcher.open(str(tmp_path)).search(vector_of("a-0-1")[None], k=1)[0][0].item_id == "a-0-1"


def test_refused_publish_leaves_the_old_pointer(tmp_path: Path) -> None:
    old = publish_version(tmp_path, commit(tmp_path, SPACE, piece_name("a", 0)))
    half = commit(tmp_path, SPACE, piece_name("a", 0, VERSION_2))
    with pytest.raises(GalleryError, match="half replaced: seen a "):
        publish_version(tmp_path, half)
    Gallery.create(str(tmp_path)).space("s2", DIM, "b")
    with pytest.raises(GalleryError, match="nothing to publish"):
        publish_version(tmp_path, 1, "s2")
    assert publish.read_pointer(str(tmp_path)) == old
    late = Gallery.open(str(tmp_path)).space(SPACE)
    late.drop(late.stale_pieces({"a": VERSION_2}))
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
    """Fifty publishes and rollbacks between the spaces of two bundles, while two threads and two processes search.

    One space is searched exactly, the other by an index of which a part of the rows is not indexed.
    """
    uri = str(tmp_path)
    versions = {name: commit(tmp_path, name, *(piece_name(name, i) for i in range(5))) for name in ("s1", "s2")}
    dataset = Gallery.open(uri).space("s2").dataset()
    dataset.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=2)
    versions["s2"] = commit(tmp_path, "s2", piece_name("s2", 5))
    ways = {"s1": IndexSettings(), "s2": IndexSettings(kind="IVF_FLAT", params={"num_partitions": 2})}
    settings = {"s1": SearchSettings(), "s2": SearchSettings(nprobes=2)}
    whole = {name: _nearest(name, 15 if name == "s1" else 18) for name in versions}

    def publish_space(name: str) -> None:
        way = {"index": ways[name], "search": settings[name], "recall_at_10": 1.0}
        publish.publish(uri, name, table_version=versions[name], **way)

    publish_space("s1")
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(2, mp_context=spawn) as processes,
        ThreadPoolExecutor(2) as threads,
        spawn.Manager() as manager,
    ):
        stop, started = manager.Event(), [manager.Event() for _ in range(4)]
        readers = [
            pool.submit(gallery_readers.read_until, uri, whole, begun, stop)
            for pool, begun in zip((processes, processes, threads, threads), started, strict=True)
        ]
        assert all(begun.wait(60) for begun in started)
        for turn in range(25):
            publish_space("s2")
            if turn % 2:
                publish.rollback(uri)
            else:
                publish_space("s1")
        stop.set()
        seen = [reader.result(60) for reader in readers]
    assert publish.read_pointer(uri).sequence == 51
    assert [reader.wrong for reader in seen] == [[]] * 4
    assert sum(reader.num_backward for reader in seen) == 0
    assert {name for reader in seen for name in reader.num_answers} == {"s1", "s2"}
    assert all(sum(reader.num_answers.values()) > 1 for reader in seen)


def _nearest(space_id: str, num_rows: int) -> list[str]:
    """Ids of the best hits of the readers' query among the rows that `commit` made, by numpy."""
    ids = [f"{space_id}-{i // 3}-{i % 3}" for i in range(num_rows)]
    scores = {item_id: float(vector_of(item_id) @ vector_of("x")) for item_id in ids}
    return sorted(ids, key=lambda item_id: -scores[item_id])[: gallery_readers.K]


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


class Overtaken:
    """Stands for `storage.replace`: something else happens just before the first call, or just after."""

    def __init__(self, *, before: Callable[[], object] = int, after: Callable[[], object] | None = None) -> None:
        self._before, self._after, self._replace, self._is_first = before, after, storage.replace, True

    def __call__(self, uri: str, data: bytes, standing: bytes | None) -> None:
        if not self._is_first:
            return self._replace(uri, data, standing)
        self._is_first = False
        self._before()
        self._replace(uri, data, standing)
        if self._after:
            self._after()
            raise FileExistsError(17, "the answer was lost", uri)


def test_a_publish_that_another_was_ahead_of_follows_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [commit(tmp_path, SPACE, piece_name("a", i)) for i in range(3)]
    publish_version(tmp_path, versions[0])
    other: list[Pointer] = []
    overtake = Overtaken(before=lambda: other.append(publish_version(tmp_path, versions[1])))
    monkeypatch.setattr(storage, "replace", overtake)
    ours = publish_version(tmp_path, versions[2])
    assert (other[0].sequence, ours.sequence) == (2, 3)
    assert [entry.tag for entry in ours.previous] == [other[0].tag, other[0].previous[0].tag]
    assert publish.read_pointer(str(tmp_path)) == ours
    for table in (SPACE, "thumbnails"):
        if commits.exists_table(str(tmp_path / f"{table}.lance")):
            tags = set(commits.open_table(str(tmp_path / f"{table}.lance")).tags.list())
            assert tags == {entry.tag for entry in (ours, *ours.previous)}, "the tag of the first attempt is gone"


def test_a_rollback_that_a_publish_was_ahead_of_undoes_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [commit(tmp_path, SPACE, piece_name("a", i)) for i in range(3)]
    for version in versions[:2]:
        publish_version(tmp_path, version)
    monkeypatch.setattr(storage, "replace", Overtaken(before=lambda: publish_version(tmp_path, versions[2])))
    back = publish.rollback(str(tmp_path))
    assert (back.sequence, back.table_version) == (4, versions[1])
    monkeypatch.setattr(storage, "replace", Overtaken(before=lambda: publish.rollback(str(tmp_path))))
    with pytest.raises(GalleryError, match="nothing to roll back to: seen sequence 5"):
        publish.rollback(str(tmp_path))


def test_a_pointer_whose_answer_was_lost_is_not_put_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = commit(tmp_path, SPACE, piece_name("a", 0))
    monkeypatch.setattr(storage, "replace", Overtaken(after=int))
    assert publish_version(tmp_path, version).sequence == 1
    monkeypatch.setattr(storage, "replace", Overtaken(after=lambda: publish_version(tmp_path, version)))
    ours = publish_version(tmp_path, version)
    newest = publish.read_pointer(str(tmp_path))
    assert (ours.sequence, newest.sequence, newest.previous[0].tag) == (2, 3, ours.tag), "followed on unseen"
    monkeypatch.setattr(storage, "replace", Overtaken(after=lambda: publish_version(tmp_path, version)))
    assert (publish.rollback(str(tmp_path)).sequence, publish.read_pointer(str(tmp_path)).sequence) == (4, 5)


def test_a_publisher_that_always_loses_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = commit(tmp_path, SPACE, piece_name("a", 0))
    old = publish_version(tmp_path, version)

    def refuse(uri: str, data: bytes, standing: bytes | None) -> None:
        raise FileExistsError(17, "something else stands", uri)

    monkeypatch.setattr(storage, "replace", refuse)
    monkeypatch.setattr(commits, "MAX_ATTEMPTS", 2)
    with pytest.raises(GalleryError, match="another pointer came first, every time: seen 2 attempts"):
        publish_version(tmp_path, version)
    assert publish.read_pointer(str(tmp_path)) == old


def test_of_processes_that_publish_at_once_none_is_lost(tmp_path: Path) -> None:
    check_of_publishers_at_once_none_is_lost(str(tmp_path / "gallery"), tmp_path)


def test_of_processes_that_publish_to_an_object_store_at_once_none_is_lost(tmp_path: Path, s3_bucket: str) -> None:
    check_of_publishers_at_once_none_is_lost(f"{s3_bucket}/published-at-once", tmp_path)


def check_of_publishers_at_once_none_is_lost(uri: str, folder: Path, num_times: int = 4) -> None:
    """Three processes, each of which publishes so many times: every one has a sequence number of its own."""
    name = piece_name("a", 0)
    space = Gallery.create(uri).space(SPACE, DIM, "bundle")
    space.commit([CommittedPiece(name, piece_rows(name, 3))])
    context = multiprocessing.get_context("spawn")
    told = [folder / f"told-{i}" for i in range(3)]
    publishers = [context.Process(target=publish_many, args=(uri, num_times, str(path))) for path in told]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(120)
    sequences = [int(number) for path in told for number in path.read_text().split()]
    assert sorted(sequences) == list(range(1, 3 * num_times + 1))
    pointer = publish.read_pointer(uri)
    kept = (pointer, *pointer.previous)
    assert [entry.sequence for entry in kept] == sorted(sequences, reverse=True)[: publish.MAX_PREVIOUS + 1]
    assert {entry.tag for entry in kept} <= set(space.dataset().tags.list())
    assert len(space.dataset().tags.list()) == 3 * num_times
