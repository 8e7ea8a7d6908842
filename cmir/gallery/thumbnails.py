"""Small WebP previews by item_id: one table for all spaces of a gallery, added to once per item, read by searchers.

Embedding writes a thumbnail before the vectors of its piece become visible, so a reader that opens the table after it
has read the pointer finds every thumbnail that its version can have. Which pieces are there is noted by file: looking
for the items themselves would read the whole table at every commit. An item of two shards may have two. One that is
offered with another picture, by a newer version of its shard, takes the place of the one that stands: first that goes,
then it is added like any other, so that whoever dies in between leaves an item without, which is offered again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata

from cmir.archive import storage
from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.errors import GalleryError
from cmir.gallery import commits, file_records
from cmir.gallery.compaction import Merger
from cmir.gallery.file_records import FileRecords, files_of
from cmir.gallery.piece_files import PieceFiles, thinned_files

TABLE_NAME: Final = "thumbnails"
MAX_BYTES: Final = 4096
_REMEMBERED_IDS: Final = 100_000
_FRAGMENT_BIT: Final = 32  # of a row address: the fragment's id stands above it
_FOUND_SCHEMA: Final = THUMBNAIL_SCHEMA.append(pa.field("_rowaddr", pa.uint64()))


@dataclass(frozen=True, slots=True)
class _Difference:
    """What is offered beside what stands: rows without a thumbnail (by piece), and the ids of rows in fragments (by
    their number) whose picture is another."""

    absent: Mapping[str, pa.Table]
    outdated: Mapping[int, list[str]]


class ThumbnailWriter:
    """Adds thumbnails piece by piece; what is asked of the table does not grow with it.

    One object belongs to one thread; any number of processes may have their own.
    """

    def __init__(self, gallery_uri: str) -> None:
        self._uri = table_uri(gallery_uri)
        notes_uri = file_records.place(gallery_uri, TABLE_NAME)
        self._records = FileRecords(notes_uri)
        self._known = PieceFiles(self._records)
        self._is_made = False  # the table
        self._merger, self._note_merger = Merger(self._uri, self._carry), Merger(notes_uri)

    def add(self, pieces: Mapping[str, pa.Table]) -> int:
        """Add thumbnails (piece_id -> THUMBNAIL_SCHEMA), all in one commit; returns how many were added.

        Passed over: pieces whose thumbnails are there, and items that have the same one from another version of their
        shard or from a file of which no pieces are noted. Another one that stands there is removed first. Raises
        GalleryError where the schema is another, a thumbnail is larger than 4 kB, or others won every race.
        """
        _check(list(pieces.values()))
        offered = {piece_id: thumbnails for piece_id, thumbnails in pieces.items() if len(thumbnails)}
        if not offered:
            return 0
        if not self._is_made:
            commits.ensure_table(self._uri, THUMBNAIL_SCHEMA)
            self._is_made = True
        added: dict[str, pa.Table] = {}
        outdated: dict[int, list[str]] = {}

        def choose(dataset: lance.LanceDataset) -> commits.Addition:
            difference = self._compare(dataset, offered)
            added.clear()
            outdated.clear()
            outdated.update(difference.outdated)
            if not outdated:
                added.update(difference.absent)
            rows = _joined(added.values())
            return commits.Addition(tuple(rows["item_id"].to_pylist()), rows)

        def announce(fragments: list[FragmentMetadata]) -> None:
            self._records.note(
                files_of(fragments), {piece_id: len(thumbnails) for piece_id, thumbnails in added.items()}
            )

        for attempt in range(commits.MAX_ATTEMPTS):
            dataset = commits.add_absent(self._uri, choose, announce)
            if not outdated:
                return sum(map(len, added.values()))
            if not self._remove_from(dataset, outdated):
                commits.pause(attempt)
        seen, fix = f"{commits.MAX_ATTEMPTS} attempts", "run fewer jobs at once"
        raise GalleryError("changed thumbnails lost every race", seen=seen, where=self._uri, fix=fix)

    def remove(self, item_ids: pa.StringArray) -> int:
        """Remove the thumbnails of items; returns how many went."""
        table = commits.find_table(self._uri)
        return 0 if table is None else commits.delete(table, "item_id", item_ids.to_pylist())

    def merge(self) -> None:
        """Merge small fragments of the thumbnails and of what is noted of them, where there are many."""
        self._merger.merge()
        self._note_merger.merge()

    def compact(self) -> int:
        """Merge all but full fragments of the thumbnails; returns how many fewer there are."""
        return self._merger.compact()

    def _carry(self, old: list[FragmentMetadata], new: list[FragmentMetadata]) -> None:
        self._records.carry(files_of(old), files_of(new), thinned_files(old))

    def _remove_from(self, dataset: lance.LanceDataset, outdated: Mapping[int, list[str]]) -> bool:
        """Remove items from fragments of a version; false where those were changed since."""
        self._known.may_empty(files_of(dataset.get_fragment(number).metadata for number in outdated))
        conditions = {number: commits.is_one_of("item_id", item_ids) for number, item_ids in outdated.items()}
        return commits.remove(dataset, conditions)

    def _compare(self, dataset: lance.LanceDataset, offered: Mapping[str, pa.Table]) -> _Difference:
        """What of the pieces is not in this version, or is there with another picture.

        Of an item that is offered twice the first counts.
        """
        fragments = self._known.look(dataset)
        missing = {key: table for key, table in offered.items() if not self._known.is_whole(key, len(table))}
        doubtful = sorted(self._known.doubtful(missing))
        rows = _joined(missing.values())
        is_first = _is_first(rows["item_id"])
        found = _found_in(dataset, [fragments[file] for file in doubtful], rows["item_id"])
        is_absent = is_first & ~_is_in(rows["item_id"], found["item_id"])
        absent, start = dict[str, pa.Table](), 0
        for piece_id, thumbnails in missing.items():
            chosen = is_absent[start : start + len(thumbnails)]
            start += len(thumbnails)
            if chosen.any():
                absent[piece_id] = thumbnails if chosen.all() else thumbnails.filter(pa.array(chosen))
        return _Difference(absent, _outdated(rows.filter(pa.array(is_first)), found))


def _is_first(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """bool[N]: where a value stands for the first time."""
    numbered = pa.table({"value": values, "row": pa.array(np.arange(len(values)))})
    rows = numbered.group_by("value").aggregate([("row", "min")])["row_min"].to_numpy()
    is_first = np.zeros(len(values), dtype=np.bool_)
    is_first[rows] = True
    return is_first


def _is_in(values: pa.ChunkedArray, wanted: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """bool[N]: which values are among those wanted."""
    return np.asarray(pc.is_in(values, value_set=wanted.combine_chunks()).to_numpy(), dtype=np.bool_)


def _found_in(dataset: lance.LanceDataset, fragments: list[lance.LanceFragment], ids: pa.ChunkedArray) -> pa.Table:
    """The rows of items in fragments, of which the pictures are read only where an item is there."""
    empty = _FOUND_SCHEMA.empty_table()
    if not fragments or not len(ids):
        return empty
    scanner = dataset.scanner(columns=["item_id"], fragments=fragments)
    wanted = ids.combine_chunks()
    here = [batch["item_id"].filter(pc.is_in(batch["item_id"], value_set=wanted)) for batch in scanner.to_batches()]
    found = pc.unique(pa.chunked_array(here, pa.string())).to_pylist()
    tables = [empty]
    for start in range(0, len(found), commits.NAMED_AT_ONCE):
        tables.append(
            dataset.scanner(
                columns=["item_id", "webp"],
                filter=commits.is_one_of("item_id", found[start : start + commits.NAMED_AT_ONCE]),
                fragments=fragments,
                with_row_address=True,
                late_materialization=["webp"],
            ).to_table()
        )
    return pa.concat_tables([table.cast(_FOUND_SCHEMA) for table in tables]).combine_chunks()


def _outdated(offered: pa.Table, found: pa.Table) -> dict[int, list[str]]:
    """Of rows found the ids of items (each offered once) whose picture is another, by the number of their fragment."""
    row = pc.index_in(found["item_id"], value_set=offered["item_id"].combine_chunks())
    is_other = pc.not_equal(found["webp"], offered["webp"].take(row))
    other_ids = pc.unique(found["item_id"].filter(is_other))
    if not len(other_ids):
        return {}
    rows = found.filter(pc.is_in(found["item_id"], value_set=other_ids))
    numbers = rows["_rowaddr"].to_numpy() >> _FRAGMENT_BIT
    return {int(number): rows["item_id"].filter(pa.array(numbers == number)).to_pylist() for number in set(numbers)}


def _joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Thumbnails in one chunk, as Lance writes them fastest."""
    return pa.concat_tables([THUMBNAIL_SCHEMA.empty_table(), *tables]).combine_chunks()


