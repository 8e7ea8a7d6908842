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
from cmir.archive.schema import gallery_schema
from cmir.errors import GalleryError, SpaceMismatchError
from cmir.gallery import commits
from cmir.gallery.ledger import Ledger, LedgerEntry, PieceIndex, delete_pieces, shard_of
from cmir.gallery.thumbnails import add_thumbnails

_UNIT_TOLERANCE: Final = 1e-2  # bfloat16 vectors are unit within 2^-8


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

    @classmethod
    def create(cls, uri: str) -> "Gallery":
        """The gallery at a URI, new or standing; nothing is written before the first space.

        Raises GalleryError where a file stands in its place.
        """
        if not storage.is_s3(uri) and storage.local_path(uri).is_file():
            raise GalleryError("a file stands where the gallery would be", seen=uri, expected="a folder or nothing")
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

    def add_thumbnails(self, thumbnails: pa.Table) -> int:
        """Add WebP thumbnails (THUMBNAIL_SCHEMA) whose item_id has none yet; returns how many were added.

        Raises GalleryError where the schema is another or a thumbnail is larger than 4 kB.
        """
        return add_thumbnails(self.uri, thumbnails)


class SpaceTable:
    """The item rows of one space. One object belongs to one thread; any number of processes may have their own."""

    def __init__(self, gallery: Gallery, space_id: str, dim: int) -> None:
        self.gallery, self.space_id, self.dim = gallery, space_id, dim
        self.uri = gallery.table_uri(space_id)
        self._index = PieceIndex()

    def dataset(self) -> lance.LanceDataset:
        """The newest version of the table. Raises GalleryError where it is missing."""
        return commits.open_table(self.uri)

    def count_rows(self) -> int:
        """Rows of the newest version."""
        return int(self.dataset().count_rows())

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
        for piece in by_id.values():
            self._check(piece)
        absent: list[str] = []

        def choose(dataset: lance.LanceDataset) -> commits.Addition:
            standing = self._index.at(dataset)
            absent[:] = [piece_id for piece_id in by_id if piece_id not in standing]
            rows = [by_id[piece_id].rows for piece_id in absent]
            schema = gallery_schema(self.dim)
            return commits.Addition(tuple(absent), pa.concat_tables(rows) if rows else schema.empty_table())

        dataset = commits.add_absent(self.uri, choose)
        entries = [
            LedgerEntry(piece_id, len(by_id[piece_id].rows), by_id[piece_id].num_quarantined)
            for piece_id in absent
            if by_id[piece_id].num_quarantined or not len(by_id[piece_id].rows)
        ]
        self.gallery.ledger.add(self.space_id, entries)
        num_rows = sum(len(by_id[piece_id].rows) for piece_id in absent)
        return CommitReport(num_rows, len(absent), len(by_id) - len(absent), int(dataset.version))

    def drop_stale(self, versions: Mapping[str, str]) -> int:
        """Drop the rows of other versions of these shards (shard_id -> current version); returns how many rows went.

        To be called once every piece of the current versions is committed.
        """
        stale = []
        for piece_id in self.committed_pieces():
            shard_id, version = shard_of(piece_id)
            if versions.get(shard_id, version) != version:
                stale.append(piece_id)
        return self._drop(stale)

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
        """Drop the rows and the records of shards; returns how many rows went."""
        wanted = set(shard_ids)
        return self._drop([piece_id for piece_id in self.committed_pieces() if shard_of(piece_id)[0] in wanted])

    def mixed_shards(self, dataset: lance.LanceDataset | None = None) -> list[str]:
        """Shards of which two versions have rows (in this version of the table, default the newest).

        Such a shard was changed and its replacement has not ended.
        """
        versions: dict[str, set[str]] = {}
        for piece_id in self._index.at(dataset or self.dataset()):
            shard_id, version = shard_of(piece_id)
            versions.setdefault(shard_id, set()).add(version)
        return sorted(shard_id for shard_id, found in versions.items() if len(found) > 1)

    def _drop(self, piece_ids: list[str]) -> int:
        num_rows = delete_pieces(self.dataset(), piece_ids)
        self.gallery.ledger.forget(self.space_id, piece_ids)
        return num_rows

    def _check(self, piece: CommittedPiece) -> None:
        schema = gallery_schema(self.dim)
        if not piece.rows.schema.equals(schema):
            seen = f"{piece.rows.schema.names[:5]}, ... {piece.rows.schema.field('vector').type}"
            expected = f"gallery_schema({self.dim})"
            raise GalleryError("rows of another shape", seen=seen, expected=expected, where=piece.piece_id)
        if not len(piece.rows):
            return
        if not pc.all(pc.equal(piece.rows["piece_id"], piece.piece_id)).as_py():
            raise GalleryError("rows name another piece", seen=piece.rows["piece_id"][0], expected=piece.piece_id)
        vectors = np.concatenate([chunk.flatten().to_numpy() for chunk in piece.rows["vector"].chunks])
        lengths = np.linalg.norm(vectors.reshape(-1, self.dim), axis=1)
        if not bool(np.all(np.abs(lengths - 1) < _UNIT_TOLERANCE)):  # also false for NaN
            worst = lengths[int(np.argmax(np.nan_to_num(np.abs(lengths - 1), nan=np.inf)))]
            raise GalleryError("vectors are not unit vectors", seen=f"length {worst}", expected=1, where=piece.piece_id)
