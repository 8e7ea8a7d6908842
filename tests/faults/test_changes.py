"""Shards that change or go while jobs are at work on them: what is newest stays, and who was late says so."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import embed
from tests.faults.archive import assert_same, rows_of, vectors_of, write_shard
from tests.faults.process import EmbedJob, embed_here, embedded_here, wait_for

pytestmark = [pytest.mark.usefixtures("without_cluster"), pytest.mark.slow, pytest.mark.timeout(600)]
Start = Callable[..., EmbedJob]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """60 rgb rows in twenty pieces of one shard, and 30 pan rows."""
    folder = tmp_path / "in"
    write_shard(str(folder / "rgb/train/part-00000.parquet"), rows_of("rgb", range(60)))
    write_shard(str(folder / "pan/train/part-00000.parquet"), rows_of("pan", range(30)))
    return folder


@pytest.fixture
def newest(bundle: str) -> dict[str, np.ndarray]:
    """What a gallery of the rewritten archive holds."""
    return vectors_of(bundle, [*rows_of("rgb", range(40, 90)), *rows_of("pan", range(30))])


def rewrite(archive: Path) -> None:
    """The shard of rgb rows, put anew with other rows as a whole."""
    write_shard(str(archive / "rgb/train/part-00000.parquet"), rows_of("rgb", range(40, 90)))


def test_a_job_that_a_change_overtook_takes_nothing_newer_away(
    archive: Path, bundle: str, start: Start, newest: dict[str, np.ndarray]
) -> None:
    late = start([str(archive)], environment={"WAIT_AFTER_WORK": "1", "WITHOUT_CLUSTER": "1"})
    waits = Path(late.gallery) / "late.waits"
    wait_for(waits.exists, late.has_ended)
    rewrite(archive)
    code, line = embed_here(bundle, [str(archive)], late.gallery)
    assert (code, line["num_rows_committed"], line["num_rows_replaced"]) == (0, 50, 60)
    waits.unlink()
    code, line = late.end()
    assert (code, line["status"]) == (1, "failed")
    assert "shards changed while the job ran: seen 1 of 2" in line["error"]
    assert "start the same command again" in line["error"]
    assert_same(late.gallery, newest)


def test_a_shard_rewritten_under_a_job_is_whole_after_the_next_one(
    archive: Path, tmp_path: Path, bundle: str, monkeypatch: pytest.MonkeyPatch, newest: dict[str, np.ndarray]
) -> None:
    def rewritten_midway(config: Any, plan: Any) -> Iterator[Any]:
        for i, done in enumerate(embedded_here(config, plan)):
            if i == 15:
                rewrite(archive)
            yield done

    gallery, flags = str(tmp_path / "gallery"), ["--max-reject-ratio", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(embed, "_embedded_pieces", rewritten_midway)
        code, line = embed_here(bundle, [str(archive)], gallery, *flags)
    assert (code, line["status"]) == (1, "failed")
    assert "shards changed while the job ran" in line["error"]
    assert embed_here(bundle, [str(archive)], gallery)[0] == 0
    assert_same(gallery, newest)


def test_prune_touches_only_what_lay_below_the_shards_given(archive: Path, tmp_path: Path, bundle: str) -> None:
    other, gallery = tmp_path / "in-other", str(tmp_path / "gallery")  # a neighbour whose name begins alike
    write_shard(str(other / "ms/train/part-00000.parquet"), rows_of("ms", range(30)))
    assert embed_here(bundle, [str(archive), str(other)], gallery)[0] == 0
    (other / "ms/train/part-00000.parquet").unlink()
    write_shard(str(other / "ms/train/part-00001.parquet"), rows_of("ms", range(3)))
    (archive / "pan/train/part-00000.parquet").unlink()
    code, line = embed_here(bundle, [str(archive)], gallery, "--prune", "--yes")
    assert (code, line["num_rows_pruned"]) == (0, 30)
    assert_same(gallery, vectors_of(bundle, [*rows_of("rgb", range(60)), *rows_of("ms", range(30))]))
    code, line = embed_here(bundle, [str(other)], gallery, "--prune", "--yes")
    assert (code, line["num_rows_pruned"], line["num_rows_committed"]) == (0, 30, 3)
    assert_same(gallery, vectors_of(bundle, [*rows_of("rgb", range(60)), *rows_of("ms", range(3))]))
