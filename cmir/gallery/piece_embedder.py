"""One piece of a shard becomes gallery rows, thumbnails and quarantine entries; what an embedding worker runs.

A row that cannot be embedded never stops its piece. Of rows that share an item_id within a shard the first wins, also
across the shard's row groups, whichever worker reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cmir.archive import shards
from cmir.archive.imagery import Chip, thumbnail
from cmir.archive.schema import METADATA_COLUMNS, THUMBNAIL_SCHEMA, Media, gallery_schema
from cmir.errors import DataError
from cmir.network.embedder import F32, Device, Embedder, Prepared

_BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class EmbeddedPiece:
    """What came of a piece: rows (gallery_schema), thumbnails (THUMBNAIL_SCHEMA), rejected (QUARANTINE_SCHEMA)."""

    piece_id: str
    rows: pa.Table
    thumbnails: pa.Table
    rejected: pa.Table


class PieceEmbedder:
    """Embeds pieces with one bundle on one device."""

    def __init__(self, bundle_uri: str, device: Device = "auto") -> None:
        self.embedder = Embedder.open(bundle_uri, device=device)

    def __call__(self, piece: shards.Piece) -> EmbeddedPiece:
        """Read and embed a piece; a damaged one is rejected whole. Raises OSError where storage does not answer."""
        try:
            table = shards.read_piece(piece)
        except DataError as error:
            rejected = shards.quarantine_table([(piece.shard_uri, None, str(error), None)] * piece.num_rows)
            empty = gallery_schema(self.embedder.dim).empty_table()
            return EmbeddedPiece(piece.piece_id, empty, THUMBNAIL_SCHEMA.empty_table(), rejected)
        return self._embed_table(piece, table)

    def _embed_table(self, piece: shards.Piece, table: pa.Table) -> EmbeddedPiece:
        taken = _earlier_ids(piece)
        vectors: list[F32 | DataError] = []
        webps: list[bytes | None] = []
        for start in range(0, len(table), _BATCH_ROWS):
            outcomes = [self._decode(media) for media in shards.medias(table.slice(start, _BATCH_ROWS))]
            good = [outcome for outcome in outcomes if isinstance(outcome, Prepared)]
            embedded = iter(self.embedder.post(self.embedder.core(good)))
            vectors += [outcome if isinstance(outcome, DataError) else next(embedded) for outcome in outcomes]
            webps += [_thumbnail(outcome) for outcome in outcomes]
        keep: list[int] = []
        rejected: list[tuple[str, str | None, str, bytes | None]] = []
        for i, (item_id, vector) in enumerate(zip(table["item_id"].to_pylist(), vectors, strict=True)):
            reason = _reason(item_id, vector, taken)
            if reason:
                rejected.append((table["source_uri"][i].as_py(), item_id, reason, table["data"][i].as_py()))
                continue
            taken.add(item_id)
            keep.append(i)
        rows = _gallery_rows(table, keep, [vectors[i] for i in keep], piece.piece_id, self.embedder.dim)  # type: ignore[misc]
        return EmbeddedPiece(
            piece.piece_id, rows, _thumbnail_table(table, keep, webps), shards.quarantine_table(rejected)
        )

    def _decode(self, media: Media) -> Prepared | DataError:
        try:
            return self.embedder.pre(media)
        except DataError as error:
            return error


def _earlier_ids(piece: shards.Piece) -> set[str]:
    """The item_ids in the row groups before this one; a damaged one has none, it is rejected whole."""
    taken: set[str] = set()
    for row_group in range(piece.row_group):
        try:
            taken.update(shards.read_row_group(piece.shard_uri, row_group, ["item_id"])["item_id"].to_pylist())
        except DataError:
            continue
    return taken


def _reason(item_id: str, vector: F32 | DataError, taken: set[str]) -> str | None:
    """Why an item is not kept, None where it is."""
    if isinstance(vector, DataError):
        return str(vector)
    if not np.isfinite(vector).all():
        return "embedding is not finite: the item's values are NaN, infinite or out of any range"
    return f"item_id {item_id} stands twice in its shard" if item_id in taken else None


def _thumbnail(outcome: Prepared | DataError) -> bytes | None:
    """A picture of what is a picture."""
    if isinstance(outcome, DataError) or not isinstance(outcome.content, Chip):
        return None
    return thumbnail(outcome.content)


def _gallery_rows(table: pa.Table, keep: list[int], vectors: Sequence[F32], piece_id: str, dim: int) -> pa.Table:
    chosen = table.select(list(METADATA_COLUMNS)).take(pa.array(keep, pa.int64()))
    flat = np.concatenate(vectors) if len(vectors) else np.zeros(0, np.float32)
    columns = {name: chosen[name] for name in METADATA_COLUMNS}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim)
    columns["piece_id"] = pa.array([piece_id] * len(keep), pa.string())
    schema = gallery_schema(dim)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _thumbnail_table(table: pa.Table, keep: list[int], webps: Sequence[bytes | None]) -> pa.Table:
    item_ids = table["item_id"].to_pylist()
    records = [{"item_id": item_ids[i], "webp": webps[i]} for i in keep if webps[i] is not None]
    return pa.Table.from_pylist(records, schema=THUMBNAIL_SCHEMA)
