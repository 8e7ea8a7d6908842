"""Driver, workers or a node of the embed job are killed; it, or the same command, loses and doubles nothing."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.util.state import list_actors, list_nodes

from cmir.archive.schema import MODALITIES
from tests.conftest import RayCluster, running_cluster
from tests.faults.archive import assert_same, nan_row, rows_of, vectors_of, write_archive, write_shard
from tests.faults.conftest import Given
from tests.faults.process import EmbedJob, count_rows, embed_here, wait_for
from tests.ray_nodes import joined_node, kill_with_children

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2400)]
NUM_KILLS = 20
Start = Callable[..., EmbedJob]


def test_a_driver_killed_twenty_times_loses_and_doubles_nothing(
    given: Given, start: Start, on_cluster: RayCluster
) -> None:
    moments = random.Random(20)
    num_rows_before = 0
    for _ in range(NUM_KILLS):
        job = start([given.shards], "--num-workers", "1")  # the first row is there sooner
        assert job.wait_for_rows(num_rows_before) > num_rows_before
        time.sleep(moments.uniform(0, 1.0))
        assert job.process.poll() is None, "every kill lands in the work"
        job.kill()
        num_rows_before = count_rows(job.gallery)
    code, line = start([given.shards]).end()
    assert code == 0, line
    assert (line["num_rows_skipped"], line["num_rows_committed"]) == (num_rows_before, 900 - num_rows_before)
    assert_same(job.gallery, given.vectors)


@pytest.mark.parametrize("moment", ["written", "committed", "half", "replaced"])
def test_a_crash_between_two_steps_is_made_good(
    moment: str, tmp_path: Path, bundle: str, start: Start, without_cluster: None
) -> None:
    """Between writing rows and naming them, after the commit, between ledger and rows, between rows and records."""
    shards, gallery = write_archive(str(tmp_path / "in"), 12, modalities=("pan", "speech")), str(tmp_path / "gallery")
    changed, flags = f"{shards}/rgb/train/part-00000.parquet", ["--max-reject-ratio", "0.2"]
    write_shard(changed, [*rows_of("rgb", range(7)), nan_row(99)])
    rgb = rows_of("rgb", range(7))
    if moment == "replaced":
        assert embed_here(bundle, [shards], gallery, *flags)[0] == 0
        rgb = rows_of("rgb", range(2, 9))
        write_shard(changed, [*rgb, nan_row(99)])
    crashed = start([shards], *flags, environment={"CRASH_AT": moment, "WITHOUT_CLUSTER": "1"})
    assert crashed.end() == (137, {})
    code, line = embed_here(bundle, [shards], gallery, *flags)
    assert code == 0, line
    assert line["num_rows_committed"] + line["num_rows_skipped"] == 31
    expected = vectors_of(bundle, [*rgb, *rows_of("pan", range(12)), *rows_of("speech", range(12))])
    assert_same(gallery, expected)
    code, line = embed_here(bundle, [shards], gallery, "--max-reject-ratio", "0")
    assert (code, line["num_rows_committed"]) == (1, 0)
    assert "seen 1 of 32" in line["error"], "what was rejected is not forgotten"


def test_killed_workers_are_replaced(given: Given, start: Start, on_cluster: RayCluster) -> None:
    job, moments = start([given.shards], "--num-workers", "2"), random.Random(3)
    num_rows, killed = 0, set[int]()
    for _ in range(4):
        num_rows = job.wait_for_rows(num_rows)
        worker = wait_for(lambda: embedding_workers(on_cluster).keys() - killed, job.has_ended).pop()
        time.sleep(moments.uniform(0, 0.5))
        os.kill(worker, signal.SIGKILL)
        killed.add(worker)
    code, line = job.end()
    assert (code, line["num_rows_committed"], len(killed)) == (0, 900, 4), line
    assert_same(job.gallery, given.vectors)


def test_a_node_that_is_lost_takes_no_row_with_it(
    bundle: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster of its own: for minutes Ray reserves what killed drivers had asked for."""
    shards = write_archive(str(tmp_path / "in"), 500)  # not done before the second node has its workers
    with running_cluster(tmp_path) as cluster, joined_node(cluster, tmp_path, num_cpus=2) as node:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        job = start([shards], "--num-workers", "4")
        head = {one.node_id for one in list_nodes(address=cluster.dashboard_url) if one.is_head_node}
        wait_for(lambda: set(embedding_workers(cluster).values()) - head, job.has_ended)
        num_rows = job.wait_for_rows(0)
        kill_with_children(node)
        assert 0 < num_rows < 2000
        code, line = job.end()
        assert (code, line["num_rows_committed"]) == (0, 2000), line
    assert_same(job.gallery, vectors_of(bundle, [row for one in MODALITIES for row in rows_of(one, range(500))]))


def embedding_workers(cluster: RayCluster) -> dict[int, str]:
    """Process id and node of every embedding worker that lives."""
    actors = list_actors(address=cluster.dashboard_url, filters=[("state", "=", "ALIVE")], detail=True)
    return {actor.pid: actor.node_id for actor in actors if "EmbedWorker" in actor.class_name and actor.pid}
