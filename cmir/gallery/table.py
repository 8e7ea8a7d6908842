"""Embedded rows become a gallery: one Lance table per space, filled piece by piece, each piece exactly once.

A piece is committed when its rows are in the table: row and record are the same bytes, visible in the same commit. Many
pieces go into one commit; a writer that loses a race reads what the other one committed and adds only what is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmir.archive import storage
from cmir.archive.patience import patient
from cmir.archive.schema import MODALITIES, gallery_schema
from cmir.errors import GalleryError, SpaceMismatchError
from cmir.gallery import commits
from cmir.gallery.compaction import Merger
from cmir.gallery.ledger import Ledger, LedgerEntry, PieceIndex, shard_of
from cmir.gallery.thumbnails import TABLE_NAME, ThumbnailWriter

_UNIT_TOLERANCE: Final = 1e-2  # bfloat16 vectors are unit within 2^-8
_SCANNED_ROWS: Final = 1_048_576  # at once, of one or two columns of text
_OTHER_FOLDERS: Final = {"an archive": MODALITIES, "a bundle": ("model.safetensors",)}  # what tells them


@dataclass(frozen=True, slots=True)
class CommittedPiece:
    """The outcome of one piece: rows of gallery_schema(dim), possibly none, and how many rows went to quarantine."""

    piece_id: str
    rows: pa.Table
    num_quarantined: int = 0


@dataclass(frozen=True, slots=True)
class CommitReport:
    """What one commit did; skipped pieces had been committed before, here or by another job."""

    num_rows: int
    num_pieces: int
    num_pieces_skipped: int
    table_version: int


@dataclass(frozen=True, slots=True)
class GoneShards:
    """Shards that lay under given URIs and are no longer there, with the rows that pruning them would drop."""

    shard_ids: tuple[str, ...]
    num_rows: int
    num_rows_total: int

    @property
    def ratio(self) -> float:
        return self.num_rows / self.num_rows_total if self.num_rows_total else 0.0


class Gallery:
    """A LanceDB database at a URI (folder or s3://) with the tables of all its spaces."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self.ledger = Ledger(self.uri)
        self._thumbnails = ThumbnailWriter(self.uri)

    @classmethod
    def create(cls, uri: str) -> "Gallery":
        """The gallery at a URI, new or standing; nothing is written before the first space.

        Raises GalleryError where a file, an archive or a bundle stands in its place.
        """
        if not storage.is_s3(uri) and storage.local_path(uri).is_file():
            raise GalleryError("a file stands where the gallery would be", seen=uri, expected="a folder or nothing")
        for what, names in _OTHER_FOLDERS.items():
            if found := next((name for name in names if storage.exists(storage.join(uri, name))), None):
                seen, fix = storage.join(uri, found), "choose another place for the gallery"
                raise GalleryError(f"{what} stands where the gallery would be", seen=seen, expected="nothing", fix=fix)
        return cls(uri)

    @classmethod
    def open(cls, uri: str) -> "Gallery":
        """A standing gallery. Raises GalleryError where the URI holds none."""
        gallery = cls(uri)
        if not gallery.space_ids():
            raise GalleryError("no gallery here", seen="no space", where=uri, fix="make one with jobs/embed.py")
        return gallery

    def space_ids(self) -> list[str]:
        """The spaces of this gallery, sorted."""
        return self.ledger.space_ids()

    def space(self, space_id: str, dim: int | None = None, bundle_uri: str | None = None) -> "SpaceTable":
        """The table of a space; created where `dim` and `bundle_uri` are given and it is not there yet.

        Raises GalleryError where it is missing, SpaceMismatchError where it stands with another dimension.
        """
        if dim is not None and bundle_uri is not None:
            dataset = commits.ensure_table(self.table_uri(space_id), gallery_schema(dim))
            if not dataset.schema.equals(gallery_schema(dim)):
                seen = dataset.schema.field("vector").type
                where = self.table_uri(space_id)
                raise SpaceMismatchError(
                    "table has another shape", seen=seen, expected=f"{dim} components", where=where
                )
            self.ledger.record_space(space_id, dim, storage.absolute(bundle_uri))
        return SpaceTable(self, space_id, self.ledger.space(space_id).dim)

    def table_uri(self, table: str) -> str:
        """Where the Lance table of that name lies."""
        return storage.join(self.uri, f"{table}.lance")

    def add_thumbnails(self, pieces: Mapping[str, pa.Table]) -> int:
        """Add the WebP thumbnails of pieces (piece_id -> THUMBNAIL_SCHEMA) that are not there, all in one commit.

        Returns how many were added, those of changed items in place of the old among them. Raises GalleryError where
        the schema is another or a thumbnail is larger than 4 kB.
        """
        return self._thumbnails.add(pieces)

    def drop_thumbnails(self, item_ids: pa.StringArray) -> int:
        """Remove the thumbnails of those of the items that no space holds; returns how many went."""
        if not len(item_ids) or not commits.exists_table(self.table_uri(TABLE_NAME)):
            return 0
        for space_id in self.space_ids():
            item_ids = item_ids.filter(pc.invert(pc.is_in(item_ids, value_set=self.space(space_id).held(item_ids))))
        return self._thumbnails.remove(item_ids)

    def merge_thumbnails(self) -> None:
        """Merge small fragments of the thumbnails, where there are many."""
        self._thumbnails.merge()

    def compact_thumbnails(self) -> int:
        """Merge all but full fragments of the thumbnails; returns how many fewer there are."""
        return self._thumbnails.compact()


class SpaceTable:
    """The item rows of one space. One object belongs to one thread; any number of processes may have their own."""

    def __init__(self, gallery: Gallery, space_id: str, dim: int) -> None:
        self.gallery, self.space_id, self.dim = gallery, space_id, dim
        self.uri = gallery.table_uri(space_id)
        self._index = PieceIndex()
        self._merger = Merger(self.uri)

    def dataset(self) -> lance.LanceDataset:
        """The newest version of the table. Raises GalleryError where it is missing."""
        return commits.open_table(self.uri)

    @patient
    def count_rows(self) -> int:
        """Rows of the newest version."""
        return int(self.dataset().count_rows())

    @patient
    def committed_pieces(self) -> set[str]:
        """Every piece that needs no work: with rows in the newest version, or of which no row survived."""
        empty = {entry.piece_id for entry in self.gallery.ledger.entries(self.space_id) if entry.num_rows == 0}
        return empty | self._index.at(self.dataset())

    def commit(self, pieces: Sequence[CommittedPiece]) -> CommitReport:
        """Make pieces visible, all of them in one commit; those that are committed already are passed over.

        Raises GalleryError where rows are not of this table or the commit failed; nothing is visible then, and the same
        call may be made again.
        """
        by_id = {piece.piece_id: piece for piece in pieces}
        self._check(list(by_id.values()))
        entries = [
            LedgerEntry(piece.piece_id, len(piece.rows), piece.num_quarantined)
            for piece in by_id.values()
            if piece.num_quarantined or not len(piece.rows)
        ]
        self.gallery.ledger.add(self.space_id, entries)  # before the rows: a crash between must not lose what was bad
        absent: list[str] = []

        def choose(dataset: lance.LanceDataset) -> commits.Addition:
            standing = self._index.at(dataset)
            absent[:] = [piece_id for piece_id in by_id if piece_id not in standing]
            return commits.Addition(tuple(absent), self._joined([by_id[piece_id] for piece_id in absent]))

        dataset = commits.add_absent(self.uri, choose)
        num_rows = sum(len(by_id[piece_id].rows) for piece_id in absent)
        return CommitReport(num_rows, len(absent), len(by_id) - len(absent), int(dataset.version))

    def merge(self) -> None:
        """Merge small fragments of the rows and of the ledger, where there are many; to be called between commits."""
        self._merger.merge()
        self.gallery.ledger.merge()

    @patient
    def stale_pieces(self, versions: Mapping[str, str]) -> list[str]:
        """Committed and recorded pieces of other versions of these shards (shard_id -> current version).

        To be dropped once every piece of the current versions is committed, and only where these are current still.
        """
        recorded = {entry.piece_id for entry in self.gallery.ledger.entries(self.space_id)}
        stale = []
        for piece_id in self._index.at(self.dataset()) | recorded:
            shard_id, version = shard_of(piece_id)
            if versions.get(shard_id, version) != version:
                stale.append(piece_id)
        return sorted(stale)

    def drop(self, piece_ids: Sequence[str]) -> int:
        """Drop the rows and the records of pieces; returns how many rows went.

        With them go the thumbnails of items that are then in no space of the gallery.
        """
        dropped = sorted(piece_ids)
        item_ids = self._items_of(dropped)
        num_rows = commits.delete(self.dataset(), "piece_id", dropped)
        self.gallery.ledger.forget(self.space_id, dropped)
        self.gallery.drop_thumbnails(item_ids)
        return num_rows

    @patient
    def held(self, item_ids: pa.StringArray) -> pa.StringArray:
        """Those of the items that have a row here, each once; reads the whole column of ids."""
        scanner = self.dataset().scanner(columns=["item_id"], batch_size=_SCANNED_ROWS)
        found = [
            batch["item_id"].filter(pc.is_in(batch["item_id"], value_set=item_ids)) for batch in scanner.to_batches()
        ]
        return pc.unique(pa.chunked_array(found, pa.string()).combine_chunks())

    @patient
    def _items_of(self, piece_ids: Sequence[str]) -> pa.StringArray:
        """The ids of the items of pieces."""
        wanted, found = pa.array(piece_ids, pa.string()), []
        if len(wanted):
            scanner = self.dataset().scanner(columns=["item_id", "piece_id"], batch_size=_SCANNED_ROWS)
            found = [batch["item_id"].filter(pc.is_in(batch["piece_id"], wanted)) for batch in scanner.to_batches()]
        return pa.chunked_array(found, pa.string()).combine_chunks()

    def gone_shards(self, uris: Sequence[str], present: set[str]) -> GoneShards:
        """Which committed shards lay under `uris` and are not among the shard_ids `present`; drops nothing."""
        roots = [storage.absolute(uri) for uri in uris]
        known = self.gallery.ledger.shards()
        gone = {
            shard_id
            for shard_id, uri in known.items()
            if shard_id not in present and any(uri == root or uri.startswith(root + "/") for root in roots)
        }
        pieces = [piece_id for piece_id in self.committed_pieces() if shard_of(piece_id)[0] in gone]
        dataset = self.dataset()
        num_rows = dataset.count_rows(commits.is_one_of("piece_id", pieces)) if pieces else 0
        shard_ids = tuple(sorted({shard_of(piece_id)[0] for piece_id in pieces}))
        return GoneShards(shard_ids, int(num_rows), int(dataset.count_rows()))

    def prune(self, shard_ids: Sequence[str]) -> int:
        """Drop the rows and the records of shards that are gone; returns how many rows went.

        One that has come back since it was missed is spared, with whatever another job has committed of it.
        """
        known = self.gallery.ledger.shards()
        pieces = [piece_id for piece_id in self.committed_pieces() if shard_of(piece_id)[0] in set(shard_ids)]
        back = {shard_id for shard_id in shard_ids if shard_id in known and storage.exists(known[shard_id])}
        return self.drop([piece_id for piece_id in pieces if shard_of(piece_id)[0] not in back])

    def mixed_shards(self, dataset: lance.LanceDataset | None = None) -> list[str]:
        """Shards of which two versions have rows (in this version of the table, default the newest).

        Such a shard was changed and its replacement has not ended.
        """
        versions: dict[str, set[str]] = {}
        for piece_id in self._index.at(dataset or self.dataset()):
            shard_id, version = shard_of(piece_id)
            versions.setdefault(shard_id, set()).add(version)
        return sorted(shard_id for shard_id, found in versions.items() if len(found) > 1)

    def _joined(self, pieces: Sequence[CommittedPiece]) -> pa.Table:
        """The rows of pieces in one chunk: Lance writes hundreds of small ones many times as slowly."""
        rows = [piece.rows for piece in pieces]
        return pa.concat_tables(rows).combine_chunks() if rows else gallery_schema(self.dim).empty_table()

    def _check(self, pieces: Sequence[CommittedPiece]) -> None:
        schema = gallery_schema(self.dim)
        for piece in pieces:
            if not piece.rows.schema.equals(schema):
                seen = f"{piece.rows.schema.names[:5]}, ... {piece.rows.schema.field('vector').type}"
                expected = f"gallery_schema({self.dim})"
                raise GalleryError("rows of another shape", seen=seen, expected=expected, where=piece.piece_id)
        rows = self._joined(pieces)
        if not len(rows):
            return
        owners = np.repeat(np.arange(len(pieces)), [len(piece.rows) for piece in pieces])
        expected_ids = pa.array([piece.piece_id for piece in pieces]).take(pa.array(owners))
        is_named = pc.equal(rows["piece_id"].combine_chunks(), expected_ids).to_numpy(zero_copy_only=False)
        if not is_named.all():
            row = int(np.argmin(is_named))
            raise GalleryError("rows name another piece", seen=rows["piece_id"][row], expected=expected_ids[row])
        vectors = rows["vector"].combine_chunks().flatten().to_numpy()
        lengths = np.linalg.norm(vectors.reshape(-1, self.dim), axis=1)
        is_unit = np.abs(lengths - 1) < _UNIT_TOLERANCE  # also false for NaN
        if not is_unit.all():
            row = int(np.argmax(np.nan_to_num(np.abs(lengths - 1), nan=np.inf)))
            where = pieces[owners[row]].piece_id
            raise GalleryError("vectors are not unit vectors", seen=f"length {lengths[row]}", expected=1, where=where)
