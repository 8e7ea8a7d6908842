"""One piece of a shard becomes gallery rows, thumbnails and quarantine entries; what an embedding worker runs.

A row that cannot be embedded never stops its piece. Of rows that share an item_id within a shard the first wins, also
across the shard's row groups, whichever worker reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cmir.archive import shards
from cmir.archive.imagery import decode_chip, thumbnail
from cmir.archive.schema import IMAGE_MODALITIES, METADATA_COLUMNS, THUMBNAIL_SCHEMA, Media, gallery_schema
from cmir.errors import DataError
from cmir.network.embedder import Embedder

_BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class EmbeddedPiece:
    """What came of a piece: `rows` of gallery_schema, `thumbnails` of THUMBNAIL_SCHEMA, `rejected` of QUARANTINE_SCHEMA."""

    piece_id: str
    rows: pa.Table
    thumbnails: pa.Table
    rejected: pa.Table


class PieceEmbedder:
    """Embeds pieces with one bundle on one device."""

    def __init__(self, bundle_uri: str, device: str = "auto") -> None:
        self.embedder = Embedder.open(bundle_uri, device=device)

    def __call__(self, piece: shards.Piece) -> EmbeddedPiece:
        """Read and embed a piece; a damaged one is rejected as a whole. Raises OSError where storage does not answer."""
        try:
            table = shards.read_piece(piece)
        except DataError as error:
            rejected = shards.quarantine_table([(piece.shard_uri, None, str(error), None)] * piece.num_rows)
            empty = gallery_schema(self.embedder.dim).empty_table()
            return EmbeddedPiece(piece.piece_id, empty, THUMBNAIL_SCHEMA.empty_table(), rejected)
        return self._embed_table(piece, table)

    def _embed_table(self, piece: shards.Piece, table: pa.Table) -> EmbeddedPiece:
        taken = _earlier_ids(piece)
        vectors: list[np.ndarray | DataError] = []
        webps: list[bytes | None] = []
        for start in range(0, len(table), _BATCH_ROWS):
            batch = shards.medias(table.slice(start, _BATCH_ROWS))
            vectors += self.embedder.embed_each(batch)
            webps += [_thumbnail(media) for media in batch]
        keep: list[int] = []
        rejected: list[tuple[str, str | None, str, bytes | None]] = []
        for i, (item_id, vector) in enumerate(zip(table["item_id"].to_pylist(), vectors, strict=True)):
            if isinstance(vector, DataError) or item_id in taken:
                reason = (
                    str(vector) if isinstance(vector, DataError) else f"item_id {item_id} stands twice in its shard"
                )
                rejected.append((table["source_uri"][i].as_py(), item_id, reason, table["data"][i].as_py()))
                continue
            taken.add(item_id)
            keep.append(i)
        rows = _gallery_rows(table, keep, [vectors[i] for i in keep], piece.piece_id, self.embedder.dim)  # type: ignore[misc]
        return EmbeddedPiece(
            piece.piece_id, rows, _thumbnail_table(table, keep, webps), shards.quarantine_table(rejected)
        )


def _earlier_ids(piece: shards.Piece) -> set[str]:
    """The item_ids in the row groups before this one."""
    return {
        item_id
        for row_group in range(piece.row_group)
        for item_id in shards.read_row_group(piece.shard_uri, row_group, ["item_id"])["item_id"].to_pylist()
    }


def _thumbnail(media: Media) -> bytes | None:
    if media.modality not in IMAGE_MODALITIES:
        return None
    try:
        return thumbnail(decode_chip(media))
    except DataError:
        return None  # the embedder says what is wrong with it


def _gallery_rows(table: pa.Table, keep: list[int], vectors: Sequence[np.ndarray], piece_id: str, dim: int) -> pa.Table:
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
