"""The disk of the gallery is full: one line says so and what to do; after room is made the same command finishes."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.archive import assert_same, nan_row, rows_of, vectors_of, write_shard
from tests.faults.process import count_rows, embed_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SIZE_BYTES = 3 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    libc, place = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    place.mkdir()
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, f"size={SIZE_BYTES}".encode()):
        pytest.skip(f"no small disk can be mounted: {os.strerror(ctypes.get_errno())}")
    yield place
    assert libc.umount2(bytes(place), 2) == 0  # 2: at once, whoever still has a file open


@pytest.mark.parametrize("num_free_bytes", [20_000, 400_000])
def test_a_full_disk_is_named_and_the_job_goes_on_after_room_is_made(
    num_free_bytes: int, small_disk: Path, tmp_path: Path, bundle: str, without_cluster: None
) -> None:
    """Full before the first record, and full in the middle of the work."""
    shards, gallery, rows = str(tmp_path / "in"), str(small_disk / "gallery"), rows_of("rgb", range(150))
    write_shard(f"{shards}/rgb/train/part-00000.parquet", [*rows, nan_row(150)])
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(SIZE_BYTES - num_free_bytes))
    code, line = embed_here(bundle, [shards], gallery)
    assert (code, line["status"]) == (1, "failed"), line
    assert "No space left on device" in line["error"]
    assert line["error"].endswith("To mend it: make room there")
    assert str(small_disk) in line["error"]
    assert "\n" not in line["error"]
    num_rows = count_rows(gallery)
    assert (num_rows > 0) == (num_free_bytes > 100_000)
    ballast.unlink()
    code, line = embed_here(bundle, [shards], gallery)
    assert (code, line["num_rows_skipped"], line["num_rows_committed"]) == (0, num_rows, 150 - num_rows), line
    assert_same(gallery, vectors_of(bundle, rows))


def test_a_worker_that_cannot_write_its_quarantine_says_where(
    small_disk: Path, tmp_path: Path, bundle: str, without_cluster: None
) -> None:
    shards, gallery = str(tmp_path / "in"), tmp_path / "gallery"
    write_shard(f"{shards}/rgb/train/part-00000.parquet", [*rows_of("rgb", range(20)), nan_row(20)])
    gallery.mkdir()
    (gallery / "_quarantine").symlink_to(small_disk)
    (small_disk / "ballast").write_bytes(bytes(SIZE_BYTES - 8192))
    code, line = embed_here(bundle, [shards], str(gallery))
    assert (code, line["status"]) == (1, "failed"), line
    assert "No space left on device" in line["error"]
    assert f"{gallery}/_quarantine/" in line["error"]
    (small_disk / "ballast").unlink()
    code, line = embed_here(bundle, [shards], str(gallery))
    assert (code, line["num_rows_quarantined"]) == (0, 1)
    assert_same(str(gallery), vectors_of(bundle, rows_of("rgb", range(20))))
