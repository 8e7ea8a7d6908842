import os
import random
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from cmir.archive import storage
from cmir.errors import ConfigError, DataError


def test_join_keeps_schemes_and_roots() -> None:
    assert storage.join("s3://b/a/", "c", "d") == "s3://b/a/c/d"
    assert storage.join("/", "a") == "/a"


def test_put_is_whole_and_if_absent_loses_to_what_stands(tmp_path: Path) -> None:
    uri = str(tmp_path / "new" / "file.json")
    storage.put_atomic(uri, b"first")
    with pytest.raises(FileExistsError, match=r"file\.json"):
        storage.put_atomic(uri, b"second", if_absent=True)
    storage.put_atomic(uri, b"third")
    assert storage.read_bytes(uri) == b"third"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.json"]


def test_a_file_is_replaced_only_where_what_was_read_still_stands(tmp_path: Path, s3_bucket: str) -> None:
    for folder in (str(tmp_path / "new"), f"{s3_bucket}/replaced"):
        check_replaces_only_what_was_read(f"{folder}/file.json")
        check_of_many_that_replace_at_once_none_is_lost(f"{folder}/many.json")
    listed = [storage.name_of(file.uri) for file in storage.list_files(str(tmp_path / "new"))]
    assert listed == ["file.json", "many.json"], "locks are hidden"


def check_replaces_only_what_was_read(uri: str) -> None:
    storage.replace(uri, b"first", None)
    for standing in (None, b"zeroth"):
        with pytest.raises(FileExistsError, match=r"file\.json"):
            storage.replace(uri, b"second", standing)
    assert storage.read_bytes(uri) == b"first"
    storage.replace(uri, b"second", b"first")
    assert storage.read_bytes(uri) == b"second"
    storage.delete_tree(uri)
    with pytest.raises(FileExistsError, match=r"file\.json"):
        storage.replace(uri, b"third", b"second")
    storage.replace(uri, b"third", None)


def check_of_many_that_replace_at_once_none_is_lost(uri: str, num_threads: int = 4, num_each: int = 3) -> None:
    """Threads that add their name to a list of names, each `num_each` times."""
    storage.put_atomic(uri, b"")

    def add(name: bytes) -> None:
        num_added = 0
        while num_added < num_each:
            standing = storage.read_bytes(uri)
            try:
                storage.replace(uri, standing + name, standing)
            except FileExistsError:
                time.sleep(random.uniform(0, 0.05))
                continue
            num_added += 1

    threads = [threading.Thread(target=add, args=(bytes([65 + i]),)) for i in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(storage.read_bytes(uri)) == sorted(num_each * [65 + i for i in range(num_threads)])


def test_listing_is_sorted_recursive_and_a_file_lists_itself(tmp_path: Path) -> None:
    for name in ("b/2.parquet", "a/1.parquet", "a/note.txt", "a/.hidden.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"xy")
    listed = storage.list_files(str(tmp_path), ".parquet")
    assert [(Path(file.uri).name, file.num_bytes) for file in listed] == [("1.parquet", 2), ("2.parquet", 2)]
    assert storage.list_files(listed[0].uri) == [listed[0]]


def test_missing_places_are_data_errors_that_name_them(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    for call in (storage.list_files, storage.read_bytes, storage.open_input):
        with pytest.raises(DataError, match=r"input not found.*gone"):
            call(gone)
    with pytest.raises(DataError, match="input not found"), storage.local_copy(gone):
        pass


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unsupported URI: seen gs://b/x, expected a local path"):
        storage.local_path("gs://b/x")


def test_exists_delete_and_move(tmp_path: Path) -> None:
    source, target = str(tmp_path / "source"), str(tmp_path / "deep" / "target")
    (tmp_path / "source").mkdir()
    assert not storage.exists(source), "an empty folder holds nothing"
    storage.put_atomic(storage.join(source, "a"), b"1")
    storage.move_tree(source, target)
    assert storage.read_bytes(storage.join(target, "a")) == b"1"
    storage.delete_tree(target)
    storage.delete_tree(target)
    assert not storage.exists(target)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("s3://bucket//a///b/", "s3://bucket/a/b"),
        ("/data/./a/../b//c/", "/data/b/c"),
        ("//data/a", "/data/a"),
    ],
)
def test_a_place_has_one_name(given: str, named: str) -> None:
    assert storage.absolute(given) == named


def test_a_link_to_nothing_is_listed_so_that_its_reader_can_say_so(tmp_path: Path) -> None:
    (tmp_path / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    (file,) = storage.list_files(str(tmp_path))
    assert (storage.name_of(file.uri), file.num_bytes) == ("gone.tif", 0)
    with pytest.raises(DataError, match=r"input not found.*gone\.tif"):
        storage.read_bytes(file.uri)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:  # the tests may run as root, whom no permission stops
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"folder not readable: seen Permission denied.*closed"):
        storage.list_files(str(tmp_path))


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DataError, match=r"cannot be read.*s3://bucket/archive"):
        storage.list_files("s3://bucket/archive")
    with pytest.raises(OSError, match="s3://bucket/file cannot be written"):
        storage.put_atomic("s3://bucket/file", b"data")