def _check(tables: Sequence[pa.Table]) -> None:
    for thumbnails in tables:
        if not thumbnails.schema.equals(THUMBNAIL_SCHEMA):
            raise GalleryError("thumbnails of another shape", seen=thumbnails.schema.names, expected="item_id, webp")
    largest = pc.max(pc.binary_length(_joined(tables)["webp"])).as_py() or 0
    if largest > MAX_BYTES:
        raise GalleryError("thumbnail too large", seen=f"{largest} bytes", expected=f"at most {MAX_BYTES}")


def table_uri(gallery_uri: str) -> str:
    """Where the thumbnails of a gallery lie."""
    return storage.join(gallery_uri, f"{TABLE_NAME}.lance")


def tag_thumbnails(gallery_uri: str, tag: str) -> None:
    """Keep the thumbnails as they are now alive under a tag, that of the publication that shows them."""
    uri = table_uri(gallery_uri)
    if commits.exists_table(uri):
        dataset = commits.open_table(uri)
        dataset.tags.create(tag, dataset.version)


def untag_thumbnails(gallery_uri: str, tag: str) -> None:
    """Take a tag from the thumbnails, where it is."""
    if (dataset := commits.find_table(table_uri(gallery_uri))) is not None:
        commits.untag(dataset, tag)


