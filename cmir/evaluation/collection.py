"""Shards become embedded items: metadata is listed first, then each piece is read, embedded and remembered once.

What a piece gave is kept as one small file in the work folder, so that a killed evaluation goes on where it stopped.
Pixels are held for one piece at a time; the pictures of the few items a report shows are read again at the end.
"""

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cmir.archive import shards, storage
from cmir.archive.imagery import decode_chip
from cmir.archive.schema import Media
from cmir.archive.shards import Piece, ShardFile
from cmir.errors import DataError
from cmir.evaluation import baseline
from cmir.evaluation.pictures import picture_of
from cmir.evaluation.protocol import ITEM_COLUMNS, Items
from cmir.network.embedder import Embedder

F32 = npt.NDArray[np.float32]
_ROWS_AT_ONCE: Final = 256  # decoded at once: 200 MB of 256 x 256 x 3 chips in float32
Advance = Callable[[int], object]  # told how many rows were just done


@dataclass(frozen=True, slots=True)
class PieceRows:
    """The rows of one piece that are to be evaluated: their places in it, and `metadata` of ITEM_COLUMNS."""

    piece: Piece
    modality: str
    rows: npt.NDArray[np.int64]
    metadata: pa.Table


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that could not be embedded."""

    item_id: str
    source_uri: str
    reason: str


def list_items(files: Sequence[ShardFile]) -> list[PieceRows]:
    """The items of the shards, piece by piece, without their bytes; of equal item_ids the first.

    Raises DataError where a shard cannot be read.
    """
    seen: set[str] = set()
    listed = []
    for file in files:
        for piece in shards.pieces(file):
            table = shards.read_piece(piece, [*ITEM_COLUMNS])
            rows = []
            for row, item_id in enumerate(table["item_id"].to_pylist()):
                if item_id not in seen:
                    seen.add(item_id)
                    rows.append(row)
            places = np.array(rows, np.int64)
            listed.append(PieceRows(piece, file.modality, places, table.take(pa.array(places))))
    return listed


def metadata_of(listed: Sequence[PieceRows]) -> pa.Table:
    """ITEM_COLUMNS of all listed items."""
    return pa.concat_tables([rows.metadata for rows in listed])


def embed_items(
    listed: Sequence[PieceRows], embedder: Embedder, *, work_uri: str, advance: Advance
) -> tuple[Items, list[Rejected]]:
    """Embed every listed item of a modality the bundle has a tower for, each once.

    What is done is kept below `work_uri`, by space and piece, and not done again. Raises DataError where no item can be
    embedded.
    """
    tables, vectors, greys, rejected = [], [], [], []
    for rows in listed:
        if rows.modality not in embedder.modalities:
            continue
        done = _embed_piece(
            rows, embedder, storage.join(work_uri, embedder.space_id, f"{rows.piece.piece_id}.npz"), advance
        )
        tables.append(rows.metadata.take(pa.array(done.good)))
        vectors.append(done.vectors)
        greys.append(done.grey)
        rejected += done.rejected
    if not sum(map(len, vectors)):
        first = rejected[0].reason if rejected else "no item of a modality the bundle has a tower for"
        raise DataError("no item could be embedded", seen=first, expected="readable items")
    return Items(pa.concat_tables(tables), np.concatenate(vectors), np.concatenate(greys)), rejected


def pictures(listed: Sequence[PieceRows], wanted: Collection[str]) -> dict[str, bytes]:
    """WebP pictures of the wanted items, by item_id; pieces without one are not read, unreadable items are left out."""
    found: dict[str, bytes] = {}
    for rows in listed:
        ids = rows.metadata["item_id"].to_pylist()
        chosen = [(item_id, row) for item_id, row in zip(ids, rows.rows.tolist(), strict=True) if item_id in wanted]
        if not chosen:
            continue
        table = shards.read_piece(rows.piece)
        for item_id, row in chosen:
            try:
                found[item_id] = picture_of(shards.media_of(table, row))
            except DataError:
                continue  # decoded for its embedding, but no preview of it fits: the page shows an empty tile
    return found


@dataclass(frozen=True, slots=True)
class _Done:
    """What a piece gave: `good` places among its listed rows, their vectors and thumbnails, and the rejected ones."""

    good: npt.NDArray[np.int64]
    vectors: F32
    grey: F32
    rejected: list[Rejected]


def _embed_piece(rows: PieceRows, embedder: Embedder, kept_uri: str, advance: Advance) -> _Done:
    if storage.exists(kept_uri):
        advance(len(rows.rows))
        return _read(kept_uri)
    table = shards.read_piece(rows.piece).take(pa.array(rows.rows))
    good: list[int] = []
    vectors: list[F32] = [np.zeros((0, embedder.dim), np.float32)]
    greys: list[F32] = [np.zeros((0, baseline.NUM_VALUES), np.float32)]
    rejected = []
    for start, media in _batches(table):
        for place, result in enumerate(embedder.embed_each(media), start):
            if isinstance(result, DataError):
                rejected.append(
                    Rejected(table["item_id"][place].as_py(), table["source_uri"][place].as_py(), str(result))
                )
            else:
                good.append(place)
                vectors.append(result[None])
                greys.append(_grey(media[place - start])[None])
        advance(len(media))
    done = _Done(np.array(good, np.int64), np.concatenate(vectors), np.concatenate(greys), rejected)
    _keep(kept_uri, done)
    return done


def _batches(table: pa.Table) -> Iterator[tuple[int, list[Media]]]:
    for start in range(0, len(table), _ROWS_AT_ONCE):
        yield start, shards.medias(table.slice(start, _ROWS_AT_ONCE))


def _grey(media: Media) -> F32:
    if media.modality == "speech":
        return np.zeros(baseline.NUM_VALUES, np.float32)
    return baseline.grey_vector(decode_chip(media))


def _keep(uri: str, done: _Done) -> None:
    buffer = io.BytesIO()
    words = np.array([(item.item_id, item.source_uri, item.reason) for item in done.rejected], dtype=np.str_)
    np.savez(buffer, good=done.good, vectors=done.vectors, grey=done.grey, rejected=words.reshape(-1, 3))
    storage.put_atomic(uri, buffer.getvalue())


def _read(uri: str) -> _Done:
    with np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False) as kept:
        rejected = [Rejected(*map(str, words)) for words in kept["rejected"]]
        return _Done(kept["good"], kept["vectors"], kept["grey"], rejected)