class RefusingStore:
    """Refuses conditional puts as Ceph's gateway does: it does not say which condition failed."""

    def __init__(self, *standing: bytes, code: str = "PreconditionFailed") -> None:
        self.standing, self.code = list(standing), code

    def pipe_file(self, uri: str, data: bytes, mode: str) -> None:
        refusal = {"Error": {"Code": self.code, "Message": None}}
        raise OSError(22, "None") from ClientError(refusal, "PutObject")  # type: ignore[arg-type]

    def call_s3(self, name: str, *, Bucket: str, Key: str, Body: bytes, IfMatch: str) -> None:
        assert (name, Bucket, Key, IfMatch) == ("put_object", "bucket", "claim", "tag")
        self.pipe_file("", Body, "")

    def info(self, uri: str, refresh: bool) -> dict[str, str]:
        return {"ETag": "tag"}

    def cat_file(self, uri: str) -> bytes:
        """What stands, one after the other."""
        return self.standing.pop(0) if len(self.standing) > 1 else self.standing[0]

    def invalidate_cache(self) -> None:
        """There is none."""


def test_a_conditional_put_that_lost_is_told_from_one_whose_answer_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "s3fs_filesystem", lambda settings: RefusingStore(b"mine"))
    storage.put_atomic("s3://bucket/claim", b"mine", if_absent=True)
    with pytest.raises(FileExistsError, match="s3://bucket/claim"):
        storage.put_atomic("s3://bucket/claim", b"another's", if_absent=True)
    with pytest.raises(OSError, match="Errno 22"):
        storage.put_atomic("s3://bucket/claim", b"mine")


@pytest.mark.parametrize("code", ["PreconditionFailed", "412", "ConditionalRequestConflict"])
def test_a_replacement_that_was_refused_is_told_from_one_whose_answer_was_lost(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    store = RefusingStore(b"old", b"mine", code=code)
    monkeypatch.setattr(storage, "s3fs_filesystem", lambda settings: store)
    storage.replace("s3://bucket/claim", b"mine", b"old")
    for standing in ([b"old", b"another's"], [b"another's"]):
        store.standing = standing
        with pytest.raises(FileExistsError, match="s3://bucket/claim"):
            storage.replace("s3://bucket/claim", b"mine", b"old")
    store.standing, store.code = [b"old"], "AccessDenied"
    with pytest.raises(OSError, match="Errno 22"):
        storage.replace("s3://bucket/claim", b"mine", b"old")


def test_what_killed_puts_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    staged, young = tmp_path / ".a.json.x1", tmp_path / ".a.json.x2"
    lock = tmp_path / ".a.json.lock"
    for file in (staged, young, lock, tmp_path / "a.json"):
        file.write_bytes(b"half")
    for file in (staged, lock, tmp_path / "a.json"):
        os.utime(file, (0, 0))
    assert storage.remove_staged(str(tmp_path), timedelta(days=1)) == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a.json.lock", ".a.json.x2", "a.json"]
    assert storage.remove_staged(str(tmp_path / "nowhere"), timedelta(0)) == 0
