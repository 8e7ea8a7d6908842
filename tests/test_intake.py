from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cmir.archive import intake, shards
from cmir.archive.intake import Task
from cmir.archive.schema import ShardRow
from cmir.archive.sources import Item
from cmir.errors import DataError
from tests.conftest import MakeRow


@dataclass(frozen=True)
class Pairs:
    """A source of pan + rgb pairs whose item 'bad' cannot be read."""

    make_row: MakeRow

    def items(self) -> Iterator[Item]:
        yield from (Item(str(i), f"s{i}", 1000) for i in range(4))

    def rows(self, item: Item) -> Iterator[ShardRow]:
        yield self.make_row(int(item.key), modality="pan")
        if item.key == "2":
            raise DataError("image is cut short", where=item.key)
        yield self.make_row(int(item.key), modality="rgb")


def test_tasks_hold_one_split_and_about_one_file(make_row: MakeRow) -> None:
    drawn = [(Item(str(i), f"s{i}", 100), "test" if i % 5 == 0 else "train") for i in range(20)]
    tasks = list(intake.plan_tasks(drawn, shard_bytes=500))  # type: ignore[arg-type]
    assert [task.index for task in tasks] == list(range(len(tasks)))
    assert sorted((task.split, len(task.items)) for task in tasks) == [
        ("test", 4),
        ("train", 1),
        ("train", 5),
        ("train", 5),
        ("train", 5),
    ]


def test_a_task_writes_each_modality_and_quarantines_whole_items(tmp_path: Path, make_row: MakeRow) -> None:
    source = Pairs(make_row)
    task = Task(3, "val", tuple(source.items()))
    summary = intake.write_task(source, task, str(tmp_path))
    assert summary.num_rows == {"pan": 3, "rgb": 3}
    assert summary.num_quarantined == 1
    assert [(shard.modality, shard.split, shard.num_rows) for shard in shards.list_shards(str(tmp_path))] == [
        ("pan", "val", 3),
        ("rgb", "val", 3),
    ]
    (rejected,) = pq.read_table(tmp_path / "_quarantine" / "part-00003.parquet").to_pylist()
    assert rejected["reason"] == "image is cut short (2)"


def test_a_finished_task_is_not_done_again(tmp_path: Path, make_row: MakeRow) -> None:
    source = Pairs(make_row)
    task = Task(0, "train", tuple(source.items()))
    first = intake.write_task(source, task, str(tmp_path))
    written = tmp_path / "pan" / "train" / "part-00000.parquet"
    before = written.stat().st_mtime_ns
    assert intake.write_task(source, task, str(tmp_path)) == first
    assert written.stat().st_mtime_ns == before
    intake.forget_tasks(str(tmp_path))
    assert intake.read_summary(str(tmp_path), task) is None


def test_a_task_whose_items_changed_is_done_again_and_leaves_nothing_of_the_old(
    tmp_path: Path, make_row: MakeRow
) -> None:
    source = Pairs(make_row)
    items = tuple(source.items())
    before, after = Task(0, "train", items), Task(0, "val", items[:2])
    intake.write_task(source, before, str(tmp_path))
    assert intake.read_summary(str(tmp_path), after) is None
    assert intake.write_task(source, after, str(tmp_path)).num_rows == {"pan": 2, "rgb": 2}
    assert intake.read_summary(str(tmp_path), before) is None
    found = [(shard.modality, shard.split, shard.num_rows) for shard in shards.list_shards(str(tmp_path))]
    assert found == [("pan", "val", 2), ("rgb", "val", 2)]
    assert not (tmp_path / "_quarantine" / "part-00000.parquet").exists()


def test_tasks_beyond_the_last_are_dropped_with_their_files(tmp_path: Path, make_row: MakeRow) -> None:
    source = Pairs(make_row)
    tasks = [Task(index, "train", tuple(source.items())) for index in range(3)]
    for task in tasks:
        intake.write_task(source, task, str(tmp_path))
    intake.drop_tasks_from(str(tmp_path), 1)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name in left if "00000" not in name] == []
    assert intake.read_summary(str(tmp_path), tasks[0]) is not None


def test_an_id_that_stands_twice_is_kept_once(tmp_path: Path, make_row: MakeRow) -> None:
    source = Pairs(make_row)
    item = next(source.items())
    summary = intake.write_task(source, Task(0, "train", (item, item)), str(tmp_path))
    assert summary.num_rows == {"pan": 1, "rgb": 1}
    assert summary.num_quarantined == 2


def test_a_place_that_cannot_be_written_raises_and_leaves_no_summary(tmp_path: Path, make_row: MakeRow) -> None:
    source = Pairs(make_row)
    task = Task(0, "train", tuple(source.items()))
    (tmp_path / "pan").write_text("a file where a folder must be")
    with pytest.raises((FileExistsError, NotADirectoryError), match="pan"):
        intake.write_task(source, task, str(tmp_path))
    assert intake.read_summary(str(tmp_path), task) is None
