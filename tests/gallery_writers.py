"""Processes that write to one gallery at once; in a module of their own because each imports what stands here."""

import random
from pathlib import Path

import lance
import pyarrow as pa

from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.gallery import commits, publish
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from tests.gallery_rows import DIM, SPACE, piece_name, piece_rows

ROWS_PER_PIECE = 20


def space_at(uri: str | Path, dim: int = DIM) -> SpaceTable:
    return Gallery.create(str(uri)).space(SPACE, dim, "bundle")


def committed(piece_id: str, num_rows: int = ROWS_PER_PIECE, num_quarantined: int = 0) -> CommittedPiece:
    return CommittedPiece(piece_id, piece_rows(piece_id, num_rows), num_quarantined)


class CompactedMeanwhile:
    """Stands for `commits.open_table`: what it opens at the nth time of one table is out of date at once.

    As beside a job that commits: another has merged all fragments of which no row is indexed.
    """

    def __init__(self, uri: str, nth: int = 1) -> None:
        self.num_opened, self._uri, self._nth, self._open = 0, uri, nth, commits.open_table

    def __call__(self, uri: str, version: int | str | None = None) -> lance.LanceDataset:
        dataset = self._open(uri, version)
        if uri == self._uri:
            self.num_opened += 1
            if self.num_opened == self._nth:
                self._open(uri).optimize.compact_files()
        return dataset


def pictures_of(rows: pa.Table) -> pa.Table:
    """THUMBNAIL_SCHEMA of the rows' items: each its own, whoever draws it."""
    ids = rows["item_id"].to_pylist()
    return pa.table({"item_id": ids, "webp": [item_id.encode() for item_id in ids]}, schema=THUMBNAIL_SCHEMA)


def write_overlapping(uri: str, seed: int, num_pieces: int) -> None:
    space = space_at(uri)
    names = [piece_name("a", i) for i in range(num_pieces)]
    random.Random(seed).shuffle(names)
    for start in range(0, num_pieces, 2 + seed):
        pieces = [committed(name) for name in names[start : start + 2 + seed]]
        space.gallery.add_thumbnails({piece.piece_id: pictures_of(piece.rows) for piece in pieces})
        space.commit(pieces)


def write_in_order(uri: str, num_pieces: int) -> None:
    space = space_at(uri)
    for i in range(num_pieces):
        if piece_name("a", i) not in space.committed_pieces():
            space.commit([committed(piece_name("a", i), num_rows=0 if i % 5 == 4 else ROWS_PER_PIECE)])


def publish_many(uri: str, num_times: int, told_uri: str) -> None:
    """Publish the newest version again and again; the sequence numbers told are kept in a file."""
    version = space_at(uri).dataset().version
    ways = {"index": IndexSettings(), "search": SearchSettings()}
    told = [
        publish.publish(uri, SPACE, table_version=version, recall_at_10=1.0, **ways).sequence for _ in range(num_times)
    ]
    Path(told_uri).write_text(" ".join(map(str, told)))