class ThumbnailReader:
    """The thumbnails of a publication, by its tag; a gallery without any has an empty one.

    Where the tag is missing (published before thumbnails had tags, or before there were any) they are the newest.
    """

    def __init__(self, gallery_uri: str, tag: str) -> None:
        uri = table_uri(gallery_uri)
        self._dataset = None
        if commits.exists_table(uri):
            newest = commits.open_table(uri)
            self._dataset = commits.open_table(uri, tag) if tag in newest.tags.list() else newest
        self._known: dict[str, bool] = {}

    def among(self, item_ids: set[str]) -> set[str]:
        """Those of the items that have a thumbnail; what was looked up is remembered."""
        if self._dataset is None:
            return set()
        unknown = sorted(item_id for item_id in item_ids if item_id not in self._known)
        found = _found(self._dataset, unknown)
        answer = found | {item_id for item_id in item_ids if self._known.get(item_id)}
        if len(self._known) > _REMEMBERED_IDS:
            self._known = {}
        self._known.update({item_id: item_id in found for item_id in unknown})
        return answer

    def read(self, item_id: str) -> bytes | None:
        """The WebP bytes of an item's thumbnail, None where it has none."""
        if self._dataset is None:
            return None
        wanted = commits.is_one_of("item_id", [item_id])
        rows = self._dataset.to_table(columns=["webp"], filter=wanted, limit=1).to_pylist()
        return bytes(rows[0]["webp"]) if rows else None


def _found(dataset: lance.LanceDataset, item_ids: list[str]) -> set[str]:
    if not item_ids:
        return set()
    wanted = commits.is_one_of("item_id", item_ids)
    return set(dataset.to_table(columns=["item_id"], filter=wanted)["item_id"].to_pylist())
