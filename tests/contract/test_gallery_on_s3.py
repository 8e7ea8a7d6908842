"""A gallery whose whole life is on an object store (moto's server): rows, changes, publishes, clean-up."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cmir.archive import storage
from cmir.gallery import commits, upkeep
from cmir.gallery.search import Searcher
from cmir.gallery.table import Gallery
from jobs import cluster, embed, index
from jobs.entrypoint import run_command
from tests.faults.archive import make_bundle, nan_row, rows_of, write_shard
from tests.faults.process import embed_here, embedded_here

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs jobs/index.py in this process, and lets the embed job run in it; returns the last line."""
    monkeypatch.setattr(cluster, "connect", lambda: None)
    monkeypatch.setattr(embed, "_embedded_pieces", embedded_here)

    def asked(gallery: str, *flags: str) -> dict[str, Any]:
        code = run_command("index", index.IndexConfig, index.run, ["--gallery", gallery, *flags])
        line: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert code == 0, line
        return line

    return asked


def test_a_gallery_lives_on_an_object_store(s3_bucket: str, ask: Ask) -> None:
    check_a_gallery_lives_on_an_object_store(f"{s3_bucket}/life", ask)


def check_a_gallery_lives_on_an_object_store(root: str, ask: Ask) -> None:
    """One bad row, a changed shard, one that is gone, two publishes, a rollback, a clean-up, a publish after it."""
    bundle, archive, gallery = make_bundle(f"{root}/bundle"), f"{root}/in", f"{root}/gallery"
    rgb, pan = f"{archive}/rgb/train/part-00000.parquet", f"{archive}/pan/train/part-00000.parquet"
    first = write_shard(rgb, [*rows_of("rgb", range(6)), nan_row(6)])[:6]
    gone = write_shard(pan, rows_of("pan", range(6)))
    code, line = embed_here(bundle, [archive], gallery, "--max-reject-ratio", "0.2")
    assert (code, line["num_rows_committed"], line["num_rows_quarantined"]) == (0, 12, 1), line
    assert len(storage.list_files(f"{gallery}/_quarantine", ".parquet")) == 1
    assert ask(gallery, "--publish")["sequence"] == 1
    before = Searcher.open(gallery)
    old = before.thumbnail(first[4])

    other_picture = replace(rows_of("rgb", [4])[0], media=rows_of("rgb", [40])[0].media)
    second = write_shard(rgb, [*rows_of("rgb", [3]), other_picture, *rows_of("rgb", range(5, 9))])
    code, line = embed_here(bundle, [archive], gallery)
    assert (code, line["num_rows_committed"], line["num_rows_replaced"]) == (0, 6, 6), line
    storage.delete_tree(pan)
    code, line = embed_here(bundle, [archive], gallery, "--prune", "--yes")
    assert (code, line["num_rows_skipped"], line["num_rows_pruned"]) == (0, 6, 6), line
    assert ask(gallery, "--publish")["sequence"] == 2

    def check_serves(sequence: int, item_ids: list[str]) -> Searcher:
        searcher = Searcher.open(gallery)
        hits = searcher.search(searcher.vector(item_ids[0])[None], k=50)[0]
        assert (searcher.pointer.sequence, sorted(hit.item_id for hit in hits)) == (sequence, sorted(item_ids))
        assert all(hit.has_thumbnail for hit in hits)
        return searcher

    new = check_serves(2, second).thumbnail(second[1])
    assert second[1] == first[4]
    assert new not in (None, old)
    table = Gallery.open(gallery).table_uri("thumbnails")
    pictured = commits.open_table(table).to_table()["item_id"].to_pylist()
    assert sorted(pictured) == sorted(second), "neither those of the shard that is gone nor of rows that are"

    assert ask(gallery, "--rollback")["sequence"] == 3
    report = upkeep.clean(Gallery.open(gallery), grace=timedelta(0))
    assert (report.num_tags, report.num_files_pending) == (2, 0), "of rows and thumbnails that no pointer names"
    assert report.num_versions > 4
    assert check_serves(3, [*first, *gone]).thumbnail(first[4]) == old
    assert before.thumbnail(first[4]) == old
    assert ask(gallery, "--check")["num_doubled"] == 0
    assert ask(gallery, "--publish", "--no-build")["sequence"] == 4
    assert check_serves(4, second).thumbnail(second[1]) == new
