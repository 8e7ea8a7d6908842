"""A row that ends every worker that decodes it stops nothing, is named, and is rejected once."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import running_cluster
from tests.deadly_chips import make_deadly, png_row
from tests.faults.archive import assert_same, rows_of, vectors_of, write_archive, write_shard
from tests.faults.process import EmbedJob

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_row_that_ends_its_workers_is_quarantined_and_nothing_else(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, gallery = str(tmp_path / "in"), str(tmp_path / "gallery")
    write_archive(archive, 12, modalities=("pan", "speech"))
    good = [png_row(i) for i in range(7)]
    write_shard(f"{archive}/rgb/train/part-00000.parquet", [*good[:4], png_row(99, "deadly"), *good[4:]])
    expected = vectors_of(bundle, [*good, *rows_of("pan", range(12)), *rows_of("speech", range(12))])
    make_deadly(monkeypatch, tmp_path / "tally")
    with running_cluster(tmp_path) as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        flags = ("--num-workers", "1", "--max-reject-ratio", "0.2")
        job = EmbedJob(bundle, [archive], gallery, *flags, module="jobs.embed")
        code, line = job.end()
        assert (code, line["num_rows_committed"], line["num_rows_quarantined"]) == (0, 31, 1), line
        assert_same(gallery, expected)
        again, line = EmbedJob(bundle, [archive], gallery, *flags, module="jobs.embed").end()
    assert (again, line["num_rows_committed"], line["num_pieces_skipped"]) == (0, 0, line["num_pieces_total"])
    rejected = [row for file in (Path(gallery) / "_quarantine").iterdir() for row in pq.read_table(file).to_pylist()]
    assert [(row["item_id"], "3 deaths" in row["reason"]) for row in rejected] == [(png_row(99).item_id, True)]
