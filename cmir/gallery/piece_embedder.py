"""One piece of a shard becomes gallery rows, thumbnails and quarantine entries; what an embedding worker runs.

A row that cannot be embedded never stops its piece. Of rows that share an item_id within a shard the first wins, also
across the shard's row groups, whichever worker reads them.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import pyarrow as pa

from cmir.archive import shards
from cmir.archive.imagery import Chip, thumbnail
from cmir.archive.schema import METADATA_COLUMNS, THUMBNAIL_SCHEMA, gallery_schema
from cmir.errors import DataError
from cmir.gallery.row_by_row import HowToEmbed, RowByRow
from cmir.network.embedder import F32, Device, EmbeddedTable, Embedder, Precision

_NUM_DRAWERS: Final = 4


@dataclass(frozen=True, slots=True)
class EmbeddedPiece:
    """What came of a piece: rows (gallery_schema), thumbnails (THUMBNAIL_SCHEMA), rejected (QUARANTINE_SCHEMA)."""

    piece_id: str
    rows: pa.Table
    thumbnails: pa.Table
    rejected: pa.Table


class PieceEmbedder:
    """Embeds pieces with one bundle on one device; may be called by several threads at once.

    `with_thumbnails`: draw a preview of every chip, which on CPUs takes as long as a light network does. On CUDA they
    are drawn by threads of their own.
    """

    def __init__(
        self,
        bundle_uri: str,
        device: Device = "auto",
        *,
        precision: Precision = "fp32",
        with_thumbnails: bool = True,
    ) -> None:
        self.embedder = Embedder.open(bundle_uri, device=device, precision=precision)
        self._how = HowToEmbed(bundle_uri, device, precision, with_thumbnails)
        on_cuda = self.embedder.device.type == "cuda"
        self._drawers = ThreadPoolExecutor(_NUM_DRAWERS, "cmir-draw") if on_cuda and with_thumbnails else None

    def __call__(self, piece: shards.Piece, *, row_by_row: bool = False) -> EmbeddedPiece:
        """Read and embed a piece; a damaged one is rejected whole. Raises OSError where storage does not answer.

        `row_by_row`: in a process that a row may end, which is then rejected; slow, and for pieces that ended workers.
        """
        try:
            table = shards.read_piece(piece)
        except DataError as error:
            rejected = shards.quarantine_table([(piece.shard_uri, None, str(error), None)] * piece.num_rows)
            empty = gallery_schema(self.embedder.dim).empty_table()
            return EmbeddedPiece(piece.piece_id, empty, THUMBNAIL_SCHEMA.empty_table(), rejected)
        if row_by_row:
            apart = RowByRow(self._how)
            return _embedded_piece(piece, table, apart.embed(table, self.embedder.dim), apart.drawn)
        drawn: dict[int, bytes | Future[bytes]] = {}
        on_chip = partial(self._draw, drawn) if self._how.with_thumbnails else None
        embedded = self.embedder.embed_table(table, on_chip=on_chip)
        webp = {row: each.result() if isinstance(each, Future) else each for row, each in drawn.items()}
        return _embedded_piece(piece, table, embedded, webp)

    def _draw(self, drawn: "dict[int, bytes | Future[bytes]]", row: int, chip: Chip) -> None:
        drawn[row] = thumbnail(chip) if self._drawers is None else self._drawers.submit(thumbnail, chip)


def _embedded_piece(
    piece: shards.Piece, table: pa.Table, embedded: EmbeddedTable, drawn: Mapping[int, bytes]
) -> EmbeddedPiece:
    """What is kept and what is not, of the rows of `table`, what became of them and the previews by row."""
    taken = _earlier_ids(piece)
    keep: list[int] = []
    rejected: list[tuple[str, str | None, str, bytes | None]] = []
    item_ids = table["item_id"].to_pylist()
    for row, item_id in enumerate(item_ids):
        reason = _reason(item_id, embedded.errors.get(row), taken)
        if reason:
            rejected.append((table["source_uri"][row].as_py(), item_id, reason, table["data"][row].as_py()))
            continue
        taken.add(item_id)
        keep.append(row)
    rows = _gallery_rows(table, keep, embedded.vectors[keep], piece.piece_id)
    records = [{"item_id": item_ids[row], "webp": drawn[row]} for row in keep if row in drawn]
    thumbnails = pa.Table.from_pylist(records, schema=THUMBNAIL_SCHEMA)
    return EmbeddedPiece(piece.piece_id, rows, thumbnails, shards.quarantine_table(rejected))


def _earlier_ids(piece: shards.Piece) -> set[str]:
    """The item_ids in the row groups before this one; a damaged one has none, it is rejected whole."""
    taken: set[str] = set()
    for row_group in range(piece.row_group):
        try:
            taken.update(shards.read_row_group(piece.shard_uri, row_group, ["item_id"])["item_id"].to_pylist())
        except DataError:
            continue
    return taken


def _reason(item_id: str, error: DataError | None, taken: set[str]) -> str | None:
    """Why an item is not kept, None where it is."""
    if error is not None:
        return str(error)
    return f"item_id {item_id} stands twice in its shard" if item_id in taken else None


def _gallery_rows(table: pa.Table, keep: list[int], vectors: F32, piece_id: str) -> pa.Table:
    chosen = table.select(list(METADATA_COLUMNS)).take(pa.array(keep, pa.int64()))
    dim = vectors.shape[1]
    columns = {name: chosen[name] for name in METADATA_COLUMNS}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), dim)
    columns["piece_id"] = pa.repeat(piece_id, len(keep))
    schema = gallery_schema(dim)
    return pa.table([columns[name] for name in schema.names], schema=schema)
