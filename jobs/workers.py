"""The actor classes of the jobs, in a module of their own: workers cannot find a class of `__main__`."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cmir.archive import shards
from cmir.archive.storage import join
from cmir.errors import SpaceMismatchError
from cmir.network.embedder import Device, Precision
from jobs.deaths import PATIENCE, Deaths

log = logging.getLogger("cmir")


@dataclass(frozen=True)
class EmbedWork:
    """What an embedding worker is told; CPUs compute in float32 whatever `precision` says."""

    bundle_uri: str
    space_id: str
    gallery_uri: str
    device: Device
    precision: Precision
    with_thumbnails: bool
    num_threads: int


class EmbedWorker:
    """A Ray Data actor: pieces in, one row per piece out, with the piece's tables as Arrow IPC bytes.

    What was rejected is put into the gallery's quarantine here, under the piece's name, before the piece is reported;
    doing a piece again puts the same file again. Raises SpaceMismatchError where the bundle is not of `space_id`.
    With `deaths`, a piece under which workers died is embedded row by row, and the row that ends them is rejected.
    """

    def __init__(self, work: EmbedWork, deaths: Deaths | None = None) -> None:
        os.environ["OMP_NUM_THREADS"] = str(work.num_threads)
        import torch

        from cmir.gallery.piece_embedder import PieceEmbedder

        torch.set_num_threads(work.num_threads)
        self._embed = PieceEmbedder(
            work.bundle_uri,
            work.device,
            precision=work.precision,
            with_thumbnails=work.with_thumbnails,
        )
        if self._embed.embedder.space_id != work.space_id:  # this actor started after the bundle had been replaced
            seen, fix = self._embed.embedder.space_id, "start the job again, it then fills the new bundle's space"
            raise SpaceMismatchError(
                "bundle changed", seen=seen, expected=work.space_id, where=work.bundle_uri, fix=fix
            )
        self._gallery_uri, self._deaths = work.gallery_uri, deaths

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._outcome(shards.Piece(**record)) for record in batch.to_pylist()])

    def _outcome(self, piece: shards.Piece) -> dict[str, object]:
        """What came of a piece; a storage error as words, since Ray turns those raised here into pages of traceback."""
        try:
            return self._embed_one(piece)
        except OSError as error:
            return _record(piece.piece_id, error=str(error) or type(error).__name__, errno=error.errno or 0)

    def _embed_one(self, piece: shards.Piece) -> dict[str, object]:
        num_deaths = self._deaths.begin(piece.piece_id) if self._deaths else 0
        if num_deaths >= PATIENCE:
            log.warning("%d workers died with piece %s under way: its rows go one by one", num_deaths, piece.piece_id)
        try:
            done = self._embed(piece, row_by_row=num_deaths >= PATIENCE)
        finally:  # an error is an end too
            if self._deaths:
                self._deaths.end(piece.piece_id)
        if len(done.rejected):
            shards.write_quarantine(done.rejected, join(self._gallery_uri, "_quarantine", f"{piece.piece_id}.parquet"))
        return _record(done.piece_id, _to_ipc(done.rows), _to_ipc(done.thumbnails), len(done.rejected))


def storage_error(record: dict[str, Any]) -> OSError | None:
    """The storage error that a worker met, None where it met none."""
    if not record["error"]:
        return None
    error = OSError(record["error"])
    error.errno = record["errno"] or None  # beside the words, for the advice of the process border
    return error


def from_ipc(data: bytes) -> pa.Table:
    """A table from the Arrow IPC bytes a worker made."""
    with pa.ipc.open_stream(data) as stream:
        return stream.read_all()


def _to_ipc(table: pa.Table) -> bytes:
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
        return data


def _record(
    piece_id: str, rows: bytes = b"", thumbnails: bytes = b"", num_rejected: int = 0, *, error: str = "", errno: int = 0
) -> dict[str, object]:
    """What goes to the driver, the same columns whatever happened."""
    return {
        "piece_id": piece_id,
        "rows": rows,
        "thumbnails": thumbnails,
        "num_rejected": num_rejected,
        "error": error,
        "errno": errno,
    }
