"""A gallery between jobs: find doubled ids, merge fragments, index columns, remove what nobody reads, say how it is."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import lance

from cmir.archive import storage
from cmir.gallery import commits
from cmir.gallery.compaction import COMPACT_ABOVE_FRAGMENTS
from cmir.gallery.publish import Pointer, find_pointer, sequence_of_tag
from cmir.gallery.table import Gallery, SpaceTable
from cmir.gallery.tuning import indexed_rows

GRACE: Final = timedelta(hours=1)  # versions and superseded tags younger than this are left to readers that hold them
ID_COLUMN: Final = {"item_id": "BTREE"}  # looking up an item does not scan
FILTER_COLUMNS: Final = {  # what asks narrow by; bbox is left out, see docs/decisions.md
    "modality": "BITMAP",
    "sensor": "BITMAP",
    "labels": "LABEL_LIST",
    "acquired_at": "BTREE",
    "cloud_cover": "BTREE",
    "gsd_m": "BTREE",
}
_COMPACTION_ATTEMPTS: Final = 3
_ORPHAN_AGE: Final = timedelta(days=7)  # Lance's own, for files of no version: a job may be about to commit them


@dataclass(frozen=True, slots=True)
class DoubledId:
    """An item_id that stands more than once in a space, with the pieces that brought it."""

    item_id: str
    num_rows: int
    piece_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CleanReport:
    """What clean-up removed, and the files of no version that it left because they are young."""

    num_tags: int
    num_versions: int
    num_bytes: int
    num_files_pending: int
    num_bytes_pending: int


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """One space as it stands; `published` figures are None where another space, or none, is served."""

    space_id: str
    table_version: int
    num_versions: int
    num_rows: int
    num_rows_unindexed: int
    num_quarantined: int
    num_bytes: int
    is_published: bool
    published_version: int | None
    published_rows: int | None
    index_kind: str | None
    recall_at_10: float | None
    age_s: float | None


def doubled_ids(space: SpaceTable, *, limit: int = 100) -> list[DoubledId]:
    """Ids that stand more than once in the newest version, at most `limit` of them.

    Such ids come from shards that hold the same items; one shard never brings an id twice.
    """
    dataset = space.dataset()
    grouped = "SELECT item_id, count(*) AS n FROM dataset GROUP BY item_id"
    query = f"{grouped} HAVING count(*) > 1 ORDER BY item_id LIMIT {limit}"
    counts = {
        row["item_id"]: int(row["n"])
        for batch in dataset.sql(query).build().to_batch_records()
        for row in batch.to_pylist()
    }
    if not counts:
        return []
    wanted = commits.is_one_of("item_id", sorted(counts))
    pieces: dict[str, set[str]] = {}
    for row in dataset.to_table(columns=["item_id", "piece_id"], filter=wanted).to_pylist():
        pieces.setdefault(row["item_id"], set()).add(row["piece_id"])
    return [DoubledId(item_id, n, tuple(sorted(pieces[item_id]))) for item_id, n in counts.items()]


def compact(space: SpaceTable) -> int:
    """Merge small fragments where there are many; returns how many fewer there are.

    Writers that commit meanwhile win: after a few lost races this gives up, and nothing is changed.
    """
    before = len(space.dataset().get_fragments())
    if before <= COMPACT_ABOVE_FRAGMENTS:
        return 0
    for attempt in range(_COMPACTION_ATTEMPTS):
        try:
            space.dataset().optimize.compact_files()
        except OSError as error:
            if not commits.is_conflict(error):
                raise
            time.sleep(0.1 * 2**attempt)
        else:
            return before - len(space.dataset().get_fragments())
    return 0


def index_columns(uri: str, columns: Mapping[str, str], min_rows: int) -> list[str]:
    """Index columns (name -> kind of Lance's scalar indexes) of the table at a URI; returns those built or extended.

    Tables of fewer rows are left as they are. An index that stands is extended by the rows that came since. Commits may
    go on meanwhile.
    """
    dataset = commits.find_table(uri)
    if dataset is None or dataset.count_rows() < min_rows:
        return []
    covered = {index.name: int(index.num_rows_indexed) for index in dataset.describe_indices()}
    missing = [column for column in columns if index_name(column) not in covered]
    stale = [
        column for column in columns if covered.get(index_name(column), dataset.count_rows()) < dataset.count_rows()
    ]
    for column in missing:
        commits.on_newest(uri, partial(_index_column, column=column, kind=columns[column]))
    if stale:
        names = [index_name(column) for column in stale]
        commits.on_newest(uri, lambda newest: newest.optimize.optimize_indices(index_names=names))
    return [*missing, *stale]


def _index_column(dataset: lance.LanceDataset, *, column: str, kind: str) -> None:
    dataset.create_scalar_index(column, kind, name=index_name(column))


def index_name(column: str) -> str:
    """What the scalar index of a column is called."""
    return f"{column}_idx"


def clean(gallery: Gallery, *, grace: timedelta = GRACE) -> CleanReport:
    """Remove superseded tags, old versions and the files only they used.

    Never touched: what the pointer and its predecessors name, a tag that a publisher has just made and not yet pointed
    to, anything younger than `grace` (readers that have not yet noticed a new pointer), and files of no version younger
    than seven days (a job may be about to commit them): those are counted, of a crash they are what is left.
    """
    folders = [gallery.uri, storage.join(gallery.uri, "_spaces"), storage.join(gallery.uri, "_quarantine")]
    num_tags, num_versions, num_bytes = 0, 0, sum(storage.remove_staged(uri, _ORPHAN_AGE) for uri in folders)
    num_files_pending, num_bytes_pending = 0, 0
    tables = [*gallery.space_ids(), "thumbnails", "_files-thumbnails", "_ledger", "_shards"]
    for uri in [uri for uri in map(gallery.table_uri, tables) if commits.exists_table(uri)]:
        dataset = commits.open_table(uri)
        for tag in sorted(dataset.tags.list()):
            if _is_superseded(tag, find_pointer(gallery.uri), grace):  # read each time: another may publish meanwhile
                dataset.tags.delete(tag)
                num_tags += 1
        which = {"older_than": grace, "error_if_tagged_old_versions": False}
        removed = dataset.cleanup_old_versions(**which)
        num_versions += int(removed.old_versions)
        num_bytes += int(removed.bytes_removed)
        pending = dataset.explain_cleanup_old_versions(**which, delete_unverified=True)
        num_files_pending += _num_files(pending.stats)
        num_bytes_pending += int(pending.stats.bytes_removed)
    return CleanReport(num_tags, num_versions, num_bytes, num_files_pending, num_bytes_pending)


def _num_files(stats: lance.CleanupStats) -> int:
    kinds = (stats.data_files_removed, stats.index_files_removed, stats.deletion_files_removed)
    return sum(map(int, kinds))


def _is_superseded(tag: str, pointer: Pointer | None, grace: timedelta) -> bool:
    """True for a tag of an earlier publication that the pointer no longer names, once readers had time to notice."""
    sequence = sequence_of_tag(tag)
    if pointer is None or sequence is None or datetime.now(UTC) - pointer.published_at < grace:
        return False
    kept = {publication.tag for publication in (pointer, *pointer.previous)}
    return sequence <= pointer.sequence and tag not in kept


def status(uri: str) -> list[SpaceStatus]:
    """Every space of the gallery at a URI, sorted. Raises GalleryError where there is none."""
    gallery = Gallery.open(uri)
    pointer = find_pointer(uri)
    found = []
    for space_id in gallery.space_ids():
        space = gallery.space(space_id)
        dataset, num_rows = space.dataset(), space.count_rows()
        served = pointer if pointer and pointer.space_id == space_id else None
        found.append(
            SpaceStatus(
                space_id=space_id,
                table_version=int(dataset.version),
                num_versions=len(dataset.versions()),
                num_rows=num_rows,
                num_rows_unindexed=num_rows - indexed_rows(dataset),
                num_quarantined=sum(entry.num_quarantined for entry in gallery.ledger.entries(space_id)),
                num_bytes=sum(file.num_bytes for file in storage.list_files(space.uri)),
                is_published=served is not None,
                published_version=served.table_version if served else None,
                published_rows=int(commits.open_table(space.uri, served.tag).count_rows()) if served else None,
                index_kind=served.index.kind if served else None,
                recall_at_10=served.recall_at_10 if served else None,
                age_s=(datetime.now(UTC) - served.published_at).total_seconds() if served else None,
            )
        )
    return found
