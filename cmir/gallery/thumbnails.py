"""Small WebP previews by item_id: one table for all spaces of a gallery, added to once per item, read by searchers.

Embedding writes a thumbnail before the vectors of its piece become visible, so a reader that opens the table after it
has read the pointer finds every thumbnail that its version can have. Which pieces are there is noted by file: looking
for the items themselves would read the whole table at every commit. An item of two shards may have two.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata

from cmir.archive import storage
from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.errors import GalleryError
from cmir.gallery import commits, file_records
from cmir.gallery.compaction import Merger
from cmir.gallery.file_records import FileRecords, files_of
from cmir.gallery.ledger import shard_of

TABLE_NAME: Final = "thumbnails"
MAX_BYTES: Final = 4096
_REMEMBERED_IDS: Final = 100_000


class ThumbnailWriter:
    """Adds thumbnails piece by piece; what is asked of the table does not grow with it.

    One object belongs to one thread; any number of processes may have their own.
    """

    def __init__(self, gallery_uri: str) -> None:
        self._uri = table_uri(gallery_uri)
        notes_uri = file_records.place(gallery_uri, TABLE_NAME)
        self._records = FileRecords(notes_uri)
        self._is_made = False  # the table
        self._merger, self._note_merger = Merger(self._uri, self._carry), Merger(notes_uri)
        self._forget()

    def add(self, pieces: Mapping[str, pa.Table]) -> int:
        """Add thumbnails (piece_id -> THUMBNAIL_SCHEMA), all in one commit; returns how many were added.

        Passed over: pieces whose thumbnails are there, and items that have one from another version of their shard or
        from a file of which no pieces are noted. Raises GalleryError where the schema is another or a thumbnail is
        larger than 4 kB.
        """
        _check(list(pieces.values()))
        offered = {piece_id: thumbnails for piece_id, thumbnails in pieces.items() if len(thumbnails)}
        if not offered:
            return 0
        if not self._is_made:
            commits.ensure_table(self._uri, THUMBNAIL_SCHEMA)
            self._is_made = True
        added: dict[str, pa.Table] = {}

        def choose(dataset: lance.LanceDataset) -> commits.Addition:
            added.clear()
            added.update(self._absent(dataset, offered))
            rows = _joined(added.values())
            return commits.Addition(tuple(rows["item_id"].to_pylist()), rows)

        def announce(fragments: list[FragmentMetadata]) -> None:
            self._records.note(
                files_of(fragments), {piece_id: len(thumbnails) for piece_id, thumbnails in added.items()}
            )

        commits.add_absent(self._uri, choose, announce)
        return sum(map(len, added.values()))

    def merge(self) -> None:
        """Merge small fragments of the thumbnails and of what is noted of them, where there are many."""
        self._merger.merge()
        self._note_merger.merge()

    def compact(self) -> int:
        """Merge all but full fragments of the thumbnails; returns how many fewer there are."""
        return self._merger.compact()

    def _carry(self, old: list[FragmentMetadata], new: list[FragmentMetadata]) -> None:
        self._records.carry(files_of(old), files_of(new))

    def _absent(self, dataset: lance.LanceDataset, offered: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """Of each piece the items without a thumbnail in this version; pieces with nothing to add left out."""
        fragments = self._look(dataset)
        missing = {key: table for key, table in offered.items() if self._num_rows.get(key, 0) < len(table)}
        doubtful = self._unnoted | {file for piece_id in missing for file in self._doubtful(piece_id)}
        standing: set[str] = set()
        if doubtful and missing:
            ids = _joined(missing.values())["item_id"].combine_chunks()
            scanner = dataset.scanner(columns=["item_id"], fragments=[fragments[file] for file in sorted(doubtful)])
            for batch in scanner.to_batches():
                standing.update(batch["item_id"].filter(pc.is_in(batch["item_id"], value_set=ids)).to_pylist())
        absent = {}
        for piece_id, thumbnails in missing.items():
            keep = []
            for i, item_id in enumerate(thumbnails["item_id"].to_pylist()):
                if item_id not in standing:
                    standing.add(item_id)
                    keep.append(i)
            if len(keep) == len(thumbnails):
                absent[piece_id] = thumbnails
            elif keep:
                absent[piece_id] = thumbnails.take(pa.array(keep, pa.int64()))
        return absent

    def _doubtful(self, piece_id: str) -> set[str]:
        """The files that may hold items of a piece of which not all rows are noted."""
        shard_id, version = shard_of(piece_id)
        is_begun = piece_id in self._num_rows
        return {file for other, file in self._files.get(shard_id, ()) if other != version or is_begun}

    def _look(self, dataset: lance.LanceDataset) -> dict[str, lance.LanceFragment]:
        """Read the notes of files not seen before; returns the fragments of this version by their file."""
        standing = dataset.get_fragments()
        fragments = dict(zip(files_of(fragment.metadata for fragment in standing), standing, strict=True))
        if not self._seen <= fragments.keys():
            self._forget()  # compacted
        fresh = fragments.keys() - self._seen
        notes = self._records.take(fresh)
        self._unnoted |= fresh - notes.keys()
        for file, pieces in notes.items():
            for piece_id, num_rows in pieces.items():
                self._num_rows[piece_id] = self._num_rows.get(piece_id, 0) + num_rows
                shard_id, version = shard_of(piece_id)
                self._files.setdefault(shard_id, set()).add((version, file))
        self._seen |= fresh
        return fragments

    def _forget(self) -> None:
        self._records.forget_read()
        self._seen: set[str] = set()
        self._unnoted: set[str] = set()  # files of which no pieces are known
        self._num_rows: dict[str, int] = {}  # piece_id -> rows
        self._files: dict[str, set[tuple[str, str]]] = {}  # shard_id -> version, file


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
