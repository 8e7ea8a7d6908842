"""Items of a source become shard files, task by task; every task can run anywhere and be run again.

A task holds the items of one split for about one shard file; it writes one file per modality that its items yield and,
last, a summary that says it is done, and of which items. A job that died goes on with the tasks that have no summary of
the items they hold now: what changed in the input since is read again.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Final

from cmir.archive import shards, storage
from cmir.archive.schema import MODALITIES, SPLITS, ShardRow, Split
from cmir.archive.sources import Item, Source
from cmir.errors import DataError

SHARD_BYTES: Final = 256 * 2**20
_MIN_SHARD_BYTES: Final = 16 * 2**20
_NUM_PARALLEL: Final = 8  # tasks of a small archive; fixed, so that no cluster's size shows in the files
_TASKS_FOLDER: Final = "_tasks"
_MAX_ITEMS_PER_TASK: Final = 20_000
_MOST_DIGESTED_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Task:
    """The items of one split that make about one shard file per modality."""

    index: int
    split: Split
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """Tells tasks of one index apart: 16 hex digits of its split and the keys of its items, in order."""
        return _digest(json.dumps([self.split, *(item.key for item in self.items)]).encode())


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """What became of a task, which `digest` names: rows written, by modality, and rows quarantined.

    `rejected` holds the digest of every file that was: once one is another, the task is done again.
    """

    index: int
    digest: str = ""
    num_rows: dict[str, int] = field(default_factory=dict)
    num_quarantined: int = 0
    rejected: dict[str, str] = field(default_factory=dict)

    @property
    def num_rows_committed(self) -> int:
        return sum(self.num_rows.values())


def shard_bytes_for(items: Iterable[Item]) -> int:
    """The size of a shard file for these items: 256 MiB, less where that would leave workers idle."""
    return min(SHARD_BYTES, max(_MIN_SHARD_BYTES, sum(item.num_bytes for item in items) // _NUM_PARALLEL))


def plan_tasks(drawn: Iterable[tuple[Item, Split]], shard_bytes: int = SHARD_BYTES) -> Iterator[Task]:
    """Gather items of one split and population until they fill a shard file."""
    waiting: dict[tuple[Split, str], list[Item]] = {}
    sizes: dict[tuple[Split, str], int] = {}
    index = 0
    for item, split in drawn:
        key = (split, item.population)
        waiting.setdefault(key, []).append(item)
        sizes[key] = sizes.get(key, 0) + item.num_bytes
        if sizes[key] >= shard_bytes or len(waiting[key]) >= _MAX_ITEMS_PER_TASK:
            yield Task(index, split, tuple(waiting.pop(key)))
            sizes.pop(key)
            index += 1
    for (split, _), items in waiting.items():
        yield Task(index, split, tuple(items))
        index += 1


def write_task(source: Source, task: Task, output_uri: str) -> TaskSummary:
    """Read a task's items and put its shard files, its quarantine and its summary; an item that fails is quarantined.

    A task finished with these very items is left as it is; what another left under its index is replaced. Raises
    OSError where the output cannot be written; nothing half written stays then.
    """
    done = read_summary(output_uri, task)
    if done is not None:
        return done
    storage.delete_tree(_summary_uri(output_uri, task.index))  # of other items; its files are about to be replaced
    writers: dict[str, shards.ShardFileWriter] = {}
    rejected: list[tuple[str, str | None, str, bytes | None]] = []
    states: dict[str, str] = {}
    seen: set[str] = set()
    try:
        for item in task.items:
            try:
                rows = list(source.rows(item))
            except DataError as error:
                rejected.append((item.source_uri or item.key, None, str(error), _small_bytes(item)))
                for uri in {item.source_uri, *item.further_uris} - states.keys():
                    states[uri] = _state_of(uri)
                continue
            for row in rows:
                if row.item_id in seen:
                    rejected.append((row.source_uri, row.item_id, f"item_id {row.item_id} stands twice", None))
                    continue
                seen.add(row.item_id)
                _writer(writers, row, task, output_uri).add(row)
        for writer in writers.values():
            writer.close()
    except BaseException:
        for writer in writers.values():
            writer.abort()
        raise
    written = {writer.uri for writer in writers.values()}
    if rejected:
        written.add(_quarantine_uri(output_uri, task.index))
        shards.write_quarantine(shards.quarantine_table(rejected), _quarantine_uri(output_uri, task.index))
    for uri in _places(output_uri, task.index):
        if uri not in written:
            storage.delete_tree(uri)
    num_rows = {name: writer.num_rows for name, writer in writers.items()}
    summary = TaskSummary(task.index, task.digest, num_rows, len(rejected), states)
    storage.put_atomic(_summary_uri(output_uri, task.index), json.dumps(asdict(summary)).encode())
    return summary


def read_summary(output_uri: str, task: Task) -> TaskSummary | None:
    """The summary of a finished task, None where it has not finished, or its items or rejected files changed since."""
    uri = _summary_uri(output_uri, task.index)
    if not storage.exists(uri):
        return None
    summary = TaskSummary(**json.loads(storage.read_bytes(uri)))
    is_current = summary.digest == task.digest
    is_current = is_current and all(_state_of(uri) == state for uri, state in summary.rejected.items())
    return summary if is_current else None


def drop_tasks_from(output_uri: str, num_tasks: int) -> None:
    """Remove what tasks of index `num_tasks` and higher left: an input that shrank has fewer tasks than before."""
    for file in storage.list_files(output_uri):
        index = re.fullmatch(r"(?:part-)?(\d+)\.(?:parquet|json)", storage.name_of(file.uri))
        if index and int(index[1]) >= num_tasks:
            storage.delete_tree(file.uri)


def forget_tasks(output_uri: str) -> None:
    """Remove the summaries once the archive is whole."""
    storage.delete_tree(storage.join(output_uri, _TASKS_FOLDER))


def _writer(
    writers: dict[str, shards.ShardFileWriter], row: ShardRow, task: Task, output_uri: str
) -> shards.ShardFileWriter:
    modality = row.media.modality
    if modality not in writers:
        uri = _shard_uri(output_uri, modality, task.split, task.index)
        writers[modality] = shards.ShardFileWriter(uri, task.split)
    return writers[modality]


def _places(output_uri: str, index: int) -> list[str]:
    """Wherever a task of this index may have put rows."""
    found = [_shard_uri(output_uri, modality, split, index) for modality in MODALITIES for split in SPLITS]
    return [*found, _quarantine_uri(output_uri, index)]


def _shard_uri(output_uri: str, modality: str, split: str, index: int) -> str:
    return storage.join(output_uri, modality, split, f"part-{index:05d}.parquet")


def _quarantine_uri(output_uri: str, index: int) -> str:
    return storage.join(output_uri, "_quarantine", f"part-{index:05d}.parquet")


def _summary_uri(output_uri: str, index: int) -> str:
    return storage.join(output_uri, _TASKS_FOLDER, f"{index:05d}.json")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _state_of(source_uri: str) -> str:
    """The digest of a rejected item's file, of a large one its size; empty where it has none or it cannot be read."""
    if not source_uri:
        return ""
    try:
        num_bytes = sum(file.num_bytes for file in storage.list_files(source_uri))
        if num_bytes > _MOST_DIGESTED_BYTES:
            return f"{num_bytes} bytes"
        return _digest(storage.read_bytes(source_uri))
    except DataError:
        return ""


def _small_bytes(item: Item) -> bytes | None:
    """The bytes of a rejected item for its quarantine row, when they are small and still there."""
    if not item.source_uri or item.num_bytes > 16 * shards.SMALL_BYTES:
        return None
    try:
        data = storage.read_bytes(item.source_uri)
    except DataError:
        return None
    return data if len(data) <= shards.SMALL_BYTES else None
