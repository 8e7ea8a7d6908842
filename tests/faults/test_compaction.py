"""Fragments are merged while a job commits, and the merging is killed again and again: rows and records stay exact."""

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cmir.gallery import commits
from tests.faults.archive import assert_same, rows_of, vectors_of, write_shard
from tests.faults.process import ROOT, count_rows, embed_here, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NUM_ROWS, NUM_KILLS = 180, 3


def merge_and_kill(gallery: str, over: threading.Event, merged: list[int]) -> None:
    """Start merging, kill it after a merge or two, as often as NUM_KILLS; the last one runs to the end of the job."""
    moments = random.Random(5)
    wait_for(lambda: count_rows(gallery) > 0)
    for i in range(NUM_KILLS + 1):
        command = [sys.executable, "-m", "tests.faults.compactor", gallery]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            merged.append(int(process.stdout.readline()))
            over.wait(timeout=None if i == NUM_KILLS else moments.uniform(0, 2))
            process.kill()


def test_merging_beside_a_job_and_killed_loses_and_doubles_nothing(
    tmp_path: Path, bundle: str, without_cluster: None
) -> None:
    shards, gallery, rows = str(tmp_path / "in"), str(tmp_path / "gallery"), rows_of("rgb", range(NUM_ROWS))
    write_shard(f"{shards}/rgb/train/part-00000.parquet", rows)
    over, merged = threading.Event(), list[int]()
    merger = threading.Thread(target=merge_and_kill, args=(gallery, over, merged), daemon=True)
    merger.start()
    code, line = embed_here(bundle, [shards], gallery)
    over.set()
    merger.join()
    assert (code, line["num_rows_committed"]) == (0, NUM_ROWS), line
    (table,) = Path(gallery).glob("s*.lance")
    assert len(commits.open_table(str(table)).get_fragments()) < 60, "of sixty commits some were merged"
    assert_same(gallery, vectors_of(bundle, rows))
    code, line = embed_here(bundle, [shards], gallery)
    assert (code, line["num_pieces_skipped"]) == (0, 60)
