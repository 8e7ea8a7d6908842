"""Embed jobs at once and one after another, over the same, overlapping and growing selections of one archive."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import RayCluster
from tests.faults.archive import assert_same, rows_of
from tests.faults.conftest import Given
from tests.faults.process import EmbedJob, embed_here
from tests.ray_nodes import joined_node

pytestmark = [pytest.mark.usefixtures("on_cluster"), pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
Start = Callable[..., EmbedJob]


def test_two_jobs_over_the_same_shards_and_one_after_them(given: Given, start: Start) -> None:
    jobs = [start([given.shards], "--num-workers", "1") for _ in range(2)]
    for job in jobs:
        code, line = job.end()
        assert code == 0, line
        assert line["num_rows_committed"] + line["num_rows_skipped"] == 900
    assert_same(job.gallery, given.vectors)
    code, line = embed_here(given.bundle, [given.shards], job.gallery)
    assert (code, line["num_rows_committed"], line["num_rows_skipped"]) == (0, 0, 900)
    assert line["num_pieces_skipped"] == line["num_pieces_total"] == 304
    assert line["seconds"] < 10
    assert_same(job.gallery, given.vectors)


def test_four_jobs_over_overlapping_shards(given: Given, start: Start, ray_cluster: RayCluster, tmp_path: Path) -> None:
    """With a node more, so that all four work at once."""
    chosen = [("pan", "ms", "rgb"), ("ms", "rgb", "speech"), ("rgb", "pan/train/part-00000.parquet"), ("",)]
    with joined_node(ray_cluster, tmp_path, num_cpus=6):
        jobs = [
            start([f"{given.shards}/{part}".rstrip("/") for part in parts], "--num-workers", str(1 + i % 3))
            for i, parts in enumerate(chosen)
        ]
        ends = [job.end() for job in jobs]
    assert [code for code, _ in ends] == [0, 0, 0, 0], ends
    assert sum(line["num_rows_committed"] for _, line in ends) == 900, "each row was committed by one of them"
    assert_same(jobs[0].gallery, given.vectors)


def test_selections_that_grow_and_overlap(given: Given, start: Start, tmp_path: Path) -> None:
    flags, gallery = ["--num-workers", "1", "--modalities"], str(tmp_path / "gallery")
    assert embed_here(given.bundle, [given.shards], gallery, *flags, "rgb")[0] == 0
    assert_same(gallery, part_of(given, "rgb"))
    code, line = embed_here(given.bundle, [given.shards], gallery, *flags, "rgb,ms")
    assert (code, line["num_rows_skipped"], line["num_rows_committed"]) == (0, 225, 225)
    assert_same(gallery, part_of(given, "rgb", "ms"))
    ends = [job.end() for job in [start([given.shards], *flags, names) for names in ("pan,ms", "pan,speech")]]
    assert [code for code, _ in ends] == [0, 0], ends
    assert_same(gallery, given.vectors)


def part_of(given: Given, *modalities: str) -> Mapping[str, np.ndarray]:
    """What a gallery of these modalities holds."""
    ids = {row.item_id for modality in modalities for row in rows_of(modality, range(225))}  # type: ignore[arg-type]
    return {item_id: vector for item_id, vector in given.vectors.items() if item_id in ids}
