"""Files that dead runs left: clean-up finds them, and takes nothing from a reader or from a job that is at work."""

import os
import time
from datetime import timedelta
from pathlib import Path

import lance
import pytest
from lance.optimize import Compaction

from cmir.gallery import commits, upkeep
from cmir.gallery.table import CommittedPiece, SpaceTable
from tests.gallery_rows import SPACE, piece_name, piece_rows
from tests.gallery_writers import committed, space_at

AT_ONCE = timedelta(0)
EIGHT_DAYS_S = 8 * 24 * 3600


@pytest.fixture
def space(tmp_path: Path) -> SpaceTable:
    """Six pieces of 20 rows in as many versions."""
    space = space_at(tmp_path)
    for i in range(6):
        space.commit([committed(piece_name("a", i))])
    return space


def data_files(space: SpaceTable) -> set[str]:
    return {file.name for file in (Path(space.uri) / "data").iterdir()}


def named_files(dataset: lance.LanceDataset) -> set[str]:
    return {file.path for fragment in dataset.get_fragments() for file in fragment.metadata.files}


def age(*files: Path) -> None:
    """Make files eight days old."""
    then = time.time() - EIGHT_DAYS_S
    for file in files:
        os.utime(file, (then, then))


def test_rows_that_are_written_and_not_yet_committed_are_left_to_their_job(space: SpaceTable) -> None:
    dataset = space.dataset()
    before = data_files(space)
    written = commits._write(dataset, piece_rows(piece_name("b", 0), 20))
    assert len(data_files(space) - before) == 1
    upkeep.clean(space.gallery, grace=AT_ONCE)
    upkeep.compact(space)
    commits._commit(commits.open_table(space.uri), written)
    upkeep.clean(space.gallery, grace=AT_ONCE)
    assert space.dataset().to_table(filter="piece_id LIKE 'b.%'").num_rows == 20
    assert space.count_rows() == 140


def test_what_a_dead_run_wrote_goes_after_a_week(space: SpaceTable) -> None:
    before = data_files(space)
    commits._write(space.dataset(), piece_rows(piece_name("b", 0), 20))
    (orphan,) = data_files(space) - before
    age(*(Path(space.uri) / "data").iterdir())
    report = upkeep.clean(space.gallery, grace=AT_ONCE)
    assert report.num_bytes > 0
    assert data_files(space) == before
    assert orphan not in before
    assert space.dataset().to_table().num_rows == 120


def test_a_merge_that_died_before_its_commit_changes_nothing_and_is_cleared(space: SpaceTable) -> None:
    before = data_files(space)
    plan = Compaction.plan(space.dataset(), {"target_rows_per_fragment": 1000})
    for task in plan.tasks:
        task.execute(space.dataset())
    assert len(data_files(space)) > len(before)
    assert space.count_rows() == 120
    assert space.committed_pieces() == {piece_name("a", i) for i in range(6)}
    age(*(Path(space.uri) / "data" / name for name in data_files(space) - before))
    upkeep.clean(space.gallery, grace=AT_ONCE)
    assert data_files(space) == before
    space.commit([committed(piece_name("a", 6))])
    assert (upkeep.compact(space), space.count_rows()) == (0, 140)


def test_a_reader_of_an_older_version_keeps_its_files(space: SpaceTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "COMPACT_ABOVE_FRAGMENTS", 1)
    reader = space.dataset()
    assert upkeep.compact(space) == 5
    space.drop([piece_name("a", 1)])
    assert not named_files(reader) & named_files(space.dataset())
    upkeep.clean(space.gallery)
    assert reader.to_table().num_rows == 120
    upkeep.clean(space.gallery, grace=AT_ONCE)
    assert data_files(space) == named_files(space.dataset())
    assert space.count_rows() == 100


def test_half_written_records_of_dead_jobs_are_cleared(space: SpaceTable, tmp_path: Path) -> None:
    """A put is a hidden file that is renamed; a killed job leaves it behind."""
    space.commit([CommittedPiece(piece_name("c", 0), piece_rows(piece_name("c", 0), 3))])
    (tmp_path / "_quarantine").mkdir()
    old = [tmp_path / "_spaces" / f".{SPACE}.json.ab12", tmp_path / "_quarantine" / ".a.1.0.parquet.x", tmp_path / ".p"]
    young = tmp_path / "_quarantine" / ".a.1.1.parquet.y"
    for file in (*old, young):
        file.write_bytes(b"half")
    age(*old, tmp_path / "_spaces" / f"{SPACE}.json")
    report = upkeep.clean(space.gallery)
    assert report.num_bytes == 12
    assert [file.exists() for file in (*old, young)] == [False, False, False, True]
    assert space.gallery.space_ids() == [SPACE]
